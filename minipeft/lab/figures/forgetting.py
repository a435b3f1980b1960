"""What is learnt against what is forgotten, at every learning rate of the grid.

The new task's exact match against the mean over the nine old tasks, the adapter in use. Taking
any adapter off gives the old tasks back, bit for bit; that is what is guaranteed.

Biderman et al. 2024, "LoRA Learns Less and Forgets Less", arXiv:2405.09673
"""

from ..compare import GRID
from ..experiment import Experiment
from ..experiment import measure as measured
from ..plots import SMALL, canvas, style, tidy, tint

TASKS = ("pig-latin", "cipher")
METHODS = ("full", "lora", "adapter", "ia3", "bitfit", "prefix")


def measure(fast=False):
    """[learning rate, new exact match, old exact match] of each run."""
    steps, words = (3, 20) if fast else (300, 200)
    found = {}
    for task in TASKS[:1] if fast else TASKS:
        for method in METHODS:
            rows = [
                measured(Experiment(task, method, steps, lr, words=words)) for lr in GRID[:5]
            ]
            found.setdefault(task, {})[method] = [[r["lr"], r["exact"], r["old"]] for r in rows]
    return {"steps": steps, "old before": rows[-1]["old_before"], "runs": found}


def draw(numbers):
    """One panel a task, one line a method, through its learning rates."""
    figure, panels = canvas(1, len(numbers["runs"]), 4.9 * len(numbers["runs"]), 4.2)
    for axes, (task, methods) in zip(panels, numbers["runs"].items(), strict=True):
        for method in METHODS:
            runs = methods[method]
            new, old = [run[1] for run in runs], [run[2] for run in runs]
            axes.plot(old, new, lw=0.8, label=method, **style(method))
            axes.annotate(f"{runs[0][0]:g}", (old[0], new[0]), (4, 4), fontsize=SMALL - 3,
                          textcoords="offset points", color=tint(method))  # fmt: skip
        axes.plot(numbers["old before"], 0, "x", color="grey", ms=8)
        axes.annotate("base", (numbers["old before"], 0), (-4, 7), ha="right", color="grey",
                      textcoords="offset points")  # fmt: skip
        axes.set(xlim=(-0.04, 1.06), ylim=(-0.04, 1.06),
                 title=f"{task}, {numbers['steps']} steps",
                 xlabel="old tasks, exact match", ylabel="new task, exact match")  # fmt: skip
        axes.text(0.97, 0.97, "learn all,\nforget nothing", ha="right", va="top", color="grey",
                  transform=axes.transAxes, style="italic", fontsize=SMALL)  # fmt: skip
        tidy(axes)
    panels[-1].legend(frameon=False, fontsize=9, loc="center right")
    return figure
