"""AdapterFusion: several adapters after each MLP, and an attention that mixes what they say.

    h + V Σ p_i A_i(h)        p = softmax_i (Q h · K A_i(h)),  A_i(h) = U_i φ(D_i h + b_i) + c_i

h is the MLP's output at a token, and i = 1 … n. Attention compares the query of h with a key
made of each change A_i(h), and adds the changes in these shares: in every layer each token
chooses which adapters to use. An adapter that learns one task after another forgets the first,
and adapters of single tasks learn nothing from each other. Here each task is learnt apart, and
fusion then combines what they know without changing any of them.

The paper's second stage: with `adapters=("past", "copy")`, the names of bottleneck adapters
that are attached to the model, these are copied and frozen, and only Q, K and V train, 3 width²
parameters a place. Attaching then changes the output. Without names (as on the command line)
there is one stage, in which n new adapters train together with their fusion, n (2 m width + m +
width) parameters more. They start at zero, so attaching changes nothing. A file holds the
adapters in both cases; after loading, all of it trains.

Q and K are drawn from U(±1/√width) and V = I. It cannot be merged, as A_i is not linear.

Pfeiffer et al. 2020, section 3, arXiv:2005.00247, where keys and values are made of "the output
of the adapters". Here, as in AdapterHub, the authors' library, that is A_i(h) without h, which
is added at the end. A term of the loss there, which keeps V near I, is not here.
"""

import copy
from dataclasses import dataclass, replace

from ...engine.backend import np
from ...engine.functional import linear, softmax
from ...engine.ops import concat
from ...model.layers import Parameter, kaiming_uniform
from ...options import option
from ..base import Delta, find
from ..formula import Term
from ..targets import matching, sites
from .bottleneck import PLACES, Bottleneck, BottleneckDelta


@dataclass(frozen=True)
class AdapterFusion(Bottleneck):
    """A fusion of n new adapters of width m, or of attached ones by their names."""

    style: str = option("pfeiffer", one_of=PLACES)
    n_adapters: int = option(4, at_least=1)
    adapters: tuple[str, ...] = ()

    name = "adapterfusion"
    family = "mixture"
    paper = "Pfeiffer et al. 2020, arXiv:2005.00247"
    idea = "several adapters, and an attention that mixes what they say"
    claim = "quality", "pfeiffer"
    contains = ("pfeiffer: one adapter",)
    equation = "h + V Σ p_i A_i(h)"
    place = "after the MLP"
    learning_rate = 0.003
    peft_type = "ADAPTER_FUSION"

    def terms(self, config):
        times = {"layer": config.layers, "place": len(PLACES[self.style])}
        values = {"n": self.n_adapters, "m": self.m, "width": config.width}
        own = "n (2 m width + m + width) + 3 width²"
        return [Term(times, "3 width²" if self.adapters else own, values)]

    def make_deltas(self, model, rng):
        width = model.start.width
        deltas = {}
        for path in matching(sites(model), PLACES[self.style]):
            if self.adapters:
                parts = tuple(self.frozen(find(model, name), path) for name in self.adapters)
            else:
                parts = [BottleneckDelta(width, self, rng) for _ in range(self.n_adapters)]
            deltas[path] = FusionDelta(width, parts, rng)
        return deltas

    def frozen(self, adapter, path):
        """A frozen copy of an attached adapter's part. Raises ValueError if it is no such."""
        there, delta = adapter.method, adapter.deltas.get(path)
        wanted = self.m, self.nonlinearity
        if type(delta) is not BottleneckDelta or (there.m, there.nonlinearity) != wanted:
            raise ValueError(
                f"{adapter.name!r} is {there}, and has no bottleneck of m = {self.m} and "
                f"{self.nonlinearity} at {path}; attach such adapters, or give their m, style "
                "and nonlinearity"
            )
        part = copy.deepcopy(delta)
        for p in part.parameters():
            p.requires_grad = False
        return part

    def export_form(self):
        n = len(self.adapters) or self.n_adapters
        return replace(self, n_adapters=n, adapters=())


class FusionDelta(Delta):
    """Some adapters and their fusion: h + V Σ p_i A_i(h), (B, T, D) -> (B, T, D)."""

    def __init__(self, width, parts, rng):
        self.parts = parts  # in a list they train; in a tuple they are none of its parameters
        self.query = Parameter(kaiming_uniform(rng, width, width))
        self.key = Parameter(kaiming_uniform(rng, width, width))
        self.value = Parameter(np.eye(width))

    def __call__(self, f, *args):
        h = f(*args)
        changes = [part.change(h)[:, :, None] for part in self.parts]
        changes = concat(changes, axis=2)  # A_i(h) (B, T, n, D)
        query = linear(h, self.query)[:, :, None]
        scores = (query * linear(changes, self.key)).sum(axis=-1)  # (B, T, n)
        mixed = (softmax(scores)[..., None] * changes).sum(axis=2)
        return h + linear(mixed, self.value)

    def saved(self):
        arrays = super().saved()
        for i, part in enumerate(self.parts):
            arrays |= {f"parts.{i}.{name}": p.data for name, p in part.named_parameters()}
        return arrays
