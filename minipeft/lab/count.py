"""Counts the parameters that a method trains, on a model that need not be built.

minipeft count llama-2-7b --method lora --r 16 --targets q_proj,v_proj
minipeft count --layers 32 --width 4096 --ffn 11008 --vocab 32000 --heads 32 --method ia3
minipeft count --papers

A model is a preset by name, or else by its sizes: Llama's shape, or --shape gpt2, or what
--norm, --position, --mlp, --bias and --tied make of them. The share of what trains is given of
the base, and of the total of the base and what a method adds to it: papers print the one or the
other. In a model of two halves, such as T5, the blocks of both are layers, and a prompt is
counted for one half.
"""

import argparse
import json
from dataclasses import dataclass

from ..errors import unknown
from ..model.config import CHOICES, Config
from ..peft.targets import room_for
from .command_line import chosen_method, method_arguments
from .papers import rows, table
from .presets import PRESETS, architecture

SIZES = {
    "layers": "blocks",
    "width": "length of the vector of a token",
    "heads": "of queries",
    "vocab": "number of different tokens",
    "kv_heads": "of keys and values (default: as many)",
    "ffn": "hidden width of an MLP (default: 4 times the width)",
    "context": "the longest sequence, needed where positions are learned",
}
NEEDED = ("layers", "width", "heads", "vocab")
SHAPE = (*SIZES, *CHOICES, "bias", "tied", "shape")
MOST_LAYERS = 1000
KEYS = ("trainable", "base", "percent_of_base", "percent_of_total", "formula")


@dataclass(frozen=True)
class Count:
    """How many parameters train, and the equation that the count comes from."""

    trainable: int
    base: int  # parameters of the model without the method
    total: int  # and with it
    formula: str

    @property
    def percent_of_base(self):
        """100 · trainable / base."""
        return 100 * self.trainable / self.base

    @property
    def percent_of_total(self):
        """100 · trainable / total."""
        return 100 * self.trainable / self.total

    def __str__(self):
        rows = {
            "trains": f"{self.trainable:,} parameters",
            "": f"{self.percent_of_base:.4g} % of the base's {self.base:,}",
            " ": f"{self.percent_of_total:.4g} % of the total of {self.total:,}",
            "formula": self.formula,
            "bytes": f"{4 * self.trainable:,} as float32, and {12 * self.trainable:,} for "
            "gradients and AdamW's moments",
        }
        return "\n".join(f"  {name:<9}{text}" for name, text in rows.items())


def count(model, method):
    """The Count of a method on a model, given as a Config or as a preset's Architecture.

    Nothing is built. ValueError, as `attach` would raise, for targets that do not exist, a rank
    that does not fit, or where nothing would train.
    """
    trainable = method.count(model)
    if not trainable:
        raise ValueError(f"{method.brief()} finds nothing to train in this model")
    if model.context is not None:
        room_for(getattr(method, "num_virtual_tokens", 0), model.context)
    total = model.size + method.count_new(model)
    return Count(trainable, model.size, total, formula(method, model))


def formula(method, config):
    """The equation of what a method trains on a model of this Config or Architecture.

    r (in + out) a target = 32 layers · 2 targets · 16 (4,096 + 4,096) = 8,388,608
    """
    terms = method.terms(config)
    units = {unit for term in terms for unit in term.times}
    if units == {"tensor"}:
        symbols = "the sizes of all that trains"
    elif "target" in units:
        symbols = " or ".join(dict.fromkeys(term.equation for term in terms)) + " a target"
    else:
        symbols = " + ".join(" a ".join([t.equation, *list(t.times)[-1:]]) for t in terms)
    total = sum(term.count for term in terms)
    return f"{symbols} = {' + '.join(map(str, terms)) or 0} = {total:,}"


def arguments(parser):
    """What `minipeft count` understands."""
    model_arguments(parser)
    method_arguments(parser)
    parser.add_argument("--json", action="store_true", help="as one JSON object")
    parser.add_argument("--papers", action="store_true", help="check published figures instead")


def model_arguments(parser):
    """Add the options that name or describe a model to a command."""
    parser.add_argument("preset", nargs="?", help=f"a model: {', '.join(PRESETS)}")
    text = "the same as an option: `count` has all, `ledger` those of GPT-2's or Llama's shape"
    parser.add_argument("--model", "--preset", dest="model", help=text)
    for name, text in SIZES.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, metavar="N", help=text)
    parser.add_argument("--shape", help="llama (default) or gpt2, which needs --context")
    for name, options in CHOICES.items():
        parser.add_argument(f"--{name}", help=f"{' or '.join(options)} (default: the shape's)")
    for name, text in (("bias", "biases in linear layers"), ("tied", "head tied to the table")):
        kind = argparse.BooleanOptionalAction
        parser.add_argument(f"--{name}", action=kind, default=None, help=text)


def main(options):
    """Run `minipeft count`."""
    if options.papers:
        if named(options) or sizes_of(options):
            raise ValueError("--papers has models of its own; leave out preset and sizes")
        print(json.dumps(list(rows()), ensure_ascii=False) if options.json else table())
        return
    method = chosen_method(options)
    found = count(chosen_model(options), method)
    if options.json:
        print(json.dumps({key: getattr(found, key) for key in KEYS}, ensure_ascii=False))
    else:
        sizes = ", ".join(f"{name}={value}" for name, value in sizes_of(options).items())
        print(f"{sizes or named(options)[0]}\n{method.brief()}\n{found}")


def named(options):
    """The presets that the options name, as an argument or by --model."""
    return [name for name in (options.preset, options.model) if name is not None]


def sizes_of(options):
    """The sizes and choices of a model that the options give, {name: value}."""
    given = {name: getattr(options, name) for name in SHAPE}
    return {name: value for name, value in given.items() if value is not None}


def chosen_model(options):
    """The Config or Architecture that the options name or describe."""
    names, sizes = named(options), sizes_of(options)
    if len(names) + bool(sizes) != 1:
        raise ValueError(
            "name one preset or give a model's sizes: --layers --width --heads --vocab …; "
            f"the presets are {', '.join(PRESETS)}"
        )
    return by_sizes(**sizes) if sizes else architecture(names[0])


def by_sizes(shape="llama", **sizes):
    """The Config of a shape and sizes; ValueError if one is missing or they do not fit."""
    if shape not in ("llama", "gpt2"):
        raise ValueError(unknown("shape", shape, ("llama", "gpt2")))
    learned = sizes.get("position", "learned" if shape == "gpt2" else "rope") == "learned"
    for name in (*NEEDED, "context") if learned else NEEDED:
        if name not in sizes:
            raise ValueError(
                f"--{name} is missing; a model by sizes needs --layers, --width, --heads, "
                "--vocab, and --context where positions are learned"
            )
    if sizes["layers"] > MOST_LAYERS:
        raise ValueError(f"--layers {sizes['layers']} is more than {MOST_LAYERS:,}")
    return getattr(Config, shape)(**{"context": 2**20} | sizes)
