"""LoRA+: LoRA whose B learns at a higher rate than its A.

    f(x) + (α / r) B A x            A: (r, in) at lr         B: (out, r) at λ · lr

At one rate for both, a wide model learns B too slowly: a step of A changes the output by a sum
over `in` inputs, a step of B by one over r. A ratio λ ≫ 1 evens that out. It is a matter of the
optimiser alone: B's Parameter says at how many times the learning rate it learns. Trains
r (in + out) numbers a target; equation, start and merging are LoRA's.

Hayou et al. 2024, section 4, arXiv:2402.12354, with λ = 16
"""

from dataclasses import dataclass

from .lora import LoRA


@dataclass(frozen=True)
class LoRAPlus(LoRA):
    """LoRA with a learning rate `loraplus_lr_ratio` times as high for B."""

    loraplus_lr_ratio: float = 16.0

    hf_flag = "use_loraplus"
    embeds = False

    def __post_init__(self):
        super().__post_init__()
        if self.loraplus_lr_ratio <= 0:
            raise ValueError(f"loraplus_lr_ratio must be > 0, got {self.loraplus_lr_ratio!r}")

    def delta(self, layer, rng):
        delta = super().delta(layer, rng)
        delta.lora_B.rate = self.loraplus_lr_ratio
        return delta
