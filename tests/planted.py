"""Planted bugs: wrong versions of the real code, and the law that catches each.

    python tests/planted.py          prints the table, exit 1 if a bug is not caught

A bug is a piece of a module's syntax tree and what a wrong version has there. The module is
compiled with it, and for a while every function of the real one runs the code of the wrong one.
It must be caught by the law that it names, on a method and a model that it names; a law that
lets it pass is too weak.
"""

import ast
import contextlib
import importlib
import inspect
import sys
from pathlib import Path

from laws.case import Case
from laws.contract import LAWS
from patterns import plant


def caught(bug):
    """The complaint of the law about a bug, or None if it noticed nothing."""
    for seed in range(3):
        try:
            with planted(bug.module, bug.right, bug.wrong):
                check(bug, seed)
        except (AssertionError, ValueError, RuntimeError) as complaint:
            return " ".join(str(complaint).split()) or type(complaint).__name__
    return None


def check(bug, seed=0):
    """Hold the law to the code as it is now."""
    LAWS[bug.law](Case(bug.config, bug.method, seed))


def law_name(bug):
    """The law's name, as people say it."""
    return LAWS[bug.law].__name__[7:].replace("_", " ")


@contextlib.contextmanager
def planted(name, right, wrong, within=None):
    """Inside the block a module of the package has the code `wrong` in the place of `right`.

    `within` limits the search to one function. Raises LookupError as `patterns.plant` does.
    """
    module = importlib.import_module(f"minipeft.{name}")
    tree = tree_of(module)
    try:
        plant(tree, right, wrong, within)
    except LookupError as reason:
        raise LookupError(f"minipeft.{name}: {reason}") from None
    new = codes(compile(tree, module.__file__, "exec"))
    functions = {f: f.__code__ for f in functions_of(module)}
    for function, code in functions.items():
        function.__code__ = new[code.co_name, code.co_firstlineno]
    forget(module)
    try:
        yield
    finally:
        for function, code in functions.items():
            function.__code__ = code
        forget(module)


def tree_of(module):
    """The syntax tree of a module."""
    return ast.parse(Path(module.__file__).read_text(encoding="utf-8"))


def codes(code):
    """{(name, first line): code} of all that a module's code defines."""
    found = {}
    for inner in code.co_consts:
        if inspect.iscode(inner):
            found |= {(inner.co_name, inner.co_firstlineno): inner} | codes(inner)
    return found


def functions_of(module):
    """The functions and methods that a module's source defines, below what decorates them."""
    for thing in vars(module).values():
        if getattr(thing, "__module__", None) == module.__name__:
            for part in [thing, *(vars(thing).values() if inspect.isclass(thing) else ())]:
                for function in bare(part):
                    code = getattr(function, "__code__", None)
                    if code is not None and code.co_filename == module.__file__:
                        yield function


def bare(part):
    """The functions below a property, a static or class method, or decorators."""
    parts = [part.fget, part.fset] if isinstance(part, property) else [part]
    parts = [getattr(one, "__func__", one) for one in parts]
    return [inspect.unwrap(one) for one in parts if callable(one)]


def forget(module):
    """Empty the module's caches."""
    for thing in vars(module).values():
        getattr(thing, "cache_clear", lambda: None)()


def bugs():
    """All of them."""
    from bugs import BUGS

    return BUGS


def table():
    """The bugs and what catches them, in Markdown."""
    lines = ["| planted bug | in | caught by law |", "|---|---|---|"]
    for bug in bugs():
        law = f"{bug.law}, {law_name(bug)}" if caught(bug) else "**none**"
        lines.append(f"| {bug.what} | `{bug.module.replace('.', '/')}.py` | {law} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(found := table())
    sys.exit("**none**" in found)
