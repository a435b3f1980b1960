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

# A module imports from lines above its own only, wherever in its source the import stands.
LAYERS = """
    errors tree interrupt
    backend config
    outline autograd architecture
    tape
    presets
    ops attention
    functional
    costs
    nn inputs
    recompute piecewise cache
    transformer
    quantize
    peft.base
    peft.targets
    peft.attaching
    peft.merging
    peft.full peft.selective peft.lora peft.adapter peft.prefix peft.prompt
    peft.rslora peft.loraplus peft.pissa peft.dora peft.vera peft.adalora peft.loha peft.lokr
    peft.ia3 peft.compacter peft.llama_adapter peft.loftq peft.parallel peft.ptuning
    peft.combine
    peft
    sketch
    tally standing
    files data optim generate
    checkpoint runs
    hf_config
    hf
    options formulas
    papers
    explain count
    table
    account
    plots
    plots_compare plots_ledger
    ledger
    history
    workers
    accumulate
    train
    pretrain trial
    compare
    figures.hero figures.ranks
    figures.memory figures.spectrum figures.forgetting figures.attention figures.curves
    figures.data figures.merge figures.storage
    figures
    checks.base
    checks.adapters checks.prompts checks.selective checks.comparison
    checks.tour checks.autograd checks.memory checks.freezing checks.lora
    checks.swapping checks.data checks.quantization checks.family
    checks
    minipeft
    __main__
"""
ONLY_IN = {"numpy": "backend", "cupy": "backend", "matplotlib": "plots"}
NEVER = {"torch", "transformers", "peft", "pickle", "cloudpickle", "dill", "marshal", "shelve"}
FILE_LINES, FUNCTION_LINES = 250, 35
parse = functools.cache(ast.parse)


def package():
    """{module: source} of the package; the package itself is called minipeft."""
    root, sources = Path(minipeft.__file__).parent, {}
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        name = ".".join(part for part in parts if part != "__init__") or "minipeft"
        sources[name] = path.read_text(encoding="utf-8")
    return sources


def imports(name, sources):
    """Absolute paths of all that a module imports, such as 'minipeft.nn.Linear'."""
    is_package = name == "minipeft" or any(other.startswith(f"{name}.") for other in sources)
    folder = [] if name == "minipeft" else name.split(".")[: None if is_package else -1]
    for node in ast.walk(parse(sources[name])):
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


def layer_complaints(sources):
    """Imports point upwards only, and every module has its place."""
    lines = LAYERS.strip().splitlines()
    height = {name: i for i, line in enumerate(lines) for name in line.split()}
    for name in height.keys() - sources.keys():
        yield f"{name} is in LAYERS but does not exist"
    for name in sources:
        if name not in height:
            yield f"{name} is not in LAYERS"
            continue
        for other in inside(name, sources):
            if height.get(other, -1) >= height[name]:
                yield f"{name} imports {other}, which is not above it in LAYERS"


def sibling_complaints(sources):
    """The model and the methods do not know of each other."""
    for name in sources:
        for other in inside(name, sources):
            if {name.split(".")[0], other.split(".")[0]} == {"peft", "transformer"}:
                yield f"{name} imports {other}"


def outside_complaints(sources):
    """NumPy comes through one door, matplotlib through plots and plots_…, some never."""
    for name in sources:
        for other in outside(name, sources):
            if other in NEVER or ONLY_IN.get(other, name) not in (name, name.split("_")[0]):
                yield f"{name} imports {other}"


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
    layer_complaints,
    sibling_complaints,
    outside_complaints,
    size_complaints,
    docstring_complaints,
]


@pytest.mark.parametrize("rule", RULES)
def test_the_package_keeps_the_rule(rule):
    complaints = sorted(set(rule(package())))
    assert not complaints, "\n" + "\n".join(complaints)


def test_importing_the_package_loads_nothing_heavy():
    code = "import minipeft, sys; print(*sys.modules)"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    loaded = set(process.stdout.split())
    assert "minipeft.transformer" in loaded
    assert not loaded & {"torch", "transformers", "peft", "matplotlib"}


LONG_FILE = "x = 1\n" * (FILE_LINES + 1)
LONG_FUNCTION = "def f():\n" + "    x = 1\n" * FUNCTION_LINES
LONG_METHOD = "class A:\n    def f(self):\n" + "        x = 1\n" * FUNCTION_LINES
BARE_FUNCTION = '"""D."""\ndef f():\n    pass'
BARE_CLASS = '"""D."""\nclass A:\n    pass'
BARE_METHOD = '"""D."""\nclass A(B):\n    """D."""\n    def f(self):\n        pass'
INHERITED = '"""D."""\nclass A(Method):\n    """D."""\n    def build(self):\n        pass'

VIOLATIONS = [
    (layer_complaints, "ops", "from .nn import Linear"),
    (layer_complaints, "ops", "from . import functional as F"),  # sideways
    (layer_complaints, "nn", "def f():\n    from .train import fit"),
    (layer_complaints, "autograd", "import minipeft.ops"),
    (layer_complaints, "autograd", "importlib.import_module('minipeft.ops')"),
    (layer_complaints, "data", "from . import __version__"),
    (layer_complaints, "peft.base", "from ..train import fit"),
    (layer_complaints, "peft.base", "from .lora import LoRA"),
    (layer_complaints, "peft.base", "from . import LoRA"),
    (layer_complaints, "novel", '"""Without a place."""'),
    (sibling_complaints, "peft.lora", "from ..transformer import MLP"),
    (sibling_complaints, "peft.lora", "from .. import transformer"),
    (sibling_complaints, "peft", "from ..transformer import MLP"),
    (sibling_complaints, "transformer", "from .peft.base import use"),
    (sibling_complaints, "transformer", "from . import peft"),
    (outside_complaints, "data", "import numpy as np"),
    (outside_complaints, "data", "from numpy.random import default_rng"),
    (outside_complaints, "functional", "import cupy"),
    (outside_complaints, "compare", "def f():\n    import matplotlib.pyplot"),
    (outside_complaints, "backend", "import torch"),
    (outside_complaints, "generate", "from transformers import AutoModel"),
    (outside_complaints, "checkpoint", "from peft import LoraConfig"),
    (outside_complaints, "peft", "import peft"),
    (outside_complaints, "files", "import json, pickle"),
    (outside_complaints, "files", "importlib.import_module('torch')"),
    (outside_complaints, "files", "__import__('torch.nn')"),
    (size_complaints, "data", LONG_FILE),
    (size_complaints, "data", LONG_FUNCTION),
    (size_complaints, "data", LONG_METHOD),
    (docstring_complaints, "data", "x = 1"),
    (docstring_complaints, "data", BARE_FUNCTION),
    (docstring_complaints, "data", BARE_CLASS),
    (docstring_complaints, "data", BARE_METHOD),
]
ALLOWED = [
    (layer_complaints, "nn", "from . import functional as F\nfrom .ops import where"),
    (layer_complaints, "peft.lora", "from .. import functional as F\nfrom .base import Delta"),
    (sibling_complaints, "peft.lora", "from ..functional import linear"),
    (outside_complaints, "backend", "import numpy as np\nimport cupy"),
    (outside_complaints, "files", "from safetensors.numpy import save"),
    (outside_complaints, "checkpoint", "from .peft import METHODS"),
    (size_complaints, "data", LONG_FILE.removesuffix("x = 1\n")),
    (size_complaints, "data", LONG_FUNCTION.removesuffix("    x = 1\n")),
    (docstring_complaints, "data", BARE_FUNCTION.replace("def f", "def _f")),
    (docstring_complaints, "peft.full", INHERITED),
]


def new_complaints(rule, module, text):
    """What a rule says in addition if this were the source of a module."""
    return set(rule(package() | {module: text})) - set(rule(package()))


@pytest.mark.parametrize("rule, module, text", VIOLATIONS)
def test_a_planted_violation_is_caught(rule, module, text):
    assert any(line.startswith(module) for line in new_complaints(rule, module, text))


@pytest.mark.parametrize("rule, module, text", ALLOWED)
def test_what_is_allowed_is_let_through(rule, module, text):
    assert not new_complaints(rule, module, text)
