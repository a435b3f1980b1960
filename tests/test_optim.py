"""AdamW, clipping and the learning rate, against the papers' formulas for one number."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

import minipeft as mp
from minipeft.engine.backend import np, to_numpy, xp
from minipeft.engine.optimizer import AdamW, clip_scale, grad_norm, learning_rate
from minipeft.model.layers import Parameter

rates = st.floats(1e-4, 1.0)


def adamw(w, grads, lr, b1, b2, eps, decay):
    """One number trained by AdamW, as in the papers."""
    m = v = 0.0
    for t, g in enumerate(grads, start=1):
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g**2
        m_hat, v_hat = m / (1 - b1**t), v / (1 - b2**t)
        w = w - lr * decay * w - lr * m_hat / (math.sqrt(v_hat) + eps)
    return w


@given(
    st.lists(st.floats(-10, 10), min_size=1, max_size=8),
    rates,
    st.tuples(st.floats(0, 0.95), st.floats(0, 0.9999)),
    st.floats(1e-8, 1e-2),
    st.floats(0, 0.5),
)
def test_adamw_is_that_of_the_papers(grads, lr, betas, eps, decay):
    with mp.dtype("float64"):
        matrix, vector, number = (Parameter(np.full(s, 1.5)) for s in ((2, 1), (2,), ()))
        still, fast = Parameter(np.ones((2, 2))), Parameter(np.full((1, 2), 1.5))
    fast.rate = 3.0
    optimizer = AdamW([matrix, vector, number, still, fast], betas, eps, decay)
    for g in grads:
        for p in (matrix, vector, number, fast):
            p.grad = xp.full(p.shape, g)
        optimizer.step(lr)
    expected = adamw(1.5, grads, lr, *betas, eps, decay)
    np.testing.assert_allclose(to_numpy(matrix.data), expected, rtol=1e-12, atol=1e-13)
    faster = adamw(1.5, grads, 3.0 * lr, *betas, eps, decay)
    np.testing.assert_allclose(to_numpy(fast.data), faster, rtol=1e-12, atol=1e-13)
    bare = adamw(1.5, grads, lr, *betas, eps, 0.0)  # decay is for matrices only
    for p in (vector, number):
        np.testing.assert_allclose(to_numpy(p.data), bare, rtol=1e-12, atol=1e-13)
    assert (to_numpy(still.data) == 1.0).all()  # without a gradient, not even decay


def test_adamw_updates_in_place_and_remembers_what_was():
    p = Parameter(np.arange(6.0).reshape(3, 2))
    array, g, was = p.data, xp.ones((3, 2), "float32"), xp.zeros((3, 2), "float32")
    optimizer, p.grad = AdamW([p]), g
    optimizer.step(0.1, before=[was])
    assert p.data is array and p.grad is g
    assert (to_numpy(was).ravel() == np.arange(6)).all() and (
        to_numpy(array) < to_numpy(was)
    ).all()
    assert (to_numpy(g) == 1).all()
    assert {a.dtype.name for a in (p.data, *optimizer.m, *optimizer.v)} == {"float32"}
    assert optimizer.state == {"m": optimizer.m, "v": optimizer.v}


@given(st.floats(1e-3, 1.0))
def test_a_scale_is_as_good_as_scaled_gradients(scale):
    with mp.dtype("float64"):
        one, other = (Parameter(np.ones((3, 2))) for _ in range(2))
    g = xp.linspace(-1.0, 2.0, 6).reshape(3, 2)
    scaled, given = AdamW([one]), AdamW([other])
    for _ in range(3):
        one.grad, other.grad = g * scale, g
        scaled.step(0.1)
        given.step(0.1, scale)
    np.testing.assert_allclose(to_numpy(one.data), to_numpy(other.data), rtol=1e-12)


@given(st.floats(0, 1e6), st.floats(1e-3, 1e3))
def test_clipping_limits_the_norm_and_nothing_else(norm, limit):
    scale = clip_scale(norm, limit)
    assert 0 < scale <= 1 and norm * scale <= limit
    if norm <= limit * 0.99 - 1e-6:
        assert scale == 1
    else:
        assert norm * scale >= min(norm, limit) * 0.98
    assert clip_scale(norm, None) == 1


def test_the_norm_is_that_of_all_gradients_together():
    parameters = [Parameter(np.ones(s)) for s in ((2, 3), 4, 1)]
    assert grad_norm(parameters) == 0
    rng = np.random.default_rng(0)
    for p in parameters[:2]:
        p.grad = xp.asarray(rng.standard_normal(p.shape))
    flat = np.concatenate([to_numpy(p.grad).ravel() for p in parameters[:2]])
    assert float(grad_norm(parameters)) == pytest.approx(np.linalg.norm(flat), rel=1e-12)


@given(st.integers(1, 60), st.integers(0, 30), rates)
def test_the_learning_rate_rises_in_a_line_and_falls_in_a_cosine(steps, warmup, peak):
    rate = [learning_rate(t, steps, peak, warmup) for t in range(steps)]
    rise, fall = rate[:warmup], rate[warmup:]
    np.testing.assert_allclose(rise, peak * np.arange(1, len(rise) + 1) / max(1, warmup))
    places = np.arange(len(fall)) / max(1, len(fall))
    np.testing.assert_allclose(fall, peak * (1 + np.cos(np.pi * places)) / 2)
    assert all(0 < r <= peak * (1 + 1e-12) for r in rate)
