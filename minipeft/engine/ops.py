"""Primitive operations on Tensors, each with its derivative beside its value.

In every formula g is the gradient of the result, and dx, dy are those of the operands x, y.
An operand is a Tensor, or a constant: an array or a Python number. Shapes broadcast as in
NumPy, and backward sums the gradient of a broadcast operand to its shape.
Factors are Python floats: in NumPy a scalar of float64 turns float32 into float64.
"""

import itertools

from .backend import xp
from .tensor import Tensor, number, record, value, values


def add(x, y):
    """x + y; dx = dy = g."""
    a, b = values(x, y)
    return record(a + b, (x, lambda g: g), (y, lambda g: g))


def sub(x, y):
    """x − y; dx = g, dy = −g."""
    a, b = values(x, y)
    return record(a - b, (x, lambda g: g), (y, lambda g: -g))


def mul(x, y):
    """x · y elementwise; dx = g y, dy = g x."""
    a, b = values(x, y)
    return record(a * b, (x, lambda g: g * b), (y, lambda g: g * a))


def div(x, y):
    """x / y elementwise; dx = g / y, dy = −g x / y²."""
    a, b = values(x, y)
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
    """x²; dx = 2 g x. (In NumPy x ** 3 takes 150 times as long as x * x * x.)"""
    a = value(x)
    return record(a * a, (x, lambda g: 2.0 * g * a))


def power(x, n):
    """xⁿ for a number n; dx = g n xⁿ⁻¹. Raises ValueError for an exponent that is no number."""
    a, n = value(x), number(n)
    if not isinstance(n, (int, float)):
        raise ValueError(f"an exponent is a number, got {n!r}; use exp and log")
    return record(a**n, (x, lambda g: g * (n * a ** (n - 1) if n else xp.zeros_like(a))))


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
    """x where the condition is true, else y; dx = g where it is true, dy = g where not."""
    a, b = values(x, y)
    return record(
        xp.where(condition, a, b),
        (x, lambda g: xp.where(condition, g, xp.zeros((), g.dtype))),
        (y, lambda g: xp.where(condition, xp.zeros((), g.dtype), g)),
    )


def matmul(x, y):
    """Matrix product, (…, n, k) @ (…, k, m) -> (…, n, m); dx = g yᵀ, dy = xᵀ g.

    Raises ValueError for an operand with fewer than two axes: reshape it first.
    """
    a, b = value(x), value(y)
    shapes = [getattr(factor, "shape", ()) for factor in (a, b)]
    if min(map(len, shapes)) < 2:
        raise ValueError(f"matmul needs matrices, got {shapes[0]} @ {shapes[1]}; reshape first")
    return record(
        a @ b,
        (x, lambda g: g @ xp.swapaxes(b, -1, -2)),
        (y, lambda g: xp.swapaxes(a, -1, -2) @ g),
    )


def sum(x, axis=None, keepdims=False):
    """Sum over one axis, several, or all; dx = g, broadcast to the shape of x."""
    a = value(x)
    spread = _spread(a.shape, axis, keepdims)
    return record(a.sum(axis=axis, keepdims=keepdims), (x, spread))


def mean(x, axis=None, keepdims=False):
    """Mean over one axis, several, or all; dx = g / n, broadcast, for a mean of n elements."""
    a = value(x)
    y, spread = a.mean(axis=axis, keepdims=keepdims), _spread(a.shape, axis, keepdims)
    share = 1.0 / (a.size // max(y.size, 1))
    return record(y, (x, lambda g: spread(g) * share))


def _spread(shape, axis, keepdims):
    """Returns the vjp of a sum: g broadcast along the axes that were summed."""
    expand = axis is not None and not keepdims
    return lambda g: xp.broadcast_to(xp.expand_dims(g, axis) if expand else g, shape)


def reshape(x, *shape):
    """The same elements in another shape; dx = g in the shape of x."""
    a = value(x)
    old = a.shape
    return record(a.reshape(*shape), (x, lambda g: g.reshape(old)))


def transpose(x, *axes):
    """Axes in another order, reversed if none is given; dx = g with the axes put back."""
    a = value(x)
    axes = axes or tuple(range(a.ndim))[::-1]
    back = tuple(sorted(range(a.ndim), key=axes.__getitem__))
    return record(a.transpose(axes), (x, lambda g: g.transpose(back)))


def broadcast(x, shape):
    """x repeated along new or length-1 axes, without a copy; dx = Σ g over the repeats."""
    return record(xp.broadcast_to(value(x), shape), (x, lambda g: g))


def concat(tensors, axis=0):
    """Tensors joined along an axis; the gradient of each is its slice of g."""
    arrays = [value(x) for x in tensors]
    before = (slice(None),) * (axis % arrays[0].ndim)
    ends = itertools.accumulate(a.shape[axis] for a in arrays)

    def part(x, end):
        index = (*before, slice(end - value(x).shape[axis], end))
        return x, lambda g: g[index]

    return record(xp.concatenate(arrays, axis=axis), *map(part, tensors, ends))


def getitem(x, index):
    """x[index] by slices, integers or integer arrays; dx[index] += g, zero elsewhere.

    An element that an integer array takes several times gets the sum of its gradients.
    """
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
Tensor.__rmatmul__ = lambda x, y: matmul(y, x)
Tensor.__pow__ = power
Tensor.__neg__ = neg
Tensor.__getitem__ = getitem
Tensor.sum, Tensor.mean = sum, mean
Tensor.reshape, Tensor.transpose, Tensor.T = reshape, transpose, property(transpose)
