"""Training a shape model: the arrays of one step, its FLOPs, and the arrays between steps."""

import bisect
import contextlib
from dataclasses import dataclass, replace

from ..engine.backend import np
from ..engine.tensor import Node, gradients, no_grad
from ..model.gradient_checkpointing import recomputing
from ..peft.base import adapters
from ..train.batch_gradient import chunked_loss
from ..train.optimizers import make_optimizers
from .saved_tensors import buffers, tape_nodes
from .shape_array import counting_flops
from .shape_model import ShapeRNG, shape_arrays


@dataclass(frozen=True)
class ShapeStep:
    """What one step keeps and computes."""

    kept: list  # (layer, op, ShapeArray), each buffer once, under the oldest op that keeps it
    gradients: list  # a ShapeArray for each parameter that gets one
    forward: int  # FLOPs of matrix products
    backward: int  # the same, with those of what is recomputed


def shape_step(model, batch, seq, recompute=False):
    """The ShapeStep of batch × seq tokens, all of them labelled."""
    ids, starts = np.zeros((batch, seq), int), []
    less = recomputing(model) if recompute else contextlib.nullcontext()
    with shape_arrays(), model.training(ShapeRNG()), less:
        with no_grad(), counting_flops() as forward:
            chunked_loss(model, ids, ids)
        with counting_flops() as both, noting_starts(model, starts):
            loss = chunked_loss(model, ids, ids)
            kept = list(entries(loss, model, starts))
            grads = gradients(loss) if loss.requires_grad else {}
    return ShapeStep(kept, list(grads.values()), sum(forward), sum(both) - sum(forward))


def whole_batch(model, batch, seq, parts, recompute):
    """The ShapeStep of a batch read in parts: the FLOPs of all, the tape of the largest."""
    small, larger = divmod(batch, parts)  # as many parts as `larger` have a row more
    rows = [small + 1] * larger + [small] * (parts - larger)
    steps = {n: shape_step(model, n, seq, recompute) for n in dict.fromkeys(rows)}
    forward, backward = (
        sum(getattr(steps[n], f) for n in rows) for f in ("forward", "backward")
    )
    return replace(steps[rows[0]], forward=forward, backward=backward)


@contextlib.contextmanager
def noting_starts(model, starts):
    """Inside the block `starts` gets the number of the first node of each block, and an end."""

    def noting(f, *args):
        starts.append(Node(()).number)
        y = f(*args)
        if len(starts) == len(model.blocks):
            starts.append(Node(()).number)
        return y

    for block in model.blocks:
        block.active.append((noting, None))
    try:
        yield
    finally:
        for block in model.blocks:
            block.active.pop()


def entries(loss, model, starts):
    """(layer, op, buffer) for all that the tape keeps beside the parameters."""
    seen = {id(b) for b in buffers(*model.parameters())}
    for node in tape_nodes(loss):
        place = bisect.bisect(starts, node.number)
        layer = "start" if place == 0 else "head" if place == len(starts) else str(place - 1)
        for _, derivative in node.edges:
            op = derivative.__qualname__.split(".")[0]
            for buffer in buffers(derivative):
                if id(buffer) not in seen:
                    seen.add(id(buffer))
                    yield layer, op, buffer


def held_between_steps(model):
    """What is there from one step to the next, {what it is: arrays and Parameters}."""
    parameters = model.parameters()
    trained = [p for p in parameters if p.requires_grad]
    deltas = [delta for a in adapters(model).values() for delta in a.deltas.values()]
    added = {id(p) for delta in deltas for p in delta.parameters()}
    aside = set_aside(model, {id(p) for p in parameters})
    averages = buffers(*(a for delta in deltas for a in delta.state().values()))
    fixed = {id(b): b for b in buffers(*(list(vars(delta).values()) for delta in deltas))}
    for b in (*averages, *buffers(*parameters, *aside)):
        fixed.pop(id(b), None)
    states = [optimizer.state.values() for optimizer in make_optimizers(model)]
    return {
        "base": [p for p in parameters if id(p) not in added],
        "adapter": [p for p in parameters if id(p) in added] + list(fixed.values()),
        "moments": [array for kinds in states for arrays in kinds for array in arrays],
        "set aside": aside,
        "last good weights": trained,
        "running averages": averages,
    }


def set_aside(model, in_place):
    """Parameters that are not in their place: originals of copies in use, copies of others."""
    aside = {}
    for adapter in adapters(model).values():
        for p in (*adapter.originals.values(), *adapter.copies.values()):
            if p is not None and id(p) not in in_place:  # a tied head has no original
                aside[id(p)] = p
    return list(aside.values())
