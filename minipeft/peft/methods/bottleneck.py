"""Bottleneck adapters: a small two-layer network after a sub-layer, with a skip connection.

    h + U φ(D h + b₁) + b₂        h = f(x)       D: (m, width) random   U: (width, m) zero

U and the biases start at 0, so attaching changes nothing. Houlsby puts one after attention and
one after the MLP, before the residual addition; Pfeiffer one after the MLP only. Trains
2 m width + m + width numbers each. φ is not linear, so it cannot be merged and stays as extra
depth at inference.

Houlsby et al. 2019, section 2.1, arXiv:1902.00751; Pfeiffer et al. 2020, section 3,
arXiv:2005.00247. D is drawn from U(±1/√width); the first paper starts both near zero instead.
"""

from dataclasses import dataclass

from ...engine import functional as F
from ...engine.backend import np
from ...engine.ops import relu
from ...errors import check_whole, unknown
from ...model.layers import Parameter, kaiming_uniform
from ..base import Delta, Method
from ..targets import matching, sites

PLACES = {"houlsby": ("attn", "mlp"), "pfeiffer": ("mlp",)}
NONLINEAR = {"relu": relu, "gelu": F.gelu, "silu": F.silu, "identity": lambda x: x}


@dataclass(frozen=True)
class Bottleneck(Method):
    """Bottleneck adapters of width m after the sub-layers that the style names."""

    m: int = 16
    style: str = "houlsby"  # or "pfeiffer"
    nonlinearity: str = "relu"  # or "gelu", "silu", "identity"

    family = "adapter"
    peft_type = "BOTTLENECK"

    def __post_init__(self):
        super().__post_init__()
        check_whole(1, m=self.m)
        for kind, options in (("style", PLACES), ("nonlinearity", NONLINEAR)):
            if getattr(self, kind) not in options:
                raise ValueError(unknown(kind, getattr(self, kind), options))

    def count(self, config):
        each = 2 * self.m * config.width + self.m + config.width
        return len(PLACES[self.style]) * config.layers * each

    def make_deltas(self, model, rng):
        places = matching(sites(model), PLACES[self.style])
        return {path: BottleneckDelta(model.start.width, self, rng) for path in places}


@dataclass(frozen=True)
class Pfeiffer(Bottleneck):
    """Bottleneck adapters after the MLPs only: half of Houlsby's numbers."""

    style: str = "pfeiffer"

    peft_type = "PFEIFFER"


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
