"""Planted bugs: wrong versions of the real code, and the law that catches each.

    python tests/planted.py          prints the table, exit 1 if a bug is not caught

A bug is a piece of a module's source and what a wrong version would say there. The module is
compiled with it, and for a while every function of the real one runs the code of the wrong one.
It must be caught by the law that it names, on a method and a model that it names; a law that
lets it pass is too weak.
"""

import contextlib
import importlib
import inspect
import sys
from dataclasses import dataclass, field
from pathlib import Path

import minipeft as mp
from laws import LAWS, Case

SQUARE = dict(vocab=11, context=16, width=8, layers=2, heads=4, kv_heads=2, ffn=7, init_std=0.3)
GPT2 = mp.Config.gpt2(**SQUARE)
LLAMA = mp.Config.llama(**SQUARE)


@dataclass(frozen=True)
class Bug:
    """What is wrong, where, and the law, method and model that must notice."""

    what: str
    module: str
    right: str
    wrong: str
    law: int
    method: mp.peft.base.Method = field(repr=False)
    config: mp.Config = field(repr=False, default=LLAMA)

    def caught(self):
        """The complaint of the law about the bug, or None if it noticed nothing."""
        for seed in range(3):
            try:
                with planted(self.module, self.right, self.wrong):
                    self.check(seed)
            except (AssertionError, ValueError, RuntimeError) as complaint:
                return " ".join(str(complaint).split()) or type(complaint).__name__
        return None

    def check(self, seed=0):
        """Hold the law to the code as it is now."""
        LAWS[self.law](Case(self.config, self.method, seed))

    @property
    def law_name(self):
        """The law's name, as people say it."""
        return LAWS[self.law].__name__[7:].replace("_", " ")


@contextlib.contextmanager
def planted(name, right, wrong):
    """Inside the block a module of the package is as if its source said `wrong` for `right`."""
    module = importlib.import_module(f"minipeft.{name}")
    source = Path(module.__file__).read_text(encoding="utf-8")
    times = source.count(right)
    if times != 1 or right.count("\n") != wrong.count("\n"):
        raise LookupError(f"{name} says {right!r} {times} times, or on other lines")
    new = codes(compile(source.replace(right, wrong), module.__file__, "exec"))
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
        law = f"{bug.law}, {bug.law_name}" if bug.caught() else "**none**"
        lines.append(f"| {bug.what} | `{bug.module.replace('.', '/')}.py` | {law} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(found := table())
    sys.exit("**none**" in found)
