"""What a change of a weight looks like: its singular values, and directions that W never had.

Left: singular values of ΔW of one matrix after full fine-tuning and after LoRA. Right: for the
strongest directions u_j of W + ΔW, the largest |u_i(W) · u_j(W + ΔW)|: near 1 it is a direction
that W had before; a small one is an intruder.

Shuttleworth et al. 2024, "LoRA vs Full Fine-tuning: An Illusion of Equivalence",
arXiv:2410.21228
"""

from ...engine.backend import np, to_numpy
from ...io.checkpoint import load_base
from ...peft.attach import attach
from ...peft.merge import merge
from ...peft.methods import Full, LoRA
from ...text.words import Task
from ...train.fit import evaluate, fit
from ..compare import rate, shipped_rates
from ..plots import canvas, style, tidy

TASK, MATRIX = "cipher", "blocks.1.mlp.up_proj"
METHODS = {
    "full": Full(),
    "lora": LoRA(r=8, lora_alpha=8, target_modules="all-linear"),
}


def measure(fast=False):
    """Singular values of W and ΔW, and how well each new direction is known to W."""
    rates, found = shipped_rates()["rates"], {}
    for name, method in METHODS.items():
        model = load_base()
        before = weight(model)
        attach(model, method)
        fit(model, Task(TASK), 5 if fast else 600, 16, rate(rates, name, TASK), label=name)
        exact = evaluate(model, Task(TASK).examples("test", 300)).exact
        merge(model)
        after = weight(model)
        old, new = (np.linalg.svd(w, full_matrices=False)[0] for w in (before, after))
        found[name] = {
            "exact": exact,
            "change": singular(after - before),
            "known": np.abs(old.T @ new).max(axis=0).tolist(),
        }
    return {"task": TASK, "matrix": MATRIX, "weight": singular(before), "methods": found}


def weight(model):
    """The matrix looked at, in float64."""
    return to_numpy(dict(model.named_modules())[MATRIX].weight.data).astype("float64")


def singular(matrix):
    """Singular values, largest first."""
    return np.linalg.svd(matrix, compute_uv=False).tolist()


def draw(numbers):
    """Two panels over the number of the singular value."""
    figure, (left, right) = canvas(1, 2, 9.5, 3.8)
    left.plot(range(1, len(numbers["weight"]) + 1), numbers["weight"], color="grey", lw=1.5,
              label="W itself")  # fmt: skip
    for name in METHODS:
        found = numbers["methods"][name]
        look = style(name) | {"markersize": 4, "lw": 1}
        values = [s for s in found["change"] if s > 1e-5 * found["change"][0]]
        label = f"{name}: exact {found['exact']:.2f}"
        left.plot(range(1, len(values) + 1), values, label=f"ΔW, {label}", **look)
        right.plot(range(1, len(found["known"]) + 1), found["known"], label=name, **look)
    left.set(yscale="log", xlabel="number", title=f"singular values, {numbers['matrix']}")
    right.set(xlabel="number of the direction u of W + ΔW", ylim=(0, 1.05),
              title="max |u(W) · u(W + ΔW)|: low is an intruder")  # fmt: skip
    for axes in (left, right):
        tidy(axes)
        axes.legend(frameon=False, fontsize=9)
    return figure
