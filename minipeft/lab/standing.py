"""What stands in memory between passes: weights, gradients, optimiser; and in which types."""

import math
from dataclasses import dataclass

from ..model.quantize import Packed
from ..peft.base import adapters, base_parameters
from .saved_tensors import buffers


@dataclass(frozen=True)
class Policy:
    """Bytes that one number takes, by what it is for."""

    weights: int | None
    activations: int | None
    gradients: int | None
    moments: int | None
    master: int  # a second copy of what trains, which the optimiser updates


OWN = Policy(None, None, None, None, 0)  # what the arrays have
POLICIES = {"fp32": Policy(4, 4, 4, 4, 0), "bf16": Policy(2, 2, 2, 4, 4)}


def nbytes(array, each):
    """Bytes of an array whose floats take `each` bytes; None: those of its own type."""
    return array.size * each if each and array.dtype.kind == "f" else array.nbytes


def standing(model, gradients, each):
    """Bytes and numbers that a model with what is attached to it holds, as fields of a Ledger.

    gradients: those that a step gives.  each: a Policy.
    """
    parameters = model.parameters()
    trains = [p for p in parameters if p.requires_grad]
    deltas = {id(d): d for a in adapters(model).values() for d in a.deltas.values()}.values()
    added = {id(p) for delta in deltas for p in delta.parameters()}
    aside = set_aside(model, {id(p) for p in parameters})
    averages = buffers(*(a for delta in deltas for a in delta.state().values()))
    known = {id(b) for b in (*averages, *buffers(*parameters, *aside))}
    fixed = buffers(*(list(vars(delta).values()) for delta in deltas))
    fixed = [b for b in fixed if id(b) not in known]
    own = sum(held(p, each.weights) for p in parameters if id(p) in added)
    return {
        "base_numbers": sum(math.prod(p.shape) for _, p in base_parameters(model)),
        "trainable_numbers": sum(math.prod(p.shape) for p in trains),
        "weights_of": {
            "base": sum(held(p, each.weights) for p in parameters if id(p) not in added),
            "adapter": own + sum(nbytes(b, each.weights) for b in fixed),
        },
        "gradients": sum(nbytes(g, each.gradients) for g in gradients),
        "optimiser_of": {
            "moments": 2 * sum(held(p, each.moments) for p in trains),
            "master": each.master * sum(math.prod(p.shape) for p in trains),
        },
        "beside": {
            "set aside": sum(held(p, each.weights) for p in aside),
            "last good weights": sum(held(p, each.weights) for p in trains),
            "running averages": sum(nbytes(b, each.moments) for b in averages),
        },
    }


def set_aside(model, in_place):
    """Parameters that are not in their place: originals of copies in use, copies of others."""
    found = {}
    for adapter in adapters(model).values():
        for p in (*adapter.originals.values(), *adapter.copies.values()):
            if p is not None and id(p) not in in_place:  # a tied head has no original
                found[id(p)] = p
    return list(found.values())


def held(p, each):
    """Bytes of a Parameter; one that is packed is held in its codes and scales."""
    return p.nbytes if isinstance(p, Packed) else nbytes(p.data, each)
