"""Quality against trainable parameters, every method, two budgets of steps: all in one picture.

Exact match on unseen words, the mean of the tasks. The numbers are those of the long
comparison, `minipeft compare --full`, which has to be there.
"""

import math
import statistics
from importlib.metadata import version
from pathlib import Path

from ...io.files import read_json
from ..comparison_table import COMPARED, extent
from ..plots import LARGE, SMALL, canvas, place_labels, style, tidy, tint

LONG = Path("figures/compare_full.json")
BEST = 0.998  # better than this is drawn like this
TICKS = (0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, BEST)
ENOUGH = 0.98  # of full fine-tuning's score
NEAR, APART = 0.04, 0.045  # decades between sizes that are about the same, and when drawn so


def measure(fast=False):
    """The mean over tasks of each method's exact match, at each budget, seed by seed."""
    rows = long_comparison()
    points = {}
    for row in rows:
        point = points.setdefault(row["method"], {"trainable": row["trainable"], "exact": {}})
        seeds = point["exact"].setdefault(str(row["steps"]), {})
        seeds.setdefault(str(row["seed"]), []).append(row["exact"])
    for point in points.values():
        for seeds in point["exact"].values():
            seeds |= {seed: statistics.fmean(tasks) for seed, tasks in seeds.items()}
    return {"tasks": list(dict.fromkeys(row["task"] for row in rows)), "methods": points,
            "minipeft": version("minipeft")}  # fmt: skip


def long_comparison():
    """The rows of the long comparison; ValueError if it has not been made."""
    if not LONG.is_file():
        raise ValueError(f"there is no {LONG}; `minipeft compare --full` makes it")
    return read_json(LONG)["rows"]


def draw(numbers):
    """Returns the Figure: for each method an arrow from the short budget to the long one."""
    figure, (axes,) = canvas(1, 1, 8.2, 6)
    methods = numbers["methods"]
    budgets = sorted(methods["full"]["exact"], key=int)
    places = side_by_side({name: point["trainable"] for name, point in methods.items()})
    for method in [name for name in COMPARED if name in methods]:
        exact = methods[method]["exact"]
        arrow(axes, places[method], [exact[steps] for steps in budgets], method)
    steps = " to ".join(f"{int(steps):,}" for steps in budgets)
    tasks = len(numbers["tasks"])
    axes.set(xscale="log", xlabel="trainable parameters (log scale)",
             ylabel=f"exact match on unseen words, mean of {tasks} tasks")  # fmt: skip
    axes.set_title(message(methods, budgets[-1]), fontsize=LARGE, loc="left", weight="bold")
    key = f"○ → ●  {steps} steps\npale bar: range of the seeds\nequal sizes stand side by side"
    axes.text(0.99, 0.02, key, transform=axes.transAxes, ha="right", va="bottom",
              fontsize=SMALL, linespacing=1.5)  # fmt: skip
    axes.set_yticks([height(exact) for exact in TICKS], TICKS)
    axes.margins(x=0.08, y=0.08)
    tidy(axes)
    place_labels(axes, farthest=90)
    return figure


def message(methods, steps):
    """Returns what is to be seen, in words: how few parameters come close to all of them."""
    scores = {
        name: extent(point["exact"][steps].values())[0] for name, point in methods.items()
    }
    sizes = {name: point["trainable"] for name, point in methods.items()}
    close = [name for name in methods if scores[name] >= ENOUGH * scores["full"]]
    least = min(close, key=sizes.get)
    share = 100 * sizes[least] / sizes["full"]
    return (
        f"{share:.2g} % of the parameters get {100 * scores[least]:.0f} % of the words right, "
        f"all of them {100 * scores['full']:.0f} %"
    )


def height(exact):
    """Returns where an exact match is drawn: −log₁₀ of the share of wrong answers."""
    return -math.log10(1 - min(exact, BEST))


def side_by_side(sizes):
    """Returns {method: x}: methods of about the same size are spread a little around it."""
    groups = []
    for name in sorted(sizes, key=sizes.get):
        if groups and sizes[name] <= sizes[groups[-1][-1]] * 10**NEAR:
            groups[-1].append(name)
        else:
            groups.append([name])
    places = {}
    for group in groups:
        middle = statistics.fmean(math.log10(sizes[name]) for name in group)
        apart = min(APART, 0.4 / len(group))
        for i, name in enumerate(group):
            places[name] = 10 ** (middle + apart * (i - (len(group) - 1) / 2))
    return places


def arrow(axes, x, exact, method):
    """Draw one method: {seed: exact match} of each budget, hollow, and filled for the last."""
    look, ends = style(method), []
    for seeds in exact:
        y, low, high = map(height, extent(seeds.values()))
        axes.plot([x, x], [low, high], color=look["color"], lw=5, alpha=0.3, zorder=1,
                  solid_capstyle="butt")  # fmt: skip
        face = look["color"] if seeds is exact[-1] else "white"
        axes.plot(x, y, mfc=face, ls="", **look)
        ends.append(y)
    axes.plot([x, x], [ends[0], ends[-1]], color=look["color"], lw=0.8, ls=":", zorder=0)
    axes.annotate(method, (x, ends[-1]), (0, 0), textcoords="offset points", va="bottom",
                  fontsize=SMALL, color=tint(method))  # fmt: skip
