"""The loss and the gradient of a batch, which may be split into micro-batches.

    loss = Σ over micro-batches of (Σ over its labels of −log p(label)) / labels in the batch

Every micro-batch divides by the number of labels in the whole batch. So the sum of their losses
is the loss of the batch, and the sum of their gradients is its gradient. The mean of their mean
losses would not be: it gives more weight to the labels of a micro-batch that has few.
"""

from functools import partial

from ..engine.backend import np, xp
from ..engine.functional import IGNORE, cross_entropy
from ..engine.tensor import Tensor, add_to_leaves, gradients, needs_gradient, record
from ..model.layers import RowRNG, is_random
from ..model.validation import check_ids, check_labels
from ..peft.base import check_rows, in_use

WORTH_SHARING = 1 / 8  # of all tokens, to be saved at least
CHUNK = 256  # tokens whose logits are in memory at a time, but at least 32 of each row


def batch_gradient(model, ids, labels, micro_batches=1, seed=None, map_micro_batches=None):
    """Add the gradient of a batch's mean loss to the parameters. Returns the loss in nats.

    ids and labels are (B, T), as in `Transformer.loss`. seed: a tuple of whole numbers from
    which dropout masks are drawn; None: no dropout. map_micro_batches: a function that computes
    `micro_batch_gradient` of each item of a list, in order; by default one after the other, and
    see `data_parallel` for several processes.

    The loss is an array without axes, so that the host need not wait for the device. If a
    micro-batch fails, no gradient is added. Raises ValueError for bad ids or labels, and for
    more than one micro-batch if adapters were chosen for the rows of the batch.
    """
    check_rows(model, micro_batches)
    ids = check_ids(ids, model.config.vocab)
    labels = check_labels(labels, ids.shape, model.config.vocab)
    count = int((labels != IGNORE).sum())
    rows_of = np.array_split(np.arange(len(ids)), min(micro_batches, len(ids)))
    rows_of = [rows for rows in rows_of if (labels[rows] != IGNORE).any()]
    batches = [(ids[rows], labels[rows], rows, count, seed) for rows in rows_of]
    compute = map_micro_batches or partial(map, partial(micro_batch_gradient, model))
    total, sums = 0.0, {}
    for loss, leaf_gradients in compute(batches):
        total = total + loss
        accumulate(leaf_gradients, sums)
    add_to_leaves(sums)
    return total


def micro_batch_gradient(model, micro_batch):
    """Returns (loss, {leaf: gradient}) of (ids, labels, rows, labels in the batch, seed).

    rows are the places of its rows in the whole batch: each draws dropout masks of its own.
    """
    ids, labels, rows, count, seed = micro_batch
    with model.training(None if seed is None else RowRNG(seed, rows)):
        loss = chunked_loss(model, ids, labels, count)
    return loss.data, gradients(loss)


def accumulate(leaf_gradients, sums):
    """Add {leaf: gradient} to {leaf: sum}, and empty the former to free its memory."""
    while leaf_gradients:
        leaf, g = leaf_gradients.popitem()
        sums[leaf] = sums[leaf] + g if leaf in sums else g


@np.errstate(under="ignore")
def chunked_loss(model, ids, labels, count=None):
    """Returns `Transformer.loss` as a Tensor, without the array of all logits (B, T, V).

    That array is the largest of a training step. Here only tokens with a label have logits, in
    a conversation a third. Those of one chunk of tokens at a time are computed, and at once the
    gradients through them, as if the gradient of the loss were 1; backward multiplies them by
    what it is. So the tape saves only these gradients: one of the head's input (B, T, D), and
    one of each trainable parameter of the head.
    The sum of all losses is divided by `count`, by default the number of labels not IGNORE.
    """
    ids = check_ids(ids, model.config.vocab)
    labels = check_labels(labels, ids.shape, model.config.vocab)
    count = int((labels != IGNORE).sum()) if count is None else count
    x, rows, columns = labelled_states(model, ids, labels)
    step = max(32, CHUNK // len(labels))
    total, dx, head_gradients = None, None, {}
    for start in range(0, columns.shape[1], step):
        here = columns[:, start : start + step]
        chunk = xp.asarray(rows), xp.asarray(here)
        part = Tensor(x.data[chunk], requires_grad=needs_gradient(x))  # (B, step, D)
        loss = cross_entropy(model.lm_head(part), labels[rows, here], count)
        total = loss.data if total is None else total + loss.data
        leaf_gradients = gradients(loss) if loss.requires_grad else {}
        if part.node in leaf_gradients:
            dx = xp.zeros_like(x.data) if dx is None else dx
            dx[chunk] = leaf_gradients.pop(part.node)
        accumulate(leaf_gradients, head_gradients)
    edges = [(x, dx)]
    edges += [(Tensor(dw, node=leaf), dw) for leaf, dw in head_gradients.items()]
    return record(total, *((operand, lambda g, d=d: g * d) for operand, d in edges))


def labelled_states(model, ids, labels):
    """Returns the head's input x (B, T, D), and where labels are: rows (B, 1), columns (B, M).

    M is the most labels that a row has. Rows with fewer have some positions without a label
    behind.
    """
    x, _ = model.hidden_states(ids, shared=shared_start(model, ids, labels))
    unlabelled = labels == IGNORE
    most = max(1, int((~unlabelled).sum(axis=1).max()))
    columns = np.argsort(unlabelled, axis=1, kind="stable")[:, :most]
    return x, np.arange(len(labels))[:, None], columns


def shared_start(model, ids, labels):
    """Returns how many first tokens of ids (B, T) are to be computed once for all rows.

    They are the same in all rows and have no label. It is 0 where that saves little, and where
    rows differ otherwise: by their dropout masks or by the adapters that they use.
    """
    B, T = ids.shape
    differs = (ids != ids[:1]).any(axis=0) | (labels != IGNORE).any(axis=0)
    shared = int(differs.argmax()) if differs.any() else 0
    if (B - 1) * shared < WORTH_SHARING * B * T or is_random(model):
        return 0
    return shared if all(rows is None for rows in in_use(model).values()) else 0
