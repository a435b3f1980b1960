"""Every op: its value, its derivative, its precision and its slow twin."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

import twins
from cases import CASES, cases, public
from gradients import check, cotangent, gradients_of, subsets
from minipeft.engine import backend, ops
from minipeft.engine import functional as F
from minipeft.engine import tensor as autograd
from minipeft.engine.backend import chunks, np, to_numpy, xp
from minipeft.engine.tensor import Tensor

NUMPY = {  # what the primitive ops compute
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "neg": np.negative,
    "exp": np.exp,
    "log": np.log,
    "sqrt": np.sqrt,
    "square": np.square,
    "power": np.power,
    "tanh": np.tanh,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "relu": lambda x: np.maximum(x, 0),
    "where": lambda condition, x, y: np.where(to_numpy(condition), x, y),
    "matmul": np.matmul,
    "sum": np.sum,
    "mean": np.mean,
    "reshape": lambda x, *shape: x.reshape(*shape),
    "transpose": lambda x, *axes: np.transpose(x, axes or None),
    "broadcast": np.broadcast_to,
    "concat": np.concatenate,
    "getitem": lambda x, index: x[on_host(index)],
}
TWINS = [name for name, f in vars(twins).items() if getattr(f, "__module__", "") == "twins"]


def on_host(index):
    """An index with the device's arrays brought to the host."""
    if isinstance(index, tuple):
        return tuple(map(on_host, index))
    return to_numpy(index) if isinstance(index, xp.ndarray) else index


def test_no_op_is_missing():
    fused = public(F)
    assert public(ops) | fused == CASES.keys()
    assert public(ops) == NUMPY.keys() and fused == set(TWINS)


@pytest.mark.parametrize("name", NUMPY)
def test_values_are_those_of_numpy(name):
    @given(cases(name))
    def property(case):
        f, arrays = case
        y = to_numpy(f(*map(xp.asarray, arrays)).data)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ops, name, NUMPY[name])
            expected = f(*arrays)
        assert y.shape == expected.shape
        np.testing.assert_allclose(y, expected, rtol=1e-14, atol=1e-15)

    property()


@pytest.mark.parametrize("name", CASES)
def test_derivatives_for_every_choice_of_operands(name):
    @given(cases(name))
    def property(case):
        check(*case)

    property()


@pytest.mark.parametrize("name", CASES)
def test_float32_stays_float32(name):
    @given(cases(name))
    def property(case):
        f, arrays = case
        arrays = [a.astype("float32") for a in arrays]
        c = cotangent(f, arrays, np.random.default_rng(0)).astype("float32")
        for trained in subsets(len(arrays)):
            y, found = gradients_of(f, arrays, trained, c)
            assert y.dtype == "float32"
            assert all(g is None or g.dtype == "float32" for g in found)

    property()


@pytest.mark.parametrize("op", [ops.add, ops.sub, ops.mul, ops.div])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_python_numbers_change_no_precision(op, dtype):
    for swap in (False, True):
        x = Tensor(xp.ones((2, 3), dtype), requires_grad=True)
        y = op(3, op(2.5, x)) if swap else op(op(x, 2.5), 3)
        (g,) = autograd.gradients(y.sum()).values()
        assert y.dtype == g.dtype == dtype


@given(st.lists(st.integers(0, 9), min_size=1, max_size=3), st.integers(0, 40))
def test_chunks_are_all_rows_in_order(shape, width):
    a = np.zeros(shape)
    with pytest.MonkeyPatch.context() as patch:
        for cache in (1, 5, 1 << 16):
            patch.setattr(backend, "CHUNK_ELEMENTS", cache)
            for w in (None, width):
                rows = [i for part in chunks(a, w) for i in range(len(a))[part]]
                assert rows == list(range(len(a)))


@pytest.mark.parametrize("cache", [1, 7])
@pytest.mark.parametrize("name", ["attention", "gelu", "gelu_erf", "silu"])
def test_a_row_larger_than_the_cache_is_computed_all_the_same(name, cache, monkeypatch):
    @given(cases(name))
    def property(case):
        f, arrays = case
        c = cotangent(f, arrays, np.random.default_rng(0))
        results = []
        for elements in (cache, 1 << 16):
            monkeypatch.setattr(backend, "CHUNK_ELEMENTS", elements)
            y, found = gradients_of(f, arrays, set(range(len(arrays))), c)
            results.append([y.data, *found])
        for a, b in zip(*results, strict=True):
            np.testing.assert_allclose(to_numpy(a), to_numpy(b), rtol=1e-12, atol=1e-13)

    property()


@pytest.mark.parametrize("name", TWINS)
def test_fused_equals_its_slow_twin(name):
    @given(cases(name))
    def property(case):
        f, arrays = case
        c = cotangent(f, arrays, np.random.default_rng(1))
        everything = set(range(len(arrays)))
        y, found = gradients_of(f, arrays, everything, c)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(F, name, getattr(twins, name))
            slow, expected = gradients_of(f, arrays, everything, c)
        for a, b in zip([y.data, *found], [slow.data, *expected], strict=True):
            np.testing.assert_allclose(to_numpy(a), to_numpy(b), rtol=1e-12, atol=1e-12)

    property()


@given(st.integers(1, 6), st.integers(1, 6), st.booleans())
def test_norms_at_the_usual_eps_equal_their_twins(N, D, large):
    x, gain, bias = (np.random.default_rng(D).standard_normal(s) for s in ((N, D), D, D))
    x *= 1e3 if large else 1e-3
    for fused, slow, rest in (
        (F.layer_norm, twins.layer_norm, [gain, bias]),
        (F.rms_norm, twins.rms_norm, [gain]),
    ):
        operands = [Tensor(xp.asarray(a)) for a in (x, *rest)]
        a, b = fused(*operands, 1e-5), slow(*operands, 1e-5)
        np.testing.assert_allclose(to_numpy(a.data), to_numpy(b.data), rtol=1e-9, atol=1e-12)


# Operators


@given(st.integers(1, 4), st.integers(1, 4))
def test_operators_are_the_ops(n, m):
    rng = np.random.default_rng(0)
    a, b = (xp.asarray(rng.uniform(1, 2, (n, m))) for _ in range(2))
    x, y = Tensor(a, requires_grad=True), Tensor(b)
    for result, expected in (
        (x + y, a + b),
        (x - b, a - b),
        (b - x, b - a),
        (x * 2, a * 2),
        (2 * x, a * 2),
        (x / y, a / b),
        (1 / x, 1 / a),
        (3 + x, a + 3),
        (3 - x, 3 - a),
        (-x, -a),
        (x @ y.transpose(1, 0), a @ b.T),
        (x[0], a[0]),
        (x.sum(), a.sum()),
        (x.mean(axis=0), a.mean(axis=0)),
        (x.reshape(-1), a.reshape(-1)),
    ):
        assert isinstance(result, Tensor) and result.node is not None
        np.testing.assert_allclose(to_numpy(result.data), to_numpy(expected), rtol=1e-15)


@pytest.mark.parametrize("shapes", [((3,), (3, 2)), ((2, 3), (3,)), ((3,), (3,))])
def test_matmul_of_a_vector_says_what_to_do(shapes):
    a, b = (xp.ones(shape) for shape in shapes)
    with pytest.raises(ValueError, match="reshape first"):
        ops.matmul(Tensor(a), Tensor(b))


# Extreme values

FAR = st.sampled_from([1e4, -1e4, 1e30, -1e30])


def finite_with_gradient(f, *arrays):
    """The value of f(*arrays) in float32; both it and the gradients are finite."""
    operands = [Tensor(xp.asarray(a, dtype="float32"), requires_grad=True) for a in arrays]
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        y = f(*operands)
        found = autograd.gradients(y, xp.ones_like(y.data))
    assert all(np.isfinite(to_numpy(a)).all() for a in (y.data, *found.values()))
    return to_numpy(y.data)


@given(st.lists(FAR, min_size=1, max_size=5))
def test_softmax_and_cross_entropy_of_far_logits(logits):
    p = finite_with_gradient(F.softmax, [logits])
    assert p.sum() == pytest.approx(1, abs=1e-6)
    assert ((p[0] > 0) == (np.array(logits) == max(logits))).all()
    for label in range(len(logits)):
        loss = finite_with_gradient(lambda x, y=label: F.cross_entropy(x, [y]), [logits])
        ties = math.log(logits.count(max(logits)))
        assert loss == pytest.approx(max(logits) - logits[label] + ties, rel=1e-6)


@given(st.lists(FAR, min_size=1, max_size=5))
def test_activations_of_far_numbers(numbers):
    a = np.clip(numbers, -1e4, 1e4)
    assert (finite_with_gradient(ops.sigmoid, a) == (a > 0)).all()
    for f in (F.gelu, F.silu):
        np.testing.assert_allclose(finite_with_gradient(f, a), np.maximum(a, 0), rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_row_of_which_everything_is_hidden_is_finite(dtype):
    rng = np.random.default_rng(0)
    for depth in (1, 2):  # hidden by the causal mask, by padding, or by both
        mask = xp.asarray(np.full((2, 4), depth * -1e30), dtype=dtype)
        p = F.softmax(Tensor(xp.asarray(rng.standard_normal((2, 4)), dtype=dtype)), mask)
        assert to_numpy(p.data).sum(axis=-1) == pytest.approx(1)
        q, k, v = (rng.standard_normal((1, 2, n, 3)).astype(dtype) for n in (2, 4, 4))
        out = finite_with_gradient(lambda q, k, v, m=mask: F.attention(q, k, v, m), q, k, v)
        assert abs(out).max() <= abs(v).max() * 1.000001  # an average of values


@pytest.mark.parametrize("scale", [0.0, 1e-12, 1e12])
def test_norms_of_flat_tiny_and_huge_rows(scale):
    x = np.array([[scale, scale, scale], [scale, -scale, 0.0]])
    ones, zeros = np.ones(3), np.zeros(3)
    finite_with_gradient(lambda x, w, b: F.layer_norm(x, w, b, 1e-5), x, ones, zeros)
    finite_with_gradient(lambda x, w: F.rms_norm(x, w, 1e-5), x, ones)


@given(st.floats(0.05, 0.95), st.integers(0, 99))
def test_dropout_keeps_the_expectation(p, seed):
    x = Tensor(xp.ones(20_000, dtype="float32"))
    y = to_numpy(F.dropout(x, p, np.random.default_rng(seed)).data)
    assert set(np.unique(y)) <= {np.float32(0), np.float32(1 / (1 - p))}
    spread = math.sqrt(p / (1 - p) / len(y))
    assert abs(y.mean() - 1) < 5 * spread
