"""LoRA-FA: LoRA whose A is frozen, so that only B trains.

    f(x) + (α / r) B A x            A: (r, in) random and frozen        B: (out, r) zero

B = 0, so attaching changes nothing. Trains r out parameters a target. Merges exactly:
W + (α / r) B A. In memory A is drawn as LoRA's; in a file it is a LoRA.

For A's gradient LoRA keeps A's input, `in` numbers a token, until the backward pass. Here what
is kept is A x, r numbers a token: that is the memory which the paper saves. But the rows of
every change of W are now combinations of the rows of A. A step of B along H moves W along
s H A, s = α / r. Let G be the gradient for W, so that B's is s G Aᵀ. Of all steps,

    H = (s G Aᵀ) (A Aᵀ)⁻¹ / s²      gives s H A = G Aᵀ (A Aᵀ)⁻¹ A, the one nearest to G:

it is the projection of G on the rows of A. Before each update B's gradient is replaced by H
(`corrected`), and AdamW takes that. 10⁻⁸ I is added to A Aᵀ, as in HF PEFT.

Zhang et al. 2023, arXiv:2308.03303; the correction is in its second version, of 2026. HF PEFT
has it as an optimiser for LoRA. That one rounds H to bfloat16 where it can, adds ε to √v before
its bias is corrected, decays after the step, and gets a gradient that was clipped before it is
corrected; `fit` clips H.
"""

from dataclasses import dataclass

from ...engine.backend import xp
from .lora import LoRA, LoRADelta


@dataclass(frozen=True)
class LoRAFA(LoRA):
    """LoRA with A frozen, and B's gradient corrected for it."""

    corrected: bool = True

    name = "lora-fa"
    idea = "A is frozen, so its input need not be kept for backward"
    claim = "memory", "lora"
    within = ("lora: A frozen",)
    paper = "Zhang et al. 2023, arXiv:2308.03303"
    per_matrix = "r out"
    learning_rate = 0.1
    embeds = False

    def for_module(self, path, shape):
        own = super().for_module(path, shape)
        if self.corrected and own.lora_alpha == 0:
            raise ValueError(
                f"LoRA-FA divides by α, which is 0 at {path}; take another or corrected=False"
            )
        return own

    def export_form(self):
        return self.as_lora()

    def delta(self, layer, rng):
        return LoRAFADelta(layer, self, rng)

    def before_step(self, adapter, step, steps):
        for delta in adapter.deltas.values() if self.corrected else ():
            delta.correct()


class LoRAFADelta(LoRADelta):
    """One low-rank change: f(x) + (α / r) B A x, A frozen."""

    def __init__(self, layer, method, rng):
        super().__init__(layer, method, rng)
        self.lora_A = self.lora_A.data  # an array does not train

    def change(self):
        return self.scaling * self.lora_B.data @ self.lora_A

    def correct(self):
        """Put H in the place of B's gradient."""
        if self.lora_B.grad is not None:
            a = self.lora_A
            square = self.scaling**2 * (a @ a.T + 1e-8 * xp.eye(len(a), dtype=a.dtype))
            h = xp.linalg.solve(square, self.lora_B.grad.T)  # transposed
            self.lora_B.grad = h.T

    def frozen(self):
        return {"lora_A": self.lora_A}

    def saved(self):
        return self.frozen() | super().saved()
