"""Checks of lesson 0, the tour: what a LoRA costs, what is stored, and which words count."""

from ..engine.backend import np
from ..engine.functional import IGNORE
from .base import check, expect


def random_shapes(case):
    """Returns the shapes (out, in) of one to three matrices."""
    n = case.size("matrices", 1, 3)
    return [(case.size(f"out {i}"), case.size(f"in {i}")) for i in range(n)]


@check("LoRA trains r (in + out) parameters on each matrix")
def lora_count(case, answer):
    """answer(r, shapes) -> how many parameters train, shapes a list of (out, in)."""
    r, shapes = case.size("r"), random_shapes(case)
    expect(answer(r, shapes), sum(r * (n_out + n_in) for n_out, n_in in shapes))


@check("the rank is the largest whose r (in + out) parameters fit, and at most min(out, in)")
def largest_rank(case, answer):
    """answer(budget, shapes) -> the largest r that trains at most `budget` parameters, or 0."""
    shapes = random_shapes(case)
    per_rank, limit = sum(map(sum, shapes)), min(map(min, shapes))
    spare = case.size("budget beyond full ranks", 0, per_rank - 1)
    budget = case.values["budget"] = per_rank * case.size("full ranks", 0, 7) + spare
    expect(answer(budget, shapes), min(budget // per_rank, limit))


@check("one base and an adapter a task take base + tasks · adapter, copies take tasks · base")
def storage(case, answer):
    """answer(base, adapter, tasks) -> how many times less is stored; sizes in bytes."""
    adapter, tasks = case.size("adapter", 1, 100), case.size("tasks", 1, 50)
    base = case.size("base", 100, 10_000)
    expect(answer(base, adapter, tasks), tasks * base / (base + tasks * adapter))


@check("a word is right if every position with a label is right, whatever the others hold")
def exact_match(case, answer):
    """answer(best, labels), both (words, positions) -> the share of words that are right.

    best: the most likely token at each position.  labels: the right one, or −100 for no label.
    """
    words, positions = case.size("words"), case.size("positions")
    rng = case.rng()
    labels = rng.integers(3, 6, (words, positions))
    best = np.where(rng.random((words, positions)) < 0.2, 6, labels)
    labels[rng.random((words, positions)) < 0.3] = IGNORE
    case.values |= {"best": best, "labels": labels}
    right = sum(
        all(b == label for b, label in zip(*row, strict=True) if label != IGNORE)
        for row in zip(best, labels, strict=True)
    )
    expect(answer(best, labels), right / words)
