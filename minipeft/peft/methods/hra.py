"""HRA: multiplies a weight by a product of mirror reflections, which is a rotation of low rank.

    f(H x)          H = H₁ H₂ … H_r          H_i = I − 2 u_i u_iᵀ / ‖u_i‖²          u_i: (in,)

H_i is a Householder reflection: it mirrors x at the plane that is orthogonal to u_i. A product
of reflections is orthogonal, so HRA is an OFT with one block of all inputs. It changes r
directions only, so it is a LoRA too, whose B is made of the weight itself:

    H = I − U S⁻¹ Uᵀ        W H = W − (W U) S⁻¹ Uᵀ        S = I / 2 + triu(Uᵀ U, 1)

where U (in, r) has the unit vectors u_i / ‖u_i‖ as its columns, and triu keeps what is above
the diagonal. Computed so, it costs as much as LoRA. At first the vectors are equal in pairs,
U(±1/√(r / 2)), and two equal reflections undo each other: attaching changes nothing but
rounding. So r is even. Trains r in parameters a target. Merges exactly: W ← W H.

What it changes about LoRA: the change is a rotation, which keeps the lengths of the rows of W
and the angles between them, from half the parameters; the paper scores above LoRA with these.

Yuan et al. 2024, section 3, arXiv:2405.17484, without its penalty on vectors that are not
orthogonal (λ = 0). HF PEFT's `apply_GS` makes them orthogonal (λ = ∞). It is not here: no such
vectors give H = I, so that attaching would change the model.
"""

from dataclasses import dataclass

from ...engine.backend import np, xp
from ...engine.functional import linear
from ...engine.ops import sqrt, square
from ...engine.tensor import record, value
from ...model.layers import Parameter, kaiming_uniform
from ...options import option
from ..base import Delta
from ..targets import Targeted, shape, weight
from .oft import inverse


@dataclass(frozen=True)
class HRA(Targeted):
    """HRA of r reflections on the named matrices."""

    r: int = option(8, at_least=2)
    target_modules: tuple[str, ...] | str = ("q_proj", "v_proj")
    layers_to_transform: tuple[int, ...] | int | None = None

    name = "hra"
    family = "orthogonal"
    paper = "Yuan et al. 2024, arXiv:2405.17484"
    idea = "a rotation of low rank: LoRA's speed and OFT's angles, from half the parameters"
    claim = "parameters", "lora"
    within = ("lora: B made of W and A", "oft: one block")
    equation = "f(H x)"
    per_matrix = "r in"
    learning_rate = 0.1
    peft_type = "HRA"
    hf_config = "HRAConfig"
    hf_prefix = "hra_"
    hf_lacks = ("layers_to_transform", "fan_in_fan_out")
    hf_on_gpt2 = False

    def __post_init__(self):
        super().__post_init__()
        if self.r % 2:
            raise ValueError(
                f"HRA begins with pairs of reflections, got r = {self.r}; choose an even r"
            )

    def for_module(self, path, shape):
        if self.r > shape[1]:
            raise ValueError(
                f"r = {self.r} reflections are more than {path} can use, which has {shape[1]} "
                f"inputs; lower r or leave {path} out"
            )
        return self

    def delta(self, layer, rng):
        return HRADelta(layer, self, rng)


class HRADelta(Delta):
    """One reflected input: f(H x), (…, in) -> (…, out)."""

    def __init__(self, layer, method, rng):
        half = kaiming_uniform(rng, shape(layer)[1], method.r // 2)
        pairs = half[:, np.arange(method.r) // 2]  # (in, r): u₁ u₁ u₂ u₂ …
        self.hra_u = Parameter(pairs.copy())  # row by row in memory, as loaded from a file

    def factors(self):
        """U (in, r), of unit columns, and S⁻¹ (r, r): H = I − U S⁻¹ Uᵀ."""
        u = self.hra_u / sqrt(square(self.hra_u).sum(axis=0))
        one = xp.eye(u.shape[1], dtype=u.dtype)
        return u, inverse(above_diagonal(u.transpose(1, 0) @ u) + 0.5 * one)

    def __call__(self, f, x):
        u, s = self.factors()
        thin = linear(linear(x, u.transpose(1, 0)), s)  # S⁻¹ Uᵀ x, (…, r)
        return f(x - linear(thin, u))

    def merged(self, layer):
        w, (u, s) = weight(layer).data, (factor.data for factor in self.factors())
        return {"weight": w - w @ u @ s @ u.T}


def above_diagonal(x):
    """A square matrix with zeros on its diagonal and below."""
    return record(xp.triu(value(x), 1), (x, lambda g: xp.triu(g, 1)))
