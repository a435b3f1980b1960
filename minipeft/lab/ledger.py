"""Where the bytes and FLOPs of fine-tuning go, for a model or a Config that is never built.

minipeft ledger --model llama-2-7b --method lora --r 16 --targets q_proj,v_proj --seq 512
minipeft ledger --model llama-2-7b --method lora --policy bf16 --base-bits 4 --json
minipeft ledger --model llama-2-7b --seq 512 --plot memory.png

--method frozen trains nothing. Bytes are those of this package's own arrays, less those that
live only inside an op; FLOPs are those of the matrix products that it runs. Keys of the JSON
object, in bytes if not told otherwise:

    weights, weights_of      what the forward pass reads: base, adapter (frozen parts included)
    gradients                one for each number that trains and is reached
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
    base_numbers, trainable_numbers        counts
    method, batch, seq, policy, base_bits, recompute, accumulate    what was asked
"""

import json
from collections import Counter
from pathlib import Path

from tqdm import tqdm

from ..engine.backend import dtype
from ..errors import check_flag, check_whole, unknown
from ..io.files import check_places, write_json
from ..model.config import Config
from ..peft.attach import attach, use
from ..peft.base import Method, adapters, check_rows, in_use, precision
from ..peft.methods import METHODS
from . import presets
from .account import Ledger, by_layer
from .command_line import add_method_options, method_from_options
from .costs import in_outline
from .count import add_model_options, model_from_options
from .sketch import Draws, outlines, sketch
from .standing import OWN, POLICIES, nbytes, standing
from .tally import tally, whole_batch

PACKED = {8: "int8", 4: "nf4"}  # by bits of the base
SLOTS = 32  # virtual tokens in the picture
FROZEN = "frozen"  # in place of a method: nothing trains


def ledger(model, method=None, *, batch=1, seq=None, policy=None, base_bits=None,
           recompute=False, accumulate=1):  # fmt: skip
    """The Ledger of a training step on a model, or on a Config, of which none is built.

    method: what would be attached; None: what is in use, or the bare base, all of which trains;
    "frozen": nothing trains.  seq: tokens a row (default: 512, or what the context has room
    for).  policy: "fp32" or "bf16" (default: the model's own type).  base_bits: 8 (int8) or 4
    (nf4), as `quantize` holds the base.  recompute, accumulate: as in Settings.

    The model is left as it is, and nothing of those sizes is computed or held: the model's own
    code is read in outline. ValueError for what the model or the method would refuse.
    """
    numbers = dict(batch=batch, seq=1 if seq is None else seq, accumulate=accumulate)
    check(policy, base_bits, recompute, **numbers)
    drawn = prepared(model, method, PACKED.get(base_bits))
    if seq is None:
        seq = max(1, min(512, drawn.config.context - virtual_tokens(drawn)))
    each = POLICIES.get(policy, OWN)
    check_rows(drawn, parts := min(accumulate, batch))
    step = whole_batch(drawn, batch, seq, parts, recompute)
    return Ledger(
        method=label(drawn),
        batch=batch,
        seq=seq,
        policy=policy or str(precision(drawn)),
        base_bits=base_bits,
        recompute=recompute,
        accumulate=accumulate,
        kept=tape_bytes(step, each),
        rebuilt=largest_block(drawn, -(-batch // parts), seq, each) if recompute else 0,
        flops={"forward": step.forward, "backward": step.backward},
        **standing(drawn, step.gradients, each),
    )


def check(policy, base_bits, recompute, **numbers):
    """Raise ValueError for what is no policy, number of bits, flag, or whole number ≥ 1."""
    check_flag(recompute=recompute)
    if policy not in (None, *POLICIES):
        raise ValueError(unknown("policy", policy, POLICIES))
    if base_bits not in (None, *PACKED):
        text = "the base is held in 8 or 4 bits, or as the policy says without base_bits"
        raise ValueError(f"{text}; got {base_bits!r}")
    check_whole(1, **numbers)


def prepared(model, method, packed):
    """The sketch of a model, its base packed and a method attached."""
    drawn = sketch(model, packed)
    if method == FROZEN:
        use(drawn, None)
        for p in drawn.parameters():
            p.requires_grad = False
    elif isinstance(method, Method):
        with outlines(), in_outline(), dtype(precision(drawn)):
            attach(drawn, method, "-".join(["new", *adapters(drawn)]), Draws())
    elif method is not None:
        raise TypeError(f"ledger takes a method such as LoRA(r=8), or 'frozen', got {method!r}")
    return drawn


def methods(drawn):
    """The methods in use on a model."""
    return [adapters(drawn)[name].method for name in in_use(drawn)]


def virtual_tokens(drawn):
    """How many slots of the context the methods in use take."""
    return sum(getattr(method, "num_virtual_tokens", 0) for method in methods(drawn))


def label(drawn):
    """What trains, in words."""
    trains = [p.requires_grad for p in drawn.parameters()]
    if not any(trains):
        return "nothing trains"
    share = "all" if all(trains) else "part"
    return (
        " and ".join(method.brief() for method in methods(drawn))
        or f"the bare base, {share} of which trains"
    )


def largest_block(drawn, rows, seq, each):
    """Bytes of the tape of one block, which backward makes anew if blocks are recomputed."""
    layers = by_layer(tape_bytes(tally(drawn, rows, seq), each))
    return max((n for layer, n in layers.items() if layer.isdigit()), default=0)


def tape_bytes(step, each):
    """{(layer, op): bytes} of what a step keeps."""
    kept = Counter()
    for layer, op, array in step.kept:
        kept[layer, op] += nbytes(array, each.activations)
    return dict(kept)


def arguments(parser):
    """What `minipeft ledger` understands."""
    add_model_options(parser)
    add_method_options(parser)
    parser.add_argument("--batch", type=int, default=1, help="rows (default: 1)")
    text = "tokens a row (default: 512, or what the context has room for)"
    parser.add_argument("--seq", type=int, help=text)
    text = "types of numbers, fp32 (default) or bf16: 2 bytes, a float32 master of what trains"
    parser.add_argument("--policy", default="fp32", help=text)
    text = "hold the matrices of the base in 8 (int8) or 4 (nf4)"
    parser.add_argument("--base-bits", type=int, help=text)
    text = "gradient checkpointing, block by block"
    parser.add_argument("--recompute", action="store_true", help=text)
    text = "parts in which to read a batch (default: 1)"
    parser.add_argument("--accumulate", type=int, default=1, metavar="N", help=text)
    parser.add_argument("--json", action="store_true", help="as one JSON object")
    text = "compare methods in a picture instead: a PNG, and its numbers as JSON beside it"
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
            raise ValueError("--plot writes its numbers as JSON by itself; leave out --json")
        draw(model, options.plot, **how)
        return
    method = FROZEN if options.method == FROZEN else method_from_options(options, FROZEN)
    if method == FROZEN and (options.set or options.targets or options.r is not None):
        raise ValueError("frozen has no hyper-parameters; leave out --targets, --r and --set")
    found = ledger(model, method, **how)
    print(json.dumps(found.as_dict(), ensure_ascii=False) if options.json else found)


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
    """Write the picture of `compared` as PNG, and its numbers as JSON beside it."""
    from .ledger_plot import bars
    from .plots import save

    check_places(path)
    numbers = Path(path).with_suffix(".json")
    check_places(numbers)
    rows = compared(model, **how)
    save(bars(rows), path)
    write_json(numbers, rows)
    print(f"wrote {path} and {numbers}")
