"""The gradient of a batch, read at once, in parts, or in parts side by side: the same one."""

import contextlib
from functools import partial

from .autograd import gradients
from .backend import np
from .functional import IGNORE
from .inputs import check_labels
from .nn import Noise
from .recompute import recomputing
from .workers import side_by_side


def accumulate(model, ids, labels, parts=1, seed=None, each=None):
    """Add the gradient of a batch's mean loss to the parameters; return the loss in nats.

    The loss is an array without axes, so that the host need not wait for the device. The batch
    is read in parts, and each part's sum divided by the count of labels in the whole batch: a
    mean of the parts' means would give labels in a short part more weight.
    seed: to draw dropout from (None: no dropout).  each: what reads the parts, see `reading`.
    """
    ids, labels = np.asarray(ids), check_labels(labels, np.shape(ids), model.config.vocab)
    count = int((labels != IGNORE).sum())
    split = np.array_split(np.arange(len(ids)), min(parts, len(ids)))
    asked = [rows for rows in split if (labels[rows] != IGNORE).any()]
    total, each = 0.0, each or partial(map, partial(read, model))
    for loss, found in each([(ids[rows], labels[rows], rows, count, seed) for rows in asked]):
        total = total + loss
        for leaf, g in found.items():
            leaf.grad = g if leaf.grad is None else leaf.grad + g
    return total


def read(model, part):
    """(loss, {leaf: gradient}) of a part (ids, labels, rows, labels in all, seed)."""
    ids, labels, rows, count, seed = part
    with model.training(None if seed is None else Noise(seed, rows)):
        loss = model.loss(ids, labels, count)
    return loss.data, gradients(loss)


@contextlib.contextmanager
def reading(model, settings):
    """What reads parts of a batch for `accumulate`, as Settings ask."""
    less = recomputing(model) if settings.recompute else contextlib.nullcontext()
    trained = [p for p in model.parameters() if p.requires_grad]
    with less, side_by_side(partial(read, model), trained, settings.workers) as each:
        yield each
