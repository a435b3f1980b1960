"""The one door to array libraries.

    xp    computes: NumPy, or CuPy on a GPU; MINIPEFT_BACKEND=numpy|cupy chooses, at import
    np    always the host's NumPy: token ids, random draws, files, plots

Random numbers are drawn on the host and copied, so both backends start from the same bits.
Values are float32 unless created inside `with dtype("float64"):`.
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


def keep_freed_pages():
    """Ask glibc to keep freed memory instead of giving it back to the kernel every step.

    Arrays of over 128 kB would otherwise be mapped, zeroed and faulted in anew each time, which
    costs as much as the arithmetic. Other C libraries are left as they are.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    mallopt(-3, 32 << 20)  # M_MMAP_THRESHOLD: the largest that glibc takes
    mallopt(-1, 1 << 30)  # M_TRIM_THRESHOLD


keep_freed_pages()

CACHED = 1 << 16  # numbers that a loop handles at a time: a few arrays of them fit in 2 MB

_precision = ContextVar("precision", default="float32")
_create = ContextVar("create", default=xp.array)


def default_dtype():
    """The floating-point type that new parameters and arrays get: float32 unless changed."""
    return np.dtype(_precision.get())


@contextlib.contextmanager
def dtype(name):
    """Create everything inside the block in another precision: `with dtype("float64"): …`."""
    if str(name) not in ("float32", "float64"):
        raise ValueError(f"dtype {name!r} is not supported; use 'float32' or 'float64'")
    token = _precision.set(str(name))
    try:
        yield
    finally:
        _precision.reset(token)


def blocks(a, width=None):
    """Slices of the rows of an array, so many rows each as stay in a core's cache.

    width: how many numbers the work on a row touches (default: those in the row). All rows are
    one slice if the array is not NumPy's own: on a GPU, or without values.
    """
    rows = len(a)
    width = a.size // max(1, rows) if width is None else width
    step = CACHED // max(1, width) if isinstance(a, np.ndarray) else rows
    return [slice(start, start + step) for start in range(0, rows, max(1, step))]


def array(values, dtype=None):
    """A copy of the host's values on the device, as floats of the default dtype or another."""
    return _create.get()(values, dtype=default_dtype() if dtype is None else dtype)


@contextlib.contextmanager
def creating(create):
    """Inside the block `array` returns create(values, dtype): see `shape_arrays`."""
    token = _create.set(create)
    try:
        yield
    finally:
        _create.reset(token)


def to_numpy(a):
    """Bring an array back to the host; a NumPy array comes back as it is."""
    return np.asarray(a) if xp is np else xp.asnumpy(a)


def numbers(scalars):
    """Arrays without axes as a list of Python numbers: the host waits for the device once."""
    return to_numpy(xp.stack([xp.asarray(a) for a in scalars])).tolist()
