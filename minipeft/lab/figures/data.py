"""How many examples a method needs: exact match against words to learn from.

The same number of steps for all, so that few words are seen often.

Ding et al. 2022, "Delta Tuning", arXiv:2203.06904; Liu et al. 2022, arXiv:2205.05638
"""

from statistics import fmean

from ...engine.backend import np
from ...io.checkpoint import load_base
from ...peft.attach import attach
from ...peft.methods import METHODS as ALL
from ...text.words import Examples, Task
from ...train.fit import evaluate, fit
from ..compare import rate, shipped_rates
from ..plots import SMALL, canvas, line_style, tidy
from .ranks import by_number

TASK, WORDS = "pig-latin", (16, 64, 256, 1024, 4096)
METHODS = ("full", "lora", "adapter", "ia3", "bitfit", "prefix", "prompt")


def measure(fast=False):
    """Exact match on test words by method and number of training words, seed by seed."""
    steps, seeds = (3, 1) if fast else (300, 2)
    rates, found = shipped_rates()["rates"], {}
    for method in METHODS:
        lr = rate(rates, method, TASK)
        found[method] = {
            str(n): [exact(method, n, seed, steps, lr) for seed in range(seeds)] for n in WORDS
        }
    return {"task": TASK, "steps": steps, "exact": found}


def exact(method, n, seed, steps, lr):
    """Exact match on test words after learning from n words drawn at random."""
    model, task = load_base(), Task(TASK)
    attach(model, ALL[method](), rng=seed)
    rows = np.random.default_rng(seed).permutation(len(task.train))[:n]
    few = Examples(task.train.ids[rows], task.train.labels[rows])
    fit(model, few, steps, 16, lr, seed=seed, label=f"{method} {n}")
    return evaluate(model, task.examples("test", 300)).exact


def draw(numbers):
    """One line a method."""
    figure, (axes,) = canvas(1, 1, 7.6, 4.4)
    means = means_of(numbers)
    for method in sorted(means, key=lambda method: -means[method][WORDS[-1]]):
        found = means[method]
        axes.plot(list(found), list(found.values()), lw=1.2, label=method, **line_style(method))
    axes.set(xscale="log", xlabel="words to learn from (log scale)", ylim=(-0.04, 1.05),
             ylabel=f"exact match on unseen words, {numbers['steps']} steps",
             title=message(numbers))  # fmt: skip
    axes.set_xticks(WORDS, WORDS)
    axes.minorticks_off()
    figure.legend(loc="outside right center", frameon=False, fontsize=SMALL, handlelength=3.5)
    tidy(axes)
    return figure


def means_of(numbers):
    """Returns {method: {number of words: exact match, the mean of the seeds}}."""
    return {
        method: {n: fmean(seeds) for n, seeds in by_number(numbers["exact"][method]).items()}
        for method in METHODS
    }


def message(numbers):
    """Returns which method is best with few words and which with many, in words."""
    means, few, many = means_of(numbers), WORDS[0], WORDS[-1]
    first, last = (max(means, key=lambda method: means[method][n]) for n in (few, many))
    if first == last:
        return f"{numbers['task']}: {first} is best with {few} words and with {many:,}"
    return f"{numbers['task']}: {first} is best with {few} words, {last} with {many:,}"
