"""Dataclasses that check their fields: a Config, a method, the settings of a training run.

    @dataclass(frozen=True)
    class Example(Options):
        r: int = option(8, at_least=1)
        dropout: float = option(0.0, at_least=0, below=1)
        norm: str = option("layer", one_of=("layer", "rms"))

Creating an instance checks the value of every field against the field's type and range, and
raises a ValueError that says what was given and what was expected.
"""

import sys
import types
import typing
from dataclasses import MISSING, field, fields

from .errors import check_known, to_python, unknown

KINDS = {
    int: "a whole number",
    float: "a finite number",
    bool: "True or False",
    str: "a string",
}


def option(
    default=MISSING, *, at_least=None, above=None, below=None, at_most=None, one_of=None, **how
):
    """Returns a dataclass field with a range or with choices; `how` goes to dataclasses.field.

    The range holds for a number, and for each number in a tuple or dict.
    """
    limits = {"at_least": at_least, "above": above, "below": below, "at_most": at_most}
    return field(default=default, metadata=limits | {"one_of": one_of}, **how)


class Options:
    """Base class of frozen dataclasses that check their fields."""

    def __new__(cls, *_, **values):
        if "__dataclass_fields__" in vars(cls):  # a subclass may have an __init__ of its own
            check_known(cls.field_label(), values, [field.name for field in fields(cls)])
        return super().__new__(cls)

    @classmethod
    def field_label(cls):
        """Returns what an error message calls one of the fields: 'option of LoRA'."""
        return f"option of {cls.__name__}"

    @classmethod
    def from_dict(cls, values):
        """Returns an instance from a JSON object {name of a field: value}.

        Raises ValueError for an unknown key, a missing one, or a bad value.
        """
        check_known(cls.field_label(), values, [field.name for field in fields(cls)])
        for f in fields(cls):
            if f.default is f.default_factory is MISSING and f.name not in values:
                raise ValueError(f"there is no {f.name!r}, which has no default")
        return cls(**values)

    def brief(self):
        """Returns its class, its size and what is not the default: 'LoRA(r=8, lora_alpha=16)'.

        The size is the first field, if that is a whole number.
        """
        shown = []
        for i, f in enumerate(fields(self)):
            value, default = getattr(self, f.name), f.default
            if default is MISSING and f.default_factory is not MISSING:
                default = f.default_factory()
            if value != default or (i == 0 and type(value) is int):
                value = ",".join(map(str, value)) if isinstance(value, tuple) else value
                shown.append(f"{f.name}={value}")
        return f"{type(self).__name__}({', '.join(shown)})"

    def __post_init__(self):
        for f in fields(self):
            value = to_python(getattr(self, f.name))
            object.__setattr__(self, f.name, value)
            check_field(f, value)


def check_field(field, value):
    """Raises ValueError if a value does not fit a field's type, choices or range."""
    choices = field.metadata.get("one_of")
    if choices is not None and value not in choices:
        raise ValueError(unknown(field.name, value, choices))
    right_type = has_type(value, field.type)
    if not right_type or not all(in_range(n, field.metadata) for n in elements(value)):
        raise ValueError(f"{field.name} must be {expected(field)}, got {value!r}")


def elements(value):
    """Returns the values in a tuple or a dict, or the value itself in a list."""
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, tuple) else [value]


def in_range(value, limits):
    """Returns whether a number lies within the limits of a field; True if it is no number."""
    if not isinstance(value, (int, float)):
        return True
    least, above, below, most = map(limits.get, ("at_least", "above", "below", "at_most"))
    return (
        (least is None or value >= least)
        and (above is None or value > above)
        and (below is None or value < below)
        and (most is None or value <= most)
    )


def expected(field):
    """Returns what a field accepts, in words: 'a whole number ≥ 1', 'a finite number > 0'."""
    limits, optional = field.metadata, type(None) in typing.get_args(field.type)
    matching = [kind for kind in KINDS if field.type in (kind, kind | None)]
    words = KINDS[matching[0]] if matching else str(field.type).removesuffix(" | None")
    if field.type == tuple[float, float]:
        words = "two finite numbers"
    least, above, below, most = map(limits.get, ("at_least", "above", "below", "at_most"))
    if below is not None:
        words += f" in [{least}, {below})"
    elif most is not None:
        words += f" in [{least}, {most}]" if above is None else f" in ({above}, {most}]"
    elif least is not None or above is not None:
        words += f" > {above}" if least is None else f" ≥ {least}"
    return f"{words} or None" if optional else words


def has_type(value, annotation):
    """Returns whether a value is of the type that the annotation of a field says.

    Unlike isinstance: a whole number counts as a float, but True, inf and NaN do not.
    """
    parts, kind = typing.get_args(annotation), typing.get_origin(annotation) or annotation
    if kind is types.UnionType:
        return any(has_type(value, part) for part in parts)
    if kind is tuple:
        any_length = len(parts) == 2 and parts[1] is Ellipsis
        types_of = parts[:1] * len(value) if any_length and isinstance(value, tuple) else parts
        return (
            isinstance(value, tuple)
            and len(value) == len(types_of)
            and all(map(has_type, value, types_of))
        )
    if kind is dict:
        pairs = value.items() if isinstance(value, dict) else [(None, None)]
        return all(all(map(has_type, pair, parts)) for pair in pairs)
    if kind in (int, float):
        number = isinstance(value, (int, kind)) and not isinstance(value, bool)
        return number and (kind is int or abs(value) <= sys.float_info.max)
    return isinstance(value, kind)
