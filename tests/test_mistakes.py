"""The gradient check sees wrong derivatives: each is planted in the source of an op."""

import inspect
import math

import pytest
from hypothesis import Phase, given, settings

from cases import cases, public
from gradients import check
from minipeft.engine import functional as F
from minipeft.engine import ops
from minipeft.engine import tensor as autograd
from minipeft.engine.backend import BACKEND


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


WRONG = [  # (op, what its source says, what a wrong one would say)
    ("sub", "lambda g: -g", "lambda g: g"),  # sign
    ("mul", "g * b", "g"),  # a factor missing
    ("mul", "(y, lambda g: g * a)", "(x, lambda g: g * a)"),  # the other operand
    ("div", "(b * b)", "b"),
    ("exp", "g * y", "g * value(x)"),
    ("log", "g / a", "g"),
    ("sqrt", "2.0 * y", "y"),  # factor 2
    ("square", "2.0 * g", "g"),
    ("tanh", "(1.0 - y * y)", "(1.0 - y)"),
    ("sigmoid", "y * (1.0 - y)", "(1.0 - y)"),
    ("relu", "g * on", "g"),
    ("where", "xp.where(condition, g, xp.zeros((), g.dtype))", "g"),
    ("matmul", "xp.swapaxes(b, -1, -2)", "b.reshape(*b.shape[:-2], *b.shape[:-3:-1])"),
    ("matmul", "xp.swapaxes(a, -1, -2) @ g", "a.reshape(*a.shape[:-2], *a.shape[:-3:-1]) @ g"),
    ("mean", " * share", ""),
    ("sum", "_spread(a.shape, axis, keepdims)", "lambda g: xp.ones(a.shape)"),
    ("transpose", "g.transpose(back)", "g.transpose(axes)"),
    ("concat", "slice(end - value(x).shape[axis], end)", "slice(0, value(x).shape[axis])"),
    ("getitem", "xp.add.at(dx, index, g)", "dx[index] = g"),  # repeats forgotten
    ("linear", "g.reshape(-1, n_out).sum(axis=0)", "g.reshape(-1, n_out).mean(axis=0)"),
    (
        "linear",
        "g.reshape(-1, n_out).T @ rows",
        "(rows.T @ g.reshape(-1, n_out)).reshape(-1, n_in)",
    ),
    ("embedding", "xp.add.at(dw, ids, g)", "dw[ids] = g"),
    ("dropout", "g * keep * scale", "g * keep"),
    ("gelu", "aa *= 6.0 * 0.044715 * c", "aa *= 0.044715 * c"),
    ("gelu", "aa *= 1.0 - h", "pass"),
    ("silu", "slope[part] += s", "pass"),
    ("layer_norm", "h -= h.mean(axis=-1, keepdims=True)", "pass"),
    ("layer_norm", "h -= n * slope", "pass"),
    ("layer_norm", "h = g * weight", "h = g.copy()"),
    ("rms_norm", "h -= n * _mean_product(h, n)", "pass"),
    ("rms_norm", "h *= inv", "h *= inv * inv"),
    ("softmax", "p * (g - (g * p).sum(axis=-1, keepdims=True))", "p * g"),
    ("softmax", "(g * p).sum(axis=-1, keepdims=True)", "(g * p).sum(axis=0, keepdims=True)"),
    ("attention", "dq *= scale", "pass"),
    ("attention", "ds -= (ds[..., None, :] @ p[rows][..., :, None])[..., 0]", "pass"),
    (
        "attention",
        "swapaxes(p[rows], -1, -2), g[rows]",
        "swapaxes(p[rows] ** 2, -1, -2), g[rows]",
    ),
    ("rope", "turn(g, -sin)", "turn(g, sin)"),
    ("cross_entropy", "z[n, targets] -= g", "pass"),
    ("cross_entropy", "g = g * (1.0 / count)", "g = g / len(labels)"),
    ("cross_entropy", "shape[-1])[rows] = z", "shape[-1])[n] = z"),
]


def test_planted_mistakes_cover_most_ops():
    assert len({name for name, *_ in WRONG}) >= 25


@pytest.mark.parametrize("name, right, wrong", WRONG)
def test_a_wrong_derivative_is_caught(name, right, wrong, monkeypatch):
    module = ops if name in public(ops) else F
    source = inspect.getsource(getattr(module, name))
    assert source.count(right) >= 1, f"{name} is written otherwise now; plant another mistake"
    before, _, after = source.rpartition(right)  # the last one: docstrings come first
    planted = dict(inspect.unwrap(getattr(module, name)).__globals__)
    exec(before + wrong + after, planted)
    monkeypatch.setattr(module, name, planted[name])
    with pytest.raises(AssertionError):
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
