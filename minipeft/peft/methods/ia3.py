"""(IA)³: multiplies keys, values and the hidden units of the MLP by learnt vectors.

    l ∘ f(x)        on k_proj and v_proj       l: (out,) ones
    f(l ∘ x)        on down_proj               l: (in,) ones

l = 1, so attaching changes nothing. Trains out parameters a target, or in parameters for a
feed-forward one: L (2 kv + ffn) by default. It multiplies by a diagonal matrix, so it merges
exactly: W ← diag(l) W and b ← l ∘ b, or W ← W diag(l). It can make a feature stronger, weaker
or opposite, and never mixes two; what later layers make of the features may be new all the
same.

Liu et al. 2022, section 3.3, arXiv:2205.05638. As in HF PEFT any matrix can be a target. On
GPT-2's c_attn, which HF holds as one matrix, its l stretches the queries too: here queries,
keys and values are targets of their own, as in the paper, which stretches the latter two.
"""

from dataclasses import dataclass, replace

from ...engine.backend import np
from ...model.layers import Parameter
from ..base import Delta
from ..targets import Targeted, matches, matching, shape, weight


@dataclass(frozen=True)
class IA3(Targeted):
    """(IA)³ on the named matrices; on the input of those that feedforward_modules names too."""

    target_modules: tuple[str, ...] | str = ("k_proj", "v_proj", "down_proj")
    feedforward_modules: tuple[str, ...] | str = ("down_proj",)

    name = "ia3"
    family = "lora"
    paper = "Liu et al. 2022, arXiv:2205.05638"
    idea = "one factor for each output in place of two matrices"
    claim = "parameters", "lora"
    equation = "l ∘ f(x)"
    learning_rate = 0.1
    peft_type = "IA3"
    hf_config = "IA3Config"
    hf_prefix = "ia3_"

    def __post_init__(self):
        super().__post_init__()
        if isinstance(self.feedforward_modules, str):
            object.__setattr__(self, "feedforward_modules", (self.feedforward_modules,))

    def targets(self, matrices):
        found = super().targets(matrices)
        if self.feedforward_modules:
            matching(found, self.feedforward_modules)  # raises for a name of none
        return found

    def for_module(self, path, shape):
        inside = any(matches([path], name) for name in self.feedforward_modules)
        return replace(self, target_modules=path, feedforward_modules=path if inside else ())

    def formula(self, n_out, n_in):
        return "in" if self.feedforward_modules else "out", {"out": n_out, "in": n_in}

    def to_hf(self, values, adapter):
        inside = [p for p, delta in adapter.deltas.items() if isinstance(delta, IA3InputDelta)]
        return values | {"feedforward_modules": inside}

    @classmethod
    def from_hf(cls, values, targets):
        inside = tuple(path for path, shape in targets.items() if shape[0] == 1)
        return values | {"feedforward_modules": inside}

    def delta(self, layer, rng):
        return (IA3InputDelta if self.feedforward_modules else IA3Delta)(layer)


class IA3Delta(Delta):
    """A scaled output: l ∘ f(x), (…, in) -> (…, out)."""

    def __init__(self, layer):
        self.ia3_l = Parameter(np.ones(shape(layer)[0]))

    def __call__(self, f, x):
        return f(x) * self.ia3_l

    def merged(self, layer):
        l, bias = self.ia3_l.data, getattr(layer, "bias", None)  # noqa: E741
        merged = {"weight": l[:, None] * weight(layer).data}
        return merged if bias is None else merged | {"bias": l * bias.data}

    def saved(self):
        return {"ia3_l": self.ia3_l.data[:, None]}  # (out, 1), as in HF PEFT


class IA3InputDelta(Delta):
    """A scaled input: f(l ∘ x), (…, in) -> (…, out)."""

    def __init__(self, layer):
        self.ia3_l = Parameter(np.ones(shape(layer)[1]))

    def __call__(self, f, x):
        return f(x * self.ia3_l)

    def merged(self, layer):
        return {"weight": weight(layer).data * self.ia3_l.data}

    def saved(self):
        return {"ia3_l": self.ia3_l.data[None]}  # (1, in), as in HF PEFT
