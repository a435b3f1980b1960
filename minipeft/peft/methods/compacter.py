"""Compacter: bottleneck adapters whose matrices are sums of Kronecker products.

    h + φ(h D + b₁) U + b₂        h = f(x)
    D = Σᵢ Aᵢ ⊗ (sᵢ tᵢ)           i = 1 … n    Aᵢ: (n, n)    sᵢ: (width/n, k)    tᵢ: (k, m/n)

U: (m, width) is made in the same way. All adapters share the matrices A; each D and U has its
own s and t. An adapter trains 2 k (width + m) + m + width parameters where a plain one trains 2
m width + m + width; A adds n³ once. The t of U and the biases are zero, so attaching changes
nothing. s and the t of D are Glorot-uniform and A is N(0, 1/n²), which makes D about as large
as a plain adapter's (AdapterHub draws A from N(0, 10⁻⁸), a start near zero). n must divide
width and m. φ is not linear, so it cannot be merged.

Karimi Mahabadi et al. 2021, section 3, arXiv:2106.04647; "pfeiffer" is Compacter++.
"""

import math
from dataclasses import dataclass

from ...engine.backend import np
from ...engine.functional import linear
from ...model.layers import Parameter
from ...options import option
from ..formula import Term
from ..targets import matching, sites
from .bottleneck import NONLINEAR, PLACES, Bottleneck, BottleneckDelta


@dataclass(frozen=True)
class Compacter(Bottleneck):
    """Bottleneck adapters of width m from phm_dim Kronecker products of rank phm_rank."""

    m: int = option(24, at_least=1)
    nonlinearity: str = option("gelu", one_of=NONLINEAR)
    phm_dim: int = option(4, at_least=1)  # n
    phm_rank: int = option(1, at_least=1)  # k

    name = "compacter"
    paper = "Karimi Mahabadi et al. 2021, arXiv:2106.04647"
    idea = "an adapter of Kronecker products whose factors all layers share"
    claim = "parameters", "adapter"
    equation = "h + φ(h D + b₁) U + b₂"
    learning_rate = 0.1
    peft_type = "COMPACTER"

    def __post_init__(self):
        super().__post_init__()
        self.check_divides("m", self.m)

    def check_divides(self, name, size):
        """Raise ValueError unless phm_dim divides a side of the matrices."""
        if size % self.phm_dim:
            raise ValueError(
                f"{name} = {size} is not a multiple of phm_dim = {self.phm_dim}; change either"
            )

    def terms(self, config):
        self.check_divides("width", config.width)
        times = {"layer": config.layers, "place": len(PLACES[self.style])}
        values = {"m": self.m, "width": config.width, "k": self.phm_rank}
        once = Term({}, "n³", {"n": self.phm_dim})
        return [Term(times, "2 k (width + m) + m + width", values), once]

    def make_deltas(self, model, rng):
        n, width = self.phm_dim, model.start.width
        self.check_divides("width", width)
        shared = Parameter(rng.standard_normal((n, n, n)) / n)
        places = matching(sites(model), PLACES[self.style])
        return {path: CompacterDelta(width, self, shared, rng) for path in places}


class CompacterDelta(BottleneckDelta):
    """One adapter: h + φ(h D + b₁) U + b₂, (B, T, D) -> (B, T, D)."""

    def __init__(self, width, method, shared, rng):
        n, m, k = method.phm_dim, method.m, method.phm_rank
        self.phm_rule = shared  # A (n, n, n)
        self.down_left = Parameter(glorot_uniform(rng, n, width // n, k))
        self.down_right = Parameter(glorot_uniform(rng, n, k, m // n))
        self.down_bias = Parameter(np.zeros(m))
        self.up_left = Parameter(glorot_uniform(rng, n, m // n, k))
        self.up_right = Parameter(np.zeros((n, k, width // n)))
        self.up_bias = Parameter(np.zeros(width))
        self.nonlinear = NONLINEAR[method.nonlinearity]

    def change(self, h):
        down = kronecker_sum(self.phm_rule, self.down_left @ self.down_right)  # (width, m)
        up = kronecker_sum(self.phm_rule, self.up_left @ self.up_right)  # (m, width)
        narrow = self.nonlinear(linear(h, down.transpose(1, 0), self.down_bias))
        return linear(narrow, up.transpose(1, 0), self.up_bias)


def kronecker_sum(a, b):
    """Σᵢ Aᵢ ⊗ Bᵢ, A (n, n, n) and B (n, p, q) -> (n p, n q), as one matrix product over i."""
    n, p, q = b.shape
    products = a.reshape(n, n * n).transpose(1, 0) @ b.reshape(n, p * q)  # (n n, p q)
    return products.reshape(n, n, p, q).transpose(0, 2, 1, 3).reshape(n * p, n * q)


def glorot_uniform(rng, n, rows, columns):
    """n matrices from U(±√(6 / (rows + columns))).  Glorot & Bengio 2010, section 4.2"""
    return rng.uniform(-1.0, 1.0, (n, rows, columns)) * math.sqrt(6.0 / (rows + columns))
