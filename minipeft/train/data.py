"""Training examples: token ids with labels, and the batch of each training step."""

import functools
import warnings

from ..engine.backend import np
from ..engine.functional import IGNORE
from ..model.validation import check_attention_mask, rectangular

POOL = 32  # batches, out of whose rows those of like length are put together


class Examples:
    """Sequences to learn from: integer arrays ids and labels, both (N, T).

    labels[n, t] is the token that should follow ids[n, : t + 1], or IGNORE where nothing is
    learnt: in the prompt and in the padding. So labels are the ids moved by one place, as in
    Examples(ids[:, :-1], ids[:, 1:]); Hugging Face's models move them themselves.

    Padding comes behind the tokens, where no token sees it. Rows that are padded elsewhere are
    moved there if `attention_mask` (N, T), False at padding, tells where it is. Without one,
    rows that seem to be padded in front give a warning, as a model would read their padding.
    by_length: a batch has rows of like length, so that little of it is padding.
    Raises ValueError for arrays of other shapes, and for labels that are the ids, not moved.
    """

    def __init__(self, ids, labels, attention_mask=None, by_length=False):
        self.ids, self.labels = rectangular("ids", ids), rectangular("labels", labels)
        if self.ids.shape != self.labels.shape or self.ids.ndim != 2 or not self.ids.size:
            raise ValueError(
                f"examples need ids and labels of one shape (N, T), N and T ≥ 1; "
                f"got {self.ids.shape} and {self.labels.shape}"
            )
        is_token = check_attention_mask(attention_mask, self.ids.shape)
        if is_token is not None:
            order = np.argsort(~is_token, axis=1, kind="stable")  # the tokens, then the padding
            self.ids = np.take_along_axis(self.ids, order, axis=1)
            self.labels = np.where(is_token, self.labels, np.int64(IGNORE))
            self.labels = np.take_along_axis(self.labels, order, axis=1)
        elif self.padded_in_front():
            text = f"rows seem to begin with padding, token {self.ids[:, 0].min()}"
            warnings.warn(f"{text}, which is read as text; pass attention_mask", stacklevel=2)
        if self.not_moved():
            raise ValueError(
                "the labels are the ids themselves, so a model would learn to copy; "
                "give Examples(ids[:, :-1], labels[:, 1:])"
            )
        labelled = np.flatnonzero((self.labels != IGNORE).any(axis=1))
        self.to_learn = labelled if labelled.size else np.arange(len(self))
        self.by_length = by_length
        used = self.labels[self.to_learn] != IGNORE
        self.lengths = used.shape[1] - used[:, ::-1].argmax(axis=1)  # up to the last label

    def padded_in_front(self):
        """Returns whether a token begins rows in runs of unequal length, and is nowhere else.

        It may be no label. One run has at least two: a single token may mark the beginning.
        """
        token = self.ids[(self.ids[:, :1] == self.ids[:, 1:2]).all(axis=1), 0][:1]
        same = np.isin(self.ids, token)
        run = np.logical_and.accumulate(same, axis=1)
        learnt = np.isin(self.labels, token) | (run & (self.labels != IGNORE))
        lengths, T = run.sum(axis=1), run.shape[1]
        unequal = lengths.min() < lengths.max() < T
        return bool(unequal and (same == run).all() and not learnt.any())

    def not_moved(self):
        """Returns whether every label is the id at its place, and some is not the next id."""
        labelled = self.labels != IGNORE
        within = labelled[:, :-1] & labelled[:, 1:]  # where the next id is a token of the text
        moved = (self.labels[:, :-1] == self.ids[:, 1:])[within].all()
        return bool((self.labels == self.ids)[labelled].all() and not moved)

    def __len__(self):
        return len(self.ids)

    def take(self, rows):
        """Returns (ids, labels) of some rows, cut after the last label of any of them."""
        labels = self.labels[rows]
        used = (labels != IGNORE).any(axis=0)
        end = len(used) - used[::-1].argmax() if used.any() else len(used)
        return self.ids[rows, :end], labels[:, :end]

    def batch(self, step, size, seed):
        """Returns (ids, labels), `size` rows, of the batch at a step, counted from 0.

        Each epoch takes all rows that have a label, in a random order drawn from (seed, epoch).
        By length, batches of like rows follow each other in a random order. The batch depends
        on the arguments alone, so a run can be resumed at any step.
        """
        first, n = step * size, len(self.to_learn)
        epochs = range(first // n, (first + size - 1) // n + 1)
        order = np.concatenate([self.order(seed, epoch, size) for epoch in epochs])
        start = first - epochs[0] * n
        return self.take(self.to_learn[order[start : start + size]])

    def order(self, seed, epoch, size):
        """Returns the order in which an epoch takes the rows, in batches of `size`."""
        order = shuffled(len(self.to_learn), seed, epoch)
        if not self.by_length:
            return order
        pools = np.array_split(order, range(size * POOL, len(order), size * POOL))
        order = np.concatenate([p[np.argsort(self.lengths[p], kind="stable")] for p in pools])
        batches = np.array_split(order, range(size, len(order), size))
        last = batches.pop() if len(batches[-1]) < size else order[:0]  # not full: at the end
        mixed = shuffled(len(batches), seed, epoch)
        return np.concatenate([*(batches[i] for i in mixed), last])


@functools.lru_cache(maxsize=4)
def shuffled(n, seed, epoch):
    """Returns the order in which an epoch takes n rows, a permutation of 0 … n − 1."""
    return np.random.default_rng([seed, epoch]).permutation(n)
