"""Fused operations: the layers of a transformer as single ops, derivative beside value.

Fused where the composition of primitives would keep more than twice the memory or be less
exact; each has a slow twin made of primitives in the tests. Shapes: B batch, T queries, S keys,
D width, H heads, G key-value heads, K head width, V vocabulary, N rows.
"""

import math

from .autograd import needs_gradient, once, record, value
from .backend import np, xp

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
        dw = xp.zeros(shape, dtype=g.dtype)
        xp.add.at(dw, ids, g)
        return dw

    return record(table[ids], (w, scatter))


def dropout(x, p, rng):
    """Zero each number with probability p, divide the rest by 1 − p; g passes the same mask.

    The mask is drawn on the host from `rng`; the expectation over masks is x.
    """
    a = value(x)
    keep = xp.asarray(rng.random(a.shape, dtype=np.float32) >= p)
    scale = 1.0 / (1.0 - p)
    return record(a * keep * scale, (x, lambda g: g * keep * scale))


def gelu(x):
    """Gaussian error linear unit: y = x (1 + t) / 2 with t = tanh(√(2/π) (x + 0.044715 x³)).

    dy/dx = (1 + t) / 2 + x (1 − t²) √(2/π) (1 + 3 · 0.044715 x²) / 2 is computed at once when
    it will be needed, so one array is kept instead of four.
    Hendrycks & Gimpel 2016, arXiv:1606.08415
    """
    a, c = value(x), math.sqrt(2.0 / math.pi)
    aa = a * a
    t = aa * (0.044715 * c)
    t += c
    t *= a
    xp.tanh(t, out=t)
    slope = None
    if needs_gradient(x):
        slope = t * t
        xp.subtract(1.0, slope, out=slope)
        slope *= a
        aa *= 3.0 * 0.044715 * c
        aa += c
        slope *= aa
        slope += t
        slope += 1.0
        slope *= 0.5
    t += 1.0
    t *= a
    t *= 0.5
    return record(t, (x, lambda g: g * slope))


def silu(x):
    """y = x σ(x); dy/dx = σ(x) (1 + x (1 − σ(x))), computed at once when it will be needed.

    Elfwing et al. 2017, arXiv:1702.03118
    """
    a = value(x)
    s = a * 0.5
    xp.tanh(s, out=s)
    s += 1.0
    s *= 0.5
    y, slope = a * s, None
    if needs_gradient(x):
        slope = y * (1.0 - s)  # σ + x σ (1 − σ)
        slope += s
    return record(y, (x, lambda g: g * slope))


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
    p -= p.max(axis=-1, keepdims=True)
    xp.exp(p, out=p)
    p /= p.sum(axis=-1, keepdims=True)
    return p


def attention(q, k, v, mask):
    """Scaled dot-product attention, o = softmax(q kᵀ / √K + mask) v.

    q (B, H, T, K), k and v (B, G, S, K), where H / G query heads share a key head.
    With p the probabilities and dp = g vᵀ:  dv = pᵀ g,  ds = p · (dp − Σ dp p) / √K,
    dq = ds k,  dk = dsᵀ q. One op, because the scores can then become p in place.
    Vaswani et al. 2017, section 3.2.1, arXiv:1706.03762; Ainslie et al. 2023, arXiv:2305.13245
    """
    (B, H, T, K), (G, S) = value(q).shape, value(k).shape[1:3]
    scale, grouped = 1.0 / math.sqrt(K), (B, G, H // G * T, K)
    queries, keys, values = (value(q) * scale).reshape(grouped), value(k), value(v)
    p = queries @ xp.swapaxes(keys, -1, -2)  # (B, G, H/G · T, S)
    if mask is not None:
        scores = p.reshape(B, G, H // G, T, S)  # a view
        scores += mask if mask.ndim == 2 else mask[:, None, None]
    _softmax_in_place(p)

    @once
    def dscores(g):
        ds = g.reshape(grouped) @ xp.swapaxes(values, -1, -2)
        ds -= (ds[..., None, :] @ p[..., :, None])[..., 0]
        ds *= p
        return ds

    return record(
        (p @ values).reshape(B, H, T, K),
        (q, lambda g: (dscores(g) @ keys * scale).reshape(B, H, T, K)),
        (k, lambda g: xp.swapaxes(dscores(g), -1, -2) @ queries),
        (v, lambda g: xp.swapaxes(p, -1, -2) @ g.reshape(grouped)),
    )


def rope(x, cos, sin):
    """Rotary positions: turn the pairs (i, i + K/2) of x (…, T, K) by each token's angles.

    y = x · cos + (−x₂, x₁) · sin with cos and sin (…, T, K/2); a gradient is turned back.
    Su et al. 2021, arXiv:2104.09864, pairs as in the Llama checkpoints on Hugging Face
    """

    def turn(a, sin):
        half = a.shape[-1] // 2
        one, two = a[..., :half], a[..., half:]
        y = xp.empty(a.shape, dtype=a.dtype)
        y[..., :half] = one * cos - two * sin
        y[..., half:] = two * cos + one * sin
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
        dx = xp.zeros(shape, dtype=z.dtype)
        dx.reshape(-1, shape[-1])[rows] = z
        return dx

    return record(loss, (logits, dlogits))
