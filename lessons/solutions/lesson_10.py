"""Solutions of lesson 10: gradient accumulation, augmentation, noise, shuffled batches.

python lessons/solutions/lesson_10.py        runs the lesson's checks on them
"""

import numpy as np

from minipeft.course import data


def accumulated(parts, gradient):
    """Each part's mean counts by its share of the labels."""
    labels = sum(real.sum() for _, _, real in parts)
    return sum(gradient(x, y, real) * (real.sum() / labels) for x, y, real in parts)


def with_reversed(pairs):
    """★ Both sides of a pair are reversed."""
    return pairs + [(word[::-1], target[::-1]) for word, target in pairs]


def noise(values, k):
    """★★ σ / √k, and less where k is a large part of n: at k = n nothing is random."""
    n = len(values)
    return np.std(values) / np.sqrt(k) * np.sqrt((n - k) / (n - 1))


def batches(step, size, n, seed):
    """★★★ A stream of shuffled epochs, of which the batch is a window."""
    first = step * size
    epochs = range(first // n, (first + size - 1) // n + 1)
    rows = [np.random.default_rng([seed, epoch]).permutation(n) for epoch in epochs]
    start = first - epochs[0] * n
    return np.concatenate(rows)[start : start + size]


if __name__ == "__main__":
    data.accumulated(accumulated)
    data.with_reversed(with_reversed)
    data.noise(noise)
    data.batches(batches)
