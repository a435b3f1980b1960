"""The picture of the step times: minipeft's share of its rivals' time and memory."""

import matplotlib.pyplot as plt

from minipeft.lab.plots import save

RIVALS = {"hf": "HF PEFT", "pytorch": "PyTorch by hand", "autograd": "HIPS autograd"}
COLOURS = {"hf": "#0072B2", "pytorch": "#E69F00", "autograd": "#CC79A7"}
MARKERS = {"hf": "o", "pytorch": "s", "autograd": "^"}
SHOWN = {"ms": "time a step", "peak": "peak memory"}
SIZES = {"S": "S", "M": "M", "M-llama": "M, Llama", "L": "L", "XL": "XL"}


def message(by, key):
    """In how many cells minipeft needs less than HF PEFT, in words."""
    ratios = [
        row[key] / by[size, method, "hf"][key]
        for (size, method, rival), row in by.items()
        if rival == "minipeft" and (size, method, "hf") in by
    ]
    less = {"ms": "Less time", "peak": "Less memory"}[key]
    return f"{less} than HF PEFT in {sum(r < 1 for r in ratios)} of {len(ratios)} cases"


def picture(rows, path):
    """Two panels of dots, one line a size and method: time, and memory, relative to a rival's.

    Left of the line at 1 minipeft needs less. Rows of two threads, or of what there is.
    """
    threads = max(row["threads"] for row in rows)
    by = {(r["size"], r["method"], r["rival"]): r for r in rows if r["threads"] == threads}
    cells = [(s, m) for s, m, rival in by if rival == "minipeft"]
    cells.sort(key=lambda cell: list(SIZES).index(cell[0]))
    height = 1.4 + 0.2 * len(cells)
    size = dict(figsize=(8.2, height), sharey=True, layout="constrained")
    figure, panels = plt.subplots(1, 2, **size)
    for axes, (key, title) in zip(panels, SHOWN.items(), strict=True):
        for y, (size, method) in enumerate(cells):
            ours = by[size, method, "minipeft"][key]
            for rival in RIVALS:
                if (size, method, rival) in by:
                    x = ours / by[size, method, rival][key]
                    axes.plot(x, -y, MARKERS[rival], color=COLOURS[rival], ms=6)
            if y and cells[y - 1][0] != size:
                axes.axhline(0.5 - y, color="grey", lw=0.5)
        axes.axvline(1.0, color="black", lw=1)
        label = f"minipeft's {title} / the rival's (log scale)"
        axes.set(xscale="log", title=message(by, key), xlabel=label)
        axes.xaxis.label.set_fontsize(9)
        axes.title.set_fontsize(10)
        ticks = [0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0]
        axes.set_xticks(ticks, map(str, ticks), fontsize=8)
        axes.minorticks_off()
        axes.grid(axis="x", alpha=0.3, lw=0.5)
        axes.spines[["top", "right"]].set_visible(False)
    names = [f"{SIZES[size]} · {method}" for size, method in cells]
    panels[0].set_yticks([-y for y in range(len(cells))], names, fontsize=8)
    shown = [rival for rival in RIVALS if any(key[2] == rival for key in by)]
    marks = [plt.Line2D([], [], color=COLOURS[r], marker=MARKERS[r], ls="") for r in shown]
    legend = dict(ncols=len(shown), fontsize=8, frameon=False)
    figure.legend(marks, [RIVALS[r] for r in shown], loc="outside lower center", **legend)
    save(figure, path)
    plt.close(figure)
