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
from ..plots import SMALL, canvas, style, tidy

OUT, IN, PLANTED, STEPS = 24, 32, 8, 2000
TASK, RATE = "cipher", 1e-2
ON_THE_FLOOR, LEARNT = 0.01, 0.98  # a distance, and an exact match


def measure(fast=False):
    """Distances ‖ΔW − s B A‖ and their floors; exact match by rank and seed."""
    rng, steps = np.random.default_rng(0), 20 if fast else STEPS
    singular = np.arange(PLANTED, 0.0, -1.0)  # 8, 7, …, 1, as in lesson 4
    u = np.linalg.qr(rng.standard_normal((OUT, PLANTED)))[0]
    v = np.linalg.qr(rng.standard_normal((IN, PLANTED)))[0]
    planted = (u * singular) @ v.T
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
    layer = Linear(IN, OUT, np.random.default_rng(1), bias=False)
    delta = LoRADelta(layer, LoRA(r=r, lora_alpha=r), np.random.default_rng(2))
    optimizer = AdamW(delta.parameters(), weight_decay=0.0)
    x = array(np.eye(IN))
    for step in range(steps):
        miss = delta(lambda x: x @ array(np.zeros((IN, OUT))), x) - x @ array(planted.T)
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
    figure, (left, right) = canvas(1, 2, 10, 4)
    found, look = by_number(numbers["distance and floor"]), style("lora")
    r = list(found)
    left.step(r, [floor for _, floor in found.values()], where="mid", color="grey", lw=1.5,
              label="floor: no matrix of rank r is nearer")  # fmt: skip
    left.plot(r, [d for d, _ in found.values()], ls="", label="LoRA of rank r", **look)
    left.axvline(PLANTED, ymax=0.55, color="grey", lw=0.8, ls=":")
    left.text(PLANTED + 0.15, 0.55, "planted rank", transform=left.get_xaxis_transform(),
              va="top", fontsize=SMALL)  # fmt: skip
    left.set(xlabel="rank r", ylabel="‖ΔW − BA‖ (Frobenius norm)", title=message(numbers))
    left.legend(frameon=False, loc="upper right", fontsize=SMALL)
    tasks = by_number(numbers["exact"])
    for seed in range(len(next(iter(tasks.values())))):
        right.plot(range(len(tasks)), [e[seed] for e in tasks.values()], lw=0.8, **look)
    right.set_xticks(range(len(tasks)), tasks)
    right.set(xlabel="rank r (log scale); a line a seed", ylim=(-0.03, 1.05),
              ylabel="exact match on unseen words, 300 steps",
              title=message_of_task(numbers))  # fmt: skip
    for axes in (left, right):
        tidy(axes)
    return figure


def message(numbers):
    """Returns how near LoRA comes to the floor, in words."""
    gap = max(distance - floor for distance, floor in numbers["distance and floor"].values())
    if gap < ON_THE_FLOOR:
        return f"LoRA of every rank lands on the floor;\nfrom rank {PLANTED} on nothing is left"
    return f"LoRA of rank r lands at most\n{gap:.2g} above the floor"


def message_of_task(numbers):
    """Returns from which rank on every seed learns the task, in words."""
    enough = None
    for rank, seeds in reversed(by_number(numbers["exact"]).items()):
        if min(seeds) < LEARNT:
            break
        enough = rank
    if enough is None:
        return f"{numbers['task']}: at no rank does every seed\nreach {LEARNT}"
    return f"{numbers['task']}: from rank {enough} on every seed\nreaches {LEARNT}"
