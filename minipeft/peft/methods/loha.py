"""LoHa: the elementwise product of two low-rank matrices, which can have a rank up to r².

    f(x) + (α / r) ((B₁ A₁) ∘ (B₂ A₂)) x      B₁, B₂: (out, r)      A₁, A₂: (r, in), A₂ zero

A₂ = 0, so attaching changes nothing; the others are U(±1/√columns). Trains 2 r (in + out)
parameters a target, twice as many as LoRA of rank r, for a rank of up to r². Merges exactly.
The (out, in) product is formed in every step: it is slower than LoRA's two thin products.

Hyeon-Woo et al. 2022 (FedPara), section 2.2, arXiv:2108.06098; the initialisation is HF PEFT's
"""

from dataclasses import dataclass

from ...engine.backend import np
from ...engine.functional import linear
from ...model.layers import Parameter, kaiming_uniform
from ...options import option
from ..base import Delta
from ..targets import Targeted, check_factors, patterned, shape, weight


@dataclass(frozen=True)
class LoHa(Targeted):
    """LoHa from factors of rank r on the named matrices."""

    r: int = option(8, at_least=1)
    alpha: float = 8.0
    target_modules: tuple[str, ...] | str = ("q_proj", "v_proj")
    layers_to_transform: tuple[int, ...] | int | None = None
    rank_pattern: dict[str, int] = option(default_factory=dict, hash=False, at_least=1)
    alpha_pattern: dict[str, float] = option(default_factory=dict, hash=False)

    name = "loha"
    family = "lora"
    paper = "Hyeon-Woo et al. 2021, arXiv:2108.06098"
    idea = "two low-rank matrices multiplied element by element: rank r² for 2 r's parameters"
    claim = "quality", "lora"
    contains = ("lora: B₂ A₂ all ones",)
    equation = "f(x) + (α / r) ((B₁ A₁) ∘ (B₂ A₂)) x"
    per_matrix = "2 r (in + out)"
    learning_rate = 0.03
    peft_type = "LOHA"
    hf_config = "LoHaConfig"
    hf_prefix = "hada_"
    hf_lacks = ("layers_to_transform", "fan_in_fan_out")
    hf_on_gpt2 = False

    def for_module(self, path, shape):
        own = patterned(self, path, "alpha")
        check_factors(path, own.r, shape)
        return own

    def delta(self, layer, rng):
        return LoHaDelta(layer, self, rng)


class LoHaDelta(Delta):
    """One change: f(x) + (α / r) ((B₁ A₁) ∘ (B₂ A₂)) x, (…, in) -> (…, out)."""

    adds = True

    def __init__(self, layer, method, rng):
        (n_out, n_in), r = shape(layer), method.r
        self.hada_w1_a = Parameter(kaiming_uniform(rng, n_out, r))  # B₁
        self.hada_w1_b = Parameter(kaiming_uniform(rng, r, n_in))  # A₁
        self.hada_w2_a = Parameter(kaiming_uniform(rng, n_out, r))  # B₂
        self.hada_w2_b = Parameter(np.zeros((r, n_in)))  # A₂
        self.scaling = method.alpha / r

    def change(self):
        """ΔW, a Tensor (out, in)."""
        one, two = self.hada_w1_a @ self.hada_w1_b, self.hada_w2_a @ self.hada_w2_b
        return one * two * self.scaling

    def __call__(self, f, x):
        return f(x) + linear(x, self.change())

    def merged(self, layer):
        return {"weight": weight(layer).data + self.change().data}
