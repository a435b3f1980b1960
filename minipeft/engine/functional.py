"""Fused operations: the layers of a transformer as single ops, derivative beside value.

Fused where the composition of primitives would keep more than twice the memory or be less
exact; each has a slow twin made of primitives in the tests.
Shapes: B batch, T tokens or queries, S keys, D width, V vocabulary, N rows, H heads,
G key-value heads, K head width.
"""

import math

from .backend import array, blocks, np, xp
from .tensor import needs_gradient, once, record, value

IGNORE = -100  # a label that takes no part in the loss


def linear(x, w, b=None):
    """y = x wᵀ + b, (…, in) -> (…, out) with w (out, in); dx = g w, dw = gᵀ x, db = Σ g.

    All leading axes are folded into one matrix product, twice as fast as a batched one. w is
    asked for again when g comes: one held in few bits is not kept unpacked.
    """
    a, weight = value(x), value(w)
    rows = a.reshape(-1, a.shape[-1])  # (N, in)
    y = rows @ weight.T
    if b is not None:
        y += value(b)
    lead, n_in, n_out = a.shape[:-1], *weight.shape[::-1]
    return record(
        y.reshape(*lead, n_out),
        (x, lambda g: (g.reshape(-1, n_out) @ value(w)).reshape(*lead, n_in)),
        (w, lambda g: g.reshape(-1, n_out).T @ rows),
        (b, lambda g: g.reshape(-1, n_out).sum(axis=0)),
    )


def embedding(w, ids):
    """Rows of a table, w (V, D) at ids (B, T) -> (B, T, D); g is added up where ids repeat."""
    table, shape = value(w), value(w).shape

    def scatter(g):
        dw = xp.zeros_like(g, shape=shape, order="C")
        xp.add.at(dw, ids, g)
        return dw

    return record(table[ids], (w, scatter))


def dropout(x, p, rng):
    """Zero each number with probability p, divide the rest by 1 − p; g passes the same mask.

    The mask is drawn on the host from `rng`; the expectation over masks is x.
    """
    a = value(x)
    keep = array(rng.random(a.shape, dtype=np.float32) >= p, bool)
    scale = 1.0 / (1.0 - p)
    return record(a * keep * scale, (x, lambda g: g * keep * scale))


def gelu(x):
    """Gaussian error linear unit: y = x h, h = (1 + tanh(√(2/π) (x + 0.044715 x³))) / 2.

    dy/dx = h + y (1 − h) √(2/π) (2 + 6 · 0.044715 x²) is computed at once when it will be
    needed, so one array is kept instead of four, and in blocks that stay in a core's cache.
    Hendrycks & Gimpel 2016, arXiv:1606.08415
    """
    a, c, keep = value(x), math.sqrt(2.0 / math.pi), needs_gradient(x)
    flat, shape = a.reshape(-1), a.shape
    y, slope = xp.empty_like(flat), xp.empty_like(flat) if keep else None
    for part in blocks(flat):
        a = flat[part]
        aa = a * a
        h = aa * (0.044715 * c)
        h += c
        h *= a
        xp.tanh(h, out=h)
        h += 1.0
        h *= 0.5
        xp.multiply(a, h, out=y[part])
        if keep:
            aa *= 6.0 * 0.044715 * c
            aa += 2.0 * c
            aa *= y[part]
            aa *= 1.0 - h
            xp.add(aa, h, out=slope[part])
    return record(y.reshape(shape), (x, lambda g: _times(g, slope)))


def silu(x):
    """y = x σ(x); dy/dx = σ(x) (1 + x (1 − σ(x))), as in `gelu` computed at once, in blocks.

    Elfwing et al. 2017, arXiv:1702.03118
    """
    a, keep = value(x), needs_gradient(x)
    flat, shape = a.reshape(-1), a.shape
    y, slope = xp.empty_like(flat), xp.empty_like(flat) if keep else None
    for part in blocks(flat):
        s = flat[part] * 0.5
        xp.tanh(s, out=s)
        s += 1.0
        s *= 0.5
        xp.multiply(flat[part], s, out=y[part])
        if keep:  # σ + x σ (1 − σ)
            xp.multiply(y[part], 1.0 - s, out=slope[part])
            slope[part] += s
    return record(y.reshape(shape), (x, lambda g: _times(g, slope)))


def _times(g, slope):
    """g · slope in the memory of the slope: a tape is used once."""
    slope = slope.reshape(g.shape)
    return xp.multiply(g, slope, out=slope)


def layer_norm(x, gain, bias, eps):
    """y = gain · n + bias with n = (x − mean) / √(var + eps) over the last axis.

    dx = (h − mean(h) − n mean(h n)) / √(var + eps), h = g · gain;  dgain = Σ g n, dbias = Σ g.
    Ba et al. 2016, arXiv:1607.06450
    """
    a, weight = value(x), value(gain)
    n = a - a.mean(axis=-1, keepdims=True)
    inv = 1.0 / xp.sqrt(_mean_product(n, n) + eps)  # (…, 1)
    n *= inv
    y = n * weight
    y += value(bias)

    def dx(g):
        h = g * weight
        slope = _mean_product(h, n)
        h -= h.mean(axis=-1, keepdims=True)
        h -= n * slope
        h *= inv
        return h

    return record(y, (x, dx), (gain, lambda g: g * n), (bias, lambda g: g))


def rms_norm(x, gain, eps):
    """y = gain · n with n = x / √(mean(x²) + eps) over the last axis.

    dx = (h − n mean(h n)) / √(mean(x²) + eps), h = g · gain;  dgain = Σ g n.
    Zhang & Sennrich 2019, arXiv:1910.07467
    """
    a, weight = value(x), value(gain)
    inv = 1.0 / xp.sqrt(_mean_product(a, a) + eps)  # (…, 1)
    n = a * inv

    def dx(g):
        h = g * weight
        h -= n * _mean_product(h, n)
        h *= inv
        return h

    return record(n * weight, (x, dx), (gain, lambda g: g * n))


def _mean_product(a, b):
    """Mean of a · b over the last axis, (…, D) -> (…, 1), without holding the product."""
    return (a[..., None, :] @ b[..., :, None])[..., 0] * (1.0 / a.shape[-1])


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
        for rows in blocks(queries, H * T * S):
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
    for rows in blocks(queries, H * T * S):
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


def cross_entropy(logits, labels, count=None):
    """Mean of −log softmax(logits)[label] in nats, logits (…, V), labels (…) or IGNORE.

    The sum is divided by `count`, which parts of one batch are given for the whole; by default
    the number of labels that take part.  dlogits = (p − onehot(label)) / count.
    """
    labels, a = np.asarray(labels).reshape(-1), value(logits)
    asked = np.flatnonzero(labels != IGNORE)
    count = len(asked) if count is None else count
    rows, targets = xp.asarray(asked), xp.asarray(labels[asked])
    shape, flat = a.shape, a.reshape(-1, a.shape[-1])
    z = flat[rows]  # (N, V), a copy
    z -= z.max(axis=-1, keepdims=True)
    n = xp.arange(len(rows))
    picked = z[n, targets]
    xp.exp(z, out=z)
    total = z.sum(axis=-1, keepdims=True)
    loss = ((xp.log(total[:, 0]) - picked) * (1.0 / count)).sum()

    def dlogits(g):
        g = g * (1.0 / count)
        xp.multiply(z, g / total, out=z)  # a tape is used once: z itself becomes the gradient
        z[n, targets] -= g
        if z.size == math.prod(shape):
            return z.reshape(shape)
        dx = xp.zeros_like(z, shape=shape, order="C")
        dx.reshape(-1, shape[-1])[rows] = z
        return dx

    return record(loss, (logits, dlogits))
