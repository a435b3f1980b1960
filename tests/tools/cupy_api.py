"""Writes fakecupy/api.json: what the real CuPy has and how it is called. Needs it, but no GPU.

python tests/tools/cupy_api.py
"""

import inspect
import json
import warnings
from inspect import Signature
from pathlib import Path

API = Path(__file__).parents[1] / "fakecupy" / "api.json"


def parameters(function):
    """A function's parameters as text, every default written as 0; None if it does not say."""
    try:
        given = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return told(function)
    bare = [
        p.replace(annotation=p.empty, default=p.empty if p.default is p.empty else 0)
        for p in given
        if p.name != "self"
    ]
    return str(Signature(bare))[1:-1]


def told(method):
    """The same, of what Cython says in a docstring: 'cls.name(self, int axis=-1) -> cls'."""
    line = (method.__doc__ or "").partition("\n")[0]
    if not line.startswith("_ndarray_base."):
        return None
    given = [p.split("=") for p in line.partition("(")[2].partition(")")[0].split(", ")]
    plain = [f"{p[0].split()[-1]}={0}" if len(p) > 1 else p[0].split()[-1] for p in given]
    return ", ".join(name for name in plain if name != "self")


def api():
    """What CuPy has, as a JSON object."""
    import cupy

    def public(thing):
        return [name for name in dir(thing) if name[0] != "_"]

    def calls(thing):
        return {name: parameters(getattr(thing, name)) for name in public(thing)}

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # looking at a name that is going away
        names = {name: getattr(cupy, name) for name in public(cupy)}
        ufuncs = [name for name, thing in names.items() if isinstance(thing, cupy.ufunc)]
        functions = {n: parameters(f) for n, f in names.items() if inspect.isfunction(f)}
        return {
            "version": cupy.__version__,
            "ufuncs": ufuncs,
            "functions": functions | {"matmul": parameters(cupy.matmul), "size": "a"},
            "others": sorted(names.keys() - functions.keys() - set(ufuncs)),
            "linalg": calls(cupy.linalg),
            "fft": calls(cupy.fft),
            "ndarray": calls(cupy.ndarray),
            "ufunc": public(cupy.ufunc),
        }


if __name__ == "__main__":
    API.write_text(json.dumps(api(), indent=0) + "\n", encoding="utf-8")
