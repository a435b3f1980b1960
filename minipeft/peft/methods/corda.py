"""CorDA: LoRA that starts from what the weight does with the inputs of the data.

    W x − s B₀ A₀ x + s B A x       W C = U Σ Vᵀ,  s B₀ A₀ = Uᵣ Σᵣ Vᵣᵀ C⁻¹;  s = α / r

C (in, in) is the mean of x xᵀ over the layer's inputs x, so W C is large in the directions that
the data use. With `corda_method` "ipm" (instruction-previewed) Σᵣ are its first r singular
values: of all matrices of rank r, s B₀ A₀ leaves the least of W C. With "kpm" (knowledge-
preserved) they are the last r, and C is of data whose knowledge is to be kept: what those use
stays in the frozen part. A starts at A₀: (r, in) and B at B₀: (out, r), each with √Σᵣ, so the
start changes nothing but rounding. Trains r (in + out) parameters a target. Merges exactly:
W + s (B A − B₀ A₀).

PiSSA takes the directions in which W is large, whatever it reads; if C is a multiple of I,
"ipm" is PiSSA. The paper finds that "ipm" learns faster than PiSSA, and "kpm" forgets less.

Attached, it is LoRA: A₀ is random and B₀ = 0. Before the first update `fit` makes C of the
labelled tokens of its first `init_batches` batches; for "kpm" call `start_from_data` before,
with the data to keep. In memory and in files it is PiSSA with other B₀ and A₀: see there. So
2 r ≤ min(in, out).

Yang et al. 2024, section 3, arXiv:2406.05223. C is divided by its mean diagonal, which leaves
B₀ A₀ as it is. As in HF PEFT, a hundredth of I is added, so that C has an inverse. HF divides
by the largest input of each batch instead, counts all tokens, and computes in float32.
"""

from dataclasses import dataclass

from ...engine.backend import xp
from ...options import option
from ..data_start import check_finite, first_batches, untrained
from ..targets import matrices, weight
from .eva import sums_of_inputs
from .pissa import PiSSA, StartedDelta


@dataclass(frozen=True)
class CorDA(PiSSA):
    """LoRA that starts from the weight as the inputs of its layer see it."""

    corda_method: str = option("ipm", one_of=("ipm", "kpm"))
    init_batches: int = option(8, at_least=1)

    name = "corda"
    idea = "starts from what W does with the inputs of the data"
    claim = "learning", "lora"
    contains = ("pissa: C a multiple of I",)
    paper = "Yang et al. 2024, arXiv:2406.05223"
    learning_rate = 0.003

    def delta(self, layer, rng):
        return StartedDelta(layer, self, rng)

    def before_training(self, adapter, model, batches):
        if deltas := untrained(adapter):
            sums = sums_of_inputs(model, deltas, first_batches(batches, self.init_batches))
            modules, starts = matrices(model), {}
            for path, delta in deltas.items():
                _, _, squares = sums[path]
                check_finite(path, squares)
                w, r = weight(modules[path]).data, len(delta.lora_A)
                starts[path] = self.factors_for(w / delta.scaling, squares, r)
            for path, start in starts.items():
                deltas[path].begin(*start)

    def factors_for(self, w, squares, r):
        """B₀ (out, r) and A₀ (r, in) for W / s (out, in) and Σ x xᵀ (in, in)."""
        one = xp.eye(len(squares), dtype=squares.dtype)
        c = (squares * len(squares) / xp.trace(squares) + 0.01 * one) / 1.01
        u, sigma, vt = xp.linalg.svd(w @ c, full_matrices=False)
        part = slice(r) if self.corda_method == "ipm" else slice(len(sigma) - r, None)
        root = xp.sqrt(sigma[part])
        a = xp.linalg.solve(c, vt[part].T * root)  # transposed
        return u[:, part] * root, a.T
