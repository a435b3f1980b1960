"""HiRA: multiplies each element of the weight by 1 plus an element of a low-rank matrix.

    f(x) + (W ∘ (B A)) x            A: (r, in) random        B: (out, r) zero

∘ is the elementwise product. B = 0, so attaching changes nothing. Trains r (in + out)
parameters a target. Merges exactly: W ∘ (1 + B A). W is the weight as it is when HiRA is
attached.

Against LoRA: W ∘ (B A) is added in place of B A. Its rank can be r times that of W, so it can
be full with r = 1, at no more parameters. An element of W that is zero stays zero. The price is
time: each step forms W ∘ (B A), a matrix (out, in). The paper finds it better than LoRA of as
many parameters on several tasks.

Huang et al. 2025, at ICLR 2025 (openreview.net/forum?id=TwJrTz9cRS). As in HF PEFT there is no
factor α / r, and A is drawn from U(±1/√in).
"""

from dataclasses import dataclass

from ...engine.backend import np
from ...engine.functional import linear
from ...model.layers import Dropout, Parameter, kaiming_uniform
from ...options import option
from ..base import Delta
from ..targets import Targeted, check_factors, shape, weight


@dataclass(frozen=True)
class HiRA(Targeted):
    """HiRA of factors of rank r on the named matrices; dropout acts on the input of W ∘ B A."""

    r: int = option(8, at_least=1)
    target_modules: tuple[str, ...] | str = ("q_proj", "v_proj")
    hira_dropout: float = option(0.0, at_least=0, below=1)
    layers_to_transform: tuple[int, ...] | int | None = None

    name = "hira"
    family = "lora"
    paper = "Huang et al. 2025"
    idea = "multiplies the elements of W by 1 + B A: high rank at the same count"
    claim = "quality", "lora"
    contains = ("ia3: r = 1, A all ones",)
    equation = "f(x) + (W ∘ (B A)) x"
    per_matrix = "r (in + out)"
    learning_rate = 0.1
    peft_type = "HIRA"
    hf_config = "HiraConfig"
    hf_prefix = "hira_"
    hf_lacks = ("layers_to_transform",)

    def for_module(self, path, shape):
        check_factors(path, self.r, shape)
        return self

    def delta(self, layer, rng):
        return HiRADelta(layer, self, rng)

    @classmethod
    def from_hf(cls, values, targets):
        # HF PEFT 0.21 writes a rank_pattern and does not act on it
        return {option: v for option, v in values.items() if option != "rank_pattern"}


class HiRADelta(Delta):
    """One change: f(x) + (W ∘ (B A)) x, (…, in) -> (…, out)."""

    adds = True

    def __init__(self, layer, method, rng):
        n_out, n_in = shape(layer)
        self.hira_A = Parameter(kaiming_uniform(rng, method.r, n_in))
        self.hira_B = Parameter(np.zeros((n_out, method.r)))
        self.dropout = Dropout(method.hira_dropout)
        self.made_for = (weight(layer),)

    def change(self):
        """ΔW = W ∘ (B A), a Tensor (out, in)."""
        return self.hira_B @ self.hira_A * self.made_for[0].data

    def __call__(self, f, x):
        return f(x) + linear(self.dropout(x), self.change())

    def merged(self, layer):
        return {"weight": weight(layer).data + self.change().data}
