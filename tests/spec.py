"""What a spec of a method says, for tests/methods/<name>.py to fill in.

A spec is all that the tests know of one method. The laws, the planted bugs, parity with HF
PEFT and the tests of files go through all specs, so a new method needs one file there and no
edit elsewhere. Importing a spec does not import PyTorch or HF PEFT: only functions in it do.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import minipeft as mp
from minipeft.peft.base import Method

SIZES = dict(vocab=11, context=16, width=8, layers=2, heads=4, kv_heads=2, ffn=7, init_std=0.3)
GPT2 = mp.Config.gpt2(**SIZES)  # the models that bugs are planted in
LLAMA = mp.Config.llama(**SIZES)

# The models whose files are pinned, of one layer: q and o (8, 8), k and v (4, 8), up (6, 8),
# down (8, 6), head and table (11, 8), and in Llama's shape a gate (6, 8).
ONE_LAYER = SIZES | dict(layers=1, ffn=6)
FILED = {"gpt2": mp.Config.gpt2(**ONE_LAYER), "llama": mp.Config.llama(**ONE_LAYER)}

# The models on which parameters are counted by hand; the first has two layers of those sizes.
COUNTED = mp.Config.gpt2(**SIZES | dict(ffn=6))
GPT2_MEDIUM = mp.Config.gpt2(vocab=50257, context=1024, width=1024, layers=24, heads=16)
GPT3 = mp.Config.gpt2(vocab=50257, context=2048, width=12288, layers=96, heads=96)
LLAMA_7B = mp.Config.llama(
    vocab=32000, context=4096, width=4096, layers=32, heads=32, ffn=11008
)


def proves(general, special):
    """Marks a test which shows that a method, at some setting, is another: names of METHODS."""
    return lambda test: test


@dataclass(frozen=True)
class Bug:
    """A piece of the package's source, a wrong version of it, and the law that must notice.

    Both are expressions, or both statements, as `patterns.plant` takes them. The law is held to
    `method` on a model of `config`. `module` is the method's own file unless given.
    """

    what: str
    right: str
    wrong: str
    law: int
    method: Method = field(repr=False)
    config: mp.Config = field(repr=False, default=LLAMA)
    module: str = ""  # such as "peft.methods.lora"

    def __post_init__(self):
        module = self.module or type(self.method).__module__.removeprefix("minipeft.")
        object.__setattr__(self, "module", module)


@dataclass(frozen=True)
class Files:
    """How the file of a row goes to HF PEFT and comes from it, if that has the method."""

    same: bool = True  # save_adapter's file has HF PEFT's tensors, under the modules' own paths
    beside: tuple = ()  # parts of the names of tensors that only HF PEFT's file has
    exported: bool = True  # HF PEFT opens what export_adapter writes
    imported: bool = True  # import_adapter opens what HF PEFT writes
    config: bool = True  # both write a configuration of the same options
    logits: float = 1e-12  # how far logits may be off after a file
    tensors: float = 1e-12  # how far tensors in the two files may be apart
    before: Callable = lambda pair: None  # undoes in HF's model what `theirs` did to it
    save: Callable = lambda pair, folder: pair.theirs.save_pretrained(folder)  # as HF saves it

    def both(self, theirs):
        """Those of HF PEFT's {name: tensor} that our file has too."""
        return {n: a for n, a in theirs.items() if not any(part in n for part in self.beside)}


@dataclass(frozen=True)
class Row:
    """The method here and in HF PEFT or in PyTorch by hand, and what has to be known of both.

    theirs: puts the method on HF's model, where names and layouts of what trains are HF's own.
    names: HF's names for parts of ours, where it is not the path and the parameter's own name.
    carry: takes over from HF's what ours holds beside what trains.
    optimizer, after_step: as HF trains it, if not by plain AdamW.
    """

    ours: Method
    theirs: Callable
    shape: str = "llama"
    tied: bool = False
    names: dict = field(default_factory=dict)
    carry: Callable = lambda pair: None
    opened: Callable = lambda theirs: theirs  # what HF's model needs after opening a file
    optimizer: Callable | None = None
    after_step: Callable = lambda pair, step: None
    clip: float | None = 0.3
    padding: tuple = ("left", "right")
    files: Files = Files()
    merged: bool = True  # whether HF's can be merged, if ours can
    recorded: bool = True  # whether tests/parity/record.py writes it to the fixtures


@dataclass(frozen=True)
class Spec:
    """One method: how to draw it, what it computes, and what is planted, counted and saved."""

    method: type
    draw: Callable | None = None  # Config -> strategy of hyper-parameters that fit it
    small: Method | None = None  # one that fits the smallest models of the tests
    equation: object = None  # one of laws/equations.py, or anything else with its `check`
    bugs: tuple = ()  # of Bug
    rows: dict = field(default_factory=dict)  # {name: Row}
    no_rows: str = ""  # why there are none
    counts: tuple = ()  # (method, Config, how many parameters it trains, counted by hand)
    saved: tuple = ()  # (method, {name in its file on FILED: shape})
    wrong: tuple = ()  # functions without arguments that give the method impossible options
    exempt: dict = field(default_factory=dict)  # {law: why it does not hold}
    rate: Callable = lambda method, path: 1.0  # of a parameter, times the learning rate
    # (method, adapter, path, gradient) -> what a first step subtracts, times that rate: AdamW's
    first_step: Callable = lambda method, adapter, path, g: g / (abs(g) + 1e-8)
    exchanged: bool = False  # whether HF PEFT has it and folders go there and back
    exchange_limit: float = 0.0  # how far logits in float32 may be off after that
    shapes: tuple = ("gpt2", "llama")  # of models that have something for it to train


def complaints(methods, specs, laws):
    """What is missing, given {name: method}, all Specs, and the laws by number."""
    kinds = [spec.method for spec in specs]
    for name, kind in methods.items():
        if kinds.count(kind) != 1:
            file = f"tests/methods/{kind.__module__.split('.')[-1]}.py"
            yield f"{name} has {kinds.count(kind)} specs; write one, {file}"
    for spec in specs:
        name = spec.method.__name__
        if spec.method not in methods.values():
            yield f"{name} has a spec, but METHODS has no {name}"
        for part in ("draw", "small", "equation", "bugs", "counts", "saved"):
            if not getattr(spec, part):
                yield f"the spec of {name} has no {part}"
        if not spec.rows and not spec.no_rows:
            yield f"the spec of {name} has no parity rows, and no reason in no_rows"
        for law, reason in spec.exempt.items():
            if law not in laws or len(reason) < 20:
                yield f"the spec of {name} is exempt from law {law}, which needs a reason"
    rows = [row for spec in specs for row in spec.rows]
    yield from (f"two parity rows are called {row!r}" for row in {*rows} if rows.count(row) > 1)
