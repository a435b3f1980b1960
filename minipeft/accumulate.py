"""The gradient of a batch, read at once, in parts, or in parts side by side: the same one."""

import contextlib
from functools import partial

from .autograd import gradients
from .backend import np
from .functional import IGNORE
from .inputs import check_ids, check_labels
from .nn import Noise
from .peft.base import check_rows
from .recompute import recomputing
from .workers import side_by_side


def accumulate(model, ids, labels, parts=1, seed=None, each=None):
    """Add the gradient of a batch's mean loss to the parameters; return the loss in nats.

        loss = Σ over parts of (Σ over a part's labels of −log p(label)) / labels in the batch

    ids and labels (B, T), labels as in `Transformer.loss`; an array without axes comes back, so
    that the host need not wait for the device. A mean of the parts' means would give labels in
    a short part more weight. If a part fails, no gradient is added.
    seed: whole numbers to draw dropout from (None: no dropout).
    each: called with a list of parts, gives what `read` gives of each, in order: see `reading`.
    """
    check_rows(model, parts)
    ids = check_ids(ids, model.config.vocab)
    labels = check_labels(labels, ids.shape, model.config.vocab)
    count = int((labels != IGNORE).sum())
    split = np.array_split(np.arange(len(ids)), min(parts, len(ids)))
    asked = [rows for rows in split if (labels[rows] != IGNORE).any()]
    total, sums, each = 0.0, {}, each or partial(map, partial(read, model))
    for loss, found in each([(ids[rows], labels[rows], rows, count, seed) for rows in asked]):
        total = total + loss
        move(found, sums)
    for leaf, g in sums.items():
        leaf.grad = g if leaf.grad is None else leaf.grad + g
    return total


def move(found, sums):
    """Add gradients to their sums, and hold on to none of them while the next part is read."""
    while found:
        leaf, g = found.popitem()
        sums[leaf] = sums[leaf] + g if leaf in sums else g


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
