"""Pfeiffer's adapters: a bottleneck after each MLP, and none after attention.

    h + U φ(D h + b₁) + b₂        h = MLP(x)       D: (m, width) random   U: (width, m) zero

The same network as Houlsby's in half as many places, for half the parameters:
2 m width + m + width in each layer. Start and merging are those of `bottleneck`.

Pfeiffer et al. 2020, section 3, arXiv:2005.00247
"""

from dataclasses import dataclass

from ...options import option
from .bottleneck import PLACES, Bottleneck


@dataclass(frozen=True)
class Pfeiffer(Bottleneck):
    """Bottleneck adapters of width m after the MLPs only."""

    style: str = option("pfeiffer", one_of=PLACES)

    name = "pfeiffer"
    idea = "an adapter after the MLP only: half the parameters"
    claim = "parameters", "adapter"
    within = ("adapter: none after attention",)
    paper = "Pfeiffer et al. 2020, arXiv:2005.00247"
    place = "after the MLP"
    learning_rate = 0.01
    peft_type = "PFEIFFER"
