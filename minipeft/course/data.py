"""Checks of lesson 10, data: gradient accumulation, augmentation, noise, shuffled batches."""

import itertools

from ..engine.backend import np
from ..text.words import LETTERS, substitute
from .base import check, expect, require


def mean_gradient(w):
    """Returns a function (x, y, real) -> the gradient of a mean squared error at w (d,)."""

    def gradient(x, y, real):
        return 2 * (x[real] @ w - y[real]) @ x[real] / real.sum()

    return gradient


def gradient_from_parts(answer, w, parts):
    """Returns what an answer makes of some parts and their gradient at w (d,)."""
    return answer(parts, mean_gradient(w))


def weighted_by(weights):
    """Returns an answer that adds up the parts' gradients, weighted by weights(parts)."""

    def accumulated(parts, gradient):
        pairs = zip(weights(parts), parts, strict=True)
        return sum(weight * gradient(*part) for weight, part in pairs)

    return accumulated


def share_of_rows(parts):
    """Returns each part's share of all rows."""
    rows = [len(x) for x, _, _ in parts]
    return [n / sum(rows) for n in rows]


@check(
    "a batch read in parts has the gradient of the mean over all its labels",
    uses=("course.data.gradient",),
    slips={
        "you took the mean over the parts, as if all had as many labels": (
            weighted_by(lambda parts: [1 / len(parts)] * len(parts))
        ),
        "you added the gradients of the parts, each already a mean": (
            weighted_by(lambda parts: [1] * len(parts))
        ),
        "you weighted by rows; padding has no label": weighted_by(share_of_rows),
        "you added up over all labels, and did not divide by how many there are": (
            weighted_by(lambda parts: [real.sum() for _, _, real in parts])
        ),
    },
)
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
    result = answer(w, parts, probe=gradient_from_parts)
    whole = [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]
    expect(result, mean_gradient(w)(*whole))


@check(
    "for a rule that acts letter by letter, a pair read backwards is a right one too",
    stars=1,
    slips={
        "you reversed the word, but not its target": (
            lambda pairs: pairs + [(word[::-1], target) for word, target in pairs]
        ),
        "you reversed the target, but not its word": (
            lambda pairs: pairs + [(word, target[::-1]) for word, target in pairs]
        ),
        "you returned the reversed pairs without the old ones": (
            lambda pairs: [(word[::-1], target[::-1]) for word, target in pairs]
        ),
        "you exchanged word and target": (
            lambda pairs: pairs + [(target, word) for word, target in pairs]
        ),
        "you repeated the pairs as they were": lambda pairs: pairs + pairs,
        "you reversed the order of the pairs, not of their letters": (
            lambda pairs: pairs + pairs[::-1]
        ),
    },
)
def with_reversed(case, answer):
    """answer(pairs) -> the pairs (word, target), and each of them backwards."""
    alphabet = "".join(case.rng().permutation(list(LETTERS)))
    words = []
    for i in range(case.size("words", 1, 3)):
        length = case.size(f"letters {i}", 2, 6)
        words.append("".join(case.rng().permutation(list(LETTERS))[:length]))
    case.values["words"] = words
    result = answer([(word, substitute(word, alphabet)) for word in words])
    is_list = isinstance(result, (list, tuple)) and all(
        isinstance(pair, (list, tuple)) and list(map(type, pair)) == [str, str]
        for pair in result
    )
    require(is_list, f"expected a list of pairs (word, target), got {result!r}")
    for word, target in result:
        require(set(word) <= set(LETTERS), f"{word!r} has other letters")
        right = substitute(word, alphabet)
        require(target == right, f"{word} -> {target} is wrong: the rule says {right}")
    missing = {*words, *(word[::-1] for word in words)} - {word for word, _ in result}
    require(not missing, f"no pair for {', '.join(sorted(missing))}")
    n = 2 * len(words)
    require(len(result) == n, f"expected {n} pairs, got {len(result)}")


@check(
    "the mean of k of n values has standard deviation σ / √k · √((n − k) / (n − 1))",
    stars=2,
    slips={
        "your draws may repeat: the correction for different values is missing": (
            lambda values, k: np.std(values) / np.sqrt(k)
        ),
        "you took the sample's σ, with n − 1; these n values are all there are": (
            lambda values, k: (
                np.std(values, ddof=1)
                / np.sqrt(k)
                * np.sqrt((len(values) - k) / (len(values) - 1))
            )
        ),
        "your correction has n below the root, where n − 1 belongs": (
            lambda values, k: np.std(values) / np.sqrt(k) * np.sqrt(1 - k / len(values))
        ),
        "you forgot the root of the correction": (
            lambda values, k: (
                np.std(values) / np.sqrt(k) * (len(values) - k) / (len(values) - 1)
            )
        ),
        "you returned the variance, not its root": (
            lambda values, k: np.var(values) / k * (len(values) - k) / (len(values) - 1)
        ),
        "you divided σ by k, not by √k": lambda values, k: np.std(values) / k,
        "you returned σ, whatever k is": lambda values, k: np.std(values),
    },
)
def noise(case, answer):
    """answer(values, k) -> standard deviation of the mean of k values, without replacement."""
    n = case.size("n", 2, 7)
    values, k = case.array("values", n), case.size("k", 1, n)
    result = answer(values, k)
    means = [np.mean(subset) for subset in itertools.combinations(values, k)]
    expect(result, np.std(means))


LONG = 30  # rows of data: enough to tell a shuffled order from any other


def window(order_of):
    """Returns an answer: a window on epochs, each in the order of order_of(n, seed, epoch)."""

    def batches(step, size, n, seed):
        rows = range(step * size, (step + 1) * size)
        return np.array([order_of(n, seed, row // n)[row % n] for row in rows])

    return batches


@check(
    "each epoch visits every row once, in an order of its own, at whatever step it starts",
    stars=3,
    slips={
        "you visit the rows in the order in which they lie": (
            window(lambda n, seed, epoch: np.arange(n))
        ),
        "every epoch has the same order": (
            window(lambda n, seed, epoch: np.random.default_rng(seed).permutation(n))
        ),
        "you left out the seed": (
            window(lambda n, seed, epoch: np.random.default_rng(epoch).permutation(n))
        ),
        "rows are drawn anew for each step, so that some come twice and some never": (
            lambda step, size, n, seed: np.random.default_rng([seed, step]).integers(0, n, size)
        ),
    },
)
def batches(case, answer):
    """answer(step, size, n, seed) -> the rows (size,) of one batch of n rows of data."""
    size, n, seed = case.size("size", 1, 5), case.size("n", 2, 7), case.size("seed", 0, 9)

    def two_epochs(n, seed):
        steps = range(-(-2 * n // size))
        rows = {step: np.asarray(answer(step, size, n, seed)) for step in reversed(steps)}
        for step in steps:
            shape = rows[step].shape
            require(shape == (size,), f"step {step}: expected ({size},) rows, got {shape}")
            require(rows[step].dtype.kind in "iu", f"step {step}: rows are whole numbers")
        return np.concatenate([rows[step] for step in steps]).tolist()

    order = two_epochs(n, seed)
    for epoch in range(2):
        visits = order[epoch * n : (epoch + 1) * n]
        require(sorted(visits) == list(range(n)), f"epoch {epoch} visits {visits} of {n} rows")
    require(two_epochs(n, seed) == order, "the same step gave other rows when called again")
    long = two_epochs(LONG, seed)
    epochs = long[:LONG], long[LONG : 2 * LONG]
    require(epochs[0] != epochs[1], "the second epoch has the order of the first")
    for epoch in epochs:
        steps = {(b - a) % LONG for a, b in itertools.pairwise(epoch)}
        require(len(steps) > LONG // 3, f"the rows are not shuffled: {epoch[:6]}, …")
    other = two_epochs(LONG, seed + 1)
    require(other[:LONG] not in epochs, "another seed gave the same order")
