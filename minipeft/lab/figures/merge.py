"""What merging costs by the type of the weights: float64, float32, bfloat16, nf4.

The largest change of a logit by merging, relative to the largest logit, and how often the
likeliest letter changes. In bfloat16 (emulated: rounded to 8 bits of mantissa) and nf4 the base
is rounded first, the adapter is trained on it, and the merged weight is rounded again.
"""

from ...engine.backend import dtype, np, to_numpy, xp
from ...engine.tensor import no_grad
from ...io.checkpoint import load_base
from ...model.quantize import quantize
from ...model.transformer import Transformer
from ...peft.attach import attach
from ...peft.merge import merge
from ...peft.methods import METHODS as ALL
from ...peft.targets import linears
from ...text.words import Task
from ...train.fit import fit
from ..compare import rate, shipped_rates
from ..plots import SMALL, canvas, style, tidy

TASK, METHODS, TYPES = (
    "pig-latin",
    ("lora", "dora", "ia3"),
    ("float64", "float32", "bfloat16", "nf4"),
)


def measure(fast=False):
    """{type: {method: [largest relative change of a logit, share of changed letters]}}."""
    rates = shipped_rates()["rates"]
    return {
        kind: {
            name: error(kind, name, 3 if fast else 300, rate(rates, name, TASK))
            for name in METHODS
        }
        for kind in TYPES
    }


def error(kind, name, steps, lr):
    """Train on a base of this type, merge into it; compare the logits."""
    model = base(kind)
    attach(model, ALL[name]())
    fit(model, Task(TASK), steps, 16, lr, label=f"{kind} {name}")
    before = logits(model)
    merge(model, requantize=kind == "nf4")
    if kind == "bfloat16":
        round_weights(model)
    after = logits(model)
    changed = (before.argmax(-1) != after.argmax(-1)).mean()
    return [float(np.abs(after - before).max() / np.abs(before).max()), float(changed)]


def base(kind):
    """The backbone with weights of this type."""
    model = load_base()
    if kind == "float64":
        with dtype("float64"):
            wide = Transformer(model.config, rng=0)
        for new, old in zip(wide.parameters(), model.parameters(), strict=True):
            new.data = old.data.astype("float64")
        return wide
    if kind == "bfloat16":
        round_weights(model)
    if kind == "nf4":
        quantize(model)
    return model


def round_weights(model):
    """Round every Linear's weight to what bfloat16 can hold."""
    for layer in linears(model).values():
        layer.weight.data = bfloat16(layer.weight.data)


def bfloat16(a):
    """float32 numbers rounded to 8 bits of mantissa, ties to even, still float32."""
    bits = xp.ascontiguousarray(a, dtype="float32").view("uint32")
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).view("float32").reshape(a.shape)


def logits(model):
    """Logits of 64 test words."""
    with no_grad():
        return to_numpy(model(Task(TASK).examples("test", 64).ids).data)


def draw(numbers):
    """A group of points a type, one point a method, on a log scale."""
    figure, (axes,) = canvas(1, 1, 7.5, 4)
    for i, name in enumerate(METHODS):
        places = np.arange(len(TYPES)) + (i - 1) * 0.22
        errors = [numbers[kind][name][0] for kind in TYPES]
        axes.plot(places, errors, ls="", label=name, **style(name) | {"markersize": 9})
        for x, kind, err in zip(places, TYPES, errors, strict=True):
            axes.annotate(shortly(numbers[kind][name][1]), (x, err), (0, 8), ha="center",
                          textcoords="offset points", fontsize=SMALL - 1)  # fmt: skip
    axes.set_xticks(range(len(TYPES)), TYPES)
    axes.set(yscale="log", ylabel="largest change of a logit / largest logit",
             xlabel="type of the weights; above a point: share of letters that change",
             title=message(numbers))  # fmt: skip
    axes.margins(x=0.1, y=0.14)
    axes.legend(frameon=False, loc="upper left", fontsize=SMALL)
    tidy(axes)
    return figure


def shortly(share):
    """Returns a share with one digit that counts: 0, 0.0007, 0.04."""
    return f"{share:.1g}" if share else "0"


def message(numbers):
    """Returns what merging changes in the best type of the weights and in the worst."""
    most = {kind: max(share for _, share in numbers[kind].values()) for kind in TYPES}
    exact = [kind for kind in TYPES if most[kind] == 0]
    worst = max(TYPES, key=most.get)
    if not exact or not most[worst]:
        return f"Merging changes at most {shortly(most[worst])} of the letters, in {worst}"
    return (
        f"Merging changes no letter in {' and '.join(exact)}, "
        f"up to {shortly(most[worst])} of them in {worst}"
    )
