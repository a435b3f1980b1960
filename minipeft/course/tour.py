"""Checks of lesson 0, the tour: what a LoRA costs, what is stored, and which words count."""

from ..engine.backend import np
from ..engine.functional import IGNORE
from .base import check, expect


def drawn_shapes(draw):
    """One to three shapes (out, in) of matrices."""
    n = draw.size("matrices", 1, 3)
    return [(draw.size(f"out {i}"), draw.size(f"in {i}")) for i in range(n)]


@check("LoRA trains r (in + out) numbers on each matrix")
def lora_count(draw, answer):
    """answer(r, shapes) -> how many numbers train, shapes a list of (out, in)."""
    r, shapes = draw.size("r"), drawn_shapes(draw)
    expect(answer(r, shapes), sum(r * (n_out + n_in) for n_out, n_in in shapes))


@check("the rank is the largest whose r (in + out) numbers fit, and at most min(out, in)")
def largest_rank(draw, answer):
    """answer(budget, shapes) -> the largest r that fits, or 0."""
    shapes = drawn_shapes(draw)
    each, most = sum(map(sum, shapes)), min(map(min, shapes))
    spare = draw.size("budget beyond full ranks", 0, each - 1)
    budget = draw.drawn["budget"] = each * draw.size("full ranks", 0, 7) + spare
    expect(answer(budget, shapes), max(r for r in range(most + 1) if r * each <= budget))


@check("one base and an adapter a task take base + tasks · adapter, copies take tasks · base")
def storage(draw, answer):
    """answer(base, adapter, tasks) -> how many times less is stored; sizes in bytes."""
    adapter, tasks = draw.size("adapter", 1, 100), draw.size("tasks", 1, 50)
    base = draw.size("base", 100, 10_000)
    expect(answer(base, adapter, tasks), tasks * base / (base + tasks * adapter))


@check("a word is right if every place asked for is right, whatever stands at the others")
def exact_match(draw, answer):
    """answer(best, labels) -> the share of rows (words, places) that are right."""
    words, places = draw.size("words"), draw.size("places")
    rng = draw.rng()
    labels = rng.integers(3, 6, (words, places))
    best = np.where(rng.random((words, places)) < 0.2, 6, labels)
    labels[rng.random((words, places)) < 0.3] = IGNORE
    draw.drawn |= {"best": best, "labels": labels}
    right = sum(
        all(b == wanted for b, wanted in zip(*row, strict=True) if wanted != IGNORE)
        for row in zip(best, labels, strict=True)
    )
    expect(answer(best, labels), right / words)
