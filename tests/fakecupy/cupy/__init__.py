"""A stand-in for CuPy on a machine without a GPU: NumPy behind CuPy's names and refusals.

It computes what CuPy computes, and refuses more than CuPy does, so that what runs on it should
run there:

    a name, method or argument that CuPy lacks         api.json, recorded from the real one
    an array of the host, or its number, beside one of the device        only Python's numbers
    np.asarray(device array), or any NumPy function of one      `asnumpy` and `get` copy to it
    what NumPy refuses and CuPy does silently: an index out of bounds wraps there, of several
    values assigned to one place any may win, a cast of a number below zero to unsigned

`syncs` counts the times that the host waited for the device. Not simulated: speed, the
device's memory, the last bits of a sum, streams.
"""

import json
import operator
from collections import namedtuple
from functools import cache
from inspect import signature
from pathlib import Path

import numpy as np

API = json.loads((Path(__file__).parents[1] / "api.json").read_text(encoding="utf-8"))
__version__ = API["version"]
WAITING = {"flatnonzero", "argwhere", "nonzero", "unique", "extract", "compress", "tobytes"}
PLAIN = {"result_type", "can_cast", "issubdtype", "ndim", "shape", "size", "broadcast_shapes"}
FLOATS = ["float16", "float32", "float64", "complex64", "complex128"]
ADDED = {"int32", "uint32", "uint64", *FLOATS}
syncs = 0


def waited():
    """Count one time that the host waits for the device."""
    global syncs
    syncs += 1


def host(x):
    """What NumPy is given for an operand; TypeError for what is not the device's."""
    if isinstance(x, ndarray):
        return x._host
    if isinstance(x, (list, tuple)):
        return type(x)(map(host, x))
    if isinstance(x, (np.ndarray, np.generic)):
        raise TypeError(f"Unsupported type {type(x)}: it is the host's; copy it by asarray")
    return x


def device(a, *sources):
    """A NumPy result as the device's; `base` is the source into whose memory it looks."""
    if isinstance(a, (list, tuple)):
        return tuple(device(part, *sources) for part in a)
    if not isinstance(a, (np.ndarray, np.generic)):
        return a
    array, array._host, array.base = object.__new__(ndarray), np.asarray(a), None
    if array._host.dtype.kind not in "biufc":
        raise TypeError(f"CuPy has no arrays of {array._host.dtype}")
    for source in sources:
        if isinstance(source, ndarray) and np.may_share_memory(array._host, source._host):
            array.base = source if source.base is None else source.base
    return array


@cache
def parameters(text):
    """The signature that api.json has as text."""
    return signature(eval(f"lambda {text}: 0"))


def call(name, text, function, args, options, *owner):
    """Call NumPy's function, or an owner's method, if CuPy's could be called so."""
    parameters(text).bind(*args, **options)
    if name in WAITING:
        waited()
    result = function(*map(host, args), **{key: host(x) for key, x in options.items()})
    if isinstance(result, bool):  # CuPy answers by an array without axes
        result = np.bool_(result)
    if name in PLAIN:
        return result
    return device(result, *owner, *args) if options.get("out") is None else options["out"]


def index(key, shape, assigned=None):
    """A key for NumPy; AssertionError for one with which CuPy would go on silently."""
    parts = key if isinstance(key, tuple) else (key,)
    plain = host(key)
    arrays = [part for part in parts if isinstance(part, (ndarray, list))]
    if any(isinstance(part, ndarray) and part.dtype == bool for part in parts):
        if assigned is None:
            waited()  # to learn how many there are
    elif arrays:
        try:
            places = np.arange(np.prod(shape, dtype=int)).reshape(shape)[plain]
        except IndexError as error:
            raise AssertionError(f"CuPy would wrap it silently: {error}") from None
        if isinstance(assigned, ndarray) and np.unique(places).size < places.size:
            raise AssertionError("values are assigned to one place twice: any may win on CuPy")
    return plain


Flags = namedtuple("Flags", "c_contiguous f_contiguous owndata")


class ndarray:
    """An array of the device."""

    __slots__ = ("__weakref__", "_host", "base")
    __array_ufunc__ = None  # NumPy keeps its hands off
    __hash__ = None

    def __array__(self, *_, **__):
        raise TypeError("Implicit conversion to a NumPy array is not allowed; use asnumpy")

    def __getattr__(self, name):
        if name not in API["ndarray"]:
            raise AttributeError(f"CuPy's ndarray has no {name!r}")
        found, text = getattr(self._host, name), API["ndarray"][name]
        if text is None:
            return device(found, self)
        return lambda *args, **options: call(name, text, found, args, options, self)

    @property
    def flags(self):
        """How it lies in memory; CuPy cannot forbid to write."""
        flags = self._host.flags
        return Flags(flags.c_contiguous, flags.f_contiguous, self.base is None)

    def astype(self, dtype, order="K", casting=None, subok=None, copy=True):
        """A copy of another type; below zero there is no unsigned one to be had."""
        if np.dtype(dtype).kind == "u" and (self._host < 0).any():
            raise AssertionError("what becomes of numbers below zero differs from NumPy")
        return device(self._host.astype(dtype, copy=copy), self)

    def get(self, stream=None, order="C", out=None, blocking=True):
        """A copy on the host."""
        waited()
        return self._host.copy()

    def set(self, arr, stream=None):
        """Copy an array of the host into this one."""
        self._host[...] = arr

    def item(self):
        """The only number, as Python's."""
        waited()
        return self._host.item()

    def tolist(self):
        """The numbers in lists."""
        waited()
        return self._host.tolist()

    __float__, __int__, __bool__, __complex__ = (
        lambda self, kind=kind: kind(self.item()) for kind in (float, int, bool, complex)
    )

    def __repr__(self):
        waited()
        return repr(self._host)

    def __len__(self):
        return len(self._host)

    def __iter__(self):
        return (self[i] for i in range(len(self)))

    def __getitem__(self, key):
        return device(self._host[index(key, self.shape)], self)

    def __setitem__(self, key, value):
        self._host[index(key, self.shape, assigned=value)] = host(value)

    def __copy__(self):
        return device(self._host.copy())

    def __deepcopy__(self, memo):
        return self.__copy__()


def operate(name, f):
    """Give ndarray the operator, both ways round and in place."""

    def other_decides(y):
        return not isinstance(y, ndarray) and getattr(y, "__array_ufunc__", 0) is None

    def forward(x, y):
        return NotImplemented if other_decides(y) else device(f(x._host, host(y)))

    def reflected(x, y):
        return device(f(host(y), x._host))

    def in_place(x, y):
        if other_decides(y):
            return NotImplemented
        f(x._host, host(y), out=x._host)
        return x

    setattr(ndarray, f"__{name}__", forward)
    if name not in ("lt", "le", "gt", "ge", "eq", "ne"):
        setattr(ndarray, f"__r{name}__", reflected)
        setattr(ndarray, f"__i{name}__", in_place)


for _name, _f in {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "truediv": np.true_divide,
    "floordiv": np.floor_divide, "mod": np.mod, "pow": np.power, "matmul": np.matmul,
    "and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor,
    "lshift": np.left_shift, "rshift": np.right_shift, "lt": np.less, "le": np.less_equal,
    "gt": np.greater, "ge": np.greater_equal, "eq": np.equal, "ne": np.not_equal,
}.items():  # fmt: skip
    operate(_name, _f)
for _f in (operator.neg, operator.pos, operator.abs, operator.invert):
    setattr(ndarray, f"__{_f.__name__}__", lambda x, f=_f: device(f(x._host)))


class ufunc:
    """A function of each number."""

    def __init__(self, name):
        self.name, self.function = name, getattr(np, name)

    def __call__(self, *args, **options):
        if not options.keys() <= {"out", "dtype", "casting", "where"}:
            raise TypeError(f"cupy.{self.name} does not take all of {sorted(options)}")
        if any(isinstance(x, (list, tuple)) for x in args):
            raise TypeError(f"Unsupported type for cupy.{self.name}: it takes arrays")
        return call(self.name, "*args, **options", self.function, args, options)

    def at(self, a, indices, b):
        """Apply in place at the indices, repeated ones as often as they come."""
        if a.dtype.name not in ADDED:
            raise TypeError(f"CuPy adds up at indices in {sorted(ADDED)}, not in {a.dtype}")
        self.function.at(a._host, index(indices, a.shape, assigned=0), host(b))


def array(obj, dtype=None, copy=True, order="K", subok=False, ndmin=0, *, blocking=False):
    """A copy on the device."""
    obj = obj._host if isinstance(obj, ndarray) else obj
    return device(np.array(obj, dtype=dtype, ndmin=ndmin))


def asarray(a, dtype=None, order=None, *, copy=None, blocking=False):
    """A copy on the device, or what is there already."""
    there = isinstance(a, ndarray) and (dtype is None or a.dtype == dtype) and not copy
    return a if there else array(a, dtype)


def asnumpy(a, stream=None, order="C", out=None, *, blocking=True):
    """A copy on the host, or what is there already."""
    return a.get() if isinstance(a, ndarray) else np.asarray(a)


def empty(shape, dtype=float, order="C"):
    """An array of whatever happened to be in memory."""
    a = np.empty(shape, dtype)
    a[...] = np.nan if a.dtype.kind == "f" else 1
    return device(a)


def empty_like(prototype, dtype=None, order="K", subok=None, shape=None):
    """The same, of the shape and type of another."""
    shape = prototype.shape if shape is None else shape
    return empty(shape, prototype.dtype if dtype is None else dtype)


def is_available():
    """Whether there is a GPU."""
    return False


class linalg:
    """Linear algebra."""

    LinAlgError = np.linalg.LinAlgError


class fft:
    """Fourier transforms."""


def function(name, text, found):
    """A function in CuPy's place."""
    return lambda *args, **options: call(name, text, found, args, options)


for _owner in (linalg, fft):
    _theirs = getattr(np, _owner.__name__)
    for _name, _text in API[_owner.__name__].items():
        if _text is not None and hasattr(_theirs, _name):
            setattr(_owner, _name, function(_name, _text, getattr(_theirs, _name)))


@cache
def __getattr__(name):
    if name in API["ufuncs"] and hasattr(np, name):
        return ufunc(name)
    if name in API["functions"] and hasattr(np, name):
        return function(name, API["functions"][name], getattr(np, name))
    if name in API["others"] and name != "random" and hasattr(np, name):
        return getattr(np, name)  # a type or a constant
    raise AttributeError(f"module 'cupy' has no attribute {name!r} that is allowed here")
