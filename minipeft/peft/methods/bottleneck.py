"""Bottleneck adapters: a small two-layer network after a sub-layer, with a skip connection.

    h + U φ(D h + b₁) + b₂        h = f(x)       D: (m, width) random   U: (width, m) zero

U and the biases start at 0, so attaching changes nothing. One adapter sits after attention and
one after the MLP, before the residual addition; the style "pfeiffer" has only the latter. Each
trains 2 m width + m + width parameters. φ is not linear, so it cannot be merged: it stays as
extra depth at inference.

Houlsby et al. 2019, section 2.1, arXiv:1902.00751. Here D is drawn from U(±1/√width); the paper
starts both matrices near zero instead.
"""

from dataclasses import dataclass

from ...engine import functional as F
from ...engine.backend import np
from ...engine.ops import relu
from ...model.layers import Parameter, kaiming_uniform
from ...options import option
from ..base import Delta, Method
from ..formula import Term
from ..targets import matching, sites

PLACES = {"houlsby": ("attn", "mlp"), "pfeiffer": ("mlp",)}


def identity(x):
    """x, for an adapter without a nonlinearity."""
    return x


NONLINEAR = {"relu": relu, "gelu": F.gelu, "silu": F.silu, "identity": identity}


@dataclass(frozen=True)
class Bottleneck(Method):
    """Bottleneck adapters of width m after the sub-layers that the style names."""

    m: int = option(16, at_least=1)
    style: str = option("houlsby", one_of=PLACES)
    nonlinearity: str = option("relu", one_of=NONLINEAR)

    name = "adapter"
    family = "adapter"
    paper = "Houlsby et al. 2019, arXiv:1902.00751"
    idea = "a small network after attention and after the MLP"
    claim = "parameters", "full"
    equation = "h + U φ(D h + b₁) + b₂"
    place = "after attention and after the MLP"
    learning_rate = 0.01
    peft_type = "BOTTLENECK"

    def terms(self, config):
        times = {"layer": config.layers, "place": len(PLACES[self.style])}
        return [Term(times, "2 m width + m + width", {"m": self.m, "width": config.width})]

    def make_deltas(self, model, rng):
        places = matching(sites(model), PLACES[self.style])
        return {path: BottleneckDelta(model.start.width, self, rng) for path in places}


class BottleneckDelta(Delta):
    """One adapter: h + U φ(D h + b₁) + b₂, (B, T, D) -> (B, T, D)."""

    def __init__(self, width, method, rng):
        self.down = Parameter(kaiming_uniform(rng, method.m, width))
        self.down_bias = Parameter(np.zeros(method.m))
        self.up = Parameter(np.zeros((width, method.m)))
        self.up_bias = Parameter(np.zeros(width))
        self.nonlinear = NONLINEAR[method.nonlinearity]

    def change(self, h):
        """U φ(D h + b₁) + b₂."""
        narrow = self.nonlinear(F.linear(h, self.down, self.down_bias))  # (B, T, m)
        return F.linear(narrow, self.up, self.up_bias)

    def __call__(self, f, *args):
        h = f(*args)
        return h + self.change(h)
