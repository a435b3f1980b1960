"""Learning curves at each method's best rate, and what happens at the other rates.

Left: training loss of the long comparison's runs. Right: exact match on validation words over
the grid of learning rates, which chose the rates that ship. A method compared at another's rate
is not compared.

Hayou et al. 2024 (LoRA+), arXiv:2402.12354, on why LoRA wants a higher rate than full
"""

from ...engine.backend import np
from ..compare import shipped_rates
from ..plots import canvas, style, tidy
from .hero import long_comparison

TASK = "pig-latin"
METHODS = ("full", "lora", "adapter", "ia3", "bitfit", "prefix", "prompt")


def measure(fast=False):
    """Losses of the longest runs, means of ten steps; [rate, exact match], validation words."""
    rows = [
        row for row in long_comparison() if row["task"] == TASK and row["method"] in METHODS
    ]
    longest, first = max(row["steps"] for row in rows), min(row["seed"] for row in rows)
    curves = {
        row["method"]: row["curve"]
        for row in rows
        if row["steps"] == longest and row["seed"] == first
    }
    scores = shipped_rates()["scores"]
    grid = {
        method: [
            [lr, exact] for task, name, lr, exact, _ in scores if (task, name) == (TASK, method)
        ]
        for method in METHODS
    }
    return {"task": TASK, "loss": curves, "rate and exact": grid}


def draw(numbers):
    """Two panels, one line a method in both."""
    figure, (left, right) = canvas(1, 2, 10.2, 4)
    for method in METHODS:
        look, losses = style(method), numbers["loss"][method]
        smooth = np.convolve(losses, np.full(3, 1 / 3), "valid")  # of means of ten steps each
        marks = slice(len(smooth) // 8, None, len(smooth) // 4)
        left.plot(10 * np.arange(len(smooth)) + 15, smooth, lw=1, markevery=marks, **look)
        rates, exact = zip(*numbers["rate and exact"][method], strict=True)
        right.plot(rates, exact, lw=1, label=method, **style(method))
    left.set(yscale="log", xlabel="step", ylabel="training loss (nats per letter)",
             title=f"{numbers['task']}, means of 30 steps")  # fmt: skip
    right.set(xscale="log", xlabel="learning rate (log scale)", ylim=(-0.04, 1.05),
              ylabel="exact match, validation", title="300 steps at each rate")  # fmt: skip
    figure.legend(loc="outside right center", frameon=False, fontsize=9)
    for axes in (left, right):
        tidy(axes)
    return figure
