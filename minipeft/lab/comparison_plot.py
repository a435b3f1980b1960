"""The picture of a comparison: how well each method did, for how many trained numbers.

A few methods are points in a plane, each with its name. Many would hide each other there, so
they get a line each, family by family. In both the whiskers span the seeds, and of several
budgets of steps the largest is filled, the others hollow.
"""

import itertools

from matplotlib.figure import Figure

from .comparison_table import FEW, families, groups, mean, spread
from .plots import LARGE, SMALL, place_labels, style, tidy, tint

RIGHT = "exact match on unseen words"


def comparison(rows):
    """The picture that suits the number of methods; returns the Figure."""
    methods = {row["method"] for row in rows}
    return by_numbers(rows) if len(methods) <= FEW else by_family(rows)


def by_numbers(rows):
    """Exact match against trainable numbers, a panel a task, a named point a method."""
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    columns = min(len(tasks), 2)
    lines = -(-len(tasks) // columns)
    figure = Figure(figsize=(4.4 * columns, 0.4 + 3.2 * lines), layout="constrained")
    panels = figure.subplots(lines, columns, sharey=True, squeeze=False).flat
    for axes, task in itertools.zip_longest(panels, tasks):
        if task is None:
            axes.set_axis_off()
            continue
        points(axes, [row for row in rows if row["task"] == task])
    figure.supxlabel("trainable numbers (log scale)", fontsize=LARGE)
    figure.supylabel(RIGHT, fontsize=LARGE)
    figure.suptitle(after(rows), fontsize=SMALL)
    figure.canvas.draw()
    for axes in figure.axes:
        place_labels(axes)
    return figure


def points(axes, rows):
    """One task of `by_numbers`."""
    budgets, seen = by_budget(rows), {}
    for steps, methods in budgets.items():
        for method, seeds in methods.items():
            look, x = style(method), seeds[0]["trainable"]
            y, low, high = spread(seeds, "exact")
            face = look["color"] if steps == max(budgets) else "white"
            axes.errorbar(x, y, [[y - low], [high - y]], capsize=2, lw=1, mfc=face, **look)
            if method in seen:
                axes.plot([x, x], [seen[method], y], color=look["color"], lw=0.7, zorder=1)
            seen[method] = y
            if steps == max(budgets):
                axes.annotate(method, (x, y), (0, 0), textcoords="offset points", va="bottom",
                              fontsize=SMALL, color=tint(method))  # fmt: skip
    before = mean(rows, "exact_before")
    axes.axhline(before, color="grey", lw=0.8, ls=":", zorder=0)
    axes.text(0.99, before, "before", transform=axes.get_yaxis_transform(), ha="right",
              va="bottom", fontsize=SMALL, color="grey")  # fmt: skip
    axes.set(xscale="log", ylim=(-0.05, 1.1))
    axes.set_title(rows[0]["task"], fontsize=LARGE)
    axes.margins(x=0.22)
    tidy(axes)


def by_family(rows):
    """A line a method, family by family: how many numbers it trains, then a panel a task."""
    tasks, trained = {}, {row["method"]: row["trainable"] for row in rows}
    for row in rows:
        tasks.setdefault(row["task"], []).append(row)
    lines = [
        name for kind, own in families(trained).items() for name in (f"{kind}-family", *own)
    ]
    place = {name: -number for number, name in enumerate(lines)}
    size = (2.6 + 2.2 * (1 + len(tasks)), 1.4 + 0.26 * len(lines))
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(1, 1 + len(tasks), sharey=True)
    for method, number in trained.items():
        panels[0].plot(number, place[method], ls="", **style(method))
    panels[0].set(xscale="log", xlabel="log scale", title="trainable numbers")
    panels[0].set_ylim(0.6 - len(lines), 0.6)
    panels[0].set_yticks(list(place.values()), lines)
    for label in panels[0].get_yticklabels():
        method = label.get_text()
        label.set(color=tint(method)) if method in trained else label.set(weight="bold")
    for axes, own in zip(panels[1:], tasks.values(), strict=True):
        lengths(axes, own, place)
    for axes in panels:
        tidy(axes)
        axes.tick_params(axis="y", length=0, labelsize=LARGE)
        axes.title.set_fontsize(LARGE)
        axes.xaxis.label.set_fontsize(SMALL)
    figure.suptitle(f"{after(rows)}; dotted: before", fontsize=SMALL)
    return figure


def lengths(axes, rows, place):
    """One task of `by_family`: a whisker and its marker on the line of each method."""
    budgets, seen = by_budget(rows), {}
    for steps, methods in budgets.items():
        for method, seeds in methods.items():
            look, y = style(method), place[method]
            x, low, high = spread(seeds, "exact")
            face = look["color"] if steps == max(budgets) else "white"
            axes.errorbar(x, y, xerr=[[x - low], [high - x]], capsize=2, lw=1, mfc=face, **look)
            axes.plot([seen.get(method, x), x], [y, y], color=look["color"], lw=0.7, zorder=1)
            seen[method] = x
    axes.axvline(mean(rows, "exact_before"), color="grey", lw=0.8, ls=":", zorder=0)
    axes.set(xlim=(-0.05, 1.05), xlabel=RIGHT, title=rows[0]["task"])
    axes.set_xticks([0, 0.5, 1])


def by_budget(rows):
    """{steps: {method: its rows, one a seed}} of one task, the budgets rising."""
    return {steps: methods for (_, steps), methods in sorted(groups(rows).items())}


def after(rows):
    """After how many steps, and which marker means which."""
    *fewer, most = sorted({row["steps"] for row in rows})
    hollow = f" (filled) and {' and '.join(map(str, fewer))} (hollow)" if fewer else ""
    return f"after {most}{hollow} steps"
