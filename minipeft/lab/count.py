"""Counts the parameters that a method trains, from sizes alone: no model is built.

minipeft count llama-2-7b --method lora --r 16 --targets q_proj,v_proj
minipeft count --layers 32 --width 4096 --ffn 11008 --vocab 32000 --heads 32 --method ia3
minipeft count --papers

A model is a preset by name, or else its sizes: of Llama's shape, of --shape gpt2, or of what
--norm, --position, --mlp, --bias and --tied make of them. Papers give the trainable share in %
of the base, or in % of the total of the base and what the method adds; both are printed. A
model with an encoder and a decoder, such as T5, counts the blocks of both as layers, and a
prompt for one of the two.
"""

import argparse
import json
from dataclasses import dataclass

from ..errors import unknown
from ..model.config import CHOICES, Config
from ..peft.base import Method
from ..peft.targets import room_for
from . import papers
from .command_line import add_method_options, method_from_options
from .presets import PRESETS, architecture

SIZES = {
    "layers": "number of blocks",
    "width": "length of a token's vector",
    "heads": "query heads in a block",
    "vocab": "number of different tokens",
    "kv_heads": "key and value heads in a block (default: as many as query heads)",
    "ffn": "hidden width of an MLP (default: 4 times the width)",
    "context": "longest sequence, needed where positions are learned",
}
NEEDED = ("layers", "width", "heads", "vocab")
MODEL_OPTIONS = (*SIZES, *CHOICES, "bias", "tied", "shape")
MAX_LAYERS = 1000  # a count lists the parameters of every block
JSON_KEYS = ("trainable", "base", "percent_of_base", "percent_of_total", "formula")


@dataclass(frozen=True)
class Count:
    """How many parameters a method trains, and the equation that the count comes from."""

    trainable: int
    base: int  # parameters of the model without the method
    total: int  # parameters of the model with the method
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
    """Returns the Count of a method on a model: a Transformer, its Config, or a preset's name.

    Raises ValueError where `attach` does: for target modules that match nothing, a rank that
    does not fit, virtual tokens that fill the context, or a method with nothing to train.
    """
    model = architecture(model) if isinstance(model, str) else getattr(model, "config", model)
    if not hasattr(model, "target_shapes") or not isinstance(method, Method):
        text = "count takes a Transformer, a Config or a preset's name, and a method"
        raise TypeError(f"{text} such as LoRA(r=8); got {model!r} and {method!r}")
    trainable = method.count(model)
    if not trainable:
        raise ValueError(f"{method.brief()} finds nothing to train in this model")
    if model.context is not None:
        room_for(getattr(method, "num_virtual_tokens", 0), model.context)
    total = model.size + method.count_new(model)
    return Count(trainable, model.size, total, formula(method, model))


def formula(method, config):
    """Returns the equation of a method's count on a Config or Architecture, as text.

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
    """Adds the options of `minipeft count` to its parser."""
    add_model_options(parser)
    add_method_options(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    text = "recompute counts that papers print, instead of counting one model"
    parser.add_argument("--papers", action="store_true", help=text)


def add_model_options(parser):
    """Adds the options that name or describe a model to the parser of a command."""
    parser.add_argument("preset", nargs="?", help=f"name of a model: {', '.join(PRESETS)}")
    text = "the same as an option; `ledger` takes the presets of GPT-2's and Llama's shape only"
    parser.add_argument("--model", "--preset", dest="model", help=text)
    for name, text in SIZES.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, metavar="N", help=text)
    parser.add_argument("--shape", help="llama (default) or gpt2, which needs --context")
    for name, choices in CHOICES.items():
        parser.add_argument(f"--{name}", help=f"{' or '.join(choices)} (default: the shape's)")
    for name, text in (("bias", "biases in linear layers"), ("tied", "head tied to the table")):
        action = argparse.BooleanOptionalAction
        parser.add_argument(f"--{name}", action=action, default=None, help=text)


def main(options):
    """Runs `minipeft count`."""
    names, sizes = preset_names(options), model_options(options)
    if options.papers:
        if names or sizes:
            raise ValueError("--papers has models of its own; leave out preset and sizes")
        rows = list(papers.rows())
        print(json.dumps(rows, ensure_ascii=False) if options.json else papers.table())
        return
    method = method_from_options(options)
    result = count(model_from_options(options), method)
    if options.json:
        print(json.dumps({key: getattr(result, key) for key in JSON_KEYS}, ensure_ascii=False))
        return
    model = ", ".join(f"{name}={value}" for name, value in sizes.items()) or names[0]
    print(f"{model}\n{method.brief()}\n{result}")


def preset_names(options):
    """Returns the presets that parsed options name, as an argument or by --model."""
    return [name for name in (options.preset, options.model) if name is not None]


def model_options(options):
    """Returns the sizes and choices that parsed options give a model, {name: value}."""
    values = {name: getattr(options, name) for name in MODEL_OPTIONS}
    return {name: value for name, value in values.items() if value is not None}


def model_from_options(options):
    """Returns the Config or Architecture that parsed options name or describe.

    Raises ValueError if they do both or neither, and for sizes that do not fit together.
    """
    names, sizes = preset_names(options), model_options(options)
    if len(names) + bool(sizes) != 1:
        raise ValueError(
            "name one preset or give a model's sizes: --layers --width --heads --vocab …; "
            f"the presets are {', '.join(PRESETS)}"
        )
    return config_from_sizes(**sizes) if sizes else architecture(names[0])


def config_from_sizes(shape="llama", **sizes):
    """Returns the Config of a shape with these sizes and choices.

    Raises ValueError if a size is missing, too large, or does not fit the others.
    """
    if shape not in ("llama", "gpt2"):
        raise ValueError(unknown("shape", shape, ("llama", "gpt2")))
    position = sizes.get("position", "learned" if shape == "gpt2" else "rope")
    for name in (*NEEDED, "context") if position == "learned" else NEEDED:
        if name not in sizes:
            raise ValueError(
                f"--{name} is missing; a model by sizes needs --layers, --width, --heads, "
                "--vocab, and --context where positions are learned"
            )
    if sizes["layers"] > MAX_LAYERS:
        raise ValueError(f"--layers {sizes['layers']} is more than {MAX_LAYERS:,}; give fewer")
    return getattr(Config, shape)(**{"context": 2**20} | sizes)
