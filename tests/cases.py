"""For every public op, how to call it on operands of drawn shapes at points without kinks.

A case is (f, operands): arrays of float64, and f that calls the op on Tensors or arrays.
An op is looked up in its module when f is called, so a test may put a wrong one in its place.
"""

import inspect

from hypothesis import strategies as st
from hypothesis.extra.numpy import mutually_broadcastable_shapes

from minipeft.engine import functional as F
from minipeft.engine import ops
from minipeft.engine.backend import np, xp
from minipeft.model.kv_cache import MASKED

sides = st.integers(1, 5)
shapes = st.lists(sides, min_size=1, max_size=4).map(tuple)
seeds = st.integers(0, 2**32 - 1)


def points(draw, *shape, positive=False):
    """Random numbers of magnitude 0.25 to 2: far from 0, where relu and log have trouble."""
    rng = np.random.default_rng(draw(seeds))
    size = rng.uniform(0.25, 2.0, shape)
    return np.asarray(size if positive else size * rng.choice([-1.0, 1.0], shape))


def elementwise(op, positive=False):
    """The case of a function of one operand, given as a function that looks it up."""
    return lambda draw: (lambda x: op()(x), [points(draw, *draw(shapes), positive=positive)])


def of_two(op):
    """The case of a function of two operands that broadcast."""

    def case(draw):
        both = draw(mutually_broadcastable_shapes(num_shapes=2, min_side=1, max_side=4))
        a, b = both.input_shapes
        return lambda x, y: op()(x, y), [points(draw, *a), points(draw, *b)]

    return case


def axes(draw, shape):
    """None, one axis counted from either end, or several."""
    n = len(shape)
    one = st.integers(-n, n - 1)
    some = st.sets(st.integers(0, n - 1), min_size=1).map(lambda s: tuple(sorted(s)))
    return draw(st.one_of(st.none(), one, some))


def reduction(op):
    """The case of a sum or mean."""

    def case(draw):
        shape = draw(shapes)
        axis, keep = axes(draw, shape), draw(st.booleans())
        return lambda x: op()(x, axis=axis, keepdims=keep), [points(draw, *shape)]

    return case


def where(draw):
    a, b, full = broadcast_pair(draw)
    condition = xp.asarray(np.random.default_rng(draw(seeds)).random(full) < 0.5)
    return lambda x, y: ops.where(condition, x, y), [points(draw, *a), points(draw, *b)]


def broadcast_pair(draw):
    """Two shapes that broadcast, and the shape that they broadcast to."""
    both = draw(mutually_broadcastable_shapes(num_shapes=2, min_side=1, max_side=4))
    return *both.input_shapes, both.result_shape


def matmul(draw):
    a, b, _ = broadcast_pair(draw)
    n, k, m = draw(st.tuples(sides, sides, sides))
    return lambda x, y: ops.matmul(x, y), [points(draw, *a, n, k), points(draw, *b, k, m)]


def reshape(draw):
    shape = draw(shapes)
    new = draw(st.sampled_from([(-1,), shape[::-1], (1, *shape), (int(np.prod(shape)), 1)]))
    split = draw(st.booleans())  # reshape(x, 2, 3) or reshape(x, (2, 3))
    return lambda x: ops.reshape(x, *(new if split else [new])), [points(draw, *shape)]


def transpose(draw):
    shape = draw(shapes)
    order = draw(st.one_of(st.just(()), st.permutations(range(len(shape)))))
    return lambda x: ops.transpose(x, *order), [points(draw, *shape)]


def broadcast(draw):
    shape, _, full = broadcast_pair(draw)
    return lambda x: ops.broadcast(x, full), [points(draw, *shape)]


def concat(draw):
    shape = draw(shapes)
    axis = draw(st.integers(-len(shape), len(shape) - 1))
    lengths = draw(st.lists(sides, min_size=1, max_size=3))
    parts = [list(shape) for _ in lengths]
    for part, length in zip(parts, lengths, strict=True):
        part[axis] = length
    return lambda *xs: ops.concat(xs, axis), [points(draw, *part) for part in parts]


def getitem(draw):
    shape = (draw(sides), draw(sides), draw(sides))
    rows, columns = (xp.asarray(draw(repeating(n))) for n in shape[:2])
    index = draw(
        st.sampled_from(
            [
                0,
                -1,
                slice(None, None, 2),
                (slice(None), -1),
                (Ellipsis, slice(0, 1)),
                (None, slice(None), 0),
                rows,
                (slice(None), columns),
                (rows[:1], columns),  # integer arrays broadcast
                (rows[:, None], columns, 0),
            ]
        )
    )
    return lambda x: ops.getitem(x, index), [points(draw, *shape)]


def repeating(n, shape=None):
    """An array of integers below n in which some repeat."""
    ints = st.integers(0, n - 1)
    return st.lists(ints, min_size=2, max_size=6).map(np.array)


def linear(draw):
    n_in, n_out = draw(sides), draw(sides)
    x, w = points(draw, *draw(shapes), n_in), points(draw, n_out, n_in)
    if draw(st.booleans()):
        return lambda x, w: F.linear(x, w), [x, w]
    return lambda x, w, b: F.linear(x, w, b), [x, w, points(draw, n_out)]


def embedding(draw):
    V, D = draw(sides), draw(sides)
    ids = np.random.default_rng(draw(seeds)).integers(0, V, draw(shapes))
    return lambda w: F.embedding(w, xp.asarray(ids)), [points(draw, V, D)]


def dropout(draw):
    p, seed = draw(st.floats(0.0, 0.9)), draw(seeds)
    return lambda x: F.dropout(x, p, np.random.default_rng(seed)), [points(draw, *draw(shapes))]


def layer_norm(draw):
    eps, D = draw(st.floats(0.1, 1.0)), draw(sides)  # a large eps: no row is steep
    x, gain, bias = points(draw, *draw(shapes), D), points(draw, D), points(draw, D)
    return lambda x, w, b: F.layer_norm(x, w, b, eps), [x, gain, bias]


def rms_norm(draw):
    eps, D = draw(st.floats(0.0, 1.0)), draw(sides)
    return lambda x, w: F.rms_norm(x, w, eps), [points(draw, *draw(shapes), D), points(draw, D)]


def hiding(draw, *shape):
    """A mask of scores, at least one seen in each row."""
    rng = np.random.default_rng(draw(seeds))
    hidden = rng.random(shape) < 0.5
    np.put_along_axis(hidden, rng.integers(0, shape[-1], (*shape[:-1], 1)), False, axis=-1)
    return np.where(hidden, MASKED, rng.standard_normal(shape))


def power(draw):
    n = draw(st.sampled_from([-2, -0.5, 0, 0.5, 1, 2, 3]))
    return lambda x: ops.power(x, n), [points(draw, *draw(shapes), positive=True)]


def softmax(draw):
    shape = draw(shapes)
    if draw(st.booleans()):
        return lambda x: F.softmax(x), [points(draw, *shape)]
    mask = hiding(draw, *shape[draw(st.integers(0, len(shape) - 1)) :])
    return lambda x: F.softmax(x, as_type(mask, x)), [points(draw, *shape)]


def as_type(a, x):
    """A constant array in the precision of an operand."""
    return xp.asarray(a.astype(x.dtype))


def attention(draw):
    B, G, groups, T, S, K = (draw(st.integers(1, 3)) for _ in range(6))
    q, k, v = (points(draw, B, H, n, K) for H, n in ((G * groups, T), (G, S), (G, S)))
    shape = draw(st.sampled_from([None, (T, S), (B, T, S)]))
    mask = None if shape is None else hiding(draw, *shape)

    def f(q, k, v):
        return F.attention(q, k, v, None if mask is None else as_type(mask, q))

    return f, [q, k, v]


def rope(draw):
    B, H, T, half = (draw(st.integers(1, 3)) for _ in range(4))
    each_row = draw(st.booleans())  # positions of its own for each row
    shape = (B, 1, T, half) if each_row else (T, half)
    angles = np.random.default_rng(draw(seeds)).uniform(-4, 4, shape)
    cos, sin = np.cos(angles), np.sin(angles)
    x = points(draw, B, H, T, 2 * half)
    return lambda x: F.rope(x, as_type(cos, x), as_type(sin, x)), [x]


def cross_entropy(draw):
    shape, V = draw(shapes), draw(sides)
    rng = np.random.default_rng(draw(seeds))
    labels = rng.integers(0, V, shape)
    labels[rng.random(shape) < draw(st.sampled_from([0.0, 0.5]))] = F.IGNORE
    labels.flat[0] = V - 1
    count = draw(st.sampled_from([None, 1, 7]))
    return lambda x: F.cross_entropy(x, labels, count), [points(draw, *shape, V)]


CASES = {
    "add": of_two(lambda: ops.add),
    "sub": of_two(lambda: ops.sub),
    "mul": of_two(lambda: ops.mul),
    "div": of_two(lambda: ops.div),
    "neg": elementwise(lambda: ops.neg),
    "exp": elementwise(lambda: ops.exp),
    "log": elementwise(lambda: ops.log, positive=True),
    "sqrt": elementwise(lambda: ops.sqrt, positive=True),
    "square": elementwise(lambda: ops.square),
    "power": power,
    "tanh": elementwise(lambda: ops.tanh),
    "sigmoid": elementwise(lambda: ops.sigmoid),
    "relu": elementwise(lambda: ops.relu),
    "where": where,
    "matmul": matmul,
    "sum": reduction(lambda: ops.sum),
    "mean": reduction(lambda: ops.mean),
    "reshape": reshape,
    "transpose": transpose,
    "broadcast": broadcast,
    "concat": concat,
    "getitem": getitem,
    "linear": linear,
    "embedding": embedding,
    "dropout": dropout,
    "gelu": elementwise(lambda: F.gelu),
    "silu": elementwise(lambda: F.silu),
    "gelu_erf": elementwise(lambda: F.gelu_erf),
    "layer_norm": layer_norm,
    "rms_norm": rms_norm,
    "softmax": softmax,
    "attention": attention,
    "rope": rope,
    "cross_entropy": cross_entropy,
}


@st.composite
def cases(draw, name):
    """A case of the op of that name."""
    return CASES[name](draw)


def public(module):
    """The names of the functions that a module defines for others."""
    return {
        name
        for name, f in vars(module).items()
        if inspect.isfunction(f) and f.__module__ == module.__name__ and name[0] != "_"
    } - {"<lambda>"}
