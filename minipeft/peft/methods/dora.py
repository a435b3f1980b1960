"""DoRA: learns the direction and the magnitude of each row of the weight separately.

    m / ‖V‖ ∘ V x + b               V = W + s B A            m: (out,), s = α / r

‖V‖ holds the norm of each row, one for each output. m starts at ‖W‖ and B at 0, so attaching
changes nothing: LoRA turns the rows, m stretches them. The norm is a constant for the gradient,
which saves memory and, in the paper, costs no accuracy. Trains r (in + out) + out parameters a
target. Merges exactly, into the weight alone. Every step it forms V, a matrix (out, in). With
m = ‖V‖ it is LoRA. Of two DoRAs in use at once, each takes its norm from W and its own B A.

Liu et al. 2024, sections 4.1 and 4.3, arXiv:2402.09353 (its "columns" are rows here, as its W
is transposed), where r = 16 or 32 and α = 2 r. Of the paper's two gradients this is the one of
section 4.3, with a constant norm, as in HF PEFT.
"""

from dataclasses import dataclass

from ...engine.backend import xp
from ...engine.functional import linear
from ...model.layers import Parameter
from ..targets import weight
from .lora import LoRA, LoRADelta


@dataclass(frozen=True)
class DoRA(LoRA):
    """LoRA on the direction of each row, and its length m."""

    name = "dora"
    paper = "Liu et al. 2024, arXiv:2402.09353"
    idea = "the direction and the length of each row train apart"
    claim = "quality", "lora"
    contains = ("lora: m = ‖V‖",)
    equation = "m / ‖V‖ ∘ V x + b"
    per_matrix = "r (in + out) + out"
    learning_rate = 0.03
    hf_flag = "use_dora"
    embeds = False

    def __post_init__(self):
        super().__post_init__()
        if self.bias != "none":
            raise ValueError("DoRA keeps the biases that it was made for; leave out bias")

    def delta(self, layer, rng):
        return DoRADelta(layer, self, rng)


class DoRADelta(LoRADelta):
    """One change of direction and magnitude, (…, in) -> (…, out)."""

    adds = False

    def __init__(self, layer, method, rng):
        super().__init__(layer, method, rng)
        # W and b as they are now, in a tuple as they are no part of this change
        self.made_for = weight(layer), getattr(layer, "bias", None)
        self.lora_magnitude_vector = Parameter(self.norm())

    def norm(self):
        """‖V‖ (out,), an array; a row of zeros, which no m can stretch, gets a tiny norm."""
        norm = xp.linalg.norm(self.made_for[0].data + self.change(), axis=1)
        return xp.maximum(norm, float(xp.finfo(norm.dtype).tiny))

    def __call__(self, f, x):
        y, (_, bias) = f(x), self.made_for
        scale = self.lora_magnitude_vector / self.norm()  # 1 at the start
        low = linear(linear(self.dropout(x), self.lora_A) * self.scaling, self.lora_B)
        # = scale ∘ (y − b + low) + b, written so that a scale of 1 leaves every bit of y
        return y + (y if bias is None else y - bias) * (scale - 1.0) + low * scale

    def merged(self, layer):
        scale, (_, bias) = self.lora_magnitude_vector.data / self.norm(), self.made_for
        merged = {"weight": scale[:, None] * (weight(layer).data + self.change())}
        if bias is None:
            return merged
        now = layer.bias.data  # no longer `bias` if another adapter was merged into it
        return merged | {"bias": now + (now - bias.data) * (scale - 1.0)}
