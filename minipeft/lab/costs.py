"""What each op keeps and computes, from the shapes of its operands alone.

For every op of `ops`, `functional` and `attention` there is a function of its name here, which
takes the same operands in outline and records the same edges. An edge is

    (operand, what its derivative keeps, FLOPs of the matrix products in its derivative)

with a fourth where the derivatives of an op share what they compute, or give no new array;
as on a real tape, one whose operand needs no gradient is dropped with all that it keeps and
computes. So a model and a method, whose own code is run, are told apart to the byte; that these
lines are true of the ops is tested op by op, over drawn shapes.
"""

import contextlib
import inspect
import operator
import sys

from ..engine.backend import np
from ..engine.functional import IGNORE
from ..engine.tensor import needs_gradient, once, priced, record, value
from .shape_array import Outline, joined, like, note, stretched


@contextlib.contextmanager
def in_outline():
    """Inside the block ops are read for their costs: operands are Outlines."""
    functions = inspect.getmembers(sys.modules[__name__], inspect.isfunction)
    with priced(dict(functions)):
        yield


def costed(op, y, *edges, flops=0):
    """Record an op's result y and its edges (operand, kept, FLOPs); note its own FLOPs."""
    note(flops)
    edges = [(x, Derivative(op, value(x), *edge)) for x, *edge in edges if needs_gradient(x)]
    return record(y, *edges)


class Derivative:
    """One in outline: it keeps what it is said to, and notes its FLOPs when called.

    more: called too. It may note what the derivatives of one op compute once for all of them,
    or give an operand's gradient, where that is no new array.
    """

    def __init__(self, op, a, kept=(), flops=0, more=None):
        self.op, self.shape, self.dtype = op, a.shape, a.dtype
        self.kept, self.flops, self.more = kept, flops, more

    def __call__(self, g):
        note(self.flops, "backward")
        given = None if self.more is None else self.more(g)
        return Outline(self.shape, self.dtype) if given is None else given


def linear(x, w, b=None):
    """dw keeps the input. Each of y, dx and dw is one product of N · in · out."""
    a, (n_out, n_in) = value(x), value(w).shape
    rows = a.reshape(-1, n_in)
    y = Outline((len(rows), n_out), a.dtype).reshape(*a.shape[:-1], n_out)
    n = 2 * len(rows) * n_in * n_out
    return costed("linear", y, (x, [w], n), (w, [rows], n), (b,), flops=n)


def embedding(w, ids):
    """The ids are kept."""
    table = value(w)
    return costed("embedding", table[ids], (w, [ids]))


def dropout(x, p, rng):
    """The mask is kept, a byte a number."""
    a = value(x)
    return costed("dropout", like(a), (x, [rng.random(a.shape, np.float32) >= p]))


def gelu(x):
    """The slope is kept."""
    a = value(x)
    return costed("gelu", Outline(a.shape, a.dtype), (x, [like(a)]))


def silu(x):
    """The slope is kept."""
    a = value(x)
    return costed("silu", like(a), (x, [like(a)]))


def layer_norm(x, gain, bias, eps):
    """The normed input is kept, and 1 / √(var + eps) for each row."""
    a = value(x)
    n, inv = like(a), Outline((*a.shape[:-1], 1), a.dtype)
    edges = (x, [gain, n, inv], 2 * a.size), (gain, [n]), (bias,)
    return costed("layer_norm", like(a), *edges, flops=2 * a.size)


def rms_norm(x, gain, eps):
    """The normed input is kept, and 1 / √(mean(x²) + eps) for each row."""
    a = value(x)
    n, inv = like(a), Outline((*a.shape[:-1], 1), a.dtype)
    edges = (x, [gain, n, inv], 2 * a.size), (gain, [n])
    return costed("rms_norm", like(a), *edges, flops=2 * a.size)


def softmax(x, mask=None):
    """The probabilities are kept."""
    p = value(x) + 0.0 if mask is None else value(x) + mask
    return costed("softmax", p, (x, [p]))


def attention(q, k, v, mask):
    """q, k, v and the probabilities p are kept, (B, G, H/G · T, S), whichever asks for them.

    Products: q kᵀ and p v; then dp = g vᵀ and Σ dp p, and one for each of dq, dk and dv.
    """
    (B, H, T, K), (G, S) = value(q).shape, value(k).shape[1:3]
    queries = (value(q) * 1.0).reshape(B, G, H // G * T, K)
    p, n = Outline((B, G, H // G * T, S), queries.dtype), 2 * B * H * T * S * K
    kept = [queries, value(k), value(v), p]
    shared = once(lambda _: note(n + 2 * p.size, "backward"))
    y = Outline((B, T, H, K), queries.dtype).transpose(0, 2, 1, 3)
    return costed("attention", y, *((x, kept, n, shared) for x in (q, k, v)), flops=2 * n)


def rope(x, cos, sin):
    """Sines and cosines are kept, one for each number of a pair."""
    a = value(x)
    twice = [Outline((*cos.shape[:-1], a.shape[-1]), cos.dtype) for _ in range(2)]
    return costed("rope", a.copy(), (x, twice))


def cross_entropy(logits, labels, count=None):
    """The probabilities of the labelled rows (N, V) are kept, and which rows and labels."""
    labels, a = np.asarray(labels).reshape(-1), value(logits)
    rows = np.flatnonzero(labels != IGNORE)
    targets, n = labels[rows], np.arange(len(rows))
    p, total = Outline((len(rows), a.shape[-1]), a.dtype), Outline((len(rows), 1), a.dtype)
    return costed("cross_entropy", total.sum(), (logits, [p, total, rows, targets, n]))


def add(x, y):
    """Nothing is kept."""
    return costed("add", value(x) + value(y), (x,), (y,))


sub = add


def mul(x, y):
    """Each operand's derivative keeps the other."""
    a, b = value(x), value(y)
    return costed("mul", a * b, (x, [b]), (y, [a]))


def div(x, y):
    """dx keeps y, dy keeps both."""
    a, b = value(x), value(y)
    return costed("div", a * b, (x, [b]), (y, [a, b]))


def neg(x):
    """Nothing is kept."""
    return costed("neg", like(value(x)), (x,))


def tanh(x):
    """The result itself is kept."""
    y = like(value(x))
    return costed("tanh", y, (x, [y]))


exp = sqrt = sigmoid = tanh


def square(x):
    """The operand is kept."""
    return costed("square", like(value(x)), (x, [value(x)]))


log = square


def relu(x):
    """Which numbers are above zero is kept, a byte each."""
    a = value(x)
    return costed("relu", like(a), (x, [like(a, bool)]))


def where(condition, x, y):
    """The condition is kept."""
    shape = np.broadcast_shapes(*(value(a).shape for a in (condition, x, y)))
    kept = [condition]
    return costed("where", Outline(shape, value(x).dtype), (x, kept), (y, kept))


def matmul(x, y):
    """Each operand's derivative keeps the other; all three products cost the same."""
    a, b = value(x), value(y)
    made = a @ b  # which notes its FLOPs
    n = 2 * made.size * a.shape[-1]
    return costed("matmul", made, (x, [b], n), (y, [a], n))


def sum(x, axis=None, keepdims=False):
    """Nothing is kept."""
    return costed("sum", value(x).sum(axis, keepdims), (x,))


mean = sum


def reshape(x, *shape):
    """Nothing is kept; the result looks into the same memory if the layout allows."""
    return costed("reshape", value(x).reshape(*shape), (x,))


def transpose(x, *axes):
    """Nothing is kept; the result looks into the same memory."""
    return costed("transpose", value(x).transpose(*axes), (x,))


def broadcast(x, shape):
    """Nothing is kept; the result looks into the same memory."""
    return costed("broadcast", stretched(value(x), shape), (x,))


def concat(tensors, axis=0):
    """Nothing is kept; each gradient is a part of that of the result, in the same memory."""
    arrays, edges, end = [value(x) for x in tensors], [], 0
    before = (slice(None),) * (axis % arrays[0].ndim)
    for x, a in zip(tensors, arrays, strict=True):
        part = (*before, slice(end, end + a.shape[axis]))
        edges.append((x, (), 0, operator.itemgetter(part)))
        end += a.shape[axis]
    return costed("concat", joined(arrays, axis), *edges)


def getitem(x, index):
    """Arrays of indices are kept."""
    return costed("getitem", value(x)[index], (x, [index]))
