"""Answers to the checks of lesson 8."""

import statistics

from lessons.solutions import lesson_08 as right


def grouped(rows):
    scores = {}
    for row in rows:
        scores.setdefault(row["method"], []).append(row["exact"])
    return scores


def only(split, rows):
    return [row for row in rows if row["split"] == split]


def by_test_words(rows):
    return max(only("test", rows), key=lambda row: (row["exact"], -row["loss"]))["lr"]


def by_all_words(rows):
    return max(rows, key=lambda row: (row["exact"], -row["loss"]))["lr"]


def by_highest_loss(rows):
    return max(only("valid", rows), key=lambda row: (row["exact"], row["loss"]))["lr"]


def by_loss_alone(rows):
    return min(only("valid", rows), key=lambda row: row["loss"])["lr"]


def best_seed(rows):
    scores = grouped(rows)
    return {name: (max(exact), min(exact), max(exact)) for name, exact in scores.items()}


def mean_of_three(rows):
    scores = grouped(rows)
    return {name: (sum(exact) / 3, min(exact), max(exact)) for name, exact in scores.items()}


def with_deviation(rows):
    means = {
        name: (statistics.fmean(exact), statistics.pstdev(exact))
        for name, exact in grouped(rows).items()
    }
    return {name: (mean, mean - std, mean + std) for name, (mean, std) in means.items()}


def difference_of_means(a, b):
    difference = statistics.fmean(a.values()) - statistics.fmean(b.values())
    return difference, difference


def difference_of_ranges(a, b):
    return min(a.values()) - max(b.values()), max(a.values()) - min(b.values())


def reversed_sign(a, b):
    low, high = right.paired_difference(a, b)
    return -high, -low


def every_seed(a, b):
    differences = [a[seed] - b[seed] for seed in b]
    return min(differences), max(differences)


def by_exact_alone(points):
    most = max(exact for _, exact in points.values())
    return {name for name, (_, exact) in points.items() if exact == most}


def only_if_better_in_both(points):
    return {
        name
        for name, (n, exact) in points.items()
        if not any(m < n and e > exact for m, e in points.values())
    }


def beaten_by_itself(points):
    return {
        name
        for name, (n, exact) in points.items()
        if not any(m <= n and e >= exact for m, e in points.values())
    }


def equal_points_beaten(points):
    return {
        name
        for name, (n, exact) in points.items()
        if not any(m <= n and e >= exact for other, (m, e) in points.items() if other != name)
    }


ANSWERS = {
    "choose_rate": (
        right.choose_rate,
        by_test_words,
        by_all_words,
        by_highest_loss,
        by_loss_alone,
    ),
    "summary": (right.summary, best_seed, mean_of_three, with_deviation),
    "paired_difference": (
        right.paired_difference,
        difference_of_means,
        difference_of_ranges,
        reversed_sign,
        every_seed,
    ),
    "front": (
        right.front,
        by_exact_alone,
        only_if_better_in_both,
        beaten_by_itself,
        equal_points_beaten,
    ),
}
