"""MiSS: one small matrix, which all stretches of r inputs of a weight share.

    f(x) + D Σᵢ xᵢ                  x = [x₁ … x_g], stretches of r inputs      D: (out, r) zero

The change of the weight is [D D … D]: copies of D side by side, the last one cut off where r
does not divide in. D = 0, so attaching changes nothing. Trains r out parameters a target.
Merges exactly. The forward pass first sums the stretches of x, then multiplies by D.

Against LoRA: A is fixed to [I I … I], unit matrices side by side, and only B trains. To apply
such an A is to sum, without a multiplication. The paper finds that the first gradients are
larger than LoRA's, that training converges faster with as many parameters, and that a step
takes less time.

Kang & Yin 2024, section 4, arXiv:2409.15371, in its efficient form, equations 4 to 7. A file
holds D transposed, as HF PEFT's does. HF has two variants more, `bat` and `mini`.
"""

from dataclasses import dataclass

from ...engine.backend import np, xp
from ...engine.ops import concat
from ...model.layers import Dropout, Parameter
from ...options import option
from ..base import Delta
from ..targets import Targeted, shape, weight


@dataclass(frozen=True)
class MiSS(Targeted):
    """MiSS with stretches of r inputs on the named matrices; dropout acts on the inputs."""

    r: int = option(16, at_least=1)
    target_modules: tuple[str, ...] | str = ("q_proj", "v_proj")
    miss_dropout: float = option(0.0, at_least=0, below=1)
    layers_to_transform: tuple[int, ...] | int | None = None

    name = "miss"
    family = "lora"
    paper = "Kang & Yin 2024, arXiv:2409.15371"
    idea = "A is fixed to unit matrices side by side, so that applying it is a sum"
    claim = "learning", "lora"
    within = ("lora: A made of unit matrices",)
    equation = "f(x) + D Σᵢ xᵢ"
    per_matrix = "r out"
    learning_rate = 0.01
    peft_type = "MISS"
    hf_config = "MissConfig"
    hf_prefix = "miss_"
    hf_lacks = ("layers_to_transform", "fan_in_fan_out")
    hf_on_gpt2 = False
    hf_whole = True

    def for_module(self, path, shape):
        if self.r > shape[1]:
            raise ValueError(
                f"r = {self.r} is more than the {shape[1]} inputs of {path}; lower r or leave "
                f"{path} out"
            )
        return self

    def delta(self, layer, rng):
        return MiSSDelta(layer, self)

    @classmethod
    def from_hf(cls, values, targets):
        return {option: v for option, v in values.items() if option != "mini_r"}  # of `mini`


class MiSSDelta(Delta):
    """One change: f(x) + D Σᵢ xᵢ, (…, in) -> (…, out)."""

    adds = True

    def __init__(self, layer, method):
        self.miss_block = Parameter(np.zeros((method.r, shape(layer)[0])))  # Dᵀ
        self.dropout = Dropout(method.miss_dropout)

    def __call__(self, f, x):
        return f(x) + self.dropout(self.stretches(x)).sum(-2) @ self.miss_block

    def stretches(self, x):
        """x in stretches of r, (…, in) -> (…, g, r), with zeros after the last input."""
        (r, _), n_in = self.miss_block.shape, x.shape[-1]
        if short := -n_in % r:
            x = concat([x, xp.zeros((*x.shape[:-1], short), x.dtype)], axis=-1)
        return x.reshape(*x.shape[:-1], -1, r)

    def merged(self, layer):
        w, d = weight(layer).data, self.miss_block.data.T
        copies = xp.concatenate([d] * -(-w.shape[1] // d.shape[1]), axis=1)
        return {"weight": w + copies[:, : w.shape[1]]}
