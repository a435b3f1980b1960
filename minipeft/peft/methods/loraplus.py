"""LoRA+: LoRA whose B learns at a higher rate than its A.

    f(x) + (α / r) B A x            A: (r, in) at lr         B: (out, r) at λ · lr

With one rate for both, a wide model learns B too slowly: a step of A changes the output by a
sum over `in` inputs, a step of B by a sum over r. A ratio λ ≫ 1 evens that out. Only the
optimiser differs from LoRA: B's Parameter has a `rate`, by which its learning rate is
multiplied. Trains r (in + out) parameters a target; initialisation and merging are LoRA's.

Hayou et al. 2024, section 4, arXiv:2402.12354, with λ = 16
"""

from dataclasses import dataclass

from ...options import option
from .lora import LoRA


@dataclass(frozen=True)
class LoRAPlus(LoRA):
    """LoRA with a learning rate `loraplus_lr_ratio` times as high for B."""

    loraplus_lr_ratio: float = option(16.0, above=0)

    name = "lora+"
    idea = "B learns faster than A"
    claim = "learning", "lora"
    contains = ("lora: ratio 1",)
    paper = "Hayou et al. 2024, arXiv:2402.12354"
    learning_rate = 0.01
    hf_flag = "use_loraplus"
    hf_lacks = (*LoRA.hf_lacks, "loraplus_lr_ratio", "use_loraplus")
    embeds = False

    def delta(self, layer, rng):
        delta = super().delta(layer, rng)
        delta.lora_B.rate = self.loraplus_lr_ratio
        return delta
