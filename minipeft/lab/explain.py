"""Reports what attaching a method would change in a model, and at what cost.

minipeft explain --method lora --targets q_proj,v_prj
minipeft explain --method adalora --set init_r=6 --set target_r=3 --base folder

The report has the modules that match, with the trainable parameters and bytes of each; the
names that match nothing, each with a suggestion; warnings about settings that are legal but
surprising; and the error, if any, that `attach` would raise. The model stays as it is.
"""

import contextlib
import difflib
import json
import math
import re
from dataclasses import asdict, dataclass, replace

from ..engine.backend import dtype, np
from ..io.checkpoint import load_base, load_model
from ..model.layers import Module
from ..peft.attach import disabled
from ..peft.base import Method, base_parameters, precision
from ..peft.targets import (
    Targeted,
    first_match,
    last_names,
    matches,
    matrices,
    shape,
    targeted,
)
from .command_line import add_method_options, method_from_options

# {name of a module in other models: its names here}; several where it is ambiguous or fused.
ALIASES = {
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
    """One module or parameter that a method changes, and what the method trains there."""

    path: str
    shape: tuple[int, ...]  # of the weight that is changed, (out, in); () if there is none
    parameters: int  # how many train
    bytes: int  # of these parameters
    problem: str = ""  # why the method does not fit there


@dataclass(frozen=True, repr=False)
class Explanation:
    """What attaching a method to a model would do."""

    method: Method
    rows: list[Row]
    unmatched: dict[str, str]  # {name that matches no module: suggestion}
    warnings: list[str]
    refused: str  # the error that `attach` would raise; empty if it would accept
    base: int  # parameters of the base
    total: int  # parameters of the base and of the adapter

    @property
    def parameters(self):
        """How many parameters train."""
        return sum(row.parameters for row in self.rows)

    @property
    def bytes(self):
        """Bytes of the trainable parameters, without their gradients and AdamW's moments."""
        return sum(row.bytes for row in self.rows)

    def __repr__(self):
        titles = f"  {'module':<32}{'shape':>12}{'parameters':>14}{'bytes':>12}"
        lines = [str(self.method), titles]
        for path, times, row in group_blocks(self.rows):
            count = f"{times} × {row.parameters:,}" if times > 1 else f"{row.parameters:,}"
            size = str(row.shape) if row.shape else ""
            lines.append(f"  {path:<32}{size:>12}{count:>14}{times * row.bytes:>12,}")
            lines += [f"    ✗ {row.problem}"] if row.problem else []
        for name, suggestion in self.unmatched.items():
            lines.append(f"  ✗ {name!r} matches nothing; {suggestion}")
        lines += [f"  ! {text}" for text in self.warnings]
        verdict = f"would refuse: {self.refused}" if self.refused else "would accept"
        of_base, of_total = (100 * self.parameters / n for n in (self.base, self.total))
        lines += [
            f"  trains {self.parameters:,} parameters: {of_base:.3g} % of the base's "
            f"{self.base:,}, {of_total:.3g} % of the total of {self.total:,}",
            f"  {self.bytes:,} bytes, and {3 * self.bytes:,} for gradients and AdamW's moments",
            f"  attach {verdict}",
        ]
        return "\n".join(lines)


def explain(model, method):
    """Returns the Explanation of what `attach(model, method)` would do; changes nothing.

    A name that matches nothing, and an error of `attach`, are parts of it and not raised.
    """
    if not isinstance(model, Module) or not isinstance(method, Method):
        text = "explain takes a model, such as load_base(), and a method such as LoRA(r=8)"
        raise TypeError(f"{text}; got a {type(model).__name__} and {method!r}")
    rows, refused = [], ""
    with disabled(model), dtype(precision(model)):
        matching, unmatched = drop_unmatched_names(model, method)
        try:
            alone = isinstance(matching, Targeted) and not matching.shared
            rows = (matrix_rows if alone else attached_rows)(model, matching)
            if not attached_rows(model, method):
                refused = f"{method} finds nothing to train in this model"
        except ValueError as error:
            refused = str(error)
        sizes = {path: p.data.size for path, p in base_parameters(model)}
    base = sum(sizes.values())
    total = base + sum(row.parameters for row in rows if row.path not in sizes)
    texts = list(warnings(model, method, rows))
    return Explanation(method, rows, unmatched, texts, refused, base, total)


def drop_unmatched_names(model, method):
    """Returns (the method without the names that match nothing, {such a name: suggestion})."""
    if not isinstance(method, Targeted):
        return method, {}
    paths, names, unmatched, options = matrices(model), method.target_modules, [], {}
    names = (names,) if isinstance(names, str) else names
    if names == ("all-linear",):
        targets = targeted(paths, "all-linear")
    else:
        unmatched += [name for name in names if not matches(paths, name)]
        options["target_modules"] = tuple(name for name in names if name not in unmatched)
        targets = set().union(*(matches(paths, name) for name in names))
    for option in ("rank_pattern", "alpha_pattern"):
        table = getattr(method, option, {})
        used = {first_match(table, path) for path in targets}
        if table:
            options[option] = {key: table[key] for key in table if key in used}
        unmatched += [key for key in table if key not in used]
    feedforward = getattr(method, "feedforward_modules", ())
    if feedforward:
        kept = tuple(name for name in feedforward if matches(targets, name))
        options["feedforward_modules"] = kept
        unmatched += [name for name in feedforward if name not in kept]
    return replace(method, **options), {name: suggestion(name, paths) for name in unmatched}


def suggestion(name, paths):
    """Returns what to write in place of a name that matches none of the targets."""
    if matches(paths, name):
        return "it is not among the targets"
    names = last_names(paths)
    same = [here for here in ALIASES.get(name.split(".")[-1], ()) if here in names]
    if len(same) > 1:
        return f"here it is {', '.join(same)}"
    near = same or difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    if near:
        return f"did you mean {' or '.join(map(repr, near))}?"
    return f"the modules are {', '.join(names)}"


def matrix_rows(model, method):
    """Returns a Row for each matrix that a Targeted method changes.

    A matrix that the method does not fit gets a Row too, with the problem.
    """
    rows = []
    if not method.target_modules:
        return rows
    for path, module in method.targets(matrices(model)).items():
        size, parameters, problem = shape(module), 0, ""
        try:
            parameters = method.for_module(path, size).parameters_per_matrix(*size)
        except ValueError as error:
            problem = str(error)
        nbytes = parameters * precision(model).itemsize
        rows.append(Row(path, size, parameters, nbytes, problem))
    with contextlib.suppress(ValueError):  # which `attach` raises too
        rows += copied_rows(model, method)
    return rows


def copied_rows(model, method):
    """Returns a Row for each base parameter of which a copy would train."""
    copies = method.base_parameters_to_copy(model)
    return [Row(path, p.shape, p.data.size, p.data.nbytes) for path, p in copies.items()]


def attached_rows(model, method):
    """Returns a Row for each Delta or copied parameter that `attach` would make.

    Parameters that several Deltas share are counted at the first. Raises ValueError where
    `attach` does.
    """
    rows, seen = [], set()
    for path, delta in method.make_deltas(model, np.random.default_rng(0)).items():
        arrays = [p.data for p in delta.parameters() if id(p) not in seen]
        seen |= {id(p) for p in delta.parameters()}
        rows.append(Row(path, (), sum(a.size for a in arrays), sum(a.nbytes for a in arrays)))
    return rows + copied_rows(model, method)


def group_blocks(rows):
    """Yields (path, number of blocks, Row), equal rows of several blocks once: blocks.0…2.…"""
    groups = {}
    for row in rows:
        path = re.sub(r"\.\d+\.", ".*.", row.path)
        key = path, row.shape, row.parameters, row.problem.replace(row.path, path)
        groups.setdefault(key, []).append(row)
    for (path, *_), equal in groups.items():
        blocks = [int(row.path.split(".")[1]) for row in equal if "*" in path]
        gapless = len(blocks) > 1 and blocks == list(range(blocks[0], blocks[-1] + 1))
        label = f"{blocks[0]}…{blocks[-1]}" if gapless else ",".join(map(str, blocks))
        yield path.replace("*", label), len(equal), equal[0]


def warnings(model, method, rows):
    """Yields one sentence for each setting that is legal but may surprise."""
    config, paths = model.config, {row.path.removesuffix(".weight") for row in rows}
    changed = [path for path in ("wte", "lm_head") if path in paths]
    both = len(changed) == 2 and not isinstance(method, Targeted)
    if config.tied and (method.family == "full" or both):
        yield "the head is tied to the token table: they are one matrix and change together"
    elif config.tied and changed:
        yield (
            f"the head is tied to the token table; {' and '.join(changed)} would change alone, "
            f"and merging unties them: {config.vocab * config.width:,} more parameters"
        )
    if isinstance(method, Targeted):
        groups = group_blocks(rows)
        large = [path for path, _, row in groups if row.parameters >= math.prod(row.shape)]
        if large:
            yield f"trains as many parameters as W has, or more, at {', '.join(large)}: lower r"
    slots = getattr(method, "num_virtual_tokens", 0)
    if slots:
        yield f"virtual tokens take {slots} of the context's {config.context} slots"
    if not method.mergeable:
        yield "it cannot be merged into the base, so it costs time at inference too"


def arguments(parser):
    """Adds the options of `minipeft explain` to its parser."""
    add_method_options(parser)
    parser.add_argument("--base", help="folder of the model (default: the shipped backbone)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def main(options):
    """Runs `minipeft explain`."""
    method = method_from_options(options)
    report = explain(load_model(options.base) if options.base else load_base(), method)
    if not options.json:
        print(report)
        return
    sums = {"method": str(method), "parameters": report.parameters, "bytes": report.bytes}
    print(json.dumps(asdict(report) | sums, ensure_ascii=False))
