"""Where attention goes under a trained prefix: the share of each head that falls on it.

A prefix of n slots is a trainable start of the KV cache. Its output is a mixture, (1 − a) times
what the base attends to and a times what the prefix holds; the picture shows a, head by head,
and what exact match a prefix reaches by its length.

Li & Liang 2021, arXiv:2101.00190; He et al. 2022, equation 7, arXiv:2110.04366; Petrov et al.
2023, arXiv:2310.19698
"""

from ...engine.backend import np, to_numpy
from ...engine.functional import softmax
from ...engine.tensor import no_grad, value
from ...io.checkpoint import load_base
from ...peft.attach import attach
from ...peft.methods import Prefix
from ...text.words import Task
from ...train.fit import evaluate, fit
from ..compare import rate, shipped_rates
from ..plots import SMALL, canvas, style, tidy
from .ranks import by_number

TASKS, LENGTHS, LOOKED_AT = ("elicit", "cipher"), (1, 2, 4, 8, 16), 8
LEARNT = 0.9  # exact match from which on a task counts as learnt


class Watch:
    """A change at an Attend site that changes nothing and notes the prefix's share."""

    def __init__(self, slots):
        self.slots, self.share = slots, None

    def __call__(self, f, q, k, v, mask):
        groups = q.shape[1] // k.shape[1]
        keys = np.repeat(to_numpy(value(k)), groups, axis=1)  # one for each query head
        scores = to_numpy(value(q)) @ keys.swapaxes(-1, -2) / np.sqrt(q.shape[-1])
        seen = to_numpy(mask if mask.ndim == 2 else mask[:, None])
        p = to_numpy(softmax(scores + seen).data)  # (B, H, T, S)
        self.share = p[..., : self.slots].sum(axis=-1).mean(axis=(0, 2))  # (H,)
        return f(q, k, v, mask)


def measure(fast=False):
    """Exact match by length, and the shares (layers, heads) at one length, for each task."""
    found, rates, steps = {}, shipped_rates()["rates"], 3 if fast else 600
    for task in TASKS:
        exact, shares = {}, None
        for n in LENGTHS[-2:] if fast else LENGTHS:
            model = load_base()
            attach(model, Prefix(num_virtual_tokens=n))
            fit(model, Task(task), steps, 16, rate(rates, "prefix", task), label=task)
            examples = Task(task).examples("test", 300)
            exact[str(n)] = evaluate(model, examples).exact
            if n == LOOKED_AT:
                shares = looked_at(model, examples, n).tolist()
        found[task] = {"exact": exact, "share": shares}
    return {"slots": LOOKED_AT, "steps": steps, "tasks": found}


def looked_at(model, examples, slots):
    """The share of attention on the first slots, (layers, heads), the mean over tokens."""
    watches = [Watch(slots) for _ in model.blocks]
    for block, watch in zip(model.blocks, watches, strict=True):
        block.attn.attend.active.append((watch, None))
    with no_grad():
        model(examples.take(np.arange(min(64, len(examples))))[0])
    for block in model.blocks:
        block.attn.attend.active.pop()
    return np.stack([watch.share for watch in watches])


def draw(numbers):
    """A map of heads for each task, and a line for each over the length."""
    tasks = numbers["tasks"]
    figure, panels = canvas(1, len(tasks) + 1, 11, 3.6)
    for axes, task in zip(panels, TASKS, strict=False):
        shares = np.array(tasks[task]["share"])
        image = axes.imshow(shares, cmap="viridis", vmin=0, vmax=1, aspect="auto")
        for (layer, head), share in np.ndenumerate(shares):
            axes.text(head, layer, f"{share:.2f}", ha="center", va="center",
                      color="black" if share > 0.6 else "white")  # fmt: skip
        title = f"{task}: {shares.mean():.2f} of all attention\nfalls on the prefix"
        axes.set(xlabel="head", ylabel="layer", xticks=range(shares.shape[1]),
                 yticks=range(len(shares)), title=title)  # fmt: skip
    figure.colorbar(image, ax=list(panels[:-1]), shrink=0.85).set_label(
        f"share on {numbers['slots']} slots"
    )
    lengths(panels[-1], numbers)
    return figure


def lengths(axes, numbers):
    """Draw exact match over the length of the prefix, a line a task."""
    for task, dashes, face in zip(TASKS, ("-", "--"), (None, "white"), strict=True):
        found = by_number(numbers["tasks"][task]["exact"])
        axes.plot(list(found), list(found.values()), ls=dashes, mfc=face, label=task,
                  **style("prefix"))  # fmt: skip
    axes.set(xscale="log", xlabel="slots of the prefix (log scale)", ylim=(-0.04, 1.05))
    axes.set(title=message(numbers), ylabel=f"exact match, {numbers['steps']} steps")
    axes.set_xticks(list(found), list(found))
    axes.minorticks_off()
    axes.legend(frameon=False, fontsize=SMALL)
    tidy(axes)


def message(numbers):
    """Returns how many slots each task needs, in words."""
    parts = []
    for task in TASKS:
        exact = by_number(numbers["tasks"][task]["exact"])
        enough = [n for n in exact if exact[n] >= LEARNT]
        parts.append(f"{task} {min(enough) if enough else f'more than {max(exact)}'}")
    return f"Slots needed to reach {LEARNT}:\n{', '.join(parts)}"
