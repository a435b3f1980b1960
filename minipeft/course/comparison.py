"""Checks of lesson 8, the comparison: choosing a learning rate, seeds, the Pareto front."""

import statistics

from .base import check, expect, pair, require

METHODS = ("lora", "adapter", "prefix", "prompt")
RATES = (0.001, 0.01, 0.1)


def random_scores(case, name, n, largest=10):
    """Returns n scores of 0, 0.1, … largest / 10, so that some of them are equal."""
    scores = [case.size(f"{name} {i}", 0, largest) / 10 for i in range(n)]
    for i in range(n):  # an error message shows them as one list
        del case.values[f"{name} {i}"]
    case.values[name] = scores
    return scores


def chosen_by(key, split="valid"):
    """Returns a function rows -> the rate of the row of a split with the largest key(row)."""

    def choose(rows):
        return max((row for row in rows if row["split"] in split), key=key)["lr"]

    return choose


def exact_then_loss(row):
    """Returns what the best row has the most of: exact match, then the opposite of the loss."""
    return row["exact"], -row["loss"]


@check(
    "a rate is chosen on validation words: the best exact match, then the lowest loss",
    slips={
        "you looked at the test words": chosen_by(exact_then_loss, "test"),
        "you did not leave out the test words": chosen_by(exact_then_loss, "valid test"),
        "among equal scores you took the highest loss": (
            chosen_by(lambda row: (row["exact"], row["loss"]))
        ),
        "you chose by the loss alone": chosen_by(lambda row: -row["loss"]),
        "among equal scores you did not look at the loss": chosen_by(lambda row: row["exact"]),
    },
)
def choose_rate(case, answer):
    """answer(rows) -> lr, of rows {"lr", "split": "valid" or "test", "exact", "loss"}."""
    runs = [(split, lr) for lr in RATES for split in ("valid", "test")]
    exact = random_scores(case, "exact", len(runs), largest=2)  # often equal
    loss = random_scores(case, "loss", len(runs))
    rows = [
        {"lr": lr, "split": split, "exact": exact[i], "loss": loss[i]}
        for i, (split, lr) in enumerate(runs)
    ]
    case.values = {"rows": "".join(f"\n    {row}" for row in rows)}
    result = answer([rows[i] for i in case.rng().permutation(len(rows))])
    valid = [row for row in rows if row["split"] == "valid"]
    best = max(map(exact_then_loss, valid))
    expected = [row["lr"] for row in valid if exact_then_loss(row) == best]
    is_right = isinstance(result, float) and result in expected
    require(is_right, f"expected {expected[0]}, got {result!r}")


def summary_with(triple):
    """Returns a function rows -> {method: triple(its scores)}."""

    def summary(rows):
        methods = {row["method"] for row in rows}
        return {m: triple([r["exact"] for r in rows if r["method"] == m]) for m in methods}

    return summary


def mean_and_deviation(exact):
    """Returns the mean, and the mean less and more one standard deviation."""
    mean, std = statistics.fmean(exact), statistics.pstdev(exact)
    return mean, mean - std, mean + std


@check(
    "a method's score is its mean over seeds, reported with the lowest and the highest",
    stars=1,
    slips={
        "you reported the best seed in place of the mean": (
            summary_with(lambda exact: (max(exact), min(exact), max(exact)))
        ),
        "you reported the median in place of the mean": (
            summary_with(lambda exact: (statistics.median(exact), min(exact), max(exact)))
        ),
        "you divided by three, but not every method has three seeds": (
            summary_with(lambda exact: (sum(exact) / 3, min(exact), max(exact)))
        ),
        "you reported the sum, not the mean": (
            summary_with(lambda exact: (sum(exact), min(exact), max(exact)))
        ),
        "you reported a standard deviation in place of the lowest and the highest": (
            summary_with(mean_and_deviation)
        ),
        "the highest stands before the lowest": (
            summary_with(lambda exact: (statistics.fmean(exact), max(exact), min(exact)))
        ),
    },
)
def summary(case, answer):
    """answer(rows) -> {method: (mean, lowest, highest)}, rows {"method", "seed", "exact"}."""
    seeds = {name: case.size(f"seeds of {name}", 1, 3) for name in METHODS[:2]}
    scores = {name: random_scores(case, name, n) for name, n in seeds.items()}
    rows = [
        {"method": name, "seed": seed, "exact": scores[name][seed]}
        for seed in range(3)
        for name in scores
        if seed < seeds[name]
    ]
    result = answer(rows)
    text = f"expected a dict {{method: (mean, lowest, highest)}}, got {result!r}"
    require(isinstance(result, dict), text)
    text = f"expected the methods {list(scores)}, got {list(result)}"
    require(set(result) == set(scores), text)
    for name, exact in scores.items():
        expect(result[name], (statistics.fmean(exact), min(exact), max(exact)), name)


def range_of(differences):
    """Returns the lowest and the highest of some numbers."""
    differences = list(differences)
    return min(differences), max(differences)


def difference_of_means(a, b):
    """Returns the difference of two means, twice: seeds are not compared one by one."""
    return (statistics.fmean(a.values()) - statistics.fmean(b.values()),) * 2


@check(
    "the same seed means the same batches: two methods are compared seed by seed",
    stars=2,
    slips={
        "you paired scores by their order, not by their seeds": (
            lambda a, b: range_of(x - y for x, y in zip(a.values(), b.values(), strict=False))
        ),
        "you took b − a": lambda a, b: range_of(b[seed] - a[seed] for seed in a if seed in b),
        "you took a seed that only one of them has for a score of 0": (
            lambda a, b: range_of(a.get(seed, 0) - b.get(seed, 0) for seed in {**a, **b})
        ),
        "you compared the means, not seed by seed": difference_of_means,
        "you compared each seed of a with each of b": (
            lambda a, b: range_of(x - y for x in a.values() for y in b.values())
        ),
        "you dropped the sign of the differences": (
            lambda a, b: range_of(abs(a[seed] - b[seed]) for seed in a if seed in b)
        ),
        "the highest stands before the lowest": (
            lambda a, b: range_of(a[seed] - b[seed] for seed in a if seed in b)[::-1]
        ),
    },
)
def paired_difference(case, answer):
    """answer(a, b), each {seed: exact} -> (lowest, highest) of a − b over the seeds of both."""
    n = case.size("seeds", 1, 3)
    only_a, only_b = (case.size(f"seeds of {name} alone", 0, 2) for name in "ab")
    scores_a = random_scores(case, "a", n + only_a)
    scores_b = random_scores(case, "b", n + only_b)
    a = dict(zip([*range(n), *range(10, 10 + only_a)], scores_a, strict=True))
    b = dict(zip([*range(n), *range(20, 20 + only_b)], scores_b, strict=True))
    rng = case.rng()  # seeds come in any order
    a, b = ({int(seed): x[int(seed)] for seed in rng.permutation(list(x))} for x in (a, b))
    case.values = {"a": a, "b": b}
    lowest, highest = pair(answer(a, b), "lowest, highest")
    differences = [a[seed] - b[seed] for seed in range(n)]
    expect((lowest, highest), (min(differences), max(differences)))


def front_where(beats):
    """Returns a function points -> the methods of which no other point beats their own."""

    def front(points):
        return {
            name
            for name, own in points.items()
            if not any(beats(point, own) for other, point in points.items() if other != name)
        }

    return front


@check(
    "on the Pareto front is every method that no other beats",
    stars=3,
    slips={
        "a method has to be better in both to beat another; in one is enough": (
            front_where(lambda p, own: p[0] < own[0] and p[1] > own[1])
        ),
        "two equal methods beat each other": (
            front_where(lambda p, own: p[0] <= own[0] and p[1] >= own[1])
        ),
        "you looked at the exact match alone": front_where(lambda p, own: p[1] > own[1]),
        "you looked at the parameters alone": front_where(lambda p, own: p[0] < own[0]),
        "more parameters are better": (
            front_where(lambda p, own: p[0] >= own[0] and p[1] >= own[1] and p != own)
        ),
        "a method has to be better than a single one of the others only": (
            lambda points: {
                name
                for name, (n, exact) in points.items()
                if len(points) == 1 or any(m > n or e < exact for m, e in points.values())
            }
        ),
    },
)
def front(case, answer):
    """answer(points) -> the set of methods on the front; points {method: (parameters, exact)}.

    One method beats another if it has no more parameters and gets no fewer words right, and is
    strictly better in one of the two.
    """
    names = METHODS[: case.size("methods", 1, len(METHODS))]
    points = {
        name: (
            case.size(f"parameters of {name}", 1, 4),
            case.size(f"exact of {name}", 0, 3) / 10,
        )
        for name in names
    }
    case.values = {"points": points}
    result = answer(points)
    is_set = isinstance(result, (set, frozenset, list, tuple))
    require(is_set, f"expected a set of names, got {result!r}")
    beats = front_where(lambda p, own: p[0] <= own[0] and p[1] >= own[1] and p != own)
    expected = beats(points)
    require(set(result) == expected, f"expected {expected}, got {set(result) or 'nobody'}")
