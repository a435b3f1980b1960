"""What a method of fine-tuning is made of: Method, Delta and Adapter.

A Method turns a frozen function f into Δ(f). Its `build` gives one Delta for each Site that it
sits on; its `trains` names base parameters of which it trains private copies instead.
An Adapter is one method on one model, under a name: `attaching` puts it there, `merging` folds
it into the weights.

He et al. 2022, "Towards a Unified View of Parameter-Efficient Transfer Learning",
arXiv:2110.04366
"""

import math
import types
import typing
from dataclasses import fields

from ..errors import check_known, unknown
from ..model.layers import Module

PLAIN = {int: "a whole number", float: "a finite number", bool: "true or false", str: "a word"}


class Delta(Module):
    """One change at one site, which then computes delta(f, *args) in place of f(*args)."""

    def merged(self, site):
        """The site's parameters with this change folded in, {attribute: array}.

        Raises ValueError if no choice of parameters computes the same, which is the default.
        """
        raise ValueError("its change is not a change of weights")

    def saved(self):
        """The arrays that an adapter's file keeps, {name: array}: all that do not fold away."""
        return {name: p.data for name, p in self.named_parameters()}

    def state(self):
        """The arrays beside what trains that a run under way goes on from, {name: array}."""
        return {}


class Method:
    """A way of fine-tuning: a dataclass of hyper-parameters that knows where it sits."""

    family = ""  # of which kind it is: full, selective, lora, adapter or prompt
    peft_type = ""  # its name in an adapter's file
    hf_flag = ""  # an option that is true there, by which methods of one name are told apart
    hf_modules = ()  # its arrays that HF PEFT calls "….weight"
    mergeable = False  # whether merging is possible

    def __new__(cls, *_, **options):
        if "__dataclass_fields__" in vars(cls):  # or else it may have an __init__ of its own
            names = [field.name for field in fields(cls)]
            check_known(f"option of {cls.__name__}", options, names)
        return super().__new__(cls)

    def __post_init__(self):
        for field in fields(self):
            given = getattr(self, field.name)
            if hasattr(given, "tolist"):  # NumPy's numbers and arrays
                given = given.tolist()
            if isinstance(given, list):  # as JSON has it, and many write it
                given = tuple(given)
            object.__setattr__(self, field.name, given)
            if not fits(given, field.type):
                kind = PLAIN.get(field.type, field.type)
                raise ValueError(f"{field.name} must be {kind}, got {given!r}")

    def count(self, config):
        """How many numbers it trains on a model of this Config, without building either."""
        raise NotImplementedError

    def export_form(self):
        """The method as a saved file has it, without networks that fold away."""
        return self

    def make_deltas(self, model, rng):
        """The changes to make, {path of a Site: Delta}, initial values drawn from `rng`."""
        return {}

    def base_parameters_to_copy(self, model):
        """The base parameters of which private copies are trained, {path: Parameter}."""
        return {}

    def before_step(self, adapter, step, steps):
        """Called before update `step` = 1 … `steps`: adds gradients of its own.

        Raises ValueError for a run that is too short for the method.
        """

    def after_step(self, adapter, step, steps, scale=1.0):
        """Called after that update, by the gradients still there times `scale`; returns the
        ranks to note.
        """
        return {}

    @classmethod
    def from_dict(cls, values):
        """The method with these hyper-parameters; a wrong name raises with near matches."""
        return cls(**values)


def fits(given, kind):
    """Whether a value is of a type as a hyper-parameter's annotation has it."""
    parts, kind = typing.get_args(kind), typing.get_origin(kind) or kind
    if kind is types.UnionType:
        return any(fits(given, part) for part in parts)
    if kind is tuple:
        return isinstance(given, tuple) and all(fits(item, parts[0]) for item in given)
    if kind is dict:
        pairs = given.items() if isinstance(given, dict) else [(None, None)]
        return all(all(map(fits, pair, parts)) for pair in pairs)
    if kind in (int, float):
        number = isinstance(given, (int, kind)) and not isinstance(given, bool)
        return number and math.isfinite(given)
    return isinstance(given, kind)


class Adapter:
    """A method attached to a model under a name."""

    def __init__(self, name, method, deltas, copies):
        self.name, self.method = name, method
        self.deltas = deltas  # {path: Delta}
        self.copies = copies  # {path: Parameter}
        self.places = {}  # {path: Module} that has the deltas and copies, once attached
        self.replaced = {}  # {path: the base's Parameter}, while the copies are in use

    def named_parameters(self):
        """(path, Parameter) for all that it trains; one shared by many sites at its first."""
        seen = set()
        for path, delta in self.deltas.items():
            for name, p in delta.named_parameters():
                if id(p) not in seen:
                    seen.add(id(p))
                    yield f"{path}.{name}", p
        yield from self.copies.items()

    def parameters(self):
        """All that this adapter trains."""
        return [p for _, p in self.named_parameters()]

    def saved(self):
        """The arrays that an adapter's file keeps, {path: array}; a shared one at its first."""
        arrays = {}  # {id: (path, array)}
        for path, delta in self.deltas.items():
            for name, array in delta.saved().items():
                arrays.setdefault(id(array), (f"{path}.{name}", array))
        return dict(arrays.values()) | {path: p.data for path, p in self.copies.items()}

    @property
    def count(self):
        """How many numbers it trains."""
        return sum(p.data.size for p in self.parameters())

    def __repr__(self):
        return f"Adapter({self.name!r}, {self.method}, {self.count:,} trainable numbers)"


def adapters(model):
    """The adapters attached to a model, {name: Adapter}, in the order in which they came."""
    return vars(model).setdefault("adapters", {})


def in_use(model):
    """The adapters in use, innermost first: {name: rows that see it (B,), or None for all}."""
    return vars(model).setdefault("adapters_in_use", {})


def check_rows(model, parts):
    """Raise ValueError for parts of a batch for whose rows adapters were chosen by `use`."""
    if parts > 1 and any(rows is not None for rows in in_use(model).values()):
        raise ValueError(
            "adapters were chosen for the rows of a batch, so it must be read whole; "
            "use accumulate=1 and workers=1"
        )


def base_parameters(model):
    """(path, Parameter) of the base as it is with every adapter switched off."""
    originals, added = {}, set()
    for adapter in adapters(model).values():
        originals |= adapter.replaced
        added |= {id(p) for delta in adapter.deltas.values() for p in delta.parameters()}
    named = [(path, p) for path, p in model.named_parameters() if id(p) not in added]
    named = [(path, originals.get(path, p)) for path, p in named]
    return [(path, p) for path, p in named if p is not None]  # a tied head has none of its own


def find(model, name):
    """The adapter of that name, or a ValueError that lists those there are."""
    if name not in adapters(model):
        raise ValueError(unknown("adapter", name, adapters(model) or ["none attached"]))
    return adapters(model)[name]


def precision(model):
    """The floating-point type of the base."""
    return base_parameters(model)[0][1].dtype
