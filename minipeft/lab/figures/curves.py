"""Learning curves at each method's best rate, and what happens at the other rates.

Left: training loss of the long comparison's runs. Right: exact match on validation words over
the grid of learning rates, which chose the rates that ship. A method compared at another's rate
is not compared.

Hayou et al. 2024 (LoRA+), arXiv:2402.12354, on why LoRA wants a higher rate than full
"""

from ...engine.backend import np
from ..compare import shipped_rates
from ..plots import SMALL, canvas, line_style, tidy
from .hero import long_comparison

TASK = "pig-latin"
METHODS = ("full", "lora", "adapter", "ia3", "bitfit", "prefix", "prompt")
SMOOTH = 10  # means of ten steps in one point of a curve


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
    figure, (left, right) = canvas(1, 2, 10.2, 4.2)
    for method in METHODS:
        look, losses = line_style(method), numbers["loss"][method]
        smooth = np.convolve(losses, np.full(SMOOTH, 1 / SMOOTH), "valid")
        marks = slice(len(smooth) // 8, None, max(1, len(smooth) // 4))
        steps = 10 * (np.arange(len(smooth)) + SMOOTH / 2)
        left.plot(steps, smooth, lw=1.2, markevery=marks, **look)
        rates, exact = zip(*numbers["rate and exact"][method], strict=True)
        right.plot(rates, exact, lw=1.2, label=method, mfc="white", **look)
        look["linestyle"] = ""
        right.plot(best_rate(numbers, method), max(exact), **look)
    left.set(yscale="log", xlabel="step", title=message_of_losses(numbers),
             ylabel=f"training loss (nats a letter), means of {10 * SMOOTH} steps")  # fmt: skip
    right.set(xscale="log", xlabel="learning rate (log scale); filled: the best",
              ylabel="exact match on validation words, 300 steps", ylim=(-0.04, 1.05),
              title=message_of_rates(numbers))  # fmt: skip
    figure.legend(loc="outside right center", frameon=False, fontsize=SMALL, handlelength=3.5)
    for axes in (left, right):
        tidy(axes)
    return figure


def message_of_losses(numbers):
    """Returns which methods end with the lowest and the highest training loss, in words."""
    ends = {method: sum(numbers["loss"][method][-SMOOTH:]) for method in METHODS}
    lowest, highest = min(ends, key=ends.get), max(ends, key=ends.get)
    return f"{numbers['task']}: {lowest} ends with\nthe lowest loss, {highest} with the highest"


def best_rate(numbers, method):
    """Returns the learning rate with the best exact match, the smallest of several."""
    return max(numbers["rate and exact"][method], key=lambda pair: (pair[1], -pair[0]))[0]


def message_of_rates(numbers):
    """Returns how far apart the methods' best rates are, in words."""
    rates = {method: best_rate(numbers, method) for method in METHODS}
    low, high = min(rates, key=rates.get), max(rates, key=rates.get)
    if rates[low] == rates[high]:
        return f"The best learning rate of all is {rates[low]:g}"
    return f"The best learning rate is {rates[low]:g} for {low},\n{rates[high]:g} for {high}"
