"""Command-line options that choose a method: --method, --targets, --r and --set.

minipeft explain --method lora --targets q_proj,v_proj --r 4 --set lora_alpha=16
"""

import json
from dataclasses import replace

from ..errors import unknown
from ..peft.methods import METHODS, LoRA


def add_method_options(parser):
    """Adds --method, --targets, --r and --set to the parser of a command."""
    text = f"one of {', '.join(METHODS)} (default: %(default)s)"
    parser.add_argument("--method", default="lora", help=text)
    text = "module names, separated by commas, or all-linear (default: the method's own)"
    parser.add_argument("--targets", help=text)
    parser.add_argument("--r", type=int, help="rank (default: the method's own)")
    text = "any other hyper-parameter, its value as JSON; may be repeated"
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help=text)


def method_from_options(options, *alternatives):
    """Returns the Method that parsed options describe.

    alternatives: what the command accepts for --method besides methods; errors list it too.
    Raises ValueError for an unknown method, for a hyper-parameter that the method does not
    have, and for a value outside of its range.
    """
    if options.method not in METHODS:
        raise ValueError(unknown("method", options.method, [*METHODS, *alternatives]))
    values = dict(parse_setting(text) for text in options.set)
    if options.targets is not None:
        values["target_modules"] = names_of_targets(options.targets)
    if options.r is not None:
        values["r"] = options.r
    return METHODS[options.method].from_dict(values)


def names_of_targets(text):
    """Returns the target_modules of an option: names with commas, or all-linear."""
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    return names[0] if names == ("all-linear",) else names


def with_targets(method, targets):
    """Returns a method on other target modules, if its own are only an example.

    LoRA and its relatives have an example as their default, to be chosen anew for each model.
    Those of (IA)³ are its definition, and stay.
    """
    if getattr(method, "target_modules", None) != LoRA().target_modules:
        return method
    return replace(method, target_modules=targets)


def parse_setting(text):
    """Returns (name, value) of 'name=value'; a value that is not JSON is taken as a string.

    Raises ValueError if there is no "=".
    """
    name, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"--set takes NAME=VALUE, such as lora_alpha=16, got {text!r}")
    try:
        return name, json.loads(value)
    except (ValueError, RecursionError):
        return name, value
