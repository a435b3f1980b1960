"""What the tests know of each method, one file a method: its spec. See tests/spec.py."""

import importlib
import pkgutil

import minipeft as mp

FILES = [file.name for file in pkgutil.iter_modules(__path__)]
EVERY = [importlib.import_module(f"{__name__}.{name}").SPEC for name in FILES]  # of all files

SPECS = {  # {name of a method: its Spec}, in the order of METHODS
    name: spec for name, method in mp.METHODS.items() for spec in EVERY if spec.method is method
}
ROWS = {name: row for spec in SPECS.values() for name, row in spec.rows.items()}


def spec_of(method):
    """The Spec of an instance of a method."""
    for spec in SPECS.values():
        if spec.method is type(method):
            return spec
    raise LookupError(f"{type(method).__name__} has no spec in tests/methods")
