"""Answers to the checks of lesson 10."""

import numpy as np

from lessons.solutions import lesson_10 as right


def mean_of_means(parts, gradient):
    """A short part counts as much as a long one."""
    return sum(gradient(*part) for part in parts) / len(parts)


def sum_of_means(parts, gradient):
    """Too large by a factor of the number of parts."""
    return sum(gradient(*part) for part in parts)


def by_rows(parts, gradient):
    """By rows, not by labels: padding counts."""
    rows = sum(len(x) for x, _, _ in parts)
    return sum(gradient(*part) * (len(part[0]) / rows) for part in parts)


def with_replacement(step, size, n, seed):
    """Any rows: some twice, some never."""
    return np.random.default_rng([seed, step]).integers(0, n, size)


def always_one_order(step, size, n, seed):
    """Every epoch has the same order."""
    order = np.random.default_rng(seed).permutation(n)
    return order[np.arange(step * size, (step + 1) * size) % n]


def without_the_rest(step, size, n, seed):
    """What is left at the end of an epoch is dropped, so some batches are short or missing."""
    steps = max(n // size, 1)
    epoch, i = divmod(step, steps)
    return np.random.default_rng([seed, epoch]).permutation(n)[i * size :][:size]


ANSWERS = {
    "accumulated": (right.accumulated, mean_of_means, sum_of_means, by_rows),
    "with_reversed": (
        right.with_reversed,
        lambda pairs: pairs + [(word[::-1], target) for word, target in pairs],
        lambda pairs: [(word[::-1], target[::-1]) for word, target in pairs],
        lambda pairs: pairs + pairs,
    ),
    "noise": (
        right.noise,
        lambda values, k: np.std(values) / np.sqrt(k),
        lambda values, k: np.std(values) / k,
        lambda values, k: np.std(values),
    ),
    "batches": (right.batches, with_replacement, always_one_order, without_the_rest),
}
