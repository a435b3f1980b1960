"""PiSSA: LoRA that starts from the largest singular values of the weight, and trains them.

    W x − s B₀ A₀ x + s B A x       s B₀ A₀ = the best rank-r part of W, by its SVD;  s = α / r

A starts at A₀: (r, in) and B at B₀: (out, r), so attaching changes nothing but rounding. The
principal part of the weight moves from the frozen matrix to the trainable one: training acts
where the weight is large, while LoRA starts from a change of zero. Trains r (in + out)
parameters a target. Merges exactly: W + s (B A − B₀ A₀).

W itself is not changed: B₀ A₀ is subtracted in the forward pass, so that disabling the adapter
restores every bit. A file holds the change relative to the original base, a LoRA of rank 2 r,
[B, −B₀] [A; A₀], and is loaded as such. Therefore 2 r ≤ min(in, out). HF PEFT changes W, and
writes the same file if it is given the start, path_initial_model_for_weight_conversion.

Meng et al. 2024, section 3, arXiv:2404.02948
"""

from dataclasses import dataclass

from ...engine.functional import linear
from ...engine.ops import concat
from ..targets import weight
from .lora import LoRA, LoRADelta, leading


@dataclass(frozen=True)
class PiSSA(LoRA):
    """LoRA that starts from the principal part of the weight."""

    name = "pissa"
    paper = "Meng et al. 2024, arXiv:2404.02948"
    idea = "starts from the largest singular values of W, which leave the frozen part"
    claim = "learning", "lora"
    equation = "W x − s B₀ A₀ x + s B A x"
    learning_rate = 0.01
    embeds = False

    def __post_init__(self):
        super().__post_init__()
        for alpha in (self.lora_alpha, *self.alpha_pattern.values()):
            if alpha == 0:
                kind = type(self).__name__
                raise ValueError(
                    f"{kind} takes α / r times B₀ A₀ off W; give an α other than 0"
                )

    def for_module(self, path, shape):
        own = super().for_module(path, shape)
        if 2 * own.r > min(shape):
            raise ValueError(
                f"r = {own.r} is more than {type(self).__name__} can use at {path}: its change "
                f"has rank 2 r, a {tuple(shape)} weight has rank ≤ {min(shape)}; lower r or "
                f"leave {path} out"
            )
        return own

    def export_form(self):
        ranks = {key: 2 * r for key, r in self.rank_pattern.items()}
        alphas = {key: 2 * alpha for key, alpha in self.alpha_pattern.items()}
        twice = {"r": 2 * self.r, "lora_alpha": 2 * self.lora_alpha}
        return self.as_lora(**twice, rank_pattern=ranks, alpha_pattern=alphas)

    def first_factors(self, w):
        """B₀ (out, r) and A₀ (r, in) for a weight (out, in)."""
        return leading(w / self.scaling, self.r)

    def delta(self, layer, rng):
        delta = StartedDelta(layer, self, rng)
        delta.begin(*self.first_factors(weight(layer).data))
        return delta


class StartedDelta(LoRADelta):
    """One change: f(x) + s (B A − B₀ A₀) x, (…, in) -> (…, out), A₀ and B₀ frozen."""

    def __init__(self, layer, method, rng):
        super().__init__(layer, method, rng)
        self.a0, self.minus_b0 = self.lora_A.data.copy(), -self.lora_B.data

    def begin(self, b, a):
        """Let B start at B₀ (out, r) and A at A₀ (r, in), in place."""
        self.lora_A.data[...], self.lora_B.data[...] = a, b
        self.a0[...], self.minus_b0[...] = a, -b

    def factors(self):
        """[B, −B₀] (out, 2 r) and [A; A₀] (2 r, in)."""
        b, a = self.minus_b0, self.a0
        return concat([self.lora_B, b], axis=1), concat([self.lora_A, a])

    def __call__(self, f, x):
        b, a = self.factors()
        return f(x) + linear(linear(self.dropout(x), a) * self.scaling, b)

    def change(self):
        b, a = self.factors()
        return self.scaling * (b.data @ a.data)

    def frozen(self):
        return {"a0": self.a0, "minus_b0": self.minus_b0}

    def saved(self):
        b, a = self.factors()
        return {"lora_A": a.data, "lora_B": b.data}
