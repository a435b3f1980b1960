"""What a method would change in a model, and at what cost, before anything is changed.

minipeft explain --method lora --targets q_proj,v_prj
minipeft explain --method adalora --set init_r=6 --set target_r=3 --base folder

Which modules match, which names match nothing and what they may have meant, the numbers and
bytes of each, and what to know of tied weights and of names that are fused elsewhere.
"""

import difflib
import json
import math
import re
from dataclasses import asdict, dataclass, replace

from ..engine.backend import dtype, np
from ..io.checkpoint import load_base, load_model
from ..peft.attach import disabled
from ..peft.base import Method, base_parameters, precision
from ..peft.targets import Targeted, first_match, matches, matrices, shape, targeted
from .command_line import chosen_method, method_arguments

# What other models call the modules of this one; one for several is fused there.
ELSEWHERE = {
    "c_attn": ("q_proj", "k_proj", "v_proj"),
    "qkv_proj": ("q_proj", "k_proj", "v_proj"),
    "query_key_value": ("q_proj", "k_proj", "v_proj"),
    "gate_up_proj": ("gate_proj", "up_proj"),
    "c_proj": ("o_proj", "down_proj"),
    "c_fc": ("up_proj",),
    "fc1": ("up_proj",),
    "fc2": ("down_proj",),
    "query": ("q_proj",),
    "key": ("k_proj",),
    "value": ("v_proj",),
    "out_proj": ("o_proj",),
    "embed_tokens": ("wte",),
}


@dataclass(frozen=True)
class Row:
    """One module or parameter that a method changes: its shape, and what trains there."""

    path: str
    shape: tuple[int, ...]
    numbers: int
    bytes: int
    problem: str = ""  # why it does not fit there


@dataclass(frozen=True, repr=False)
class Explanation:
    """What `explain` found; `refused` is what `attach` would say, empty if it would accept."""

    method: Method
    rows: list[Row]
    unmatched: dict[str, str]  # {name that matches nothing: what it may have meant}
    warnings: list[str]
    refused: str
    base: int  # numbers of the base
    total: int  # and with the method on it

    @property
    def numbers(self):
        """How many numbers train."""
        return sum(row.numbers for row in self.rows)

    @property
    def bytes(self):
        """How many bytes they take, without gradients and moments."""
        return sum(row.bytes for row in self.rows)

    def __repr__(self):
        lines = [str(self.method), f"  {'module':<32}{'shape':>12}{'numbers':>14}{'bytes':>12}"]
        for path, times, row in folded(self.rows):
            each = f"{times} × {row.numbers:,}" if times > 1 else f"{row.numbers:,}"
            size = str(row.shape) if row.shape else ""
            lines.append(f"  {path:<32}{size:>12}{each:>14}{times * row.bytes:>12,}")
            lines += [f"    ✗ {row.problem}"] if row.problem else []
        for name, why in self.unmatched.items():
            lines.append(f"  ✗ {name!r} matches nothing; {why}")
        lines += [f"  ! {text}" for text in self.warnings]
        verdict = f"would refuse: {self.refused}" if self.refused else "would accept"
        share, of_total = (100 * self.numbers / n for n in (self.base, self.total))
        lines += [
            f"  trains {self.numbers:,} numbers: {share:.3g} % of the base's {self.base:,}, "
            f"{of_total:.3g} % of the total of {self.total:,}",
            f"  {self.bytes:,} bytes, and {3 * self.bytes:,} for gradients and AdamW's moments",
            f"  attach {verdict}",
        ]
        return "\n".join(lines)


def folded(rows):
    """(path, how many, Row): modules that are alike in several blocks as one, blocks.0…2.…"""
    groups = {}
    for row in rows:
        path = re.sub(r"\.\d+\.", ".*.", row.path)
        alike = path, row.shape, row.numbers, row.problem.replace(row.path, path)
        groups.setdefault(alike, []).append(row)
    for (path, *_), alike in groups.items():
        blocks = [int(row.path.split(".")[1]) for row in alike if "*" in path]
        whole = len(blocks) > 1 and blocks == list(range(blocks[0], blocks[-1] + 1))
        label = f"{blocks[0]}…{blocks[-1]}" if whole else ",".join(map(str, blocks))
        yield path.replace("*", label), len(alike), alike[0]


def explain(model, method):
    """The Explanation of what `attach(model, method)` would do, or why it would refuse.

    Nothing is changed. A name that matches nothing is told, not raised.
    """
    if not isinstance(method, Method):
        raise TypeError(f"explain takes a method such as LoRA(r=8), got {method!r}")
    rows, refused = [], ""
    with disabled(model), dtype(precision(model)):
        known, unmatched = matched(model, method)
        try:
            rows = (on_matrices if isinstance(known, Targeted) else on)(model, known)
            if not on(model, method):
                refused = f"{method} finds nothing to train in this model"
        except ValueError as error:
            refused = str(error)
        own = {path: p.data.size for path, p in base_parameters(model)}
    base = sum(own.values())
    total = base + sum(row.numbers for row in rows if row.path not in own)
    notes = list(warnings(model, method, rows))
    return Explanation(method, rows, unmatched, notes, refused, base, total)


def matched(model, method):
    """(the method less the names that match nothing, {such a name: what it may have meant})."""
    if not isinstance(method, Targeted):
        return method, {}
    places, names, lost, known = matrices(model), method.target_modules, [], {}
    names = (names,) if isinstance(names, str) else names
    if names == ("all-linear",):
        chosen = targeted(places, "all-linear")
    else:
        lost += [name for name in names if not matches(places, name)]
        known["target_modules"] = tuple(name for name in names if name not in lost)
        chosen = set().union(*(matches(places, name) for name in names))
    for option in ("rank_pattern", "alpha_pattern"):
        table = getattr(method, option, {})
        used = {first_match(table, path) for path in chosen}
        known |= {option: {key: table[key] for key in table if key in used}} if table else {}
        lost += [key for key in table if key not in used]
    inside = getattr(method, "feedforward_modules", ())
    if inside:
        known["feedforward_modules"] = tuple(name for name in inside if matches(chosen, name))
        lost += [name for name in inside if not matches(chosen, name)]
    return replace(method, **known), {name: meant(name, places) for name in lost}


def meant(name, paths):
    """What a name that matches none of the targets may have meant."""
    there = sorted({path.split(".")[-1] for path in paths})
    same = [kind for kind in ELSEWHERE.get(name.split(".")[-1], ()) if kind in there]
    if matches(paths, name):
        return "it is not among the targets"
    if len(same) > 1:
        return f"elsewhere it is a name for what are {', '.join(same)} here"
    near = same or difflib.get_close_matches(name, there, n=3, cutoff=0.5)
    if near:
        return f"did you mean {' or '.join(map(repr, near))}?"
    return f"there are {', '.join(there)}"


def on_matrices(model, method):
    """A Row for each matrix that a method changes, one that does not fit included."""
    places, rows = matrices(model), []
    for path, module in method.targets(places).items() if method.target_modules else ():
        numbers, problem = 0, ""
        try:
            numbers = method.for_module(path, shape(module)).parameters_per_matrix(
                *shape(module)
            )
        except ValueError as error:
            problem = str(error)
        size = numbers * precision(model).itemsize
        rows.append(Row(path, shape(module), numbers, size, problem))
    return rows


def on(model, method):
    """A Row for each place or parameter that a method changes; ValueError as in attach."""
    rows, seen = [], set()
    for path, delta in method.make_deltas(model, np.random.default_rng(0)).items():
        own = [p.data for p in delta.parameters() if id(p) not in seen]
        seen |= {id(p) for p in delta.parameters()}
        rows.append(Row(path, (), sum(a.size for a in own), sum(a.nbytes for a in own)))
    for path, p in method.base_parameters_to_copy(model).items():
        rows.append(Row(path, p.shape, p.data.size, p.data.nbytes))
    return rows


def warnings(model, method, rows):
    """What to know of a method on a model that need not be wrong."""
    config, paths = model.config, {row.path.removesuffix(".weight") for row in rows}
    alone = [place for place in ("wte", "lm_head") if place in paths]
    if config.tied and method.family == "full":
        yield "the head is tied to the token table: they are one and change together"
    elif config.tied and alone:
        yield (
            f"the head is tied to the token table; {' and '.join(alone)} would change alone, "
            f"and merging unties them: {config.vocab * config.width:,} numbers more"
        )
    if isinstance(method, Targeted):
        large = [path for path, _, row in folded(rows) if row.numbers >= math.prod(row.shape)]
        if large:
            yield f"no fewer numbers than W itself has, for {', '.join(large)}; lower the rank"
    slots = getattr(method, "num_virtual_tokens", 0)
    if slots:
        yield f"{slots} of the context's {config.context} slots go to virtual tokens"
    if not method.mergeable:
        yield "it cannot be merged, so it costs time at inference too"


def arguments(parser):
    """What `minipeft explain` understands."""
    method_arguments(parser)
    parser.add_argument("--base", help="folder of the model (default: the shipped backbone)")
    parser.add_argument("--json", action="store_true", help="as one JSON object")


def main(options):
    """Run `minipeft explain`."""
    method = chosen_method(options)
    found = explain(load_model(options.base) if options.base else load_base(), method)
    whole = {"method": str(method), "numbers": found.numbers, "bytes": found.bytes}
    print(json.dumps(asdict(found) | whole, ensure_ascii=False) if options.json else found)
