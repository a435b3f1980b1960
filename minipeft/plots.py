"""Every picture of the package, drawn from plain rows: the only importer of matplotlib.

One colour a family of methods (Okabe & Ito's, which colour-blind readers tell apart), and one
marker a method.
"""

import itertools
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from matplotlib.text import Annotation

from .peft import METHODS
from .table import groups, mean, spread

COLOURS = {
    "full": "#000000",
    "selective": "#CC79A7",
    "lora": "#0072B2",
    "adapter": "#D55E00",
    "prompt": "#009E73",
}
MARKERS = "osD^vPX<>phd*8H"
SMALL = 8  # points, of labels


def style(method):
    """The colour and marker that a method has in every picture."""
    family = METHODS[method].family
    members = [name for name, kind in METHODS.items() if kind.family == family]
    marker = "*" if method == "full" else MARKERS[members.index(method) % len(MARKERS)]
    return {"color": COLOURS[family], "marker": marker, "markersize": 9 if marker == "*" else 6}


def save(figure, path):
    """Write a figure as PNG and close it."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, bbox_inches="tight")


def history(run, axes=None):
    """Loss (nats per token) over the steps of a History; returns the Axes."""
    axes = axes or plt.subplots(figsize=(5, 3), layout="constrained")[1]
    axes.plot(range(1, len(run.loss) + 1), run.loss, color=COLOURS["lora"], lw=1)
    axes.set(xlabel="step", ylabel="loss (nats per letter)", yscale="log")
    tidy(axes)
    return axes


def ranks(run, axes=None):
    """The rank of each target over the steps of a History, and their sum; returns the Axes."""
    if not run.ranks:
        raise ValueError("no ranks were noted: train an AdaLoRA")
    size = (6, 1.2 + 0.25 * len(run.ranks))
    axes = axes or plt.subplots(figsize=size, layout="constrained")[1]
    image = axes.imshow(list(run.ranks.values()), aspect="auto", cmap="viridis", vmin=0)
    axes.figure.colorbar(image, ax=axes, label="rank")
    axes.set_yticks(range(len(run.ranks)), run.ranks, fontsize=SMALL)
    first, last = (sum(rank[i] for rank in run.ranks.values()) for i in (0, -1))
    axes.set(xlabel="step", title=f"{first} ranks at first, {last} in the end")
    return axes


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


def tidy(axes):
    """Light grid, no box."""
    axes.grid(alpha=0.25, lw=0.5)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=SMALL)


def place_labels(axes):
    """Move each label to the place nearest to its point where it covers nothing else."""
    labels = [text for text in axes.texts if isinstance(text, Annotation)]
    taken = [around(axes.transData.transform(label.xy), 5) for label in labels]
    frame, points = axes.get_window_extent(), 72 / axes.figure.dpi
    for label in labels:
        x, y = axes.transData.transform(label.xy)
        extent = label.get_window_extent()
        near = list(places(x, y, extent.width, extent.height, frame))
        place = next((place for place in near if free(place, taken)), near[0])
        taken.append(place)
        label.set_position(((place[0] - x) * points, (place[1] - y) * points))
        if abs(place[1] - y) > 2 * extent.height:  # far enough to need a line
            thin = {"arrowstyle": "-", "lw": 0.4, "color": "grey"}
            end = label.get_position()
            axes.annotate("", label.xy, end, textcoords="offset points", arrowprops=thin)


def around(point, size):
    """The box (left, bottom, right, top) around a point."""
    return (point[0] - size, point[1] - size, point[0] + size, point[1] + size)


def places(x, y, width, height, frame):
    """Boxes (left, bottom, right, top) near a point in pixels, nearest first, in the frame."""
    for away in range(1, 40):
        for left in (x + 7, x - 7 - width, x - width / 2):
            for rise in (away, -away):
                bottom = y - height / 2 + (rise - (1 if rise > 0 else -1)) * 0.55 * height
                centred = left == x - width / 2
                if centred and abs(bottom + height / 2 - y) < height:
                    continue
                box = (left, bottom, left + width, bottom + height)
                if frame.x0 <= box[0] and box[2] <= frame.x1 + 25 and frame.y0 <= box[1]:
                    yield box


def free(box, taken):
    """Whether a box overlaps none of those taken."""
    return all(
        box[2] <= t[0] or t[2] <= box[0] or box[3] <= t[1] or t[3] <= box[1] for t in taken
    )
