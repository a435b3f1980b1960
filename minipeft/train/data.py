"""Training examples: token ids with labels, and the batch of each training step."""

import functools

from ..engine.backend import np
from ..engine.functional import IGNORE


class Examples:
    """Sequences to learn from: integer arrays ids and labels, both (N, T).

    labels[n, t] is the token that should follow ids[n, : t + 1], or IGNORE where nothing is
    learnt: in the prompt and in the padding. Raises ValueError for arrays of other shapes.
    """

    def __init__(self, ids, labels):
        self.ids, self.labels = np.asarray(ids), np.asarray(labels)
        if self.ids.shape != self.labels.shape or self.ids.ndim != 2 or not self.ids.size:
            raise ValueError(
                f"examples need ids and labels of one shape (N, T), N and T ≥ 1; "
                f"got {self.ids.shape} and {self.labels.shape}"
            )

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

        Each epoch takes all rows in a random order, drawn from (seed, epoch). The batch depends
        on the arguments alone, so a run can be resumed at any step.
        """
        first = step * size
        epochs = range(first // len(self), (first + size - 1) // len(self) + 1)
        order = np.concatenate([shuffled(len(self), seed, epoch) for epoch in epochs])
        start = first - epochs[0] * len(self)
        return self.take(order[start : start + size])


@functools.lru_cache(maxsize=4)
def shuffled(n, seed, epoch):
    """Returns the order in which an epoch takes n rows, a permutation of 0 … n − 1."""
    return np.random.default_rng([seed, epoch]).permutation(n)
