"""LoRA-GA: LoRA whose first step is nearly that of full fine-tuning.

    W x − s B₀ A₀ x + s B A x       G = U Σ Vᵀ,  A₀ = c V[:, :r]ᵀ,  B₀ = c U[:, r : 2 r]

s = α / r, c = out^¼ / √γ, and G (out, in) is the gradient of the loss for W. A starts at A₀:
(r, in) and B at B₀: (out, r), and what they add to W is taken off again, so the start changes
nothing but rounding. Trains r (in + out) parameters a target. Merges exactly:
W + s (B A − B₀ A₀).

LoRA's first step changes W in the directions of a random A. Here a first step of gradient
descent at rate η changes W, to first order in η, by

    −η s² (B₀ B₀ᵀ G + G A₀ᵀ A₀) = −η s² c² (the best approximation of G by a rank of 2 r),

which is where full fine-tuning goes. c makes the size of outputs and of gradients independent
of the width. The paper reports that it converges two to four times as fast as LoRA.

Attached, it is LoRA: A₀ is random and B₀ = 0. Before the first update `fit` computes G, the
mean gradient of its first `init_batches` batches, which takes the memory of all G at once. In
memory and in files it is PiSSA with other B₀ and A₀: see there. So 2 r ≤ min(in, out).

Wang et al. 2024, section 3, arXiv:2407.05000; there s is α / √r, as in rsLoRA, which is
lora_alpha = α √r here. HF PEFT leaves c out of A₀ and multiplies each column of B₀ by its
singular value.
"""

from dataclasses import dataclass

from ...engine.backend import dtype, np, xp
from ...engine.functional import linear
from ...engine.tensor import gradients
from ...model.layers import Parameter
from ...options import option
from ..base import precision
from ..data_start import check_finite, first_batches, probing, untrained
from ..targets import matrices, shape
from .pissa import PiSSA, StartedDelta


@dataclass(frozen=True)
class LoRAGA(PiSSA):
    """LoRA that starts from the gradient of the weight."""

    stable_gamma: float = option(16.0, above=0)
    init_batches: int = option(8, at_least=1)

    name = "lora-ga"
    idea = "starts so that its first step is nearly that of full fine-tuning"
    claim = "learning", "lora"
    paper = "Wang et al. 2024, arXiv:2407.05000"
    learning_rate = 0.01

    def delta(self, layer, rng):
        return StartedDelta(layer, self, rng)

    def before_training(self, adapter, model, batches):
        if deltas := untrained(adapter):
            found = weight_gradients(model, deltas, first_batches(batches, self.init_batches))
            ranks = {path: len(delta.lora_A) for path, delta in deltas.items()}
            starts = {path: self.of_gradient(path, found[path], ranks[path]) for path in deltas}
            for path, start in starts.items():
                deltas[path].begin(*start)

    def of_gradient(self, path, g, r):
        """B₀ (out, r) and A₀ (r, in) for the gradient of a weight (out, in)."""
        check_finite(path, g)
        u, _, vt = xp.linalg.svd(g, full_matrices=False)
        signs = xp.where(u.sum(axis=0) < 0, -1.0, 1.0)  # which an SVD leaves open
        c = len(g) ** 0.25 / self.stable_gamma**0.5
        return c * (u * signs)[:, r : 2 * r], c * (vt * signs[:, None])[:r]


def weight_gradients(model, paths, batches):
    """{path: gradient of the mean loss for its weight, (out, in)}, the mean over batches.

    The gradient for a weight is that for a ΔW = 0 added to it, also if the weight is packed.
    """
    modules, sums = matrices(model), dict.fromkeys(paths, 0.0)
    with dtype(precision(model)):
        zeros = {path: Parameter(np.zeros(shape(modules[path]))) for path in paths}

    def adding(p):
        return lambda f, x: f(x) + linear(x, p)

    with probing(model, {path: adding(p) for path, p in zeros.items()}):
        for ids, labels in batches:
            found = gradients(model.loss(ids, labels))
            for path, p in zeros.items():
                sums[path] = sums[path] + found[p.node] / len(batches)
    return sums
