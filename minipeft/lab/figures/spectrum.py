"""What a change of a weight looks like: its singular values, and directions that W never had.

Left: singular values of ΔW of one matrix after full fine-tuning and after LoRA. Right: for the
strongest directions u_j of W + ΔW, the largest |u_i(W) · u_j(W + ΔW)|: near 1 it is a direction
that W had before; a small one is an intruder. Weaker directions say little, as many of about
the same strength mix.

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
from ..plots import SMALL, canvas, line_style, tidy

TASK, MATRIX = "cipher", "blocks.1.mlp.up_proj"
METHODS = {
    "full": Full(),
    "lora": LoRA(r=8, lora_alpha=8, target_modules="all-linear"),
}
STRONGEST, INTRUDER = 8, 0.6  # directions looked at, and below what one counts as an intruder
ZERO = 1e-5  # of the largest singular value: what is below is rounding


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
    figure, (left, right) = canvas(1, 2, 10, 4)
    left.plot(range(1, len(numbers["weight"]) + 1), numbers["weight"], color="grey", lw=1.5,
              label="W itself")  # fmt: skip
    for name, found in numbers["methods"].items():
        look, values = line_style(name), directions(found)
        label = f"ΔW of {name} (exact match {found['exact']:.2f})"
        marks = slice(0, None, max(1, len(values) // 8))
        left.plot(
            range(1, len(values) + 1), values, lw=1.2, markevery=marks, label=label, **look
        )
        known = found["known"][:STRONGEST]
        right.plot(range(1, len(known) + 1), known, lw=1.2, label=name, **look)
    right.axhspan(0, INTRUDER, color="#f2f2f2", zorder=0)
    right.text(STRONGEST, 0.03, "intruders", ha="right", color="#555555", fontsize=SMALL)
    left.set(yscale="log", xlabel="number of the singular value", title=message(numbers),
             ylabel=f"singular value of\n{numbers['matrix']}")  # fmt: skip
    right.set(xlabel="direction u of W + ΔW, the strongest first", ylim=(0, 1.05))
    right.set(ylabel="largest |u · u′|, u′ of W", title=message_of_intruders(numbers))
    for axes in (left, right):
        tidy(axes)
        axes.legend(
            frameon=False, fontsize=SMALL, loc="best" if axes is left else "upper right"
        )
    return figure


def directions(found):
    """Returns the singular values of a change that are not rounding."""
    return [value for value in found["change"] if value > ZERO * found["change"][0]]


def message(numbers):
    """Returns how many directions each change has, in words."""
    counts = [f"{name} {len(directions(f))}" for name, f in numbers["methods"].items()]
    return f"Directions that change, of {len(numbers['weight'])}:\n{', '.join(counts)}"


def message_of_intruders(numbers):
    """Returns how many of the strongest directions are intruders, in words."""
    counts = [
        f"{name} {sum(known < INTRUDER for known in found['known'][:STRONGEST])}"
        for name, found in numbers["methods"].items()
    ]
    return f"New to W among the {STRONGEST} strongest directions:\n{', '.join(counts)}"
