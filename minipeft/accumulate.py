"""The gradient of a batch, read at once, in parts, or in parts side by side: the same one."""

import contextlib
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context

from threadpoolctl import threadpool_limits

from .autograd import gradients
from .backend import np
from .functional import IGNORE
from .inputs import check_labels
from .nn import Noise
from .recompute import recomputing


def accumulate(model, ids, labels, parts=1, seed=None, each=map):
    """Add the gradient of a batch's mean loss to the parameters; return the loss in nats.

    The loss is an array without axes, so that the host need not wait for the device. The batch
    is read in parts, and each part's sum divided by the count of labels in the whole batch: a
    mean of the parts' means would give labels in a short part more weight.
    seed: to draw dropout from (None: no dropout).  each: a `map` to read the parts with.
    """
    labels = check_labels(labels, np.shape(ids), model.config.vocab)
    count = int((labels != IGNORE).sum())

    def read(rows):
        with model.training(None if seed is None else Noise(seed, rows)):
            loss = model.loss(ids[rows], labels[rows], count)
        return loss.data, gradients(loss)

    split = np.array_split(np.arange(len(ids)), min(parts, len(ids)))
    total = 0.0
    for loss, found in each(read, [rows for rows in split if (labels[rows] != IGNORE).any()]):
        total = total + loss
        for leaf, g in found.items():
            leaf.grad = g if leaf.grad is None else leaf.grad + g
    return total


@contextlib.contextmanager
def side_by_side(workers):
    """A `map` whose calls run on so many threads at once; the results come in order.

    NumPy computes elementwise on one core only: two halves of a batch on two threads use two.
    """
    if workers == 1:
        yield map
        return
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(workers) as pool:

        def each(f, parts):
            contexts = [copy_context() for _ in parts]  # the dtype, and whether to record
            return pool.map(lambda context, part: context.run(f, part), contexts, parts)

        yield each


@contextlib.contextmanager
def reading(model, settings):
    """The `map` to read parts of a batch with, as `workers` and `recompute` of Settings ask."""
    less = recomputing(model) if settings.recompute else contextlib.nullcontext()
    with less, side_by_side(settings.workers) as each:
        yield each
