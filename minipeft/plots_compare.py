"""The picture of a comparison: how well each method did, against how many numbers it trains."""

import itertools

from matplotlib.figure import Figure

from .plots import SMALL, place_labels, style, tidy
from .table import groups, mean, spread


def comparison(rows):
    """Exact match on unseen words against trainable numbers, a panel a task, a marker a method.

    Whiskers span the seeds. Of several budgets the largest is filled, the others hollow.
    """
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    steps = sorted({row["steps"] for row in rows})
    columns = min(len(tasks), 4 if len({row["method"] for row in rows}) < 9 else 2)
    lines = -(-len(tasks) // columns)
    figure = Figure(figsize=(max(4.6, 3.3 * columns), 3.4 * lines), layout="constrained")
    panels = figure.subplots(lines, columns, sharey=True, squeeze=False).flat
    for axes, task in itertools.zip_longest(panels, tasks):
        if task is None:
            axes.set_axis_off()
            continue
        panel(axes, [row for row in rows if row["task"] == task], steps)
    figure.supxlabel("trainable numbers (log scale)", fontsize=10)
    figure.supylabel("exact match on unseen words", fontsize=10)
    figure.canvas.draw()
    for axes in figure.axes:
        place_labels(axes)
    return figure


def panel(axes, rows, steps):
    """One task of `comparison`."""
    seen = {}
    for (_, budget), methods in sorted(groups(rows).items(), key=lambda item: item[0][1]):
        for method, seeds in methods.items():
            look, x = style(method), seeds[0]["trainable"]
            y, low, high = spread(seeds, "exact")
            face = look["color"] if budget == steps[-1] else "white"
            axes.errorbar(x, y, [[y - low], [high - y]], capsize=2, lw=1, mfc=face, **look)
            if method in seen:
                axes.plot([x, x], [seen[method], y], color=look["color"], lw=0.7, zorder=1)
            seen[method] = y
            if budget == steps[-1]:
                axes.annotate(method, (x, y), (0, 0), textcoords="offset points", va="bottom",
                              fontsize=SMALL, color=look["color"])  # fmt: skip
    before = mean(rows, "exact_before")
    axes.axhline(before, color="grey", lw=0.8, ls=":", zorder=0)
    axes.text(0.99, before, "before", transform=axes.get_yaxis_transform(), ha="right",
              va="bottom", fontsize=SMALL, color="grey")  # fmt: skip
    budget = " and ".join(map(str, steps))
    axes.set(xscale="log", title=f"{rows[0]['task']} · {budget} steps", ylim=(-0.05, 1.1))
    axes.title.set_fontsize(10)
    axes.margins(x=0.22)
    tidy(axes)
