"""Fused operations: each layer of a transformer as one operation with its derivative.

A layer is fused where the same layer, composed of primitive operations, would need more than
twice the memory for saved tensors or be less exact. The tests compare it with that form.

In every formula g is the gradient of the result, and dx is the gradient of an operand x.
Shapes: B batch, T tokens (queries), S slots (keys), D width, V vocabulary, N rows, H heads,
G key-value heads, K head width.
"""

import math

from .backend import array, chunks, np, xp
from .tensor import needs_gradient, once, record, value

IGNORE = -100  # the label of a position that takes no part in the loss, as in PyTorch


def linear(x, w, b=None):
    """y = x wᵀ + b, (…, in) -> (…, out) with w (out, in); dx = g w, dw = gᵀ x, db = Σ g.

    The leading axes become one, as one matrix product is twice as fast as a batch of them.
    Backward calls `value(w)` again: of a quantised weight no dequantised copy is saved.
    """
    a, weight = value(x), value(w)
    rows = a.reshape(-1, a.shape[-1])  # (N, in)
    y = _times_transposed(rows, weight)
    if b is not None:
        y += value(b)
    lead, n_in, n_out = a.shape[:-1], *weight.shape[::-1]
    return record(
        y.reshape(*lead, n_out),
        (x, lambda g: (g.reshape(-1, n_out) @ value(w)).reshape(*lead, n_in)),
        (w, lambda g: g.reshape(-1, n_out).T @ rows),
        (b, lambda g: g.reshape(-1, n_out).sum(axis=0)),
    )


def _times_transposed(rows, weight):
    """Returns rows wᵀ, (N, in) -> (N, out).

    For the few rows of a short prompt and a large weight, OpenBLAS computes w rowsᵀ in 0.6 to
    0.9 of the time.
    """
    if 1 < len(rows) <= 48 and weight.size >= 1 << 16:
        return (weight @ rows.T).T.copy()
    return rows @ weight.T


def embedding(w, ids):
    """Rows of a table w (V, D) at token ids (B, T) -> (B, T, D); dw[ids] += g.

    The gradient of a row is the sum over all positions that have its id.
    """
    table, shape = value(w), value(w).shape

    def scatter(g):
        dw = xp.zeros_like(g, shape=shape, order="C")
        xp.add.at(dw, ids, g)
        return dw

    return record(table[ids], (w, scatter))


def dropout(x, p, rng):
    """y = x · mask / (1 − p); dx = g · mask / (1 − p).

    Each element of the mask is 0 with probability p, else 1, so the mean of y over masks is x.
    The mask is drawn from `rng` on the host.
    """
    a = value(x)
    keep = array(rng.random(a.shape, dtype=np.float32) >= p, bool)
    scale = 1.0 / (1.0 - p)
    return record(a * keep * scale, (x, lambda g: g * keep * scale))


def gelu(x):
    """Gaussian error linear unit: y = x h, h = (1 + tanh(√(2/π) (x + 0.044715 x³))) / 2.

    dx = g (h + y (1 − h) √(2/π) (2 + 6 · 0.044715 x²)). If x needs a gradient, this slope is
    computed in the forward pass, so one array is saved instead of four. Both passes go through
    the array in chunks that stay in a core's cache.
    Hendrycks & Gimpel 2016, arXiv:1606.08415
    """
    a, c, keep = value(x), math.sqrt(2.0 / math.pi), needs_gradient(x)
    flat, shape = a.reshape(-1), a.shape
    y, slope = xp.empty_like(flat), xp.empty_like(flat) if keep else None
    for part in chunks(flat):
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


def gelu_erf(x):
    """The unit itself, which `gelu` approximates: y = x Φ(x), dx = g (Φ(x) + x φ(x)).

    Φ and φ are the distribution and the density of N(0, 1). The slope is computed as in `gelu`.
    """
    a, keep = value(x), needs_gradient(x)
    flat, shape = a.reshape(-1), a.shape
    y, slope = xp.empty_like(flat), xp.empty_like(flat) if keep else None
    for part in chunks(flat):
        a = flat[part]
        density = xp.exp(-0.5 * a * a) * math.sqrt(0.5 / math.pi)
        below = _normal_distribution(a, density)
        xp.multiply(a, below, out=y[part])
        if keep:
            density *= a
            xp.add(below, density, out=slope[part])
    return record(y.reshape(shape), (x, lambda g: _times(g, slope)))


def _normal_distribution(a, density):
    """Returns Φ(a) of N(0, 1) for each element of an array, given the density at it.

    NumPy has no error function. In float32 it is a polynomial's, within 1.5e-7 (Abramowitz &
    Stegun 1964, 7.1.26), in float64 the sum ½ + φ(a) (a + a³/3 + a⁵/(3 · 5) + …).
    """
    size = xp.minimum(xp.abs(a), 9.0)  # beyond 9, Φ is 0 or 1 to all digits
    if a.dtype == np.float64:
        term = total = size
        for n in range(3, 300, 2):
            term = term * size * size * (1.0 / n)
            total = total + term
        tail = xp.maximum(0.5 - total * density, 0.0)
    else:
        t = 1.0 / (1.0 + 0.3275911 * math.sqrt(0.5) * size)
        tail = t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429)))
        tail = t * (0.254829592 + tail) * density * math.sqrt(0.5 * math.pi)
    return xp.where(a > 0, 1.0 - tail, tail)  # tail = Φ(−|a|)


def silu(x):
    """Sigmoid linear unit: y = x σ(x); dx = g σ(x) (1 + x (1 − σ(x))).

    The slope is computed in the forward pass, and in chunks, as in `gelu`.
    Elfwing et al. 2017, arXiv:1702.03118
    """
    a, keep = value(x), needs_gradient(x)
    flat, shape = a.reshape(-1), a.shape
    y, slope = xp.empty_like(flat), xp.empty_like(flat) if keep else None
    for part in chunks(flat):
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
    """Returns g · slope, in the memory of the slope: a tape is used only once."""
    slope = slope.reshape(g.shape)
    return xp.multiply(g, slope, out=slope)


def layer_norm(x, gain, bias, eps):
    """y = gain · n + bias with n = (x − mean) / √(var + eps); mean and var over the last axis.

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
    """y = gain · n with n = x / √(mean(x²) + eps); the mean over the last axis.

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
    """Returns the mean of a · b over the last axis, (…, D) -> (…, 1), with no array a · b."""
    return (a[..., None, :] @ b[..., :, None])[..., 0] * (1.0 / a.shape[-1])


def softmax(x, mask=None):
    """p = exp(x + mask) / Σ exp(x + mask) over the last axis; dx = p · (g − Σ g p).

    The mask, if given, is 0 where x counts and −∞ where it does not. If nothing counts, p = 0.
    """
    p = _softmax_in_place(value(x) + (0.0 if mask is None else mask))

    def dx(g):
        return p * (g - (g * p).sum(axis=-1, keepdims=True))

    return record(p, (x, dx))


@np.errstate(under="ignore")  # the exponential of what is far below the largest is 0
def _softmax_in_place(p):
    """Replace the scores in an array by their softmax over the last axis. Returns the array."""
    largest = p.argmax(axis=-1)[..., None]  # takes half the time of `max`
    p -= xp.maximum(xp.take_along_axis(p, largest, axis=-1), float(np.finfo(p.dtype).min))
    xp.exp(p, out=p)
    p /= xp.maximum(p.sum(axis=-1, keepdims=True), 1.0)  # it is ≥ 1, or 0 if all scores are −∞
    return p


def attention(q, k, v, mask):
    """Scaled dot-product attention: y = p v with p = softmax(q kᵀ / √K + mask).

    q (B, H, T, K), k and v (B, G, S, K) -> y (B, H, T, K). H / G query heads share one key and
    value head. The mask, (T, S) or (B, T, S), is added to the scores: −∞ hides a key, however
    large its finite score. A query from which all keys are hidden gives 0. None adds nothing.

        dv = pᵀ g      ds = p · (g vᵀ − Σ (g vᵀ) p) / √K      dq = ds k      dk = dsᵀ q

    Fused, the scores become p in the same memory, and a few rows of the batch are computed at a
    time, so that their scores stay in a core's cache.
    Vaswani et al. 2017, section 3.2.1, arXiv:1706.03762; heads shared by groups of queries:
    Ainslie et al. 2023, arXiv:2305.13245
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
        for rows in chunks(queries, H * T * S):
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
    """Returns (p, y) of `attention`: p (B, G, H/G · T, S) by key head, y (B, H, T, K)."""
    (B, G, N, K), S = queries.shape, keys.shape[2]
    H = N // T * G
    p, y = (xp.empty_like(queries, shape=s, order="C") for s in ((B, G, N, S), (B, T, H, K)))
    y = y.transpose(0, 2, 1, 3)  # (B, T, H, K) in memory, the order in which it is read next
    for rows in chunks(queries, H * T * S):
        scores = xp.matmul(queries[rows], xp.swapaxes(keys[rows], -1, -2), out=p[rows])
        if mask is not None:
            scores = scores.reshape(-1, G, H // G, T, S)  # a view
            scores += mask if mask.ndim == 2 else mask[rows, None, None]
        y[rows] = (_softmax_in_place(p[rows]) @ values[rows]).reshape(-1, H, T, K)
    return p, y


def rope(x, cos, sin):
    """Rotary position embedding: elements i and i + K/2 of x (…, T, K) turned by an angle.

    With x₁ and x₂ the two halves of the last axis, and cos and sin (…, T, K/2) of the angles:

        y = (x₁ cos − x₂ sin, x₂ cos + x₁ sin)      dx: g turned by the opposite angles

    Su et al. 2021, arXiv:2104.09864, in pairs as in the Llama checkpoints on Hugging Face
    """
    half = value(x).shape[-1] // 2
    cos, sin = xp.concatenate([cos, cos], axis=-1), xp.concatenate([-sin, sin], axis=-1)

    def turn(a, sin):
        y = a.copy()  # contiguous, so that each line below is one pass over memory
        swapped = xp.empty_like(y)
        swapped[..., :half], swapped[..., half:] = a[..., half:], a[..., :half]
        y *= cos
        swapped *= sin
        y += swapped
        return y

    return record(turn(value(x), sin), (x, lambda g: turn(g, -sin)))


@np.errstate(under="ignore")
def cross_entropy(logits, labels, count=None):
    """Mean of −log softmax(logits)[label], in nats; logits (…, V), labels (…) of integers.

    dlogits = g (softmax(logits) − onehot(label)) / count. Positions labelled IGNORE take no
    part. `count`, by which the sum is divided, is the number of all other labels; for a
    micro-batch it is given, as that number in its whole batch.
    """
    labels, a = np.asarray(labels).reshape(-1), value(logits)
    labelled = np.flatnonzero(labels != IGNORE)
    count = len(labelled) if count is None else count
    rows, targets = xp.asarray(labelled), xp.asarray(labels[labelled])
    shape, flat = a.shape, a.reshape(-1, a.shape[-1])
    z = flat[rows]  # (N, V), a copy
    z -= z.max(axis=-1, keepdims=True)
    n = xp.arange(len(rows))
    z_target = z[n, targets]
    xp.exp(z, out=z)
    total = z.sum(axis=-1, keepdims=True)
    loss = ((xp.log(total[:, 0]) - z_target) * (1.0 / count)).sum()

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
