"""Checks of lesson 0, the tour: what a LoRA costs, what is stored, and which words count."""

from ..engine.backend import np
from ..engine.functional import IGNORE
from .base import check, expect


def random_shapes(case):
    """Returns the shapes (out, in) of one to three matrices."""
    n = case.size("matrices", 1, 3)
    return [(case.size(f"out {i}"), case.size(f"in {i}")) for i in range(n)]


@check(
    "LoRA trains r (in + out) parameters on each matrix",
    slips={
        "you counted r · in · out, as if the two factors were multiplied": (
            lambda r, shapes: sum(r * n_out * n_in for n_out, n_in in shapes)
        ),
        "you counted only one of the two factors": (
            lambda r, shapes: sum(r * n_out for n_out, _ in shapes)
        ),
        "you counted only the first matrix": lambda r, shapes: r * sum(shapes[0]),
    },
)
def lora_count(case, answer):
    """answer(r, shapes) -> how many parameters train, shapes a list of (out, in)."""
    r, shapes = case.size("r"), random_shapes(case)
    expect(answer(r, shapes), sum(r * (n_out + n_in) for n_out, n_in in shapes))


def affordable(budget, shapes):
    """Returns the rank that a budget pays for on all matrices (out, in)."""
    return budget // sum(map(sum, shapes))


@check(
    "the rank is the largest whose r (in + out) parameters fit, and at most min(out, in)",
    stars=1,
    slips={
        "you forgot that a rank is at most min(out, in)": affordable,
        "you forgot that 0 is right where not even r = 1 fits": (
            lambda budget, shapes: max(1, min(affordable(budget, shapes), *map(min, shapes)))
        ),
        "the budget itself may be used up, but you stay below it": (
            lambda budget, shapes: min(affordable(budget - 1, shapes), *map(min, shapes))
        ),
        "only the first matrix counted": (
            lambda budget, shapes: min(budget // sum(shapes[0]), *shapes[0])
        ),
    },
)
def largest_rank(case, answer):
    """answer(budget, shapes) -> the largest r that trains at most `budget` parameters, or 0."""
    shapes = random_shapes(case)
    per_rank, limit = sum(map(sum, shapes)), min(map(min, shapes))
    spare = case.size("budget beyond full ranks", 0, per_rank - 1)
    budget = case.values["budget"] = per_rank * case.size("full ranks", 0, 7) + spare
    expect(answer(budget, shapes), min(budget // per_rank, limit))


@check(
    "one base and an adapter a task take base + tasks · adapter, copies take tasks · base",
    stars=2,
    answer="times_smaller",
    slips={
        "you forgot the base, which is stored beside the adapters": (
            lambda base, adapter, tasks: base / adapter
        ),
        "the fraction is upside down": (
            lambda base, adapter, tasks: (base + tasks * adapter) / (tasks * base)
        ),
        "you compared with one full copy instead of one for each task": (
            lambda base, adapter, tasks: base / (base + tasks * adapter)
        ),
    },
)
def storage(case, answer):
    """answer(base, adapter, tasks) -> how many times less is stored; sizes in bytes."""
    adapter, tasks = case.size("adapter", 1, 100), case.size("tasks", 1, 50)
    base = case.size("base", 100, 10_000)
    expect(answer(base, adapter, tasks), tasks * base / (base + tasks * adapter))


@check(
    "a word is right if every position with a label is right, whatever the others hold",
    stars=3,
    slips={
        "you compared positions without a label too": (
            lambda best, labels: (best == labels).all(axis=1).mean()
        ),
        "you scored letters, not words": (
            lambda best, labels: ((best == labels) | (labels == IGNORE)).mean()
        ),
        "you counted words instead of taking their share": (
            lambda best, labels: ((best == labels) | (labels == IGNORE)).all(axis=1).sum()
        ),
        "one right letter was enough for a word": (
            lambda best, labels: (best == labels).any(axis=1).mean()
        ),
    },
)
def exact_match(case, answer):
    """answer(best, labels), both (words, positions) -> the share of words that are right.

    best: the most likely token at each position.  labels: the right one, or −100 for no label.
    """
    words, positions = case.size("words"), case.size("positions")
    rng = case.rng()
    labels = rng.integers(3, 7, (words, positions))
    other = 3 + (labels - 3 + rng.integers(1, 4, labels.shape)) % 4  # a wrong letter
    best = np.where(rng.random((words, positions)) < 0.2, other, labels)
    labels[rng.random((words, positions)) < 0.3] = IGNORE
    case.values |= {"best": best, "labels": labels}
    share = answer(best, labels)
    right = sum(
        all(b == label for b, label in zip(*row, strict=True) if label != IGNORE)
        for row in zip(best, labels, strict=True)
    )
    expect(share, right / words)
