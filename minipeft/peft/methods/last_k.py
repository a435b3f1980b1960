"""Fine-tuning of the last k blocks, the oldest way of transfer.

    W ← W + ΔW, last k blocks        GPT-2: k (12 D² + 13 D) parameters

All that is in these blocks trains. The earlier layers are only read forward: no tape is kept
below the last k blocks.

What trains is a private copy that takes the parameter's place while in use, so switching back
restores every bit, and only the copies are saved. Attaching changes nothing, merging makes the
copies the base, and nothing is slower for it. Rows of one batch cannot use different copies.

Lee et al. 2019, section 3, arXiv:1911.03090
"""

from dataclasses import dataclass

from ...options import option
from ..targets import Selective


@dataclass(frozen=True)
class LastK(Selective):
    """Fine-tuning of the last k blocks."""

    k: int = option(1, at_least=1)

    name = "last-k"
    paper = "Lee et al. 2019, arXiv:1911.03090"
    idea = "the last blocks alone train, and no backward pass goes below them"
    claim = "parameters", "full"
    within = ("full: all else frozen",)
    equation = "W ← W + ΔW, last k blocks"
    place = "the last blocks"
    learning_rate = 0.01
    peft_type = "LAST_K"

    def chooses(self, path, layers):
        if self.k > layers:
            raise ValueError(f"k = {self.k}, but the model has {layers} blocks; use fewer")
        place, number = path.split(".")[:2]
        return place == "blocks" and int(number) >= layers - self.k
