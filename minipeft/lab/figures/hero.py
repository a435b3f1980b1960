"""Quality against trainable parameters, every method: all in one picture.

Exact match on unseen words, the mean of the tasks, after the larger budget of steps. A
staircase joins the methods that no smaller one beats, and another one those of the smaller
budget. The numbers are those of the long comparison, `minipeft compare --full`, which has to
be there.
"""

import math
import statistics
from importlib.metadata import version
from pathlib import Path

from ...engine.backend import np
from ...io.files import read_json
from ..comparison_table import COMPARED, extent
from ..plots import LARGE, SMALL, canvas, first_marker, hue, place_labels, tidy, tint

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
    """Returns the Figure: a point a method, and a staircase of the best for each budget."""
    figure, (axes,) = canvas(1, 1, 8.2, 6.6)
    methods = {
        name: numbers["methods"][name] for name in COMPARED if name in numbers["methods"]
    }
    sizes = {name: point["trainable"] for name, point in methods.items()}
    places, leading = side_by_side(sizes), []
    budgets = sorted(methods["full"]["exact"], key=int)
    for steps, dash in {budgets[0]: ":", budgets[-1]: "-"}.items():
        scores = scores_of(methods, steps)
        leading = front(sizes, scores)
        stairs(axes, [(places[name], scores[name]) for name in leading], dash, steps)
    leading += best_of_families(scores)
    for name in sorted(methods, key=leading.__contains__, reverse=True):
        point(axes, places[name], methods[name]["exact"][budgets[-1]].values(), name)
    tasks = len(numbers["tasks"])
    axes.set(xscale="log", xlabel="trainable parameters (log scale)",
             ylabel=f"exact match on unseen words, mean of {tasks} tasks")  # fmt: skip
    axes.set_title(message(methods, budgets[-1]), fontsize=LARGE, loc="left", weight="bold")
    axes.set_yticks([height(exact) for exact in TICKS], TICKS)
    axes.margins(x=0.06, y=0.06)
    tidy(axes)
    key(figure, axes, methods)
    place_labels(axes, farthest=90, first=leading)
    return figure


def scores_of(methods, steps):
    """Returns {method: its mean exact match over seeds after so many steps}."""
    return {
        name: statistics.fmean(point["exact"][steps].values())
        for name, point in methods.items()
    }


def front(sizes, scores):
    """Returns the methods that no smaller one is as good as, the smallest first."""
    found = []
    for name in sorted(sizes, key=lambda name: (sizes[name], -scores[name])):
        if not found or scores[name] > scores[found[-1]]:
            found.append(name)
    return found


def best_of_families(scores):
    """Returns the best method of each family."""
    best = {}
    for name in sorted(scores, key=scores.get):
        best[COMPARED[name].family] = name
    return [*best.values()]


def stairs(axes, points, dash, steps):
    """Draw a staircase through points (x, exact match), the smallest x first."""
    x, y = np.repeat([(x, height(exact)) for x, exact in points], 2, axis=0).T
    axes.plot(x[1:], y[:-1], color="#999999", lw=1.3, ls=dash, zorder=1,
              label=f"best of its size after {int(steps):,} steps")  # fmt: skip


def message(methods, steps):
    """Returns what is to be seen, in words: how few parameters come close to all of them."""
    scores = scores_of(methods, steps)
    sizes = {name: point["trainable"] for name, point in methods.items()}
    close = [name for name in methods if scores[name] >= ENOUGH * scores["full"]]
    least = min(close, key=sizes.get)
    share = 100 * sizes[least] / sizes["full"]
    if least == "full":
        return f"No method comes near full fine-tuning, which reaches {scores['full']:.2f}"
    return (
        f"{least} reaches {scores[least]:.2f} with {share:.2g} % of the parameters, "
        f"full fine-tuning {scores['full']:.2f}"
    )


def in_words(numbers):
    """Returns what the picture shows, for those who cannot see it."""
    methods, steps = numbers["methods"], max(numbers["methods"]["full"]["exact"], key=int)
    return (
        f"Exact match on unseen words against the number of trainable parameters, "
        f"for {len(methods)} methods: {message(methods, steps)}"
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


def point(axes, x, exact, method):
    """Draw one method: the mean of its seeds, their range, its name."""
    family = COMPARED[method].family
    y, low, high = map(height, extent(exact))
    axes.vlines(x, low, high, color=hue(family), lw=5, alpha=0.3, zorder=2)
    axes.plot(x, y, first_marker(family), color=hue(family), mec="white", mew=0.5,
              ms=11 if method == "full" else 8, zorder=3)  # fmt: skip
    axes.annotate(method, (x, y), (0, 0), textcoords="offset points", va="bottom",
                  fontsize=SMALL, color=tint(method))  # fmt: skip


def key(figure, axes, methods):
    """Draw the key: the families' markers, and what lines and bars mean."""
    for family in dict.fromkeys(COMPARED[name].family for name in methods):
        name = family.replace("lora", "LoRA")
        axes.plot([], [], first_marker(family), color=hue(family), ms=8, label=f"{name} family")
    axes.plot([], [], color="grey", alpha=0.3, lw=5, label="range of the seeds")
    figure.legend(loc="outside lower center", ncols=3, fontsize=SMALL, frameon=False)
