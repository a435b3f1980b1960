"""Dataclasses whose fields say what they accept: a Config, a method, the settings of a run.

    @dataclass(frozen=True)
    class Example(Options):
        r: int = option(8, at_least=1)
        dropout: float = option(0.0, at_least=0, below=1)
        norm: str = option("layer", one_of=("layer", "rms"))

Making one checks every field against its type and its range, and raises a ValueError that says
what was given and what is expected.
"""

import math
import types
import typing
from dataclasses import MISSING, field, fields

from .errors import check_known, unknown

KINDS = {int: "a whole number", float: "a finite number", bool: "True or False", str: "a word"}


def option(default=MISSING, *, at_least=None, above=None, below=None, one_of=None, **how):
    """A dataclass field with a range (of the number, or of each in a tuple) or with choices."""
    limits = {"at_least": at_least, "above": above, "below": below, "one_of": one_of}
    return field(default=default, metadata=limits, **how)


class Options:
    """Base of frozen dataclasses that check their fields."""

    def __new__(cls, *_, **values):
        if "__dataclass_fields__" in vars(cls):  # or else it may have an __init__ of its own
            check_known(cls.describe(), values, [field.name for field in fields(cls)])
        return super().__new__(cls)

    @classmethod
    def describe(cls):
        """What one of its fields is called in an error message."""
        return f"option of {cls.__name__}"

    @classmethod
    def from_dict(cls, values):
        """One from a JSON object; ValueError for keys that are unknown or missing."""
        check_known(cls.describe(), values, [field.name for field in fields(cls)])
        for each in fields(cls):
            if each.default is each.default_factory is MISSING and each.name not in values:
                raise ValueError(f"there is no {each.name!r}, which has no default")
        return cls(**values)

    def brief(self):
        """Its class, its size and what is not the default: 'LoRA(r=8, lora_alpha=16)'."""
        shown = []
        for i, each in enumerate(fields(self)):
            value, usual = getattr(self, each.name), each.default
            if usual is MISSING and each.default_factory is not MISSING:
                usual = each.default_factory()
            if value != usual or (i == 0 and type(value) is int):
                value = ",".join(map(str, value)) if isinstance(value, tuple) else value
                shown.append(f"{each.name}={value}")
        return f"{type(self).__name__}({', '.join(shown)})"

    def __post_init__(self):
        for each in fields(self):
            value = plain(getattr(self, each.name))
            object.__setattr__(self, each.name, value)
            check(each, value)


def plain(value):
    """NumPy's numbers and arrays as Python's, lists and sets as tuples."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, (set, frozenset)):
        value = sorted(value)
    return tuple(value) if isinstance(value, list) else value


def check(field, value):
    """Raise ValueError if a value does not fit a field's type, choices and range."""
    choices = field.metadata.get("one_of")
    if choices is not None and value not in choices:
        raise ValueError(unknown(field.name, value, choices))
    if not fits(value, field.type) or not all(in_range(n, field.metadata) for n in each(value)):
        raise ValueError(f"{field.name} must be {expected(field)}, got {value!r}")


def each(value):
    """The values in a tuple or a dict, or the value itself."""
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, tuple) else [value]


def in_range(value, limits):
    """Whether a number lies within a field's limits; what is no number has none."""
    if not isinstance(value, (int, float)):
        return True
    least, above, below = (limits.get(name) for name in ("at_least", "above", "below"))
    return (
        (least is None or value >= least)
        and (above is None or value > above)
        and (below is None or value < below)
    )


def expected(field):
    """What a field accepts, in words: 'a whole number ≥ 1', 'a finite number in [0, 1)'."""
    limits, optional = field.metadata, type(None) in typing.get_args(field.type)
    inner = [kind for kind in KINDS if field.type in (kind, kind | None)]
    words = KINDS[inner[0]] if inner else str(field.type).removesuffix(" | None")
    if field.type == tuple[float, float]:
        words = "two finite numbers"
    least, above, below = (limits.get(name) for name in ("at_least", "above", "below"))
    if below is not None:
        words += f" in [{least}, {below})"
    elif least is not None or above is not None:
        words += f" > {above}" if least is None else f" ≥ {least}"
    return f"{words} or None" if optional else words


def fits(value, kind):
    """Whether a value is of a type as a field's annotation has it."""
    parts, kind = typing.get_args(kind), typing.get_origin(kind) or kind
    if kind is types.UnionType:
        return any(fits(value, part) for part in parts)
    if kind is tuple:
        same = len(parts) == 2 and parts[1] is Ellipsis
        wanted = parts[:1] * len(value) if same and isinstance(value, tuple) else parts
        return (
            isinstance(value, tuple)
            and len(value) == len(wanted)
            and all(map(fits, value, wanted))
        )
    if kind is dict:
        pairs = value.items() if isinstance(value, dict) else [(None, None)]
        return all(all(map(fits, pair, parts)) for pair in pairs)
    if kind in (int, float):
        number = isinstance(value, (int, kind)) and not isinstance(value, bool)
        return number and math.isfinite(value)
    return isinstance(value, kind)
