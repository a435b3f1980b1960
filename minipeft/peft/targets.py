"""Which modules or parameters of a model a method changes, chosen by their names."""

import contextlib
import math
import re
from contextvars import ContextVar
from dataclasses import replace
from fnmatch import fnmatchcase

from ..errors import unknown
from ..model.layers import Embedding, Linear, Site, TiedHead
from .base import Method, base_parameters
from .formula import SYMBOL, Term, evaluate, terms_of_shapes

_held = ContextVar("held", default=0)  # how many values the file has that is being read
TABLES = ("wte", "lm_head")  # which 'all-linear' leaves out, as HF PEFT does


class Targeted(Method):
    """A method that makes one change on each matrix that its `target_modules` name.

    The matrices are those of Linears, the head, and for some methods the token table "wte". A
    name matches the end of a path: "q_proj", "mlp.up_proj", "blocks.0.attn.q_proj"; * stands
    for anything: "blocks.0.*".
    """

    layers_to_transform = None
    embeds = False  # whether it can change the token table
    per_matrix = ""  # equation of the count on one matrix, "r (in + out)", if it has one
    place = "matrices"
    mergeable = True

    def __post_init__(self):
        super().__post_init__()
        for option in ("rank_pattern", "alpha_pattern"):
            for pattern in getattr(self, option, {}):
                if not re.fullmatch(r"[\w.*-]{1,200}", wildcard(pattern)):
                    raise ValueError(
                        f"{option} holds {pattern!r}; expected the end of a module's path, "
                        "with * for anything: 'q_proj', 'blocks.0.*'"
                    )

    def targets(self, matrices):
        """The entries of {path: anything} whose modules it changes.

        Raises ValueError for a name or a pattern that matches none of them.
        """
        chosen = targeted(in_layers(matrices, self.layers_to_transform), self.target_modules)
        if "wte" in chosen and not self.embeds:
            kind = type(self).__name__
            raise ValueError(f"{kind} has no form for the token table; leave out wte")
        for option in ("rank_pattern", "alpha_pattern"):
            check_pattern(option, getattr(self, option, {}), chosen)
        return chosen

    def for_module(self, path, shape):
        """The method with the options that it has at one module, whose matrix is (out, in).

        Raises ValueError if the matrix is too small for them.
        """
        return self

    def fitting(self, matrices):
        """`targets` of {path: module or shape (out, in)}, each checked by `for_module`."""
        targets = self.targets(matrices)
        for path, m in targets.items():
            self.for_module(path, m if isinstance(m, tuple) else shape(m))
        return targets

    def formula(self, n_out, n_in):
        """(equation of the count on one matrix (out, in), {symbol: its value})."""
        if not self.per_matrix:
            return "each", {"each": self.parameters_per_matrix(n_out, n_in)}
        return self.per_matrix, {"out": n_out, "in": n_in, "r": getattr(self, "r", 0)}

    def parameters_per_matrix(self, n_out, n_in):
        """How many parameters it trains on one matrix (out, in)."""
        return evaluate(*self.formula(n_out, n_in))

    def delta(self, layer, rng):
        """The Delta of one layer, its initial values drawn from `rng`."""
        raise NotImplementedError

    def terms(self, config):
        groups = {}  # {(equation, values of its symbols): paths}
        for path, shape in self.targets(config.target_shapes).items():
            equation, values = self.for_module(path, shape).formula(*shape)
            used = {name: values[name] for name in SYMBOL.findall(equation)}
            groups.setdefault((equation, tuple(used.items())), []).append(path)
        return [Term(grid(paths), text, dict(used)) for (text, used), paths in groups.items()]

    def make_deltas(self, model, rng):
        targets = self.targets(matrices(model))
        methods = {path: self.for_module(path, shape(m)) for path, m in targets.items()}
        return {path: methods[path].delta(m, rng) for path, m in targets.items()}


class Selective(Method):
    """A method that trains private copies of those base parameters that `chooses` picks."""

    family = "selective"
    mergeable = True

    def chooses(self, path, layers):
        """Whether a parameter trains, given its path and the model's number of layers."""
        raise NotImplementedError

    def chosen(self, config):
        """{path: shape} of what trains in a model of this Config."""
        shapes, layers = config.parameter_shapes, config.layers
        return {path: shapes[path] for path in shapes if self.chooses(path, layers)}

    def terms(self, config):
        return terms_of_shapes(list(self.chosen(config).values()))

    def count_new(self, config):
        new = [
            s for path, s in self.chosen(config).items() if path not in config.parameter_shapes
        ]
        return sum(map(math.prod, new))

    def base_parameters_to_copy(self, model):
        layers = len(model.blocks)
        return {path: p for path, p in base_parameters(model) if self.chooses(path, layers)}


def grid(paths):
    """How often a Term counts for these paths: {"layer": n, "target": k} where that is even."""
    blocks = {number[1] for path in paths if (number := re.search(r"\.(\d+)\.", path))}
    kinds = {re.sub(r"\.\d+\.", ".*.", path) for path in paths}
    if blocks and len(blocks) * len(kinds) == len(paths):
        return {"layer": len(blocks), "target": len(kinds)}
    return {"target": len(paths)}


def linears(model):
    """The Linear layers of a model, {path: Linear}."""
    return {path: m for path, m in model.named_modules() if isinstance(m, Linear)}


def matrices(model):
    """The modules that compute with one matrix: Linears, the head, the token table."""
    kinds = Linear, TiedHead
    modules = {path: m for path, m in model.named_modules() if isinstance(m, kinds)}
    return {"wte": model.wte} | modules


def weight(module):
    """The Parameter that a Linear, a head or an Embedding computes with."""
    return module.table if isinstance(module, TiedHead) else module.weight


def shape(module):
    """(out, in) of a module's matrix; that of an Embedding maps one-hot tokens to vectors."""
    size = weight(module).shape
    return size[::-1] if isinstance(module, Embedding) else size


def targeted(layers, targets):
    """The entries of {path: anything} that target_modules name; 'all-linear' is all in blocks.

    Raises ValueError for a name that matches nothing, with the nearest that exist.
    """
    if targets == "all-linear":
        return {path: m for path, m in layers.items() if path.split(".")[-1] not in TABLES}
    return matching(layers, (targets,) if isinstance(targets, str) else targets)


def matching(modules, names):
    """The entries of {path: module} whose path is, or ends in, one of the names.

    Raises ValueError for a name that matches nothing, with the nearest that exist.
    """
    matched = set()
    for name in dict.fromkeys(names):
        paths = matches(modules, name) if len(name) <= 200 else ()
        if not paths:
            raise ValueError(unknown("target module", name, last_names(modules)))
        matched |= paths
    if not matched:
        raise ValueError("no target modules were named; name some, or use 'all-linear'")
    return {path: m for path, m in modules.items() if path in matched}


def last_names(paths):
    """The different last parts of some paths, sorted: ['down_proj', 'k_proj', …]."""
    return sorted({path.split(".")[-1] for path in paths})


def matches(paths, name):
    """The paths that are, or end in, a name, in which * stands for anything."""
    return {path for path in paths if fnmatchcase(f".{path}", f"*.{name}")}


def in_layers(modules, numbers):
    """The entries of {path: anything} in the blocks of these indices; all for None or ()."""
    wanted = {numbers} if isinstance(numbers, int) else set(numbers or ())
    if not wanted:
        return modules
    layer = {path: int(n[1]) for path in modules if (n := re.search(r"\.(\d+)\.", path))}
    for number in sorted(wanted - set(layer.values())):
        last = max(layer.values())
        raise ValueError(f"layers_to_transform names layer {number}; there are 0 … {last}")
    return {path: m for path, m in modules.items() if layer.get(path) in wanted}


def first_match(patterns, path):
    """The first key of {pattern: value} that matches the end of a path, or None.

    A pattern is a name, or several, with * for anything: "q_proj", "blocks.0.*", "*attn*".
    """
    whole = f".{path}"
    return next((key for key in patterns if fnmatchcase(whole, f"*.{wildcard(key)}")), None)


def wildcard(pattern):
    """A pattern whose only special character is *.

    HF PEFT takes regular expressions, which may run for ever. Those that people use there say
    no more than a * can: "^model.layers.0", ".*attn.*", "q_proj$".
    """
    return pattern.removeprefix("^").removesuffix("$").replace(".*", "*").replace("\\.", ".")


def check_pattern(option, table, paths):
    """Raises ValueError for a pattern that is not the first match of any path."""
    used = {first_match(table, path) for path in paths}
    for key in table.keys() - used:
        raise ValueError(unknown(f"module in {option}", key, last_names(paths)))


def patterned(method, path, alpha=None):
    """The method with the r and α that its patterns give a module.

    `alpha` names the option that is α, in a method that has one.
    """
    patterns = {"r": "rank_pattern"} | ({alpha: "alpha_pattern"} if alpha else {})
    tables = {option: getattr(method, pattern) for option, pattern in patterns.items()}
    own = {option: table.get(first_match(table, path)) for option, table in tables.items()}
    own = {option: value for option, value in own.items() if value is not None}
    return replace(method, **own, **{pattern: {} for pattern in patterns.values()})


def check_rank(path, r, shape):
    """Raises ValueError if a matrix (out, in) cannot have this rank."""
    if r > min(shape):
        raise ValueError(
            f"r = {r} is more than {path} can use: a {tuple(shape)} weight "
            f"has rank ≤ {min(shape)}; lower r or leave {path} out"
        )


def check_factors(path, r, shape):
    """Raises ValueError as `check_rank` does, but not for factors that a file holds already.

    A rank above that of the matrix wastes memory, and computes no other numbers.
    """
    if r * sum(shape) > _held.get():
        check_rank(path, r, shape)


@contextlib.contextmanager
def any_rank(values):
    """Inside the block, factors of any rank pass that are among so many values of a file."""
    token = _held.set(values)
    try:
        yield
    finally:
        _held.reset(token)


def room_for(slots, context):
    """Raises ValueError if so many virtual tokens leave no room for text."""
    if slots >= context:
        raise ValueError(f"{slots} virtual tokens fill a context of {context}; use fewer")


def sites(model):
    """The Sites of a model, where a function may be replaced, {path: Site}."""
    return {path: m for path, m in model.named_modules() if isinstance(m, Site)}
