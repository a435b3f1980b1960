"""Primitive operations: each computes its value and says how a gradient g passes back.

Operands are Tensors, arrays or Python numbers; arrays and numbers are constants. Shapes
broadcast as in NumPy, and the engine sums a broadcast operand's gradient back to its shape.
Constants are Python floats: a NumPy scalar would silently turn float32 into float64.
"""

import itertools

from .backend import xp
from .tensor import Tensor, record, value


def add(x, y):
    """x + y; both operands get g."""
    return record(value(x) + value(y), (x, lambda g: g), (y, lambda g: g))


def sub(x, y):
    """x − y; x gets g and y gets −g."""
    return record(value(x) - value(y), (x, lambda g: g), (y, lambda g: -g))


def mul(x, y):
    """x · y elementwise; each operand gets g times the other."""
    a, b = value(x), value(y)
    return record(a * b, (x, lambda g: g * b), (y, lambda g: g * a))


def div(x, y):
    """x / y elementwise; dx = g / y, dy = −g x / y²."""
    a, b = value(x), value(y)
    return record(a / b, (x, lambda g: g / b), (y, lambda g: -g * a / (b * b)))


def neg(x):
    """−x; dx = −g."""
    return record(-value(x), (x, lambda g: -g))


def exp(x):
    """eˣ; dx = g eˣ."""
    y = xp.exp(value(x))
    return record(y, (x, lambda g: g * y))


def log(x):
    """Natural logarithm; dx = g / x."""
    a = value(x)
    return record(xp.log(a), (x, lambda g: g / a))


def sqrt(x):
    """√x; dx = g / (2 √x)."""
    y = xp.sqrt(value(x))
    return record(y, (x, lambda g: g / (2.0 * y)))


def square(x):
    """x · x; dx = 2 g x. (x ** 3 would be 150 times slower than x · x · x.)"""
    a = value(x)
    return record(a * a, (x, lambda g: 2.0 * g * a))


def tanh(x):
    """tanh x; dx = g (1 − tanh² x)."""
    y = xp.tanh(value(x))
    return record(y, (x, lambda g: g * (1.0 - y * y)))


def sigmoid(x):
    """y = 1 / (1 + e⁻ˣ) = (1 + tanh(x/2)) / 2, which cannot overflow; dx = g y (1 − y)."""
    y = 0.5 * (1.0 + xp.tanh(0.5 * value(x)))
    return record(y, (x, lambda g: g * y * (1.0 - y)))


def relu(x):
    """max(x, 0); dx = g where x > 0."""
    a = value(x)
    on = a > 0
    return record(xp.maximum(a, 0), (x, lambda g: g * on))


def where(condition, x, y):
    """x where the condition holds, y elsewhere; g goes to the operand that was taken."""
    return record(
        xp.where(condition, value(x), value(y)),
        (x, lambda g: xp.where(condition, g, xp.zeros((), g.dtype))),
        (y, lambda g: xp.where(condition, xp.zeros((), g.dtype), g)),
    )


def matmul(x, y):
    """Product of matrices, (…, n, k) @ (…, k, m) -> (…, n, m); dx = g yᵀ, dy = xᵀ g."""
    a, b = value(x), value(y)
    if a.ndim < 2 or b.ndim < 2:
        raise ValueError(f"matmul needs matrices, got {a.shape} @ {b.shape}; reshape first")
    return record(
        a @ b,
        (x, lambda g: g @ xp.swapaxes(b, -1, -2)),
        (y, lambda g: xp.swapaxes(a, -1, -2) @ g),
    )


def sum(x, axis=None, keepdims=False):
    """Sum over an axis, some or all; every summand gets g."""
    a = value(x)
    spread = _spread(a.shape, axis, keepdims)
    return record(a.sum(axis=axis, keepdims=keepdims), (x, spread))


def mean(x, axis=None, keepdims=False):
    """Mean over an axis, some or all; every summand gets g / n."""
    a = value(x)
    y, spread = a.mean(axis=axis, keepdims=keepdims), _spread(a.shape, axis, keepdims)
    share = 1.0 / (a.size // max(y.size, 1))
    return record(y, (x, lambda g: spread(g) * share))


def _spread(shape, axis, keepdims):
    """How the gradient of a sum over an axis gets back to every summand."""
    expand = axis is not None and not keepdims
    return lambda g: xp.broadcast_to(xp.expand_dims(g, axis) if expand else g, shape)


def reshape(x, *shape):
    """The same numbers in another shape; g goes back to the old one."""
    a = value(x)
    old = a.shape
    return record(a.reshape(*shape), (x, lambda g: g.reshape(old)))


def transpose(x, *axes):
    """Axes in another order, all reversed if none is given; g is put back in order."""
    a = value(x)
    axes = axes or tuple(range(a.ndim))[::-1]
    back = tuple(sorted(range(a.ndim), key=axes.__getitem__))
    return record(a.transpose(axes), (x, lambda g: g.transpose(back)))


def broadcast(x, shape):
    """x repeated along new or length-1 axes, without a copy; g is summed over the repeats."""
    return record(xp.broadcast_to(value(x), shape), (x, lambda g: g))


def concat(tensors, axis=0):
    """Tensors one after the other along an axis; each gets its own slice of g."""
    arrays = [value(x) for x in tensors]
    before = (slice(None),) * (axis % arrays[0].ndim)
    ends = itertools.accumulate(a.shape[axis] for a in arrays)

    def part(x, end):
        index = (*before, slice(end - value(x).shape[axis], end))
        return x, lambda g: g[index]

    return record(xp.concatenate(arrays, axis=axis), *map(part, tensors, ends))


def getitem(x, index):
    """x[index], by slices, integers or integer arrays; g is added up where indices repeat."""
    a = value(x)
    shape = a.shape
    parts = index if isinstance(index, tuple) else (index,)
    fancy = any(isinstance(part, (list, xp.ndarray)) for part in parts)

    def scatter(g):
        dx = xp.zeros_like(g, shape=shape, order="C")
        if fancy:
            xp.add.at(dx, index, g)
        else:
            dx[index] = g
        return dx

    return record(a[index], (x, scatter))


Tensor.__add__ = Tensor.__radd__ = add
Tensor.__mul__ = Tensor.__rmul__ = mul
Tensor.__sub__ = sub
Tensor.__rsub__ = lambda x, y: sub(y, x)
Tensor.__truediv__ = div
Tensor.__rtruediv__ = lambda x, y: div(y, x)
Tensor.__matmul__ = matmul
Tensor.__neg__ = neg
Tensor.__getitem__ = getitem
Tensor.sum, Tensor.mean = sum, mean
Tensor.reshape, Tensor.transpose = reshape, transpose
