"""What is learnt against what is forgotten, from small learning rates to each method's best.

The new task's exact match against the mean over the nine old tasks, the adapter in use. Taking
any adapter off gives the old tasks back, bit for bit; that is what is guaranteed. Full
fine-tuning learns at a tenth of the others' rates, so its rates are a tenth of theirs: from
10⁻³ on it has forgotten everything, and nothing could be compared.

Biderman et al. 2024, "LoRA Learns Less and Forgets Less", arXiv:2405.09673
"""

from ...engine.backend import np
from ..compare import GRID, RATES_IN_ORDER
from ..experiment import Experiment
from ..experiment import measure as measured
from ..plots import SMALL, canvas, line_style, tidy

TASKS = ("gerund", "pig-latin")
METHODS = ("full", "lora", "adapter", "ia3", "bitfit", "prefix")
LOWER = RATES_IN_ORDER[RATES_IN_ORDER.index(GRID[0]) - 2 :]  # from a tenth of the grid's first
SAME = 0.05  # exact matches that differ by less are called the same


def measure(fast=False):
    """[learning rate, new exact match, old exact match] of each run."""
    steps, words = (3, 20) if fast else (300, 200)
    found = {}
    for task in TASKS[:1] if fast else TASKS:
        for method in METHODS:
            rates = (LOWER if method == "full" else GRID)[:5]
            rows = [measured(Experiment(task, method, steps, lr, words=words)) for lr in rates]
            found.setdefault(task, {})[method] = [[r["lr"], r["exact"], r["old"]] for r in rows]
    return {"steps": steps, "old before": rows[-1]["old_before"], "runs": found}


def draw(numbers):
    """One panel a task, one line a method, through its learning rates."""
    figure, panels = canvas(1, len(numbers["runs"]), 5 * len(numbers["runs"]), 4.7)
    for axes, (task, methods) in zip(panels, numbers["runs"].items(), strict=True):
        for method in METHODS:
            rates, new, old = zip(*up_to_best(methods[method]), strict=True)
            label = f"{method}, rates from {rates[0]:g}"
            axes.plot(new, old, lw=1.2, label=label, **line_style(method))
        before = numbers["old before"]
        axes.axhline(before, color="grey", ls="--", lw=1)
        axes.text(1.05, before + 0.015, "the base, and all of these with the adapter off",
                  ha="right", color="#555555", fontsize=SMALL)  # fmt: skip
        axes.set(xlim=(-0.04, 1.06), ylim=(-0.04, 1.09), title=message(task, methods),
                 xlabel=f"exact match on the new task, {numbers['steps']} steps",
                 ylabel="exact match on the nine old tasks")  # fmt: skip
        tidy(axes)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3,
                  frameon=False, fontsize=SMALL, handlelength=3.5)  # fmt: skip
    return figure


def up_to_best(runs):
    """Returns the runs up to the learning rate that learns the new task best."""
    best = max(range(len(runs)), key=lambda i: runs[i][1])
    return runs[: best + 1]


def message(task, methods):
    """Returns whether LoRA or full fine-tuning remembers more where both learn as much."""
    _, full_new, full_old = zip(*up_to_best(methods["full"]), strict=True)
    pairs = [
        (old, float(np.interp(new, full_new, full_old)))
        for _, new, old in up_to_best(methods["lora"])
        if full_new[0] <= new <= full_new[-1]
    ]
    if not pairs:
        return f"{task}: LoRA and full fine-tuning\nlearn too differently to compare"
    ahead = sum(lora - full for lora, full in pairs) / len(pairs)
    if abs(ahead) < SAME:
        return f"{task}: where both learn as much,\nLoRA and full fine-tuning forget as much"
    first, second = ("LoRA", "full fine-tuning")[:: 1 if ahead > 0 else -1]
    return f"{task}: where both learn as much,\n{first} forgets less than {second}"
