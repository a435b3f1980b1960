"""All of NumPy and CuPy comes into the package through this module.

    xp    the array library that computes: NumPy, or CuPy on a GPU. The environment variable
          MINIPEFT_BACKEND=numpy|cupy chooses it when the package is imported.
    np    always NumPy, on the host: token ids, random draws, files, plots

Random values are drawn on the host and copied to the device, so both backends start from the
same bits. Arrays of floats are float32 unless they are created inside `with dtype("float64"):`.
"""

import contextlib
import ctypes
import os
from contextvars import ContextVar

import numpy as np

BACKEND = os.environ.get("MINIPEFT_BACKEND", "numpy")
if BACKEND == "numpy":
    xp = np
elif BACKEND == "cupy":
    import cupy as xp
else:
    raise ImportError(f"MINIPEFT_BACKEND={BACKEND!r} is not a backend; use 'numpy' or 'cupy'")


def keep_freed_memory():
    """Ask the C library, if it is glibc, to keep freed memory for the arrays of the next step.

    Otherwise it returns every array of more than 128 kB to the kernel, and the next one of that
    size is mapped, zeroed and faulted in page by page, which costs as much as the arithmetic.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    mallopt(-3, 32 << 20)  # M_MMAP_THRESHOLD, in bytes: the largest that glibc accepts
    mallopt(-1, 1 << 30)  # M_TRIM_THRESHOLD, in bytes


keep_freed_memory()

CHUNK_ELEMENTS = 1 << 16  # a few arrays of so many elements fit in a core's cache of 2 MB

_precision = ContextVar("precision", default="float32")
_constructor = ContextVar("constructor", default=xp.array)


def default_dtype():
    """Returns the floating-point type of new parameters: float32 unless `dtype` changed it."""
    return np.dtype(_precision.get())


@contextlib.contextmanager
def dtype(name):
    """Create arrays of floats inside the block in another precision: `with dtype("float64"):`.

    Raises ValueError for anything but "float32" and "float64".
    """
    name = getattr(name, "__name__", str(name))  # np.float32 too
    if name not in ("float32", "float64"):
        raise ValueError(f"dtype {name!r} is not supported; use 'float32' or 'float64'")
    token = _precision.set(name)
    try:
        yield
    finally:
        _precision.reset(token)


def chunks(a, width=None):
    """Returns slices that cover the rows of an array, in order.

    width: how many elements the work on one row touches, by default those of the row.
    Of a NumPy array, a slice has as many rows as stay in a core's cache, at least one. Of any
    other, on a GPU or without values, one slice has all rows.
    """
    rows = len(a)
    width = a.size // max(1, rows) if width is None else width
    step = max(1, CHUNK_ELEMENTS // max(1, width) if isinstance(a, np.ndarray) else rows)
    return [slice(start, start + step) for start in range(0, rows, step)]


def array(values, dtype=None):
    """Returns the values copied to the device, as floats of the default dtype or as `dtype`.

    Raises ValueError for what is no number, and for rows of unequal lengths.
    """
    try:
        return _constructor.get()(values, dtype=default_dtype() if dtype is None else dtype)
    except (TypeError, ValueError):
        text = "an array is made of numbers, in rows of equal lengths"
        raise ValueError(f"{text}; got {values!r:.60}") from None


@contextlib.contextmanager
def array_constructor(construct):
    """Inside the block `array` returns construct(values, dtype), not xp.array(values, dtype).

    The ledger uses it to build a model of any size from shapes, without memory for the values.
    """
    token = _constructor.set(construct)
    try:
        yield
    finally:
        _constructor.reset(token)


def to_numpy(a):
    """Returns an array as a NumPy array on the host; a NumPy array is returned as it is."""
    return np.asarray(a) if xp is np else xp.asnumpy(a)


def to_list(scalars):
    """Returns arrays without axes as a list of Python numbers, copied to the host together.

    The host waits for the device once, not once for each of them.
    """
    return to_numpy(xp.stack([xp.asarray(a) for a in scalars])).tolist()
