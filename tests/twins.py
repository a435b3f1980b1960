"""The fused ops once more, composed of primitives: slower, and plain to read."""

import math

from minipeft.engine.backend import np, xp
from minipeft.engine.functional import IGNORE
from minipeft.engine.ops import (
    broadcast,
    concat,
    div,
    exp,
    getitem,
    log,
    matmul,
    mean,
    mul,
    reshape,
    sigmoid,
    sqrt,
    square,
    sub,
    sum,
    tanh,
    transpose,
)


def linear(x, w, b=None):
    y = matmul(reshape(x, -1, x.shape[-1]), transpose(w))
    y = y if b is None else y + b
    return reshape(y, *x.shape[:-1], w.shape[0])


def embedding(w, ids):
    onehot = (ids.reshape(-1, 1) == xp.arange(w.shape[0])).astype(w.dtype)
    return reshape(matmul(onehot, w), *ids.shape, w.shape[1])


def dropout(x, p, rng):
    keep = xp.asarray(rng.random(x.shape, dtype=np.float32) >= p)
    return mul(div(x, 1.0 - p), keep.astype(x.dtype))


def gelu(x):
    cube = mul(mul(x, x), x)
    return mul(mul(x, 0.5), tanh(mul(x + mul(cube, 0.044715), math.sqrt(2 / math.pi))) + 1.0)


def gelu_erf(x):
    term = total = x  # x + x³/3 + x⁵/(3 · 5) + …
    for n in range(3, 300, 2):
        term = mul(mul(term, square(x)), 1 / n)
        total = total + term
    density = mul(exp(mul(square(x), -0.5)), math.sqrt(0.5 / math.pi))
    return mul(x, mul(total, density) + 0.5)


def silu(x):
    return mul(x, sigmoid(x))


def layer_norm(x, gain, bias, eps):
    centred = sub(x, mean(x, axis=-1, keepdims=True))
    variance = mean(square(centred), axis=-1, keepdims=True)
    return mul(div(centred, sqrt(variance + eps)), gain) + bias


def rms_norm(x, gain, eps):
    return mul(div(x, sqrt(mean(square(x), axis=-1, keepdims=True) + eps)), gain)


def softmax(x, mask=None):
    e = exp(x if mask is None else x + mask)
    return div(e, sum(e, axis=-1, keepdims=True))


def attention(q, k, v, mask):
    (B, H, _, K), (G, S) = q.shape, k.shape[1:3]

    def for_each_query_head(a):
        repeated = broadcast(reshape(a, B, G, 1, S, K), (B, G, H // G, S, K))
        return reshape(repeated, B, H, S, K)

    k, v = for_each_query_head(k), for_each_query_head(v)
    scores = div(matmul(q, transpose(k, 0, 1, 3, 2)), math.sqrt(K))
    if mask is not None and mask.ndim == 3:
        mask = mask[:, None]  # the same for all heads
    return matmul(softmax(scores, mask), v)


def rope(x, cos, sin):
    half = x.shape[-1] // 2
    one, two = getitem(x, (..., slice(half))), getitem(x, (..., slice(half, None)))
    turned = concat([mul(two, -1.0), one], axis=-1)
    cos, sin = (xp.concatenate([a, a], axis=-1) for a in (cos, sin))
    return mul(x, cos) + mul(turned, sin)


def cross_entropy(logits, labels, count=None):
    flat, labels = reshape(logits, -1, logits.shape[-1]), labels.reshape(-1)
    rows = np.flatnonzero(labels != IGNORE)
    nats = sub(log(sum(exp(flat), axis=-1)), 0.0)
    picked = getitem(flat, (xp.asarray(rows), xp.asarray(labels[rows])))
    total = sum(sub(getitem(nats, xp.asarray(rows)), picked))
    return div(total, float(len(rows) if count is None else count))
