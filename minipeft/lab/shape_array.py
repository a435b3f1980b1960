"""Arrays without numbers: a shape, a type and a layout, at any size in no memory.

What ops give and keep can be told from these alone: see `costs`. The layout is there because by
it a reshape looks into the same memory or copies. Arithmetic beside the ops, such as the norms
that DoRA takes, works on Outlines as on arrays; the FLOPs of every product are noted.
"""

import contextlib
import math
from contextvars import ContextVar

from ..engine.backend import np

_noted = ContextVar("noted", default=None)  # {phase: FLOPs} where products are noted


class Outline(np.lib.mixins.NDArrayOperatorsMixin):
    """What is known of an array without its numbers."""

    def __init__(self, shape, dtype, order=None):
        """A new one; `order` has its axes from the largest stride to the smallest."""
        strides, step = [0] * len(shape), np.dtype(dtype).itemsize
        for axis in reversed(range(len(shape)) if order is None else order):
            strides[axis], step = step, step * shape[axis]
        self._look(np.zeros((), dtype), shape, strides)
        self.base = None

    def _look(self, memory, shape, strides):
        # A NumPy view of the right layout on memory that is too small, and never looked at.
        self.layout = np.lib.stride_tricks.as_strided(memory, shape, strides)
        self.shape, self.dtype, self.strides = tuple(shape), memory.dtype, tuple(strides)

    def view(self, shape, strides):
        """The same memory, looked at in another shape."""
        new = object.__new__(Outline)
        new._look(self.layout, shape, strides)
        new.base = self if self.base is None else self.base
        return new

    @property
    def ndim(self):
        """The number of axes."""
        return len(self.shape)

    @property
    def size(self):
        """How many numbers it would hold."""
        return math.prod(self.shape)

    @property
    def nbytes(self):
        """The bytes that they would take."""
        return self.size * self.dtype.itemsize

    @property
    def T(self):
        """All axes reversed, a view."""
        return self.view(self.shape[::-1], self.strides[::-1])

    def __len__(self):
        return self.shape[0]

    def __repr__(self):
        return f"Outline({self.shape}, {self.dtype})"

    def __array__(self, *_, **__):
        raise TypeError(f"{self!r} has no numbers")

    def __getitem__(self, index):
        parts = index if isinstance(index, tuple) else (index,)
        if not any(isinstance(part, (list, np.ndarray)) for part in parts):
            whole = parts if any(part is Ellipsis for part in parts) else (*parts, Ellipsis)
            part = self.layout[whole]
            return self.view(part.shape, part.strides)
        n = sum(part is not None for part in parts)  # axes that the index is about
        found = np.broadcast_to(np.zeros((), bool), self.shape[:n])[index]
        return Outline(found.shape + self.shape[n:], self.dtype)

    def __setitem__(self, index, values):
        pass

    def reshape(self, *shape):
        """A view if the layout allows, as in NumPy; otherwise a copy."""
        shape = list(shape[0] if len(shape) == 1 and not isinstance(shape[0], int) else shape)
        if -1 in shape:
            shape[shape.index(-1)] = self.size // -math.prod(shape)
        if math.prod(shape) != self.size:
            raise ValueError(f"cannot reshape {self.shape} into {tuple(shape)}")
        strides = regrouped(self.shape, self.strides, shape)
        return Outline(shape, self.dtype) if strides is None else self.view(shape, strides)

    def transpose(self, *axes):
        """Axes in another order, a view."""
        turned = self.layout.transpose(*axes)
        return self.view(turned.shape, turned.strides)

    def copy(self):
        """Other memory of the same shape."""
        return Outline(self.shape, self.dtype)

    def sum(self, axis=None, keepdims=False):
        """The outline of a sum over an axis, some or all."""
        axes = range(self.ndim) if axis is None else axis if isinstance(axis, tuple) else [axis]
        axes = {a % self.ndim for a in axes}
        shape = [1 if i in axes else n for i, n in enumerate(self.shape)]
        whole = Outline(shape, self.dtype, largest_first(self))
        rest = tuple(0 if i in axes else slice(None) for i in range(self.ndim))
        return whole if keepdims else whole[rest]

    def __array_ufunc__(self, ufunc, method, *inputs, out=None, **options):
        if method != "__call__":
            raise TypeError(f"np.{ufunc.__name__}.{method} has no outline")
        if ufunc is np.matmul:
            return product(*inputs)
        return elementwise(ufunc, inputs) if out is None else out[0]

    def __array_function__(self, function, types, args, options):
        if function not in FUNCTIONS:
            raise TypeError(f"np.{function.__name__} has no outline; add one to FUNCTIONS")
        return FUNCTIONS[function](*args, **options)


def regrouped(shape, strides, new):
    """The strides by which a new shape looks into the same memory; None if none do.

    Old axes that follow each other without a gap are one run; each new axis must be a part of
    one run.
    """
    runs = []  # [numbers, smallest stride]
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


def elementwise(ufunc, inputs):
    """The result of an elementwise function, laid out as the first operand of its shape is."""
    arrays = [x for x in inputs if hasattr(x, "shape")]
    shape = np.broadcast_shapes(*(a.shape for a in arrays))
    like = next((a for a in arrays if a.shape == shape), None)
    order = None if like is None else largest_first(like)
    return Outline(shape, np.result_type(*(a.dtype for a in arrays)), order)


def product(a, b):
    """(…, n, k) @ (…, k, m) -> (…, n, m), its 2 n k m FLOPs noted."""
    if a.shape[-1] != b.shape[-2]:
        raise ValueError(f"matrices do not fit: {a.shape} @ {b.shape}")
    lead = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    made = Outline((*lead, a.shape[-2], b.shape[-1]), np.result_type(a.dtype, b.dtype))
    note(2 * made.size * a.shape[-1])
    return made


def note(flops, phase="forward"):
    """Add to what the block `noting` counts."""
    if _noted.get() is not None:
        _noted.get()[phase] += flops


@contextlib.contextmanager
def noting():
    """Inside the block FLOPs are added up in what it gives, {"forward": …, "backward": …}."""
    token = _noted.set({"forward": 0, "backward": 0})
    try:
        yield _noted.get()
    finally:
        _noted.reset(token)


def stretched(a, shape):
    """The view that np.broadcast_to gives."""
    layout = np.broadcast_to(a.layout, shape)
    return a.view(layout.shape, layout.strides)


def like(a, dtype=None, shape=None, order="K"):
    """A new one, of the same type and shape or another with as many axes.

    Laid out alike, or for order "C" with its axes from the largest stride to the smallest.
    """
    new = a.dtype if dtype is None else dtype
    axes = largest_first(a) if order == "K" else None
    return Outline(a.shape if shape is None else shape, new, axes)


def joined(arrays, axis=0):
    """The outline of arrays one after the other along an axis."""
    shape = list(arrays[0].shape)
    shape[axis] = sum(a.shape[axis] for a in arrays)
    return Outline(shape, np.result_type(*(a.dtype for a in arrays)))


def factors(a, full_matrices):
    """U, S and Vᵀ of a singular value decomposition in its small form."""
    (m, n), k = a.shape, min(a.shape)
    return tuple(Outline(shape, a.dtype) for shape in ((m, k), (k,), (k, n)))


FUNCTIONS = {
    np.broadcast_to: stretched,
    np.concatenate: joined,
    np.empty_like: like,
    np.linalg.norm: lambda a, axis: a.sum(axis),
    np.linalg.svd: factors,
    np.ones_like: like,
    np.zeros_like: like,
}
