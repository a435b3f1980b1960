"""Which method is a special case of which, and at what setting.

Nothing here lists methods by hand: each class says what it `contains` and what it is `within`,
and a test proves each of these. A method with many such relatives gets a place in the middle;
on its left is what is more general, on its right what is more special.
"""

import textwrap
from collections import Counter

from ...peft.methods import METHODS
from ..plots import LARGE, SMALL, Picture, tint

WIDE, LINE, GAP = 10.0, 0.235, 0.2  # inches: the picture, a line of it, between two groups
NAMES, FORKS, MIDDLE = (1.55, 8.45), (3.6, 6.4), (4.55, 5.45)  # left and right, from the left
SETTING = "#555555"


def measure(fast=False):
    """{"edges": [[general, special, setting], …], "methods": [all names]}."""
    edges = []
    for name, method in METHODS.items():
        for way in ("contains", "within"):
            for line in vars(method).get(way, ()):
                other, setting = line.split(": ", 1)
                pair = [name, other] if way == "contains" else [other, name]
                edges.append([*pair, setting])
    return {"edges": edges, "methods": [*METHODS]}


def groups(edges):
    """[(name, edges to what is more general, edges to what is more special)], largest first.

    An edge belongs to the group of that end which has more edges.
    """
    degree = Counter(name for *pair, _ in edges for name in pair)
    found = {}
    for edge in edges:
        general, special, _ = edge
        up = degree[special] >= degree[general]
        found.setdefault(special if up else general, ([], []))[0 if up else 1].append(edge)
    ordered = sorted(found.items(), key=lambda group: -sum(map(len, group[1])))
    return [(name, *sides) for name, sides in ordered]


def draw(numbers):
    """Returns the Picture: a group of relatives below the other, the largest on top."""
    edges, names = numbers["edges"], numbers["methods"]
    rows = groups(edges)
    heights = [LINE * max(len(left), len(right)) + GAP for _, left, right in rows]
    alone = [n for n in names if not any(n in edge[:2] for edge in edges)]
    note = textwrap.wrap(f"No such relative is proved of {', '.join(alone)}.", 118)
    depth = sum(heights) + 0.2 * len(note) + 0.3
    figure = Picture(figsize=(WIDE, depth + 0.75))
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, WIDE), ylim=(-depth, 0.75))
    axes.set_axis_off()
    of_lora = {name for edge in edges if "lora" in edge[:2] for name in edge[:2]} - {"lora"}
    text = f"{len(of_lora)} of {len(names)} methods are LoRA, made more general or more special"
    axes.text(WIDE / 2, 0.55, text, size=LARGE + 2, ha="center", va="center", weight="bold")
    for x, text in zip(NAMES, ("more general", "more special"), strict=True):
        axes.text(x, 0.2, text, size=SMALL, ha="center", va="center", style="italic")
    arrow = "an arrow leads from a method to what it is at the setting on the line"
    axes.text(WIDE / 2, 0.2, arrow, size=SMALL, ha="center", va="center", color=SETTING)
    top = 0.0
    for row, height in zip(rows, heights, strict=True):
        draw_group(axes, *row, top - height / 2)
        top -= height
    for i, line in enumerate(note):
        axes.text(0.15, top - 0.2 * (i + 1), line, size=SMALL - 1, color=SETTING)
    return figure


def draw_group(axes, name, general, special, y):
    """Draw one method in the middle of what is more general and what is more special."""
    box = {"boxstyle": "round,pad=0.35", "fc": "white", "ec": tint(name), "lw": 1.5}
    look = dict(ha="center", va="center", weight="bold", color=tint(name), bbox=box, zorder=3)
    axes.text(sum(MIDDLE) / 2, y, name, size=SMALL + 1, **look)
    for side, edges in enumerate((general, special)):
        for i, edge in enumerate(edges):
            at = y + LINE * ((len(edges) - 1) / 2 - i)
            draw_relative(axes, edge[side], edge[2], side, at, y)


def draw_relative(axes, name, setting, side, y, middle):
    """Draw a relative on the left (0) or right (1), and its line with the setting."""
    x, fork, end = NAMES[side], FORKS[side], MIDDLE[side]
    out = -1 if side == 0 else 1
    axes.text(x, y, name, size=SMALL, ha=("right", "left")[side], va="center",
              color=tint(name), weight="bold")  # fmt: skip
    points = [(x - 0.07 * out, y), (fork, y), (end, middle)]
    points = points if side == 0 else points[::-1]
    axes.plot(*zip(*points, strict=True), color="#999999", lw=0.9, zorder=1)
    head = {"arrowstyle": "-|>", "color": "#777777", "lw": 0.9}
    axes.annotate("", points[-1], points[-2], arrowprops=head)
    axes.text((x + fork) / 2, y + 0.015, setting, size=SMALL - 1.5, ha="center", va="bottom",
              color=SETTING)  # fmt: skip
