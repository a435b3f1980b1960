"""The gradient of a batch: at once, in micro-batches, or in parts side by side.

    loss = Σ over parts of (Σ over a part's labels of −log p(label)) / labels in the whole batch

A mean of the parts' means would give the labels of a short part more weight than others.
"""

from functools import partial

from ..engine.backend import np, xp
from ..engine.functional import IGNORE, cross_entropy
from ..engine.tensor import Tensor, add_to_leaves, gradients, needs_gradient, record
from ..model.layers import RowRNG
from ..model.validation import check_ids, check_labels
from ..peft.base import check_rows

CHUNK = 256  # tokens whose logits are held at a time, but at least 32 of each row


def batch_gradient(model, ids, labels, parts=1, seed=None, map_parts=None):
    """Add the gradient of a batch's mean loss to the parameters; return the loss in nats.

    ids and labels are (B, T), labels as in `Transformer.loss`. The loss comes back as an array
    without axes, so that the host need not wait for the device. If a part fails, no gradient is
    added. `parts` is the number of micro-batches, `seed` a tuple of whole numbers from which
    dropout is drawn (None: no dropout), and `map_parts` gives `part_gradient` of each of a list
    of parts, in order (default: one after the other; see `data_parallel` for processes).
    """
    check_rows(model, parts)
    ids = check_ids(ids, model.config.vocab)
    labels = check_labels(labels, ids.shape, model.config.vocab)
    count = int((labels != IGNORE).sum())
    split = np.array_split(np.arange(len(ids)), min(parts, len(ids)))
    labelled = [rows for rows in split if (labels[rows] != IGNORE).any()]
    map_parts = map_parts or partial(map, partial(part_gradient, model))
    total, sums = 0.0, {}
    micro_batches = [(ids[rows], labels[rows], rows, count, seed) for rows in labelled]
    for loss, found in map_parts(micro_batches):
        total = total + loss
        add_up(found, sums)
    add_to_leaves(sums)
    return total


def part_gradient(model, part):
    """(loss, {leaf: gradient}) of a part (ids, labels, rows, labels in all, seed)."""
    ids, labels, rows, count, seed = part
    with model.training(None if seed is None else RowRNG(seed, rows)):
        loss = chunked_loss(model, ids, labels, count)
    return loss.data, gradients(loss)


def add_up(found, sums):
    """Add gradients to their sums, and hold on to none of them while the next part is read."""
    while found:
        leaf, g = found.popitem()
        sums[leaf] = sums[leaf] + g if leaf in sums else g


def chunked_loss(model, ids, labels, count=None):
    """`Transformer.loss` in less memory: the head sees a few tokens at a time.

    The logits (B, T, V) are the largest array of a step. Here they exist for one chunk of
    tokens at a time, whose gradients are computed at once, as if the loss's own were 1, and
    multiplied by it in backward. Of a chunk only they are kept: one of the head's input
    (B, T, D), and one of each parameter that trains. `count` divides the sum of the losses
    (default: the number of labels that are not IGNORE).
    """
    labels = check_labels(labels, np.shape(ids), model.config.vocab)
    count = int((labels != IGNORE).sum()) if count is None else count
    x, _ = model.hidden(ids)
    B, T = labels.shape
    step = max(32, CHUNK // B)
    total, dx, others = None, None, {}
    for chunk in (np.s_[:, t : t + step] for t in range(0, T, step)):
        part = Tensor(x.data[chunk], requires_grad=needs_gradient(x))
        loss = cross_entropy(model.lm_head(part), labels[chunk], count)
        total = loss.data if total is None else total + loss.data
        found = gradients(loss) if loss.requires_grad else {}
        if part.node in found:
            dx = xp.empty_like(x.data) if dx is None else dx
            dx[chunk] = found.pop(part.node)
        add_up(found, others)
    edges = [(x, dx), *((Tensor(None, node=leaf), dw) for leaf, dw in others.items())]
    return record(total, *((operand, lambda g, d=d: g * d) for operand, d in edges))
