"""How many examples a method needs: exact match against words to learn from.

The same number of steps for all, so that few words are seen often.

Ding et al. 2022, "Delta Tuning", arXiv:2203.06904; Liu et al. 2022, arXiv:2205.05638
"""

from ...engine.backend import np
from ...io.checkpoint import load_base
from ...peft.attach import attach
from ...peft.methods import METHODS as ALL
from ...text.words import Examples, Task
from ...train.fit import evaluate, fit
from ..compare import rate, shipped_rates
from ..plots import canvas, style, tidy
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
    figure, (axes,) = canvas(1, 1, 6.5, 4.2)
    for method in METHODS:
        found = by_number(numbers["exact"][method])
        means = [sum(seeds) / len(seeds) for seeds in found.values()]
        axes.plot(list(found), means, lw=1, label=method, **style(method))
    axes.set(xscale="log", xlabel="words to learn from (log scale)", ylim=(-0.04, 1.05),
             ylabel="exact match on unseen words",
             title=f"{numbers['task']}, {numbers['steps']} steps each")  # fmt: skip
    axes.set_xticks(WORDS, WORDS)
    axes.minorticks_off()
    axes.legend(frameon=False, fontsize=9, loc="upper left")
    tidy(axes)
    return figure
