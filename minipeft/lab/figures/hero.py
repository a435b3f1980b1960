"""Quality against trained numbers, every method, two budgets of steps: all in one picture.

Exact match on unseen words, the mean of the tasks; whiskers span the seeds. The numbers are
those of the long comparison, `minipeft compare --full`, which has to be there.
"""

import statistics
from importlib.metadata import version
from pathlib import Path

from ...io.files import read_json
from ..comparison_table import extent
from ..plots import SMALL, canvas, place_labels, style, tidy, tint

LONG = Path("figures/compare_full.json")


def measure(fast=False):
    """The mean over tasks of each method's exact match, at each budget, seed by seed."""
    rows = long_comparison()
    points = {}
    for row in rows:
        found = points.setdefault(row["method"], {"trainable": row["trainable"], "exact": {}})
        seeds = found["exact"].setdefault(str(row["steps"]), {})
        seeds.setdefault(str(row["seed"]), []).append(row["exact"])
    for found in points.values():
        for seeds in found["exact"].values():
            seeds |= {seed: statistics.fmean(tasks) for seed, tasks in seeds.items()}
    return {"tasks": list(dict.fromkeys(row["task"] for row in rows)), "methods": points,
            "minipeft": version("minipeft")}  # fmt: skip


def long_comparison():
    """The rows of the long comparison; ValueError if it has not been made."""
    if not LONG.is_file():
        raise ValueError(f"there is no {LONG}; `minipeft compare --full` makes it")
    return read_json(LONG)["rows"]


def draw(numbers):
    """One point a method and budget, the longer one filled."""
    figure, (axes,) = canvas(1, 1, 9.5, 6.2)
    for method, found in numbers["methods"].items():
        look, x, last = style(method), found["trainable"], None
        budgets = sorted(found["exact"], key=int)
        for steps in budgets:
            y, low, high = extent(found["exact"][steps].values())
            face = look["color"] if steps == budgets[-1] else "white"
            axes.errorbar(x, y, [[y - low], [high - y]], capsize=2, lw=1, mfc=face, **look)
            if last is not None:
                axes.plot([x, x], [last, y], color=look["color"], lw=0.8, zorder=1)
            last = y
        axes.annotate(method, (x, last), (0, 0), textcoords="offset points", va="bottom",
                      fontsize=SMALL, color=tint(method))  # fmt: skip
    steps = " (hollow) and ".join(budgets)
    tasks = ", ".join(numbers["tasks"])
    axes.set(xscale="log", xlabel="trained numbers (log scale)",
             ylabel="exact match on unseen words",
             title=f"mean of {tasks}: {steps} steps (filled)")  # fmt: skip
    axes.margins(x=0.1, y=0.1)
    tidy(axes)
    figure.canvas.draw()
    place_labels(axes)
    return figure
