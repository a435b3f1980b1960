"""The methods, one file each. METHODS and the classes are gathered from the files here.

In tables the families come in the order of FAMILIES, and within one the oldest paper first.
"""

import importlib
import pkgutil
import re

from ..base import Method

FAMILIES = "full selective lora shared spectral orthogonal adapter prompt mixture".split()


def gather():
    """{name: class} of every public Method in the files of this folder."""
    classes = {}
    for file in pkgutil.iter_modules(__path__):
        module = importlib.import_module(f"{__name__}.{file.name}")
        for name, thing in vars(module).items():
            if isinstance(thing, type) and issubclass(thing, Method):
                if thing.__module__ == module.__name__:
                    classes[name] = thing
    return classes


def published(method):
    """What methods are sorted by: the family, then the paper's number at arXiv, or its year."""
    number = re.search(r"arXiv:(\d{4}\.\d+)|\b20(\d\d)$", method.paper)
    family = (*FAMILIES, method.family).index(method.family)
    return family, method.family, (number[1] or number[2]) if number else "", method.name


CLASSES = gather()
METHODS = {method.name: method for method in sorted(set(CLASSES.values()), key=published)}
globals().update(CLASSES)
__all__ = ["METHODS", *CLASSES]
