"""Attention's ops: softmax, scaled dot products, rotary positions, derivative beside value.

Shapes: B batch, T queries, S keys, H heads, G key-value heads, K head width.
"""

import math

from .autograd import in_outline_too, needs_gradient, once, record, value
from .backend import blocks, xp


def softmax(x, mask=None):
    """p = eˣ / Σ eˣ over the last axis, of x + mask if given; dx = p · (g − Σ g p)."""
    p = _softmax_in_place(value(x) + (0.0 if mask is None else mask))

    def dx(g):
        return p * (g - (g * p).sum(axis=-1, keepdims=True))

    return record(p, (x, dx))


def _softmax_in_place(p):
    largest = p.argmax(axis=-1)[..., None]  # NumPy finds it in half the time that `max` takes
    p -= xp.take_along_axis(p, largest, axis=-1)
    xp.exp(p, out=p)
    p /= p.sum(axis=-1, keepdims=True)
    return p


def attention(q, k, v, mask):
    """Scaled dot-product attention, o = softmax(q kᵀ / √K + mask) v.

    q (B, H, T, K), k and v (B, G, S, K), where H / G query heads share a key head.
    With p the probabilities and dp = g vᵀ:  dv = pᵀ g,  ds = p · (dp − Σ dp p) / √K,
    dq = ds k,  dk = dsᵀ q. One op, because the scores can then become p in place, and a few
    rows of the batch at a time, whose scores stay in a core's cache.
    Vaswani et al. 2017, section 3.2.1, arXiv:1706.03762; Ainslie et al. 2023, arXiv:2305.13245
    """
    (B, H, T, K), (G, S) = value(q).shape, value(k).shape[1:3]
    scale, grouped = 1.0 / math.sqrt(K), (-1, G, H // G * T, K)
    queries, keys, values = (value(q) * scale).reshape(grouped), value(k), value(v)
    p, y = _attend(queries, keys, values, mask, T)
    needed = [needs_gradient(x) for x in (q, k, v)]

    @once
    def gradients(g):
        g = g.reshape(grouped)
        dq, dk, dv = (xp.empty_like(x) for x in (queries, keys, values))
        for rows in blocks(B, H * T * S):
            ds = g[rows] @ xp.swapaxes(values[rows], -1, -2)
            ds -= (ds[..., None, :] @ p[rows][..., :, None])[..., 0]
            ds *= p[rows]
            if needed[0]:
                xp.matmul(ds, keys[rows], out=dq[rows])
            if needed[1]:
                xp.matmul(xp.swapaxes(ds, -1, -2), queries[rows], out=dk[rows])
            if needed[2]:
                xp.matmul(xp.swapaxes(p[rows], -1, -2), g[rows], out=dv[rows])
        dq *= scale
        return dq.reshape(B, H, T, K), dk, dv

    return record(y, *((x, lambda g, i=i: gradients(g)[i]) for i, x in enumerate((q, k, v))))


def _attend(queries, keys, values, mask, T):
    """(p, o) of `attention`, p by key head: (B, G, H/G · T, S), o: (B, H, T, K)."""
    (B, G, N, K), S = queries.shape, keys.shape[2]
    H = N // T * G
    p, y = (xp.empty_like(queries, shape=s, order="C") for s in ((B, G, N, S), (B, T, H, K)))
    y = y.transpose(0, 2, 1, 3)  # in memory (B, T, H, K), as it is read next
    for rows in blocks(B, H * T * S):
        scores = xp.matmul(queries[rows], xp.swapaxes(keys[rows], -1, -2), out=p[rows])
        if mask is not None:
            scores = scores.reshape(-1, G, H // G, T, S)  # a view
            scores += mask if mask.ndim == 2 else mask[rows, None, None]
        y[rows] = (_softmax_in_place(p[rows]) @ values[rows]).reshape(-1, H, T, K)
    return p, y


def rope(x, cos, sin):
    """Rotary positions: turn the pairs (i, i + K/2) of x (…, T, K) by each token's angles.

    y = x · cos + (−x₂, x₁) · sin with cos and sin (…, T, K/2); a gradient is turned back.
    Su et al. 2021, arXiv:2104.09864, pairs as in the Llama checkpoints on Hugging Face
    """
    half = value(x).shape[-1] // 2
    cos, sin = xp.concatenate([cos, cos], axis=-1), xp.concatenate([-sin, sin], axis=-1)

    def turn(a, sin):
        y = a.copy()  # in order of its axes, so that what follows runs over all T · K numbers
        other = xp.empty_like(y)
        other[..., :half], other[..., half:] = a[..., half:], a[..., :half]
        y *= cos
        other *= sin
        y += other
        return y

    return record(turn(value(x), sin), (x, lambda g: turn(g, -sin)))


in_outline_too(globals())
