"""Checks of lesson 10: what a batch is, and what may be added to the data."""

import itertools

from ..engine.backend import np
from ..text.words import LETTERS, substitute
from .base import check, expect, require


@check("a batch read in parts has the gradient of the mean over all its labels")
def accumulated(draw, answer):
    """answer(parts, gradient) -> gradient (d,) of the whole batch's mean loss.

    parts [(x (rows, T, d), y (rows, T), real (rows, T))], real false at padding;
    gradient(x, y, real) is that of the mean over the real labels of what it is given.
    """
    d, T, n = draw.size("d", 1, 2), draw.size("T", 1, 3), draw.size("parts", 1, 3)
    w, parts = draw.array("w", d), []
    for i in range(n):
        rows = draw.size(f"rows {i}", 1, 3)
        real = np.arange(T) < draw.rng().integers(1, T, (rows, 1), endpoint=True)
        draw.drawn[f"labels {i}"] = int(real.sum())
        rng = draw.rng()
        parts.append((rng.standard_normal((rows, T, d)), rng.standard_normal((rows, T)), real))

    def gradient(x, y, real):
        return 2 * (x[real] @ w - y[real]) @ x[real] / real.sum()

    whole = [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]
    expect(answer(parts, gradient), gradient(*whole))


@check("for a rule that acts letter by letter, a pair read backwards is a right one too")
def with_reversed(draw, answer):
    """answer(pairs) -> pairs: those given and each of them backwards."""
    alphabet = "".join(draw.rng().permutation(list(LETTERS)))
    words = []
    for i in range(draw.size("words", 1, 3)):
        length = draw.size(f"letters {i}", 2, 6)
        words.append("".join(draw.rng().permutation(list(LETTERS))[:length]))
    draw.drawn["words"] = words
    pairs = [(word, substitute(word, alphabet)) for word in words]
    got = list(answer(list(pairs)))
    for word, target in got:
        right = substitute(word, alphabet)
        require(target == right, f"{word} -> {target} is wrong: the rule says {right}")
    missing = {*words, *(word[::-1] for word in words)} - {word for word, _ in got}
    require(not missing, f"no pair for {', '.join(sorted(missing))}")
    require(len(got) == 2 * len(pairs), f"{2 * len(pairs)} pairs expected, got {len(got)}")


@check("a mean of k of n numbers scatters by σ / √k · √((n − k) / (n − 1))")
def noise(draw, answer):
    """answer(values, k) -> standard deviation of the mean of k different ones at random."""
    n = draw.size("n", 2, 7)
    values, k = draw.array("values", n), draw.size("k", 1, n)
    means = [np.mean(some) for some in itertools.combinations(values, k)]
    expect(answer(values, k), np.std(means))


@check("each epoch visits every row once, in an order of its own, at whatever step it starts")
def batches(draw, answer):
    """answer(step, size, n, seed) -> the rows (size,) of one batch of n rows of data."""
    size, n, seed = draw.size("size", 1, 5), draw.size("n", 2, 7), draw.size("seed", 0, 9)

    def rows(size, n):
        steps = range(-(-2 * n // size))
        found = {step: np.asarray(answer(step, size, n, seed)) for step in reversed(steps)}
        for step in steps:
            got = found[step]
            require(got.shape == (size,), f"step {step} has {got.shape}, not ({size},) rows")
        return np.concatenate([found[step] for step in steps]).tolist()

    seen = rows(size, n)
    for epoch in range(2):
        part = seen[epoch * n : (epoch + 1) * n]
        require(sorted(part) == list(range(n)), f"epoch {epoch} visits {part} of {n} rows")
    require(rows(size, n) == seen, "the same step gave other rows when asked again")
    long = rows(size, 30)
    require(long[:30] != long[30:60], "the second epoch has the order of the first")
