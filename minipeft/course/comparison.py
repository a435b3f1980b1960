"""Checks of lesson 8, the comparison: choosing a rate, seeds, who is on the front."""

import statistics

from .base import check, expect, require

METHODS = ("lora", "adapter", "prefix", "prompt")
RATES = (0.001, 0.01, 0.1)


def scores(draw, label, n):
    """n numbers from 0 to 1 with one decimal, so that some of them are equal."""
    found = [draw.size(f"{label} {i}", 0, 10) / 10 for i in range(n)]
    for i in range(n):  # shown as one list
        del draw.drawn[f"{label} {i}"]
    draw.drawn[label] = found
    return found


@check("a rate is chosen on validation words: the best exact match, then the lowest loss")
def choose(draw, answer):
    """answer(rows) -> lr, of rows {"lr", "split": "valid" or "test", "exact", "loss"}."""
    tried = [(split, lr) for lr in RATES for split in ("valid", "test")]
    exact, loss = scores(draw, "exact", len(tried)), scores(draw, "loss", len(tried))
    numbers = zip(tried, exact, loss, strict=True)
    rows = [{"lr": lr, "split": s, "exact": e, "loss": x} for (s, lr), e, x in numbers]
    draw.drawn = {"rows": "".join(f"\n    {row}" for row in rows)}
    chosen = answer([rows[i] for i in draw.rng().permutation(len(rows))])
    valid = [row for row in rows if row["split"] == "valid"]
    wanted = max((row["exact"], -row["loss"]) for row in valid)
    best = [row["lr"] for row in valid if (row["exact"], -row["loss"]) == wanted]
    require(chosen in best, f"expected {best[0]}, got {chosen!r}")


@check("a method's score is its mean over seeds, told with the lowest and the highest")
def summary(draw, answer):
    """answer(rows) -> {method: (mean, lowest, highest)}, rows {"method", "seed", "exact"}."""
    seeds = {name: draw.size(f"seeds of {name}", 1, 3) for name in METHODS[:2]}
    found = {name: scores(draw, name, n) for name, n in seeds.items()}
    rows = [
        {"method": name, "seed": seed, "exact": own[seed]}
        for seed in range(3)
        for name, own in found.items()
        if seed < len(own)
    ]
    got = answer(rows)
    require(isinstance(got, dict), f"expected a dict {{method: three numbers}}, got {got!r}")
    require(set(got) == set(found), f"expected the methods {list(found)}, got {list(got)}")
    for name, own in found.items():
        expect(got[name], (statistics.fmean(own), min(own), max(own)), name)


@check("the same seed means the same batches: two methods are compared seed by seed")
def paired(draw, answer):
    """answer(a, b), each {seed: exact} -> (lowest, highest) of a − b over the seeds of both."""
    n, alone = draw.size("seeds", 1, 3), draw.size("seeds of b alone", 0, 2)
    a, b = scores(draw, "a", n), scores(draw, "b", n + alone)
    a, b = dict(enumerate(a)), dict(enumerate(b))
    draw.drawn |= {"a": a, "b": b}
    differences = [a[seed] - b[seed] for seed in a]
    expect(answer(a, b), (min(differences), max(differences)))


@check("on the front stands whom nobody beats with as few numbers")
def front(draw, answer):
    """answer(points), {method: (numbers, exact)} -> the methods on the front, a set of names.

    One method beats another if it needs no more numbers and gets no fewer words right, and is
    really better in one of the two.
    """
    names = METHODS[: draw.size("methods", 1, len(METHODS))]
    points = {
        name: (draw.size(f"numbers of {name}", 1, 4), draw.size(f"exact of {name}", 0, 3) / 10)
        for name in names
    }
    draw.drawn = {"points": points}

    def beaten(name):
        n, exact = points[name]
        return any(m <= n and e >= exact and (m, e) != (n, exact) for m, e in points.values())

    wanted = {name for name in names if not beaten(name)}
    got = answer(dict(points))
    require(isinstance(got, (set, list, tuple)), f"expected a set of names, got {got!r}")
    require(set(got) == wanted, f"expected {wanted}, got {set(got) or 'nobody'}")
