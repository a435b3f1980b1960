"""Checks of lesson 10, data: gradient accumulation, augmentation, noise, shuffled batches."""

import itertools

from ..engine.backend import np
from ..text.words import LETTERS, substitute
from .base import check, expect, require


@check("a batch read in parts has the gradient of the mean over all its labels")
def accumulated(case, answer):
    """answer(parts, gradient) -> gradient (d,) of the whole batch's mean loss.

    parts: [(x (rows, T, d), y (rows, T), real (rows, T))], `real` false at padding.
    gradient(x, y, real) is the gradient of the mean loss over the real labels of one part.
    """
    d, T, n = case.size("d", 1, 2), case.size("T", 1, 3), case.size("parts", 1, 3)
    w, parts = case.array("w", d), []
    for i in range(n):
        rows = case.size(f"rows {i}", 1, 3)
        real = np.arange(T) < case.rng().integers(1, T, (rows, 1), endpoint=True)
        case.values[f"labels {i}"] = int(real.sum())
        rng = case.rng()
        parts.append((rng.standard_normal((rows, T, d)), rng.standard_normal((rows, T)), real))

    def gradient(x, y, real):
        return 2 * (x[real] @ w - y[real]) @ x[real] / real.sum()

    whole = [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]
    expect(answer(parts, gradient), gradient(*whole))


@check("for a rule that acts letter by letter, a pair read backwards is a right one too")
def with_reversed(case, answer):
    """answer(pairs) -> the pairs (word, target), and each of them backwards."""
    alphabet = "".join(case.rng().permutation(list(LETTERS)))
    words = []
    for i in range(case.size("words", 1, 3)):
        length = case.size(f"letters {i}", 2, 6)
        words.append("".join(case.rng().permutation(list(LETTERS))[:length]))
    case.values["words"] = words
    pairs = [(word, substitute(word, alphabet)) for word in words]
    result = list(answer(list(pairs)))
    for word, target in result:
        right = substitute(word, alphabet)
        require(target == right, f"{word} -> {target} is wrong: the rule says {right}")
    missing = {*words, *(word[::-1] for word in words)} - {word for word, _ in result}
    require(not missing, f"no pair for {', '.join(sorted(missing))}")
    require(
        len(result) == 2 * len(pairs), f"expected {2 * len(pairs)} pairs, got {len(result)}"
    )


@check("the mean of k of n values has standard deviation σ / √k · √((n − k) / (n − 1))")
def noise(case, answer):
    """answer(values, k) -> standard deviation of the mean of k values, without replacement."""
    n = case.size("n", 2, 7)
    values, k = case.array("values", n), case.size("k", 1, n)
    means = [np.mean(subset) for subset in itertools.combinations(values, k)]
    expect(answer(values, k), np.std(means))


@check("each epoch visits every row once, in an order of its own, at whatever step it starts")
def batches(case, answer):
    """answer(step, size, n, seed) -> the rows (size,) of one batch of n rows of data."""
    size, n, seed = case.size("size", 1, 5), case.size("n", 2, 7), case.size("seed", 0, 9)

    def two_epochs(n):
        steps = range(-(-2 * n // size))
        rows = {step: np.asarray(answer(step, size, n, seed)) for step in reversed(steps)}
        for step in steps:
            shape = rows[step].shape
            require(shape == (size,), f"step {step}: expected ({size},) rows, got {shape}")
        return np.concatenate([rows[step] for step in steps]).tolist()

    order = two_epochs(n)
    for epoch in range(2):
        visits = order[epoch * n : (epoch + 1) * n]
        require(sorted(visits) == list(range(n)), f"epoch {epoch} visits {visits} of {n} rows")
    require(two_epochs(n) == order, "the same step gave other rows when called again")
    long = two_epochs(30)
    require(long[:30] != long[30:60], "the second epoch has the order of the first")
