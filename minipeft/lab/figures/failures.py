"""Six ways in which fine-tuning fails, and how the loss curve shows each.

Each panel has a run that goes well, in grey, and one that differs from it in one thing.
"""

from ...engine.backend import np
from ...engine.functional import IGNORE
from ...io.checkpoint import load_base
from ...peft.attach import attach
from ...peft.methods import LoRA, Prompt
from ...text.words import PAD, Task
from ...train.data import Examples
from ...train.fit import Run, Settings, evaluate
from ..compare import rate, shipped_rates
from ..plots import LARGE, canvas, hue, tidy

TASK = "pig-latin"
EVERY = 10  # steps: a point of a curve is their mean
# What goes wrong: what its curve looks like, and why.
FAILURES = {
    "rate too high": "It jumps, and stays high:\nthe rate is too high",
    "rate too low": "It falls all the time:\nthe rate is too low",
    "dead": "It does not fall: no gradient\narrives (A and B are 0)",
    "prompt labelled": "It stays far above: the prompt\nis learnt as well",
    "few examples": "It goes to 0 and new words do\nnot: too few examples",
    "weak method": "It stops early, at its best rate:\nthe method cannot do more",
}


def measure(fast=False):
    """Losses in nats a letter, by what goes wrong, and one run in which nothing does."""
    steps, rates = 20 if fast else 300, shipped_rates()["rates"]
    lr, task = rate(rates, "lora", TASK), Task(TASK)
    train, valid = task.train, task.examples("valid", 100)

    def run(data=train, lr=lr, method=None, break_it=None):
        return losses(
            method or LoRA(target_modules="all-linear"), data, steps, lr, valid, break_it
        )

    return {
        "task": TASK,
        "well": run(),
        "rate too high": run(lr=100 * lr),
        "rate too low": run(lr=lr / 100),
        "dead": run(break_it=make_dead),
        "prompt labelled": run(data=with_prompts_labelled(train)),
        "few examples": run(data=task.examples("train", 16)),
        "weak method": run(lr=rate(rates, "prompt", TASK), method=Prompt()),
    }


def losses(method, data, steps, lr, valid, break_it):
    """The loss of a run on its training data, means of ten steps, and then on new words."""
    model = load_base()
    adapter = attach(model, method, rng=0)
    if break_it:
        break_it(adapter)
    run, new = Run(model, data, Settings(steps, 16, lr, clip=None)), []
    for done in range(EVERY, steps + 1, EVERY):
        run.go_on(done, None, None, 1)
        new.append(evaluate(model, valid).loss)
    return {"training": np.reshape(run.history.loss, (-1, EVERY)).mean(1).tolist(), "new": new}


def make_dead(adapter):
    """Sets A to 0 as well as B: the gradient of each is a multiple of the other."""
    for p in adapter.parameters():
        p.data[...] = 0


def with_prompts_labelled(data):
    """The Examples with every token of the prompt as a label too."""
    following = np.full_like(data.labels, IGNORE)
    following[:, :-1] = np.where(data.ids[:, 1:] == PAD, IGNORE, data.ids[:, 1:])
    return Examples(data.ids, np.where(data.labels == IGNORE, following, data.labels))


def draw(numbers):
    """Six panels: the run that fails, and the one that does not."""
    figure, panels = canvas(2, 3, 10, 5.6)
    for axes, (name, says) in zip(panels, FAILURES.items(), strict=True):
        well, fails = numbers["well"], numbers[name]
        steps = EVERY * np.arange(1, len(well["training"]) + 1)
        axes.plot(steps, well["training"], color="0.65", lw=3, label="as it should be")
        axes.plot(steps, fails["training"], color=hue("adapter"), lw=1.5, label="this run")
        if name == "few examples":
            axes.plot(steps, fails["new"], color=hue("adapter"), ls="--", lw=1.5,
                      label="this run, new words")  # fmt: skip
            axes.legend(frameon=False, fontsize=9, loc="center right", bbox_to_anchor=(1, 0.3))
        axes.set_title(says, fontsize=LARGE - 1.5)
        axes.set(yscale="log", ylim=(3e-3, 30), xlabel="step", ylabel="loss (nats a letter)")
        tidy(axes)
    panels[0].legend(frameon=False, fontsize=9, loc="lower left")
    figure.suptitle("The shape of a loss curve tells what is wrong", fontsize=LARGE + 1)
    return figure
