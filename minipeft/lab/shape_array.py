"""Arrays without values: shape, dtype and strides, of any size in no memory.

The ops run on them as they are, because NumPy's functions ask their operands what to do
(`__array_ufunc__`, `__array_function__`). A rule gives the shape of a result; its dtype and the
order of its axes in memory are those that NumPy gives to small arrays. That order decides
whether a reshape copies. The FLOPs of matrix products can be counted.
"""

import contextlib
import functools
import math
import sys
from contextvars import ContextVar

from ..engine.backend import np

_products = ContextVar("products", default=None)  # FLOPs of each, where they are counted


class ShapeArray(np.lib.mixins.NDArrayOperatorsMixin):
    """An array without values: shape, dtype and strides."""

    def __init__(self, shape, dtype, order=None):
        """A new one; `order` has its axes from the largest stride to the smallest."""
        self.shape, self.dtype, self.base = tuple(shape), np.dtype(dtype), None
        strides, step = [0] * len(self.shape), self.dtype.itemsize
        for axis in reversed(range(len(self.shape)) if order is None else order):
            strides[axis], step = step, step * self.shape[axis]
        if step > sys.maxsize:
            raise OverflowError(f"an array {self.shape} of {self.dtype}")
        self.strides, self.nbytes = tuple(strides), step
        self.ndim, self.size = len(self.shape), math.prod(self.shape)

    def view(self, shape, strides):
        """The same memory in another shape."""
        new = ShapeArray(shape, self.dtype)
        new.strides, new.base = tuple(strides), self if self.base is None else self.base
        return new

    def view_by(self, f, *args, **options):
        """The view that f, a function of NumPy's, returns of an array laid out like this."""
        memory = np.zeros((), self.dtype)  # too small, but to take a view is not to read
        a = np.lib.stride_tricks.as_strided(memory, self.shape, self.strides)
        a = f(a, *args, **options)
        return self.view(a.shape, a.strides)

    def __len__(self):
        return self.shape[0]

    def __repr__(self):
        return f"ShapeArray({self.shape}, {self.dtype})"

    def __array__(self, *_, **__):
        raise TypeError(f"{self!r} has no values")

    __bool__ = __float__ = __int__ = __array__

    def __getitem__(self, index):
        parts = index if isinstance(index, tuple) else (index,)
        parts = tuple(  # which elements an array without values takes does not matter
            np.broadcast_to(0, p.shape) if isinstance(p, ShapeArray) else p for p in parts
        )
        listed = [isinstance(part, (list, np.ndarray)) for part in parts]
        if not any(listed):
            whole = parts if any(part is Ellipsis for part in parts) else (*parts, Ellipsis)
            return self.view_by(np.ndarray.__getitem__, whole)
        n = sum(part is not None for part in parts)  # axes that the index is about
        chosen = np.broadcast_to(np.zeros((), bool), self.shape[:n])[parts]
        first = tuple(np.zeros_like(p) if a else p for p, a in zip(parts, listed, strict=True))
        return result(chosen.shape + self.shape[n:], lambda a: a[first], self)

    def __setitem__(self, index, values):
        pass

    def reshape(self, *shape):
        """A view if the strides allow, as in NumPy; otherwise a copy."""
        shape = list(shape[0] if len(shape) == 1 and not isinstance(shape[0], int) else shape)
        if -1 in shape:
            shape[shape.index(-1)] = self.size // -math.prod(shape)
        if math.prod(shape) != self.size:
            raise ValueError(f"cannot reshape {self.shape} into {tuple(shape)}")
        strides = regrouped(self.shape, self.strides, shape)
        return ShapeArray(shape, self.dtype) if strides is None else self.view(shape, strides)

    def transpose(self, *axes):
        """Axes in another order, a view."""
        return self.view_by(np.ndarray.transpose, *axes)

    T = property(transpose)

    def copy(self):
        """Other memory of the same shape."""
        return ShapeArray(self.shape, self.dtype)

    def astype(self, dtype):
        """A copy of another type."""
        return new_like(self, dtype)

    def all(self):
        """True, as there is no value that is false."""
        return True

    def sum(self, axis=None, keepdims=False):
        """The sum over an axis, some or all."""
        axes = range(self.ndim) if axis is None else axis if isinstance(axis, tuple) else [axis]
        axes = {a % self.ndim for a in axes}
        shape = [1 if i in axes else n for i, n in enumerate(self.shape)]
        whole = result(shape, lambda a: a.sum(tuple(axes), keepdims=True), self)
        rest = tuple(0 if i in axes else slice(None) for i in range(self.ndim))
        return whole if keepdims else whole[rest]

    mean = max = sum

    def argmax(self, axis):
        """The index of the largest value along an axis."""
        return self.sum(axis).astype(np.intp)

    def __array_ufunc__(self, ufunc, method, *inputs, out=None, **options):
        if method == "at":  # in place
            return None
        if method != "__call__":
            raise TypeError(f"np.{ufunc.__name__}.{method} has no rule for ShapeArrays")
        new = product(*inputs) if ufunc is np.matmul else elementwise(ufunc, *inputs)
        return new if out is None else out[0]

    def __array_function__(self, function, types, args, options):
        if function in VIEWS:
            return self.view_by(function, *args[1:], **options)
        if function not in FUNCTIONS:
            name = function.__name__
            raise TypeError(f"np.{name} has no rule for ShapeArrays; add one to FUNCTIONS")
        return FUNCTIONS[function](*args, **options)


def regrouped(shape, strides, new):
    """The strides of a new shape in the same memory; None if it has none.

    Old axes that follow each other without a gap are one run; each new axis must be a part of
    one run.
    """
    runs = []  # [values, smallest stride]
    for n, stride in zip(shape, strides, strict=True):
        if n == 1:
            continue
        if runs and runs[-1][1] == n * stride:
            runs[-1] = [runs[-1][0] * n, stride]
        else:
            runs.append([n, stride])
    left, step, found = 1, 1, []
    for n in reversed(new):
        if n > 1 and left == 1:
            left, step = runs.pop()
        if left % n:
            return None
        found.append(step)
        step, left = step * n, left // n
    return found[::-1]


def largest_first(a):
    """The axes of an array from the largest stride to the smallest."""
    return sorted(range(a.ndim), key=lambda axis: -a.strides[axis])


def elementwise(f, *inputs):
    """f of each value; operands broadcast."""
    shape = np.broadcast_shapes(*(x.shape for x in inputs if hasattr(x, "shape")))
    return result(shape, f, *inputs)


def result(shape, f, *inputs):
    """A new array of this shape, its dtype and order of axes those of f of small inputs."""
    y = f(*(small(x.shape, x.strides, x.dtype) if hasattr(x, "shape") else x for x in inputs))
    return ShapeArray(shape, y.dtype, largest_first(y))


@functools.lru_cache
def small(shape, strides, dtype):
    """A NumPy array with its axes in the same order, each at most 2 long."""
    order = sorted(range(len(shape)), key=lambda axis: -strides[axis])
    short = [min(n, 2) for n in shape]
    ones = np.ones([short[axis] if strides[axis] else 1 for axis in order], dtype)
    return np.broadcast_to(ones.transpose(np.argsort(order)), short)


def product(a, b):
    """(…, n, k) @ (…, k, m) -> (…, n, m); counts FLOPs, 2 n k m for each pair of matrices.

    A product of complex numbers is four of real ones.
    """
    if a.shape[-1] != b.shape[-2]:
        raise ValueError(f"matrices do not fit: {a.shape} @ {b.shape}")
    lead = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    shape = *lead, a.shape[-2], b.shape[-1]
    if _products.get() is not None:
        real = 4 if a.dtype.kind == "c" else 1
        _products.get().append(2 * math.prod(shape) * a.shape[-1] * real)
    return result(shape, np.matmul, a, b)


@contextlib.contextmanager
def counting_flops():
    """Inside the block, the list that it gives gets the FLOPs of each matrix product."""
    token = _products.set([])
    try:
        yield _products.get()
    finally:
        _products.reset(token)


def new_like(a, dtype=None, order="K", shape=None):
    """A new array of the same dtype and shape or others.

    Its axes are in the same order in memory, unless it has more or fewer, or order is "C".
    """
    shape = a.shape if shape is None else shape
    alike = order == "K" and len(shape) == a.ndim
    return ShapeArray(shape, dtype or a.dtype, largest_first(a) if alike else None)


def joined(arrays, axis=0):
    """The arrays one after the other along an axis."""
    shape = list(arrays[0].shape)
    shape[axis] = sum(a.shape[axis] for a in arrays)
    return result(shape, lambda *parts: np.concatenate(parts, axis), *arrays)


def svd(a, full_matrices):
    """U, S and Vᵀ of the reduced singular value decomposition."""
    (m, n), k = a.shape, min(a.shape)
    return tuple(ShapeArray(shape, a.dtype) for shape in ((m, k), (k,), (k, n)))


def qr(a):
    """Q and R of the reduced QR decomposition."""
    (m, n), k = a.shape, min(a.shape)
    return ShapeArray((m, k), a.dtype), ShapeArray((k, n), a.dtype)


VIEWS = {np.broadcast_to, np.expand_dims, np.swapaxes}
FUNCTIONS = {
    np.concatenate: joined,
    np.empty_like: new_like,
    np.fft.ifft2: lambda a: result(a.shape, np.fft.ifft2, a),
    np.fft.irfft: lambda a, n: result((*a.shape[:-1], n), lambda b: np.fft.irfft(b, 2), a),
    np.fft.rfft: lambda a: result((*a.shape[:-1], a.shape[-1] // 2 + 1), np.fft.rfft, a),
    np.linalg.inv: new_like,
    np.linalg.norm: lambda a, axis: a.sum(axis),
    np.linalg.qr: qr,
    np.linalg.svd: svd,
    np.ones_like: new_like,
    np.pad: lambda a, width: ShapeArray([n + sum(width) for n in a.shape], a.dtype),
    np.real: lambda a: result(a.shape, np.real, a),
    np.sort: lambda a, axis: a.copy(),
    np.searchsorted: lambda a, x: ShapeArray(x.shape, np.intp),
    np.take_along_axis: lambda a, i, axis: ShapeArray(i.shape, a.dtype),
    np.tril: lambda a, k: a.copy(),
    np.triu: lambda a, k: a.copy(),
    np.where: lambda *inputs: elementwise(np.where, *inputs),
    np.zeros_like: new_like,
}
