"""Rank-stabilised LoRA: divides by √r instead of r, so that a high rank learns as fast.

    f(x) + (α / √r) B A x           A: (r, in) random        B: (out, r) zero

With α / r the change of the output shrinks as 1/√r while r grows, and a high rank learns no
more than a low one. With α / √r it keeps its size. It equals LoRA with α √r in place of α.
Trains r (in + out) parameters a target; initialisation and merging are LoRA's.

Kalajdzievski 2023, section 3, arXiv:2312.03732
"""

import math
from dataclasses import dataclass

from .lora import LoRA


@dataclass(frozen=True)
class RSLoRA(LoRA):
    """LoRA scaled by α / √r."""

    name = "rslora"
    learning_rate = 0.01
    paper = "Kalajdzievski 2023, arXiv:2312.03732"
    idea = "divides by √r, so that its strength does not fall as the rank rises"
    claim = "quality", "lora"
    within = ("lora: α multiplied by √r",)
    equation = "f(x) + (α / √r) B A x"
    hf_flag = "use_rslora"

    @property
    def scaling(self):
        return self.lora_alpha / math.sqrt(self.r)
