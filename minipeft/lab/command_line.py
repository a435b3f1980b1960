"""The options of a command that choose a method: --method, --targets, --r and --set.

minipeft explain --method lora --targets q_proj,v_proj --r 4 --set lora_alpha=16
"""

import json

from ..errors import unknown
from ..peft.methods import METHODS


def method_arguments(parser):
    """Add the options that choose a method to a command."""
    parser.add_argument("--method", default="lora", help=f"of {', '.join(METHODS)}")
    text = "comma-separated names of modules, or all-linear (default: the method's own)"
    parser.add_argument("--targets", help=text)
    parser.add_argument("--r", type=int, help="the rank (default: the method's own)")
    text = "another hyper-parameter, its value as JSON; repeat for more"
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help=text)


def chosen_method(options, *others):
    """The method that the options choose; ValueError for what it does not have or cannot be.

    others: what the command takes in place of a method, to be named as well.
    """
    if options.method not in METHODS:
        raise ValueError(unknown("method", options.method, [*METHODS, *others]))
    values = dict(setting(text) for text in options.set)
    if options.targets is not None:
        names = tuple(name.strip() for name in options.targets.split(",") if name.strip())
        values["target_modules"] = names[0] if names == ("all-linear",) else names
    if options.r is not None:
        values["r"] = options.r
    return METHODS[options.method].from_dict(values)


def setting(text):
    """(name, value) of 'name=value', the value as JSON or else as it is."""
    name, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"--set takes NAME=VALUE, such as lora_alpha=16, got {text!r}")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value
