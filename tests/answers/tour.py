"""Answers to the checks of lesson 0."""

import numpy as np

from lessons.solutions.lesson_00 import exact_match, largest_rank, lora_count, times_smaller

ANSWERS = {
    "lora_count": (
        lora_count,
        lambda r, shapes: sum(r * n_out * n_in for n_out, n_in in shapes),
        lambda r, shapes: r * sum(shapes[0]),
        lambda r, shapes: sum(r * n_out for n_out, _ in shapes),
    ),
    "largest_rank": (
        largest_rank,
        lambda budget, shapes: budget // lora_count(1, shapes),  # above min(out, in)
        lambda budget, shapes: max(1, largest_rank(budget, shapes)),  # over the budget
        lambda budget, shapes: largest_rank(budget - 1, shapes),
        lambda budget, shapes: largest_rank(budget, shapes[:1]),
    ),
    "storage": (
        times_smaller,
        lambda base, adapter, tasks: base / adapter,  # forgets the base
        lambda base, adapter, tasks: base / (base + tasks * adapter),
        lambda base, adapter, tasks: (base + tasks * adapter) / (tasks * base),
    ),
    "exact_match": (
        exact_match,
        lambda best, labels: (best == labels).all(axis=1).mean(),  # what nobody asked counts
        lambda best, labels: ((best == labels) | (labels == -100)).mean(),  # letters, not words
        lambda best, labels: (best == labels).any(axis=1).mean(),
        lambda best, labels: np.sum(((best == labels) | (labels == -100)).all(axis=1)),
    ),
}
