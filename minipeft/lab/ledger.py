"""Where the bytes and FLOPs of fine-tuning go, for a model or a Config that is never built.

minipeft ledger --model llama-2-7b --method lora --r 16 --targets q_proj,v_proj --seq 512
minipeft ledger --model llama-2-7b --method lora --policy bf16 --base-bits 4 --json
minipeft ledger --model llama-2-7b --seq 512 --plot memory.png

--method frozen trains nothing. Bytes are those of this package's own arrays, less those that
live only inside an op; FLOPs are those of the matrix products that it runs. Keys of the JSON
object, in bytes if not told otherwise:

    weights, weights_of      what the forward pass reads: base, adapter (frozen parts included)
    gradients                one for each parameter that trains and is reached
    summed                   with --accumulate, their sum over the parts before
    optimiser, optimiser_of  AdamW's two moments; a float32 master copy of what trains, in bf16
    tape                     what the forward pass keeps for backward, at its end; the same by
    tape_by_op, tape_by_layer    kind of op, and by block ("start", "0", …, "head")
    rebuilt                  with --recompute, the tape of one block, which backward makes anew
    total                    the sum of all these; a step seldom holds all of it at once, as the
                             tape shrinks while gradients come
    beside                   base parameters that a private copy stands in for, the last good
                             weights that `fit` goes back to, and a method's running averages
    flops                    forward, backward (with what is recomputed) and total, of a batch
    base_parameters, trainable_parameters        counts
    method, batch, seq, policy, base_bits, recompute, accumulate    what was asked
"""

import json
import math
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

from tqdm import tqdm

from ..engine.tensor import value
from ..errors import check_flag, check_whole, unknown
from ..io.files import check_writable, write_json
from ..model.config import Config
from ..model.quantize import QuantizedParameter
from ..peft.attach import attach, use
from ..peft.base import Method, adapters, base_parameters, check_rows, in_use, precision
from ..peft.methods import METHODS
from . import presets
from .command_line import add_method_options, method_from_options
from .count import add_model_options, model_from_options
from .ledger_table import lines
from .shape_model import ShapeRNG, shape_arrays, shape_model
from .shape_step import held_between_steps, shape_step, whole_batch

PACKED = {8: "int8", 4: "nf4"}  # by bits of the base
SLOTS = 32  # virtual tokens in the picture
FROZEN = "frozen"  # in place of a method: nothing trains


@dataclass(frozen=True)
class BytesPerValue:
    """How many bytes a float takes, by what it is for; None: those of its type."""

    weights: int | None = None
    activations: int | None = None
    gradients: int | None = None
    moments: int | None = None
    master: int = 0  # a second copy of what trains, which the optimiser updates


POLICIES = {"fp32": BytesPerValue(4, 4, 4, 4), "bf16": BytesPerValue(2, 2, 2, 4, master=4)}


@dataclass(frozen=True, repr=False)
class Ledger:
    """Bytes and FLOPs of one training step; see the module for what each is."""

    method: str
    batch: int
    seq: int
    policy: str
    base_bits: int | None
    recompute: bool
    accumulate: int
    base_parameters: int
    trainable_parameters: int
    weights_of: dict[str, int]
    gradients: int
    optimiser_of: dict[str, int]
    kept: dict[tuple[str, str], int]  # {(layer, op): bytes} of the tape
    rebuilt: int
    beside: dict[str, int]
    flops: dict[str, int]

    @property
    def weights(self):
        """Bytes that the forward pass reads."""
        return sum(self.weights_of.values())

    @property
    def summed(self):
        """Bytes of the gradients' sum over the parts before, if the batch is read in parts."""
        return self.gradients if min(self.accumulate, self.batch) > 1 else 0

    @property
    def optimiser(self):
        """Bytes of the optimiser's state."""
        return sum(self.optimiser_of.values())

    @property
    def tape(self):
        """Bytes that the tape holds when the forward pass ends."""
        return sum(self.kept.values())

    @property
    def tape_by_op(self):
        """The same by kind of op, the largest first."""
        return dict(Counter(total_by(1, self.kept)).most_common())

    @property
    def tape_by_layer(self):
        """The same by block, from the start to the head."""
        return total_by(0, self.kept)

    @property
    def total(self):
        """Bytes of all of these: the tape shrinks while gradients come, so seldom at once."""
        parts = self.weights, self.gradients, self.summed, self.optimiser, self.tape
        return sum(parts) + self.rebuilt

    def as_dict(self):
        """All of it as a JSON object."""
        values = {k: v for k, v in asdict(self).items() if k not in ("kept", "flops")}
        derived = "weights summed optimiser tape tape_by_op tape_by_layer total".split()
        values |= {name: getattr(self, name) for name in derived}
        return values | {"flops": self.flops | {"total": sum(self.flops.values())}}

    def __repr__(self):
        return "\n".join(lines(self))


def total_by(part, kept):
    """{(layer, op): bytes} added up by layer (part 0) or by op (part 1)."""
    totals = Counter()
    for key, n in kept.items():
        totals[key[part]] += n
    return dict(totals)


def ledger(model, method=None, *, batch=1, seq=None, policy=None, base_bits=None,
           recompute=False, accumulate=1):  # fmt: skip
    """The Ledger of a training step on a model, or on a Config, of which none is built.

    method: what would be attached; None: what is in use, or the bare base, all of which trains;
    "frozen": nothing trains.  seq: tokens a row (default: 512, or what the context has room
    for).  policy: "fp32" or "bf16" (default: the model's own type).  base_bits: 8 (int8) or 4
    (nf4), as `quantize` holds the base.  recompute, accumulate: as in Settings.

    The model is left as it is, and nothing of those sizes is computed or held: the model's own
    code runs on arrays without values. Raises ValueError for what the model or the method would
    refuse.
    """
    batch, accumulate = check_whole(1, batch=batch, accumulate=accumulate)
    seq = seq if seq is None else check_whole(1, seq=seq)[0]
    base_bits = base_bits if base_bits is None else check_whole(1, base_bits=base_bits)[0]
    check(policy, base_bits, recompute)
    net = prepared(model, method, PACKED.get(base_bits))
    if seq is None:
        seq = max(1, min(512, net.config.context - virtual_tokens(net)))
    check_rows(net, parts := min(accumulate, batch))
    step = whole_batch(net, batch, seq, parts, recompute)
    each = POLICIES.get(policy, BytesPerValue())
    return Ledger(
        method=label(net),
        batch=batch,
        seq=seq,
        policy=policy or str(precision(net)),
        base_bits=base_bits,
        recompute=recompute,
        accumulate=accumulate,
        gradients=nbytes(step.gradients, each.gradients),
        kept=kept_bytes(step, each),
        rebuilt=largest_block(net, -(-batch // parts), seq, each) if recompute else 0,
        flops={"forward": step.forward, "backward": step.backward},
        **bytes_between_steps(net, each),
    )


def check(policy, base_bits, recompute):
    """Raises ValueError for an unknown policy, other bits than 4 or 8, or a bad flag."""
    check_flag(recompute=recompute)
    if policy not in (None, *POLICIES):
        raise ValueError(unknown("policy", policy, POLICIES))
    if base_bits not in (None, *PACKED):
        text = "the base is held in 8 or 4 bits, or as the policy says without base_bits"
        raise ValueError(f"{text}; got {base_bits!r}")


def prepared(model, method, packed):
    """The shape model of a model, its base packed and a method attached."""
    net = shape_model(model, packed)
    if method == FROZEN:
        use(net, None)
        for p in net.parameters():
            p.requires_grad = False
    elif isinstance(method, Method):
        with shape_arrays():
            attach(net, method, "-".join(["new", *adapters(net)]), ShapeRNG())
    elif method is not None:
        raise TypeError(f"ledger takes a method such as LoRA(r=8), or 'frozen', got {method!r}")
    return net


def methods(net):
    """The methods in use on a model."""
    return [adapters(net)[name].method for name in in_use(net)]


def virtual_tokens(net):
    """How many slots of the context the methods in use take."""
    return sum(getattr(method, "num_virtual_tokens", 0) for method in methods(net))


def label(net):
    """What trains, in words."""
    trains = [p.requires_grad for p in net.parameters()]
    if not any(trains):
        return "nothing trains"
    share = "all" if all(trains) else "part"
    names = [method.brief() for method in methods(net)]
    return " and ".join(names) or f"the bare base, {share} of which trains"


def bytes_between_steps(net, each):
    """The fields of a Ledger that say what is in memory between steps."""
    held = held_between_steps(net)
    trained = sum(math.prod(p.shape) for p in net.parameters() if p.requires_grad)
    return {
        "base_parameters": sum(math.prod(p.shape) for _, p in base_parameters(net)),
        "trainable_parameters": trained,
        "weights_of": {name: nbytes(held[name], each.weights) for name in ("base", "adapter")},
        "optimiser_of": {
            "moments": nbytes(held["moments"], each.moments),
            "master": each.master * trained,
        },
        "beside": {
            "set aside": nbytes(held["set aside"], each.weights),
            "last good weights": nbytes(held["last good weights"], each.weights),
            "running averages": nbytes(held["running averages"], each.moments),
        },
    }


def kept_bytes(step, each):
    """{(layer, op): bytes} that the tape of a step keeps."""
    kept = Counter()
    for layer, op, array in step.kept:
        kept[layer, op] += nbytes([array], each.activations)
    return dict(kept)


def largest_block(net, rows, seq, each):
    """Bytes of the tape of one block, which backward makes anew if blocks are recomputed."""
    layers = total_by(0, kept_bytes(shape_step(net, rows, seq), each))
    return max((n for layer, n in layers.items() if layer.isdigit()), default=0)


def nbytes(things, each):
    """Bytes of arrays and Parameters whose floats take `each` bytes; None: those of their type.

    A packed weight takes the bytes of its codes and scales.
    """

    def size(thing):
        if isinstance(thing, QuantizedParameter):
            return thing.nbytes
        a = value(thing)
        return a.size * each if each and a.dtype.kind == "f" else a.nbytes

    return sum(map(size, things))


def arguments(parser):
    """What `minipeft ledger` understands."""
    add_model_options(parser)
    add_method_options(parser)
    parser.add_argument("--batch", type=int, default=1, help="rows (default: 1)")
    text = "tokens a row (default: 512, or what the context has room for)"
    parser.add_argument("--seq", type=int, help=text)
    text = "fp32 (default), or bf16: 2 bytes a value, and a float32 master of what trains"
    parser.add_argument("--policy", default="fp32", help=text)
    text = "hold the matrices of the base in 8 (int8) or 4 (nf4)"
    parser.add_argument("--base-bits", type=int, help=text)
    text = "gradient checkpointing, block by block"
    parser.add_argument("--recompute", action="store_true", help=text)
    text = "parts in which to read a batch (default: 1)"
    parser.add_argument("--accumulate", type=int, default=1, metavar="N", help=text)
    parser.add_argument("--json", action="store_true", help="as one JSON object")
    text = "compare methods in a picture instead: a PNG, and its data as JSON beside it"
    parser.add_argument("--plot", metavar="FILE", help=text)


def main(options):
    """Run `minipeft ledger`."""
    model = model_from_options(options)
    if not isinstance(model, Config):
        model = presets.config(options.model or options.preset)  # says what is wrong with it
    names = ("batch", "seq", "policy", "base_bits", "recompute", "accumulate")
    how = {name: getattr(options, name) for name in names}
    if options.plot is not None:
        if options.json:
            raise ValueError("--plot writes its data as JSON by itself; leave out --json")
        draw(model, options.plot, **how)
        return
    method = FROZEN if options.method == FROZEN else method_from_options(options, FROZEN)
    if method == FROZEN and (options.set or options.targets or options.r is not None):
        raise ValueError("frozen has no hyper-parameters; leave out --targets, --r and --set")
    result = ledger(model, method, **how)
    print(json.dumps(result.as_dict(), ensure_ascii=False) if options.json else result)


COMPARED = {  # what the picture shows: {label: (method, bits of the base)}
    "full": (METHODS["full"](), None),
    "head only": (METHODS["head"](), None),
    "(IA)³": (METHODS["ia3"](), None),
    "LoRA r=16": (METHODS["lora"](r=16), None),
    "adapters": (METHODS["adapter"](), None),
    "prefix": (METHODS["prefix"](num_virtual_tokens=SLOTS), None),
    "prompt": (METHODS["prompt"](num_virtual_tokens=SLOTS), None),
    "QLoRA r=16": (METHODS["lora"](r=16), 4),
    "frozen": (FROZEN, None),
}


def compared(model, **how):
    """{label: Ledger as a JSON object} of the methods in COMPARED on a model or Config.

    ValueError where the context has no room for those that lengthen a sequence.
    """
    room = getattr(model, "config", model).context - SLOTS
    how["seq"] = how.get("seq") or max(1, min(512, room))  # the same for all
    if how["seq"] > room:
        text = f"prefix and prompt are compared too, with {SLOTS} virtual tokens"
        raise ValueError(f"{text}: seq can be at most {room}, got {how['seq']}")
    rows = tqdm(COMPARED.items(), desc="ledger", disable=None, leave=False)
    return {
        name: ledger(model, method, **how | ({"base_bits": bits} if bits else {})).as_dict()
        for name, (method, bits) in rows
    }


def draw(model, path, **how):
    """Write the picture of `compared` as PNG, and its data as JSON beside it."""
    from .ledger_plot import bars
    from .plots import save

    check_writable(path)
    data = Path(path).with_suffix(".json")
    check_writable(data)
    rows = compared(model, **how)
    save(bars(rows), path)
    write_json(data, rows)
    print(f"wrote {path} and {data}")
