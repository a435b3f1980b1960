"""The source as a text: layers of imports, what is imported from outside, size, docstrings.

Every rule is a function of {module: its source} that yields complaints, so that it can be shown
to catch planted violations.
"""

import ast
import functools
import subprocess
import sys
from pathlib import Path

import pytest

import minipeft

# A module imports from its own room and from rooms to the left of it.
ROOMS = ("engine", "model", "peft", "io", "train", "text", "lab", "course")
CORE = ROOMS[:6]
GROUND = ("errors", "options")  # which every room may import
FRONT = ("minipeft", "__main__")  # what a user calls: these may import from every room
ONLY_IN = {"numpy": ("engine.backend",), "cupy": ("engine.backend",)}
NEVER = {"torch", "transformers", "peft", "pickle", "cloudpickle", "dill", "marshal", "shelve"}
FILE_LINES, FUNCTION_LINES = 400, 40
ENTRIES = 10  # in minipeft/, beside __init__, __main__, errors and folders of data
parse = functools.cache(ast.parse)


@functools.cache
def package():
    """{module: source} of the package; the package itself is called minipeft."""
    root, sources = Path(minipeft.__file__).parent, {}
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        name = ".".join(part for part in parts if part != "__init__") or "minipeft"
        sources[name] = path.read_text(encoding="utf-8")
    return sources


def imports(name, sources):
    """Absolute paths of all that a module imports, such as 'minipeft.model.layers.Linear'."""
    is_package = name == "minipeft" or any(other.startswith(f"{name}.") for other in sources)
    folder = [] if name == "minipeft" else name.split(".")[: None if is_package else -1]
    return imports_of(sources[name], tuple(folder))


@functools.cache
def imports_of(source, folder):
    """The same of a source in a folder, a list."""
    return list(walk_imports(source, folder))


def walk_imports(source, folder):
    """Yields each of them."""
    for node in ast.walk(parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = ["minipeft", *folder[: len(folder) - node.level + 1]] if node.level else []
            start = [*above, node.module] if node.module else above
            yield from (".".join([*start, alias.name]) for alias in node.names)
        elif isinstance(node, ast.Call):
            called = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if called in ("import_module", "__import__"):
                yield from (arg.value for arg in node.args if isinstance(arg, ast.Constant))


def inside(name, sources):
    """The modules of the package that a module imports."""
    for path in imports(name, sources):
        top, *rest = path.split(".")
        while rest and ".".join(rest) not in sources:  # the last parts are names in a module
            rest.pop()
        if top == "minipeft":
            yield ".".join(rest) or "minipeft"


def outside(name, sources):
    """The packages from elsewhere that a module imports."""
    return {path.split(".")[0] for path in imports(name, sources)} - {"minipeft"}


def room(name):
    """The room of a module: the folder that it lies in, or itself if it lies in none."""
    return name.split(".")[0]


def room_complaints(sources):
    """Every module lies in a room, and imports point to the left only."""
    place = {name: i for i, name in enumerate(ROOMS)}
    for name in sources:
        if name in (*FRONT, *GROUND):
            continue
        if room(name) not in place:
            yield f"{name} lies in no room"
            continue
        for other in inside(name, sources):
            if other in FRONT or place.get(room(other), -1) > place[room(name)]:
                yield f"{name} imports {other}, to its right"


def cycle_complaints(sources):
    """No module imports itself by way of others."""
    arrows = {name: set(inside(name, sources)) - {"minipeft"} for name in sources}
    for name in sources:
        if name in reached(arrows, *arrows[name]):
            yield f"{name} is imported by what it imports"


def reached(arrows, *starts):
    """All modules that some modules import, directly or not, and these themselves."""
    found, todo = set(), list(starts)
    while todo:
        name = todo.pop()
        if name not in found:
            found.add(name)
            todo += arrows[name]
    return found


def outside_complaints(sources):
    """NumPy comes through one door; the core plots in functions only; some never come in."""
    for name in sources:
        for other in outside(name, sources):
            if other in NEVER or name not in ONLY_IN.get(other, (name,)):
                yield f"{name} imports {other}"
        top = without_functions(sources[name])
        if room(name) in CORE and "matplotlib" in outside(name, sources | {name: top}):
            yield f"{name} imports matplotlib when it is imported"


@functools.cache
def without_functions(source):
    """A module's source without the bodies of its functions."""

    class Emptied(ast.NodeTransformer):
        def visit_FunctionDef(self, node):
            node.body = [ast.Pass()]
            return node

    return ast.unparse(Emptied().visit(ast.parse(source)))


def size_complaints(sources):
    """Files and functions can be read in one go."""
    for name, source in sources.items():
        if (lines := len(source.splitlines())) > FILE_LINES:
            yield f"{name} has {lines} lines"
        for node in ast.walk(parse(source)):
            if isinstance(node, ast.FunctionDef):
                if (lines := node.end_lineno - node.lineno + 1) > FUNCTION_LINES:
                    yield f"{name}.{node.name} has {lines} lines"


def docstring_complaints(sources):
    """All that is public has a docstring; a method may have that of a base class."""
    trees = {name: parse(source) for name, source in sources.items()}
    nodes = [node for tree in trees.values() for node in ast.walk(tree)]
    classes = {node.name: node for node in nodes if isinstance(node, ast.ClassDef)}

    def documented(owner, method):
        node = classes.get(owner, ast.ClassDef(body=[], bases=[]))
        own = [part for part in node.body if getattr(part, "name", "") == method]
        bases = [ast.unparse(base).split(".")[-1] for base in node.bases]
        return any(map(ast.get_docstring, own)) or any(documented(b, method) for b in bases)

    def public(body, *kinds):
        return [node for node in body if isinstance(node, kinds) and node.name[0] != "_"]

    for module, tree in trees.items():
        if not ast.get_docstring(tree):
            yield f"{module} has no docstring"
        for node in public(tree.body, ast.ClassDef, ast.FunctionDef):
            if not ast.get_docstring(node):
                yield f"{module}.{node.name} has no docstring"
        for node in public(tree.body, ast.ClassDef):
            for method in public(node.body, ast.FunctionDef):
                if not documented(node.name, method.name):
                    yield f"{module}.{node.name}.{method.name} has no docstring"


RULES = [
    room_complaints,
    cycle_complaints,
    outside_complaints,
    size_complaints,
    docstring_complaints,
]


@pytest.mark.parametrize("rule", RULES)
def test_the_package_keeps_the_rule(rule):
    complaints = sorted(set(rule(package())))
    assert not complaints, "\n" + "\n".join(complaints)


CLOSURES = {"peft.methods.lora": 12, "train.fit": 25}  # modules that each may need


@pytest.mark.parametrize("name, most", CLOSURES.items())
def test_a_reader_needs_few_files(name, most):
    needed = closure(name)
    assert len(needed) <= most, sorted(needed)


def closure(name):
    """The modules that importing one of them runs, the rooms' own docstrings left out."""
    sources = package()
    arrows = {name: set(inside(name, sources)) for name in sources}
    return {name for name in reached(arrows, name) if name not in (*ROOMS, "minipeft")}


def test_the_house_can_be_seen_at_a_glance():
    folder = Path(minipeft.__file__).parent
    code = [p for p in folder.iterdir() if p.suffix == ".py" or list(p.glob("*.py"))]
    entries = {p.stem for p in code} - {"__init__", "__main__", "errors"}
    assert len(entries) <= ENTRIES and entries >= set(ROOMS)


def test_importing_the_package_loads_nothing_heavy():
    code = "import minipeft, sys; print(*sys.modules)"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    loaded = set(process.stdout.split())
    assert "minipeft.model.transformer" in loaded
    assert not loaded & {"torch", "transformers", "peft", "matplotlib", "tokenizers", "jinja2"}


LONG_FILE = "x = 1\n" * (FILE_LINES + 1)
LONG_FUNCTION = "def f():\n" + "    x = 1\n" * FUNCTION_LINES
LONG_METHOD = "class A:\n    def f(self):\n" + "        x = 1\n" * FUNCTION_LINES
BARE_FUNCTION = '"""D."""\ndef f():\n    pass'
BARE_CLASS = '"""D."""\nclass A:\n    pass'
BARE_METHOD = '"""D."""\nclass A(B):\n    """D."""\n    def f(self):\n        pass'
INHERITED = '"""D."""\nclass A(Method):\n    """D."""\n    def make_deltas(self):\n        pass'

VIOLATIONS = [
    (room_complaints, "engine.ops", "from ..model.layers import Linear"),
    (room_complaints, "model.layers", "def f():\n    from ..train.fit import fit"),
    (room_complaints, "model.transformer", "from ..peft.base import use"),
    (room_complaints, "model.transformer", "from .. import peft"),
    (room_complaints, "train.fit", "from ..lab import plots"),
    (room_complaints, "train.fit", "from ..course.base import reveal"),
    (room_complaints, "lab.compare", "from ..course.base import reveal"),
    (room_complaints, "engine.tensor", "import minipeft.peft.base"),
    (room_complaints, "engine.tensor", "importlib.import_module('minipeft.peft.base')"),
    (room_complaints, "text.words", "from .. import __version__"),
    (room_complaints, "attic", '"""In no room."""'),
    (cycle_complaints, "engine.tensor", "from . import ops"),
    (cycle_complaints, "engine.backend", "from .functional import linear"),
    (cycle_complaints, "peft.base", "from .methods.lora import LoRA"),
    (outside_complaints, "text.words", "import numpy as np"),
    (outside_complaints, "text.words", "from numpy.random import default_rng"),
    (outside_complaints, "engine.functional", "import cupy"),
    (outside_complaints, "train.history", "import matplotlib.pyplot"),
    (outside_complaints, "train.history", "if True:\n    from matplotlib import figure"),
    (outside_complaints, "engine.backend", "import torch"),
    (outside_complaints, "model.generate", "from transformers import AutoModel"),
    (outside_complaints, "io.checkpoint", "from peft import LoraConfig"),
    (outside_complaints, "peft.methods", "import peft"),
    (outside_complaints, "io.files", "import json, pickle"),
    (outside_complaints, "io.files", "importlib.import_module('torch')"),
    (outside_complaints, "io.files", "__import__('torch.nn')"),
    (size_complaints, "text.words", LONG_FILE),
    (size_complaints, "text.words", LONG_FUNCTION),
    (size_complaints, "text.words", LONG_METHOD),
    (docstring_complaints, "text.words", "x = 1"),
    (docstring_complaints, "text.words", BARE_FUNCTION),
    (docstring_complaints, "text.words", BARE_CLASS),
    (docstring_complaints, "text.words", BARE_METHOD),
]
ALLOWED = [
    (room_complaints, "model.layers", "from ..engine import functional as F\nimport json"),
    (room_complaints, "peft.methods.lora", "from ...engine.functional import linear"),
    (room_complaints, "course.lora", "from ..lab.plots import tidy"),
    (cycle_complaints, "peft.methods.lora", "from ..base import Delta"),
    (outside_complaints, "engine.backend", "import numpy as np\nimport cupy"),
    (outside_complaints, "io.files", "from safetensors.numpy import save"),
    (outside_complaints, "io.checkpoint", "from ..peft.methods import METHODS"),
    (outside_complaints, "train.history", "def f():\n    import matplotlib.pyplot"),
    (outside_complaints, "lab.plots", "import matplotlib.pyplot"),
    (size_complaints, "text.words", LONG_FILE.removesuffix("x = 1\n")),
    (size_complaints, "text.words", LONG_FUNCTION.removesuffix("    x = 1\n")),
    (docstring_complaints, "text.words", BARE_FUNCTION.replace("def f", "def _f")),
    (docstring_complaints, "peft.methods.bitfit", INHERITED),
]


def new_complaints(rule, module, text):
    """What a rule says in addition if this were the source of a module."""
    return set(rule(package() | {module: text})) - before(rule)


@functools.cache
def before(rule):
    """What a rule says of the package as it is."""
    return set(rule(package()))


@pytest.mark.parametrize("rule, module, text", VIOLATIONS)
def test_a_planted_violation_is_caught(rule, module, text):
    assert any(line.startswith(module) for line in new_complaints(rule, module, text))


@pytest.mark.parametrize("rule, module, text", ALLOWED)
def test_what_is_allowed_is_let_through(rule, module, text):
    assert not new_complaints(rule, module, text)
