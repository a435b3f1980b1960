"""Checks of lesson 8, the comparison: choosing a learning rate, seeds, the Pareto front."""

import statistics

from .base import check, expect, require

METHODS = ("lora", "adapter", "prefix", "prompt")
RATES = (0.001, 0.01, 0.1)


def random_scores(case, name, n, largest=10):
    """Returns n scores of 0, 0.1, … largest / 10, so that some of them are equal."""
    scores = [case.size(f"{name} {i}", 0, largest) / 10 for i in range(n)]
    for i in range(n):  # an error message shows them as one list
        del case.values[f"{name} {i}"]
    case.values[name] = scores
    return scores


@check("a rate is chosen on validation words: the best exact match, then the lowest loss")
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
    best = max((row["exact"], -row["loss"]) for row in valid)
    expected = [row["lr"] for row in valid if (row["exact"], -row["loss"]) == best]
    require(result in expected, f"expected {expected[0]}, got {result!r}")


@check("a method's score is its mean over seeds, reported with the lowest and the highest")
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


@check("the same seed means the same batches: two methods are compared seed by seed")
def paired_difference(case, answer):
    """answer(a, b), each {seed: exact} -> (lowest, highest) of a − b over the seeds of both."""
    n, only_b = case.size("seeds", 1, 3), case.size("seeds of b alone", 0, 2)
    a, b = random_scores(case, "a", n), random_scores(case, "b", n + only_b)
    a, b = dict(enumerate(a)), dict(enumerate(b))
    case.values |= {"a": a, "b": b}
    differences = [a[seed] - b[seed] for seed in a]
    expect(answer(a, b), (min(differences), max(differences)))


@check("on the Pareto front is every method that no other beats")
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

    def beaten(name):
        n, exact = points[name]
        return any(m <= n and e >= exact and (m, e) != (n, exact) for m, e in points.values())

    expected = {name for name in names if not beaten(name)}
    result = answer(dict(points))
    is_set = isinstance(result, (set, list, tuple))
    require(is_set, f"expected a set of names, got {result!r}")
    require(set(result) == expected, f"expected {expected}, got {set(result) or 'nobody'}")
