"""The gradient check sees wrong derivatives: each is planted in the code of an op."""

import math

import pytest
from hypothesis import Phase, given, settings

from cases import cases, public
from gradients import check
from minipeft.engine import ops
from minipeft.engine import tensor as autograd
from minipeft.engine.backend import BACKEND
from planted import planted


def derivatives(name):
    """The property that the derivatives of an op are right; stops where it first fails."""

    @settings(
        max_examples=60,
        phases=[Phase.generate],
        database=None,
        derandomize=True,
        report_multiple_bugs=False,
    )
    @given(cases(name))
    def property(case):
        check(*case)

    return property


WRONG = [  # (op, a piece of its code, what a wrong one would have there)
    ("sub", "lambda g: -g", "lambda g: g"),  # sign
    ("mul", "record(a * b, (x, lambda g: g * b), (y, lambda g: g * a))",  # a factor missing
            "record(a * b, (x, lambda g: g), (y, lambda g: g * a))"),
    ("mul", "record(a * b, (x, lambda g: g * b), (y, lambda g: g * a))",  # the other operand
            "record(a * b, (x, lambda g: g * b), (x, lambda g: g * a))"),
    ("div", "-g * a / (b * b)", "-g * a / b"),
    ("exp", "record(y, (x, lambda g: g * y))", "record(y, (x, lambda g: g * value(x)))"),
    ("log", "lambda g: g / a", "lambda g: g"),
    ("sqrt", "g / (2.0 * y)", "g / y"),  # factor 2
    ("square", "2.0 * g * a", "g * a"),
    ("tanh", "1.0 - y * y", "1.0 - y"),
    ("sigmoid", "g * y * (1.0 - y)", "g * (1.0 - y)"),
    ("relu", "lambda g: g * on", "lambda g: g"),
    ("where", "(y, lambda g: xp.where(condition, xp.zeros((), g.dtype), g))",
              "(y, lambda g: g)"),
    ("matmul", "g @ xp.swapaxes(b, -1, -2)", "g @ b.reshape(*b.shape[:-2], *b.shape[:-3:-1])"),
    ("matmul", "xp.swapaxes(a, -1, -2) @ g", "a.reshape(*a.shape[:-2], *a.shape[:-3:-1]) @ g"),
    ("mean", "spread(g) * share", "spread(g)"),
    ("sum", "a = value(x)\nspread = _spread(a.shape, axis, keepdims)",
            "a = value(x)\nspread = lambda g: xp.ones(a.shape)"),
    ("transpose", "back = tuple(sorted(range(a.ndim), key=axes.__getitem__))", "back = axes"),
    ("concat", "slice(end - value(x).shape[axis], end)", "slice(0, value(x).shape[axis])"),
    ("getitem", "xp.add.at(dx, index, g)", "dx[index] = g"),  # repeats forgotten
    ("linear", "g.reshape(-1, n_out).sum(axis=0)", "g.reshape(-1, n_out).mean(axis=0)"),
    ("linear", "lambda g: g.reshape(-1, n_out).T @ rows",
               "lambda g: (rows.T @ g.reshape(-1, n_out)).reshape(n_out, -1)"),
    ("embedding", "xp.add.at(dw, ids, g)", "dw[ids] = g"),
    ("dropout", "lambda g: g * keep * scale", "lambda g: g * keep"),
    ("gelu", "aa *= 6.0 * 0.044715 * c", "aa *= 0.044715 * c"),
    ("gelu", "aa *= 1.0 - h", "pass"),
    ("gelu_erf", "density *= a", "pass"),
    ("gelu_erf", "xp.add(below, density, out=slope[part])", "slope[part] = below"),
    ("silu", "slope[part] += s", "pass"),
    ("layer_norm", "h -= h.mean(axis=-1, keepdims=True)", "pass"),
    ("layer_norm", "h -= n * slope", "pass"),
    ("layer_norm", "h = g * weight\nslope = _mean_product(h, n)",
                   "h = g.copy()\nslope = _mean_product(h, n)"),
    ("rms_norm", "h -= n * _mean_product(h, n)", "pass"),
    ("rms_norm", "h *= inv", "h *= inv * inv"),
    ("softmax", "p * (g - (g * p).sum(axis=-1, keepdims=True))", "p * g"),
    ("softmax", "(g * p).sum(axis=-1, keepdims=True)", "(g * p).sum(axis=0, keepdims=True)"),
    ("attention", "dq *= scale", "pass"),
    ("attention", "ds -= (ds[..., None, :] @ p[rows][..., :, None])[..., 0]", "pass"),
    ("attention", "xp.matmul(xp.swapaxes(p[rows], -1, -2), g[rows], out=dv[rows])",
                  "xp.matmul(xp.swapaxes(p[rows] ** 2, -1, -2), g[rows], out=dv[rows])"),
    ("rope", "turn(g, -sin)", "turn(g, sin)"),
    ("cross_entropy", "z[n, targets] -= g", "pass"),
    ("cross_entropy", "g = g * (1.0 / count)\nxp.multiply(z, g / total, out=z)",
                      "g = g / len(z)\nxp.multiply(z, g / total, out=z)"),
    ("cross_entropy", "dx.reshape(-1, shape[-1])[rows] = z",
                      "dx.reshape(-1, shape[-1])[: len(z)] = z"),
]  # fmt: skip


def test_planted_mistakes_cover_most_ops():
    assert len({name for name, *_ in WRONG}) >= 25


def module_of(name):
    """The module of an op, as `planted` takes it."""
    return "engine.ops" if name in public(ops) else "engine.functional"


@pytest.mark.parametrize("name, right, wrong", WRONG)
def test_a_wrong_derivative_is_caught(name, right, wrong):
    with planted(module_of(name), right, wrong, within=name), pytest.raises(AssertionError):
        derivatives(name)()


def test_a_broadcast_that_is_not_undone_is_caught(monkeypatch):
    def first(g, shape):
        return g.reshape(-1)[: math.prod(shape)].reshape(shape)

    monkeypatch.setattr(autograd, "unbroadcast", first)
    for name in ("add", "mul", "where", "layer_norm"):
        with pytest.raises(AssertionError):
            derivatives(name)()


@pytest.mark.skipif(BACKEND != "numpy", reason="only NumPy can forbid to write to an array")
def test_a_derivative_that_writes_into_g_is_caught(monkeypatch):
    def wrong(x):
        def dx(g):
            g *= 2.0
            return g

        return autograd.record(autograd.value(x) * 2.0, (x, dx))

    monkeypatch.setattr(ops, "exp", wrong)
    with pytest.raises(ValueError, match="read-only"):
        derivatives("exp")()
