"""What rank is needed: a planted change on its floor, and a real task.

Left: a change ΔW of rank 8 is planted in a matrix and LoRA of rank r learns it from examples.
No matrix of rank r comes closer than the singular values that it leaves out (Eckart & Young
1936): the floor, which gradient descent reaches. Right: LoRA of rank r on a task of words.
"""

from ...engine.backend import array, np, to_numpy
from ...engine.optimizer import AdamW
from ...engine.tensor import backward
from ...io.checkpoint import load_base
from ...model.layers import Linear
from ...peft.attach import attach
from ...peft.methods import LoRA
from ...peft.methods.lora import LoRADelta
from ...text.words import Task
from ...train.fit import evaluate, fit
from ..plots import canvas, style, tidy

WIDTH, PLANTED, STEPS = 32, 8, 2000
TASK, RATE = "cipher", 1e-2


def measure(fast=False):
    """Distances ‖ΔW − s B A‖ and their floors; exact match by rank and seed."""
    rng, steps = np.random.default_rng(0), 20 if fast else STEPS
    planted = np.linalg.qr(rng.standard_normal((WIDTH, PLANTED)))[0] * np.geomspace(
        9, 0.8, PLANTED
    )
    planted = planted @ np.linalg.qr(rng.standard_normal((WIDTH, PLANTED)))[0].T
    singular = np.linalg.svd(planted, compute_uv=False)
    left = {
        str(r): [distance(planted, r, steps), float(np.sqrt((singular[r:] ** 2).sum()))]
        for r in range(1, 13)
    }
    right = {
        str(r): [exact(r, seed, 5 if fast else 300) for seed in range(1 if fast else 3)]
        for r in (1, 2, 4, 8, 16, 32)
    }
    return {"distance and floor": left, "task": TASK, "exact": right}


def distance(planted, r, steps):
    """How far LoRA of rank r ends from the planted change, in the Frobenius norm."""
    layer = Linear(WIDTH, WIDTH, np.random.default_rng(1), bias=False)
    delta = LoRADelta(layer, LoRA(r=r, lora_alpha=r), np.random.default_rng(2))
    optimizer = AdamW(delta.parameters(), weight_decay=0.0)
    x = array(np.linalg.qr(np.random.default_rng(3).standard_normal((WIDTH, WIDTH)))[0])
    for step in range(steps):
        miss = delta(lambda x: x @ array(np.zeros((WIDTH, WIDTH))), x) - x @ array(planted.T)
        for p in delta.parameters():
            p.grad = None
        backward((miss * miss).sum())
        optimizer.step(0.05 * (1 - step / steps))
    return float(np.linalg.norm(to_numpy(delta.change()) - planted))


def exact(r, seed, steps):
    """Exact match on test words after training LoRA of rank r on every Linear."""
    model = load_base()
    attach(model, LoRA(r=r, lora_alpha=r, target_modules="all-linear"), rng=seed)
    fit(model, Task(TASK), steps, 16, RATE, seed=seed, label=f"r = {r}")
    return evaluate(model, Task(TASK).examples("test", 300)).exact


def by_number(found):
    """{"1": …, "16": …, "2": …}, as JSON has it, in the order of the numbers."""
    return {int(key): found[key] for key in sorted(found, key=int)}


def draw(numbers):
    """Two panels over the rank."""
    figure, (left, right) = canvas(1, 2, 9.5, 3.8)
    found, look = by_number(numbers["distance and floor"]), style("lora")
    r = list(found)
    left.step(r, [floor for _, floor in found.values()], where="mid", color="grey", lw=1.5,
              label="floor (Eckart–Young)")  # fmt: skip
    left.plot(r, [d for d, _ in found.values()], ls="", label="LoRA of rank r", **look)
    left.axvline(PLANTED, color="grey", lw=0.8, ls=":")
    left.text(
        PLANTED + 0.15, 0.95, "planted rank", transform=left.get_xaxis_transform(), va="top"
    )
    left.set(xlabel="rank r", ylabel="‖ΔW − BA‖", title="a planted change")
    left.legend(frameon=False, loc="center right")
    tasks = by_number(numbers["exact"])
    for seed in range(len(next(iter(tasks.values())))):
        right.plot(range(len(tasks)), [e[seed] for e in tasks.values()], lw=0.6, **look)
    right.set_xticks(range(len(tasks)), tasks)
    right.set(xlabel="rank r", ylabel="exact match", ylim=(-0.03, 1.05),
              title=f"{numbers['task']}, 300 steps, a line a seed")  # fmt: skip
    for axes in (left, right):
        tidy(axes)
    return figure
