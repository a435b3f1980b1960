"""LoftQ: quantises a base, and starts LoRA from the rounding error.

    repeat T times:   Q = quantised(W − s B A)        s B A = the best rank-r part of W − Q

B and A start from zero. So after one step Q is the plain quantised weight, and s B A is the
best rank-r approximation of its error (Eckart & Young: the largest singular values). Further
steps adapt the codes to s B A. The base becomes Q, and Q + s B A is nearer to W than `quantize`
alone would be. The error need not fall in every step, so the best step is kept.

Li et al. 2023, algorithm 1, arXiv:2310.08659. This is done for the targets of LoRA; all other
Linears are quantised as they are. The base must not be quantised before.
"""

from ..engine.backend import dtype, xp
from ..errors import check_whole
from ..model.quantize import QuantizedParameter, check_no_adapters, quantize
from ..model.transaction import all_or_nothing
from .attach import install, prepare, use
from .base import precision
from .methods.lora import LoRA, LoRADelta, leading
from .targets import linears


@all_or_nothing
def loftq(model, method=None, kind="nf4", *, steps=1, name="default", block=64, double=True):
    """Quantises a model and attaches a LoRA that corrects part of the error.

    Returns the Adapter. `method` is a plain LoRA (default: LoRA()). Raises ValueError, and
    changes nothing, where `quantize` or `attach` would. The base is changed for good: save it
    with `save_model`, because the adapter fits no other base.
    """
    (steps,) = check_whole(1, steps=steps)
    check_no_adapters(model)
    adapter = prepare(model, LoRA() if method is None else method, name)
    layers = linears(model)
    for path, delta in adapter.deltas.items():
        if type(delta) is not LoRADelta:
            raise ValueError(
                f"LoftQ starts plain LoRA, not {adapter.method}; attach that instead"
            )
        if path.split(".")[-1] == "lm_head":
            raise ValueError("the head is not quantised; leave lm_head out of target_modules")
    best = {}
    for path, delta in adapter.deltas.items():
        weight, rank = layers[path].weight.data, delta.lora_A.shape[0]
        best[path] = split(weight, rank, steps, kind, block, double)
    quantize(model, kind, block=block, double=double)
    with dtype(precision(model)):
        for path, (packed, b, a) in best.items():
            layers[path].weight = packed
            adapter.deltas[path].lora_B.data[...] = b / adapter.deltas[path].scaling
            adapter.deltas[path].lora_A.data[...] = a
    install(model, adapter)
    use(model, name)
    return adapter


def split(weight, rank, steps, kind, block, double):
    """(Q packed, b, a) with Q + b a ≈ weight (out, in), b (out, rank) and a (rank, in)."""
    best, least, low = None, float("inf"), 0.0
    for _ in range(steps):
        packed = QuantizedParameter(weight - low, kind, block, double)
        b, a = leading(weight - packed.data, rank)
        low = b @ a
        error = float(xp.linalg.norm(weight - packed.data - low))
        if error < least:
            best, least = (packed, b, a), error
    return best
