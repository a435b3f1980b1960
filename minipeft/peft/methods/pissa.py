"""PiSSA: LoRA that starts from the largest singular values of the weight, and trains them.

    W x − s B₀ A₀ x + s B A x       s B₀ A₀ = the best rank-r part of W, by its SVD;  s = α / r

A starts at A₀: (r, in) and B at B₀: (out, r), so attaching changes nothing but rounding. The
principal part of the weight moves from the frozen matrix to the trainable one: training acts
where the weight is large, while LoRA starts from a change of zero. Trains r (in + out)
parameters a target. Merges exactly: W + s (B A − B₀ A₀).

W itself is not changed: B₀ A₀ is subtracted in the forward pass, so that disabling the adapter
restores every bit. A file holds the change relative to the original base, a LoRA of rank 2 r,
[B, −B₀] [A; A₀], and is loaded as such. Therefore 2 r ≤ min(in, out).

Meng et al. 2024, section 3, arXiv:2404.02948
"""

from dataclasses import dataclass

from ...engine.functional import linear
from ...engine.ops import concat
from ...model.layers import Parameter
from ..targets import weight
from .lora import LoRA, LoRADelta, leading


@dataclass(frozen=True)
class PiSSA(LoRA):
    """LoRA that starts from the principal part of the weight."""

    name = "pissa"
    paper = "Meng et al. 2024, arXiv:2404.02948"
    equation = "W x − s B₀ A₀ x + s B A x"
    learning_rate = 0.01
    embeds = False

    def __post_init__(self):
        super().__post_init__()
        for alpha in (self.lora_alpha, *self.alpha_pattern.values()):
            if alpha == 0:
                raise ValueError("PiSSA divides by α; choose one other than 0")

    def for_module(self, path, shape):
        own = super().for_module(path, shape)
        if 2 * own.r > min(shape):
            raise ValueError(
                f"r = {own.r} is more than PiSSA can use at {path}: its change has rank 2 r, a "
                f"{tuple(shape)} weight has rank ≤ {min(shape)}; lower r or leave {path} out"
            )
        return own

    def export_form(self):
        names = ("lora_dropout", "target_modules", "layers_to_transform", "bias")
        names += ("modules_to_save",)
        same = {name: getattr(self, name) for name in names}
        twice = {"r": 2 * self.r, "lora_alpha": 2 * self.lora_alpha}
        ranks = {key: 2 * r for key, r in self.rank_pattern.items()}
        alphas = {key: 2 * alpha for key, alpha in self.alpha_pattern.items()}
        return LoRA(**same | twice, rank_pattern=ranks, alpha_pattern=alphas)

    def delta(self, layer, rng):
        return PiSSADelta(layer, self, rng)


class PiSSADelta(LoRADelta):
    """One change: f(x) + s (B A − B₀ A₀) x, (…, in) -> (…, out), A₀ and B₀ frozen."""

    def __init__(self, layer, method, rng):
        super().__init__(layer, method, rng)
        b, a = leading(weight(layer).data / self.scaling, method.r)
        self.lora_A, self.lora_B = Parameter(a), Parameter(b)
        self.start = -self.lora_B.data, self.lora_A.data.copy()  # −B₀ (out, r), A₀ (r, in)

    def factors(self):
        """[B, −B₀] (out, 2 r) and [A; A₀] (2 r, in)."""
        b, a = self.start
        return concat([self.lora_B, b], axis=1), concat([self.lora_A, a])

    def __call__(self, f, x):
        b, a = self.factors()
        return f(x) + linear(linear(self.dropout(x), a) * self.scaling, b)

    def change(self):
        b, a = self.factors()
        return self.scaling * (b.data @ a.data)

    def saved(self):
        b, a = self.factors()
        return {"lora_A": a.data, "lora_B": b.data}
