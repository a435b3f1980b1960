"""One training step in outline: what its tape keeps, by op and by layer, and its FLOPs."""

import bisect
import contextlib
from dataclasses import dataclass, replace

from ..engine.backend import np
from ..engine.tensor import Node, gradients
from ..model.gradient_checkpointing import recomputing
from ..train.batch_gradient import chunked_loss
from .costs import in_outline
from .saved_tensors import buffers, tape_nodes
from .shape_array import noting
from .sketch import Masks, unmasked


@dataclass(frozen=True)
class Tally:
    """What one step keeps and computes, in Outlines."""

    kept: list  # (layer, op, Outline), each buffer once, under the oldest op that keeps it
    gradients: list  # one for each parameter that gets one
    forward: int  # FLOPs of matrix products
    backward: int  # those that run to get gradients, what is recomputed included


def tally(model, batch, seq, recompute=False):
    """The Tally of a step on the sketch of a model: batch × seq tokens, all labelled."""
    ids, starts = np.zeros((batch, seq), int), []
    with in_outline(), watching(model, starts, recompute), model.training(Masks()):
        with noting() as first:
            loss = chunked_loss(model, ids, ids)
        kept = list(entries(loss, model, starts))
        with noting() as then:
            found = gradients(loss) if loss.requires_grad else {}
    backward = first["backward"] + then["forward"] + then["backward"]
    return Tally(kept, list(found.values()), first["forward"], backward)


def whole_batch(model, batch, seq, parts, recompute):
    """The Tally of a batch read in parts: FLOPs of all, the tape of the largest part."""
    small, larger = divmod(batch, parts)  # as many parts as `larger` have a row more
    steps = [tally(model, small + 1, seq, recompute)] * larger if larger else []
    steps += [tally(model, small, seq, recompute)] * (parts - larger)
    forward, backward = (sum(getattr(s, f) for s in steps) for f in ("forward", "backward"))
    return replace(steps[0], forward=forward, backward=backward)


@contextlib.contextmanager
def watching(model, starts, recompute):
    """Inside the block `starts` gets the number of the first node of each block, and an end."""

    def noticed(f, *args):
        starts.append(Node(()).number)
        y = f(*args)
        if len(starts) == len(model.blocks):
            starts.append(Node(()).number)
        return y

    with recomputing(model) if recompute else contextlib.nullcontext():
        changes = [(block, noticed) for block in model.blocks] + [(model.start, unmasked)]
        for site, change in changes:
            site.active.append((change, None))
        try:
            yield
        finally:
            for site, _ in changes:
                site.active.pop()


def entries(loss, model, starts):
    """(layer, op, buffer) for all that the tape keeps beside the parameters."""
    seen = {id(b) for b in buffers(*model.parameters())}
    for node in tape_nodes(loss):
        number = bisect.bisect(starts, node.number)
        layer = "start" if number == 0 else "head" if number == len(starts) else str(number - 1)
        for _, derivative in node.edges:
            op = getattr(derivative, "op", None) or derivative.__qualname__.split(".")[0]
            for buffer in buffers(derivative):
                if id(buffer) not in seen:
                    seen.add(id(buffer))
                    yield layer, op, buffer
