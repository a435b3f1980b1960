"""Examples to learn from: token ids and labels, and the batch of each step."""

import functools

from ..engine.backend import np
from ..engine.functional import IGNORE


class Examples:
    """Sequences to learn from: ids and labels (N, T), labels IGNORE where nothing is asked.

    labels[n, t] is the token that should follow ids[n, : t + 1].
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
        """(ids, labels) of some rows, without columns that are padding in all of them."""
        labels = self.labels[rows]
        used = (labels != IGNORE).any(axis=0)
        end = len(used) - used[::-1].argmax() if used.any() else len(used)
        return self.ids[rows, :end], labels[:, :end]

    def batch(self, step, size, seed):
        """The batch of a step: each epoch is a random order of all rows, from (seed, epoch).

        A pure function of its arguments, so that a run can resume anywhere.
        """
        first = step * size
        epochs = range(first // len(self), (first + size - 1) // len(self) + 1)
        order = np.concatenate([shuffled(len(self), seed, epoch) for epoch in epochs])
        start = first - epochs[0] * len(self)
        return self.take(order[start : start + size])


@functools.lru_cache(maxsize=4)
def shuffled(n, seed, epoch):
    """The order of n rows in an epoch."""
    return np.random.default_rng([seed, epoch]).permutation(n)
