"""Solutions of lesson 8: choosing a rate, summaries over seeds, the Pareto front.

python lessons/solutions/lesson_08.py        runs the lesson's checks on them
"""

import statistics

from minipeft.course import comparison


def choose_rate(rows):
    """Never look at the test words."""
    valid = [row for row in rows if row["split"] == "valid"]
    return max(valid, key=lambda row: (row["exact"], -row["loss"]))["lr"]


def summary(rows):
    """★ Sort the rows by method first."""
    scores = {}
    for row in rows:
        scores.setdefault(row["method"], []).append(row["exact"])
    return {
        name: (statistics.fmean(exact), min(exact), max(exact))
        for name, exact in scores.items()
    }


def paired_difference(a, b):
    """★★ Only the seeds that both have; then the lowest and the highest difference."""
    differences = [a[seed] - b[seed] for seed in a.keys() & b.keys()]
    return min(differences), max(differences)


def front(points):
    """★★★ No other method is as good in both coordinates, unless it is the same point."""

    def beaten(point):
        n, exact = point
        return any(m <= n and e >= exact and (m, e) != point for m, e in points.values())

    return {name for name, point in points.items() if not beaten(point)}


if __name__ == "__main__":
    comparison.choose_rate(choose_rate)
    comparison.summary(summary)
    comparison.paired_difference(paired_difference)
    comparison.front(front)
