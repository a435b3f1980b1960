"""LoKr: learns the change of a weight as a Kronecker product of two small matrices.

    f(x) + (α / r) (W₁ ⊗ W₂) x      W₁: (o₁, i₁) zero    W₂: (o₂, i₂)    out = o₁ o₂, in = i₁ i₂

out and in are split into factors as equal as possible, o₁ ≤ o₂ and i₁ ≤ i₂; or o₁ and i₁ are
`decompose_factor`, where that divides. Where r < max(o₂, i₂) / 2, W₂ is itself a product
(o₂, r) (r, i₂), and with `decompose_both` W₁ may be one too; otherwise r only scales. W₁ = 0,
so attaching changes nothing; W₂ is U(±1/√columns). Trains o₁ i₁ + o₂ i₂ parameters a target,
with r (o + i) in place of o i for a factor that is a product. The rank of the change is the
product of the factors' ranks, so it can be full. Merges exactly. The forward pass reshapes x to
(i₁, i₂) and multiplies it from both sides: the (out, in) matrix is formed only for merging.

Yeh et al. 2023 (LyCORIS), section 3.2, arXiv:2309.14859; factors and initialisation are HF
PEFT's
"""

import math
from dataclasses import dataclass

from ...engine.backend import np, xp
from ...engine.functional import linear
from ...errors import check_whole
from ...model.layers import Parameter, kaiming_uniform
from ...options import option
from ..base import Delta
from ..targets import Targeted, patterned, shape, weight


@dataclass(frozen=True)
class LoKr(Targeted):
    """LoKr on the named matrices, with factors of rank r where they are large."""

    r: int = option(8, at_least=1)
    alpha: float = 8.0
    target_modules: tuple[str, ...] | str = ("q_proj", "v_proj")
    decompose_both: bool = False
    decompose_factor: int = -1  # o₁ and i₁, or the most that they are; -1: near a square
    layers_to_transform: tuple[int, ...] | int | None = None
    rank_pattern: dict[str, int] = option(default_factory=dict, hash=False, at_least=1)
    alpha_pattern: dict[str, float] = option(default_factory=dict, hash=False)

    name = "lokr"
    family = "lora"
    paper = "Yeh et al. 2023, arXiv:2309.14859"
    idea = "a Kronecker product in place of B A: fewer parameters, higher rank"
    claim = "parameters", "lora"
    equation = "f(x) + (α / r) (W₁ ⊗ W₂) x"
    learning_rate = 0.1
    peft_type = "LOKR"
    hf_config = "LoKrConfig"
    hf_prefix = "lokr_"
    hf_lacks = ("layers_to_transform", "fan_in_fan_out")
    hf_whole = True
    hf_on_gpt2 = False

    def __post_init__(self):
        super().__post_init__()
        if self.decompose_factor != -1:
            check_whole(1, decompose_factor=self.decompose_factor)

    def for_module(self, path, shape):
        return patterned(self, path, "alpha")

    def sizes(self, n_out, n_in):
        """[((o, i) of the factor, whether it is a product)] for W₁ and W₂."""
        o, i = factors(n_out, self.decompose_factor), factors(n_in, self.decompose_factor)
        one, two = zip(o, i, strict=True)
        both = self.decompose_both
        return [(one, both and self.r < max(one) / 2), (two, self.r < max(two) / 2)]

    def formula(self, n_out, n_in):
        parts, values = [], {"r": self.r}
        for k, ((o, i), thin) in zip("₁₂", self.sizes(n_out, n_in), strict=True):
            parts.append(f"r (o{k} + i{k})" if thin else f"o{k} i{k}")
            values |= {f"o{k}": o, f"i{k}": i}
        return " + ".join(parts), values

    def delta(self, layer, rng):
        return LoKrDelta(layer, self, rng)


class LoKrDelta(Delta):
    """One change: f(x) + (α / r) (W₁ ⊗ W₂) x, (…, in) -> (…, out)."""

    adds = True

    def __init__(self, layer, method, rng):
        (one, one_is_thin), (two, two_is_thin) = method.sizes(*shape(layer))
        r, self.scaling = method.r, method.alpha / method.r
        if one_is_thin:
            self.lokr_w1_a = Parameter(np.zeros((one[0], r)))
            self.lokr_w1_b = Parameter(kaiming_uniform(rng, r, one[1]))
        else:
            self.lokr_w1 = Parameter(np.zeros(one))
        if two_is_thin:
            self.lokr_w2_a = Parameter(kaiming_uniform(rng, two[0], r))
            self.lokr_w2_b = Parameter(kaiming_uniform(rng, r, two[1]))
        else:
            self.lokr_w2 = Parameter(kaiming_uniform(rng, *two))

    def factors(self):
        """W₁ (o₁, i₁) and W₂ (o₂, i₂)."""
        w1 = self.lokr_w1 if hasattr(self, "lokr_w1") else self.lokr_w1_a @ self.lokr_w1_b
        w2 = self.lokr_w2 if hasattr(self, "lokr_w2") else self.lokr_w2_a @ self.lokr_w2_b
        return w1, w2

    def __call__(self, f, x):
        w1, w2 = self.factors()
        grid = x.reshape(*x.shape[:-1], w1.shape[1], w2.shape[1])  # (…, i₁, i₂)
        half = swapped(linear(grid, w2))  # (…, o₂, i₁)
        y = swapped(linear(half, w1))  # (…, o₁, o₂)
        return f(x) + y.reshape(*x.shape[:-1], -1) * self.scaling

    def merged(self, layer):
        w1, w2 = (w.data for w in self.factors())
        return {"weight": weight(layer).data + self.scaling * xp.kron(w1, w2)}


def factors(n, near):
    """(small, large) with small · large = n; small is `near`, or as large as that and √n allow.

    >>> factors(128, -1), factors(127, -1), factors(128, 4), factors(12, 5)
    ((8, 16), (1, 127), (4, 32), (3, 4))
    """
    if near > 0 and n % near == 0:
        return near, n // near
    most = min(math.isqrt(n), near if near > 0 else n)
    small = max(m for m in range(1, most + 1) if n % m == 0)
    return small, n // small


def swapped(x):
    """x with its last two axes exchanged."""
    n = x.ndim
    return x.transpose(*range(n - 2), n - 1, n - 2)
