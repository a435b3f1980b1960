"""Parallel adapters: the small network beside a sub-layer, reading the input that it reads.

    f(x) + s · (U φ(D x + b₁) + b₂)        D: (m, width) random    U: (width, m) zero

U = b₁ = b₂ = 0, so attaching changes nothing. Trains 2 m width + m + width parameters a place.
Beside the MLP (the default) it widens the MLP by m units. With φ the identity it is LoRA on the
whole sub-layer; otherwise φ is not linear, and it cannot be merged. It reads what the sub-layer
reads, here the normalised stream; AdapterHub's reads the stream before the norm.

He et al. 2022, sections 4.3 to 4.6, arXiv:2110.04366; s = 4 and m = 512 at width 1024 in MAM,
which combines it with a short prefix: `use(model, ["prefix", "parallel"])`.
"""

from dataclasses import dataclass

from ...errors import unknown
from ...options import option
from ..base import Method
from ..formula import Term
from ..targets import matching, sites
from .bottleneck import NONLINEAR, BottleneckDelta


@dataclass(frozen=True)
class Parallel(Method):
    """Parallel adapters of width m, scaled, beside the sub-layers "mlp", "attn" or both."""

    m: int = option(16, at_least=1)
    scale: float = 4.0
    nonlinearity: str = option("relu", one_of=NONLINEAR)
    target_modules: tuple[str, ...] | str = ("mlp",)

    name = "parallel"
    family = "adapter"
    paper = "He et al. 2021, arXiv:2110.04366"
    idea = "an adapter beside the layer, not behind it"
    claim = "quality", "adapter"
    contains = ("lora: without φ",)
    equation = "f(x) + s · (U φ(D x + b₁) + b₂)"
    place = "beside the MLP, attention or both"
    learning_rate = 0.01
    peft_type = "PARALLEL"

    def __post_init__(self):
        super().__post_init__()
        if self.scale == 0:
            raise ValueError("scale = 0 leaves nothing to train; give another number")
        if isinstance(self.target_modules, str):
            object.__setattr__(self, "target_modules", (self.target_modules,))
        for name in self.target_modules:
            if name.split(".")[-1] not in ("attn", "mlp"):
                raise ValueError(unknown("sub-layer", name, ("attn", "mlp")))

    def terms(self, config):
        names = ("attn", "mlp")
        places = {f"blocks.{i}.{name}": None for i in range(config.layers) for name in names}
        times = {"place": len(matching(places, self.target_modules))}
        return [Term(times, "2 m width + m + width", {"m": self.m, "width": config.width})]

    def make_deltas(self, model, rng):
        places = matching(sites(model), self.target_modules)
        return {path: ParallelDelta(model.start.width, self, rng) for path in places}


class ParallelDelta(BottleneckDelta):
    """One adapter beside a sub-layer: f(x) + s · (U φ(D x + b₁) + b₂)."""

    def __init__(self, width, method, rng):
        super().__init__(width, method, rng)
        self.scale = method.scale

    def __call__(self, f, x, *memory):
        return f(x, *memory) + self.change(x) * self.scale
