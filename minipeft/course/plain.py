"""Plain values: numbers, strings, arrays, and lists, tuples, sets and dicts of them.

Only these go to a learner's function and come back from it. Whatever else it returns is
refused, so that no object of its own can claim to be equal to the right value. They can be
written as JSON, to send them to another process.
"""

import base64
import collections

from ..engine.backend import np

SCALARS = frozenset(np.sctypeDict.values())  # the classes of NumPy's numbers
MOST = 1_000_000  # elements of a range that is written out


class CheckFailed(AssertionError):
    """An answer breaks a law; the message has the law and the smallest case that breaks it."""

    def _render_traceback_(self):  # what a notebook shows instead of a traceback
        return [f"{type(self).__name__}: {self}"]


def plain(value):
    """Returns a value as one of its own, its arrays copied and NumPy's numbers as Python's.

    Raises CheckFailed for an object of any other class, a subclass among them.
    """
    kind = type(value)
    if value is None or kind in (bool, int, float, str):
        return value
    if kind in (list, tuple, set, frozenset):
        return kind(map(plain, value))
    if kind is range and len(value) <= MOST:
        return list(value)
    if kind in (dict, collections.Counter, collections.defaultdict, collections.OrderedDict):
        return {plain(key): plain(item) for key, item in value.items()}
    if kind is np.ndarray and value.dtype.kind in "biuf":
        return np.array(value)
    if kind in SCALARS and value.dtype.kind in "biufU":
        return {"b": bool, "f": float, "U": str}.get(value.dtype.kind, int)(value)
    text = "return numbers, strings or real arrays, or lists, tuples, sets or dicts of them"
    array = f" of dtype {value.dtype}" if kind is np.ndarray else ""
    raise CheckFailed(f"{text}; got a {kind.__name__}{array}")


def arrays_in(value):
    """Returns the arrays in a plain value, in order."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return [array for item in value for array in arrays_in(item)]
    return [value] if isinstance(value, np.ndarray) else []


def alike(a, b):
    """Returns whether two plain values are the same, up to rounding in their floats."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(alike(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(map(alike, a, b))
    if all(isinstance(x, (bool, int, float, np.ndarray)) for x in (a, b)):
        a, b = np.asarray(a), np.asarray(b)
        return a.shape == b.shape and np.allclose(a, b, 1e-9, 1e-9, equal_nan=True)
    return type(a) is type(b) and a == b


def to_json(value):
    """Returns a plain value as what JSON can write; `from_json` returns it again."""
    if isinstance(value, np.ndarray):
        data = base64.b64encode(value.tobytes()).decode()
        return {"array": [value.dtype.str, list(value.shape), data]}
    if isinstance(value, dict):
        return {"dict": [[to_json(key), to_json(item)] for key, item in value.items()]}
    for kind in (tuple, set, frozenset):
        if isinstance(value, kind):
            return {kind.__name__: [to_json(item) for item in value]}
    return [to_json(item) for item in value] if isinstance(value, list) else value


def from_json(written):
    """Returns the plain value that `to_json` wrote. Raises ValueError or TypeError if bad."""
    if isinstance(written, list):
        return [from_json(item) for item in written]
    if not isinstance(written, dict):
        return written
    [(kind, parts)] = written.items()
    if kind == "array":
        dtype, shape, data = parts
        array = np.frombuffer(base64.b64decode(data), dtype).reshape(shape).copy()
        return plain(array)
    if kind == "dict":
        return {from_json(key): from_json(item) for key, item in parts}
    kinds = {kind.__name__: kind for kind in (tuple, set, frozenset)}
    return kinds[kind](map(from_json, parts))
