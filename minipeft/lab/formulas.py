"""How many numbers a method trains, as an equation with the numbers put in.

r (in + out) a target = 32 layers · 2 targets · 16 (4,096 + 4,096) = 8,388,608

The middle is arithmetic: what it comes to is what the method's `count` says.
"""

import functools
import re
from dataclasses import MISSING, dataclass, field, fields

from ..peft.methods import (
    IA3,
    AdaLoRA,
    Bottleneck,
    Compacter,
    DoRA,
    Full,
    LlamaAdapter,
    LoHa,
    LoKr,
    LoRA,
    Parallel,
    Prefix,
    Prompt,
    PTuning,
    VeRA,
)
from ..peft.methods.bottleneck import PLACES
from ..peft.methods.selective import Selective
from ..peft.targets import Targeted

EACH = {  # what trains on one matrix (out, in); DoRA is a LoRA too
    DoRA: "r (in + out) + out",
    LoRA: "r (in + out)",
    LoHa: "2 r (in + out)",
    VeRA: "r + out",
}


@dataclass(frozen=True)
class Term:
    """One product of a sum: how often, such as {"layer": 32, "target": 2}, and an equation."""

    times: dict[str, int]
    equation: str
    values: dict[str, int] = field(default_factory=dict)  # of the symbols in the equation

    def __str__(self):
        each = re.sub(r"[a-z_]+[₁₂]?", lambda name: f"{self.values[name[0]]:,}", self.equation)
        each = re.sub(r"(?<=\d) (?=\d)", " · ", each)
        if self.times and "+" in re.sub(r"\([^()]*\)", "", each):
            each = f"({each})"
        return " · ".join([*(counted(n, word) for word, n in self.times.items()), each])


def counted(n, word):
    """'2 layers', '1 layer'."""
    return f"{n:,} {word}{'s'[: n != 1]}"


def formula(method, config):
    """The equation of what a method trains on a model of this Config or Architecture.

    ValueError as by the method's `count`.
    """
    total, found = method.count(config), terms(method, config)
    if isinstance(method, Selective | Full):
        symbols = "the sizes of all that trains"
    elif isinstance(method, Targeted):
        symbols = " or ".join(dict.fromkeys(term.equation for term in found)) + " a target"
    else:
        symbols = " + ".join(" a ".join([t.equation, *list(t.times)[-1:]]) for t in found)
    return f"{symbols} = {' + '.join(map(str, found)) or 0} = {total:,}"


@functools.singledispatch
def terms(method, config):
    """The Terms whose sum is what a method trains; its bare count if no equation is known."""
    return [Term({}, "count", {"count": method.count(config)})]


@terms.register
def _(method: Full, config):
    return of_sizes(config.parameters)


@terms.register
def _(method: Selective, config):
    return of_sizes(method.chosen(config))


def of_sizes(parameters):
    """A Term for each of the shapes of {path: shape}."""
    shapes = list(parameters.values())
    return [
        Term(
            {"tensor": shapes.count(shape)},
            " ".join("abc"[: len(shape)]),
            dict(zip("abc", shape, strict=False)),
        )
        for shape in dict.fromkeys(shapes)
    ]


@terms.register
def _(method: Targeted, config):
    groups = {}  # {(equation, values of its symbols): paths}
    for path, (n_out, n_in) in method.targets(config.matrices).items():
        equation, values = each(method.for_module(path, (n_out, n_in)), n_out, n_in)
        used = {name: values[name] for name in re.findall(r"[a-z_]+[₁₂]?", equation)}
        groups.setdefault((equation, tuple(used.items())), []).append(path)
    return [
        Term(grid(paths), equation, dict(used)) for (equation, used), paths in groups.items()
    ]


def each(method, n_out, n_in):
    """(equation of what trains on one matrix (out, in), values of its symbols)."""
    values = {"out": n_out, "in": n_in, "r": getattr(method, "r", 0)}
    if isinstance(method, AdaLoRA):
        return "r (in + out) + r", values | {"r": method.init_r}
    if isinstance(method, IA3):
        return "in" if method.feedforward_modules else "out", values
    if isinstance(method, LoKr):
        parts = []
        for i, ((o, n), thin) in zip("₁₂", method.sizes(n_out, n_in), strict=True):
            parts.append(f"r (o{i} + i{i})" if thin else f"o{i} i{i}")
            values |= {f"o{i}": o, f"i{i}": n}
        return " + ".join(parts), values
    found = (equation for kind, equation in EACH.items() if isinstance(method, kind))
    return next(found, "each"), values | {"each": method.parameters_per_matrix(n_out, n_in)}


def grid(paths):
    """How often a Term stands for these paths, by layers and targets where that is even."""
    blocks = {number[1] for path in paths if (number := re.search(r"\.(\d+)\.", path))}
    kinds = {re.sub(r"\.\d+\.", ".*.", path) for path in paths}
    if blocks and len(blocks) * len(kinds) == len(paths):
        return {"layer": len(blocks), "target": len(kinds)}
    return {"target": len(paths)}


@terms.register
def _(method: Bottleneck, config):
    times = {"layer": config.layers, "place": len(PLACES[method.style])}
    return [Term(times, "2 m width + m + width", {"m": method.m, "width": config.width})]


@terms.register
def _(method: Compacter, config):
    times = {"layer": config.layers, "place": len(PLACES[method.style])}
    k, values = method.phm_rank, {"m": method.m, "width": config.width}
    once = Term({}, "n³", {"n": method.phm_dim})
    return [Term(times, "2 k (width + m) + m + width", values | {"k": k}), once]


@terms.register
def _(method: Parallel, config):
    one = 2 * method.m * config.width + method.m + config.width
    times = {"place": method.count(config) // one}
    return [Term(times, "2 m width + m + width", {"m": method.m, "width": config.width})]


@terms.register
def _(method: Prefix, config):
    values = {"n": method.num_virtual_tokens, "layers": config.layers}
    values |= {"kv": config.kv_heads * config.head_width, "h": method.encoder_hidden_size}
    network = "n kv + (kv + 1) h + (h + 1) 2 layers kv"
    return [Term({}, network if method.prefix_projection else "2 n layers kv", values)]


@terms.register
def _(method: Prompt, config):
    return [Term({}, "n width", {"n": method.num_virtual_tokens, "width": config.width})]


@terms.register
def _(method: PTuning, config):
    values = {"n": method.num_virtual_tokens, "d": config.width}
    values["h"] = method.hidden(config.width)
    return [Term({}, "n d + (d h + h) + (h h + h) + (h d + d)", values)]


@terms.register
def _(method: LlamaAdapter, config):
    values = {"n": method.adapter_len, "width": config.width}
    values["gates"] = config.heads if method.per_head else 1
    return [Term({"layer": len(method.layers(config.layers))}, "n width + gates", values)]


def brief(method):
    """A method with its size and what else is not the default: 'LoRA(r=8, lora_alpha=16)'."""
    shown = []
    for i, option in enumerate(fields(method)):
        value, usual = getattr(method, option.name), option.default
        if usual is MISSING:
            usual = option.default_factory()
        if value != usual or (i == 0 and type(value) is int):
            value = ",".join(map(str, value)) if isinstance(value, tuple) else value
            shown.append(f"{option.name}={value}")
    return f"{type(method).__name__}({', '.join(shown)})"
