"""The picture of a comparison: how well each method does, and with how many parameters.

A few methods are points in a plane, each with its name. Many would hide each other there, so
each gets a line, family by family. A marker is the mean of the seeds, and a whisker or a pale
bar reaches from the worst to the best. Of several budgets of steps the largest is filled, the
others are hollow, and a dotted line joins them.
"""

import itertools
import textwrap

from matplotlib.figure import Figure

from .comparison_table import (
    FEW,
    families,
    groups,
    is_coin_toss,
    mean,
    message,
    seed_count,
    span,
    spread,
    winner,
    wording,
)
from .plots import LARGE, SMALL, place_labels, style, tidy, tint

BAND = "#f2f2f2"  # behind every other family
FROM_FEWER = dict(lw=0.8, ls=(0, (2, 2)), zorder=1)  # the line from fewer steps to more


def comparison(rows):
    """Returns the Figure that suits the number of methods."""
    methods = {row["method"] for row in rows}
    return by_parameters(rows) if len(methods) <= FEW else by_family(rows)


def by_parameters(rows):
    """Exact match against trainable parameters: a panel a task, a named point a method."""
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    columns = min(len(tasks), 2)
    lines = -(-len(tasks) // columns)
    figure = Figure(figsize=(4.6 * columns, 1.2 + 3.2 * lines), layout="constrained")
    panels = figure.subplots(lines, columns, sharey=True, squeeze=False).flat
    for axes, task in itertools.zip_longest(panels, tasks):
        if task is None:
            axes.set_axis_off()
            continue
        points(axes, [row for row in rows if row["task"] == task])
    figure.supxlabel(f"trainable parameters (log scale)\n{legend(rows)}", fontsize=SMALL)
    figure.supylabel(wording(rows)["picture"], fontsize=LARGE)
    figure.suptitle(title(message(rows), 52 * columns), fontsize=LARGE)
    figure.canvas.draw()
    for axes in figure.axes:
        place_labels(axes)
    return figure


def points(axes, rows):
    """Draws one task of `by_parameters`."""
    budgets, last = by_budget(rows), {}
    for steps, methods in budgets.items():
        for method, seeds in methods.items():
            look, x = style(method), seeds[0]["trainable"]
            y, low, high = spread(seeds, "exact")
            face = look["color"] if steps == max(budgets) else "white"
            axes.plot([x, x], [low, high], marker="_", color=look["color"], lw=1.5)
            axes.plot(x, y, ls="", mfc=face, **look)
            axes.plot([x, x], [last.get(method, y), y], color=look["color"], **FROM_FEWER)
            last[method] = y
            if steps == max(budgets):
                name = f"{method} {span(seeds)}" if is_coin_toss(seeds) else method
                axes.annotate(name, (x, y), (0, 0), textcoords="offset points", va="bottom",
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
    """A line a method, family by family: its trainable parameters, then a panel a task."""
    tasks, sizes = {}, {row["method"]: row["trainable"] for row in rows}
    for row in rows:
        tasks.setdefault(row["task"], []).append(row)
    grouped = families(sizes)
    lines = [name for family, names in grouped.items() for name in (f"{family}-family", *names)]
    place = {name: -number for number, name in enumerate(lines)}
    size = (2.2 + 1.75 * (1 + len(tasks)), 2.0 + 0.23 * len(lines))
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(1, 1 + len(tasks), sharey=True)
    for method, number in sizes.items():
        panels[0].plot(number, place[method], ls="", **style(method))
    panels[0].set(xscale="log", xlabel="trainable (log scale)", title="parameters")
    panels[0].set_ylim(0.6 - len(lines), 0.6)
    panels[0].set_yticks(list(place.values()), lines)
    for label in panels[0].get_yticklabels():
        method = label.get_text()
        label.set(color=tint(method)) if method in sizes else label.set(weight="bold")
    for axes, task_rows in zip(panels[1:], tasks.values(), strict=True):
        lengths(axes, task_rows, place)
    for axes in panels:
        for family, names in list(grouped.items())[::2]:
            top = place[f"{family}-family"] + 0.5
            axes.axhspan(top - 1 - len(names), top, color=BAND, zorder=0)
        tidy(axes)
        axes.tick_params(axis="x", top=True, labeltop=True)
        axes.tick_params(axis="y", length=0, labelsize=LARGE)
        axes.title.set_fontsize(LARGE)
        axes.xaxis.label.set_fontsize(SMALL)
    figure.suptitle(title(in_short(rows), 21 * (1 + len(tasks))), fontsize=LARGE)
    says = f"{wording(rows)['picture']} {legend(rows, 'pale bar')}; dotted line: before"
    figure.supxlabel(title(says, 28 * (1 + len(tasks))), fontsize=SMALL)
    return figure


def lengths(axes, rows, place):
    """Draws one task of `by_family`: a pale bar and its marker on the line of each method."""
    budgets, last = by_budget(rows), {}
    for steps, methods in budgets.items():
        for method, seeds in methods.items():
            look, y = style(method), place[method]
            x, low, high = spread(seeds, "exact")
            face = look["color"] if steps == max(budgets) else "white"
            axes.hlines(y, low, high, color=look["color"], lw=6, alpha=0.3, zorder=1)
            axes.plot(x, y, ls="", mfc=face, zorder=2 + (steps == max(budgets)), **look)
            axes.plot([last.get(method, x), x], [y, y], color=look["color"], **FROM_FEWER)
            last[method] = x
    axes.axvline(mean(rows, "exact_before"), color="grey", lw=0.8, ls=":", zorder=0)
    axes.set(xlim=(-0.07, 1.07), xlabel=wording(rows)["right"], title=rows[0]["task"])
    axes.set_xticks([0, 0.5, 1])


def in_short(rows):
    """Returns the message of many rows: where many methods are a coin toss, their number."""
    sentences = list(winner(groups(rows)))
    for (task, steps), methods in groups(rows).items():
        tosses = sum(map(is_coin_toss, methods.values()))
        if tosses:
            sentences.append(
                f"On {task}, {steps} steps are a coin toss for {tosses} of {len(methods)} "
                f"methods: one seed learns the task, another does not."
            )
    return "\n".join(sentences)


def by_budget(rows):
    """Returns {steps: {method: its rows, one a seed}} of one task, the budgets rising."""
    return {steps: methods for (_, steps), methods in sorted(groups(rows).items())}


def title(text, width):
    """Returns a message in lines of about the same length, at most `width`."""
    lines = []
    for sentence in text.splitlines():
        parts = -(-len(sentence) // width)
        lines += textwrap.wrap(
            sentence, min(width, len(sentence) // parts + 8), break_on_hyphens=False
        )
    return "\n".join(lines)


def legend(rows, bar="whisker"):
    """Returns after how many steps it is, and what markers and whiskers mean."""
    *fewer, most = sorted({row["steps"] for row in rows})
    hollow = f" (filled) and {' and '.join(map(str, fewer))} (hollow)" if fewer else ""
    count = seed_count(next(iter(groups(rows).values())))
    spread = f"marker: the mean, {bar}: the worst and the best"
    spread = "so the spread is not known" if count == "1 seed" else spread
    return f"after {most}{hollow} steps; {count}, {spread}"
