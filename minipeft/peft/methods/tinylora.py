"""TinyLoRA: a vector of any length steers the few largest singular directions of the weight.

    f(x) + U S (Σᵢ vᵢ Pᵢ) Vᵀ x      U S Vᵀ = the best rank-r part of W      Pᵢ: (r, r) frozen

v: (u,) starts at zero, so attaching changes nothing. Pᵢ is random from N(0, 1 / r), other for
every target. `weight_tying` says how many targets share a v: 0 none, 1 all. Trains u parameters
a group of targets that share, down to a single one. Merges exactly: W + U S (Σᵢ vᵢ Pᵢ) Vᵀ.
Only v and the seed `projection_seed` are saved: the rest is computed again from the base.

Against LoRA: A and B are frozen to singular vectors of W, and of the r² numbers between them
only u combinations train, so that the count does not depend on the width. The paper trains
Qwen2.5 of 7 billion parameters for school mathematics with 13 numbers, by reinforcement
learning, and finds that supervised training needs a hundred times as many.

Morris et al. 2026, arXiv:2602.04118. HF PEFT gives A and B a factor √S each, in place of 1 and
S, which `balanced` does. Such an adapter goes to HF, with its frozen arrays. One comes from
there only if its singular vectors have the signs of those here (see `directions`).
"""

from dataclasses import dataclass

from ...engine.backend import array, np, xp
from ...engine.functional import linear
from ...model.layers import Dropout, Parameter
from ...options import option
from ..base import Delta
from ..formula import Term
from ..targets import Targeted, check_rank, matrices, weight
from ..torch_random import TorchGenerator


@dataclass(frozen=True)
class TinyLoRA(Targeted):
    """TinyLoRA on r singular directions of the named matrices, by vectors of u numbers."""

    r: int = option(2, at_least=1)
    u: int = option(64, at_least=1)
    weight_tying: float = option(0.0, at_least=0, at_most=1)
    target_modules: tuple[str, ...] | str = ("q_proj", "v_proj")
    tinylora_dropout: float = option(0.0, at_least=0, below=1)
    projection_seed: int = option(42, at_least=0)
    balanced: bool = False
    layers_to_transform: tuple[int, ...] | int | None = None

    name = "tinylora"
    family = "shared"
    paper = "Morris et al. 2026, arXiv:2602.04118"
    idea = "A and B are frozen to singular vectors of W; a few numbers between them train"
    claim = "parameters", "lora"
    within = ("lora: A and B frozen",)
    equation = "f(x) + U S (Σᵢ vᵢ Pᵢ) Vᵀ x"
    learning_rate = 0.1
    peft_type = "TINYLORA"
    shared = ("tinylora_v",)
    hf_config = "TinyLoraConfig"
    hf_prefix = "tinylora_"
    hf_lacks = ("layers_to_transform", "balanced")
    hf_whole = True

    def for_module(self, path, shape):
        check_rank(path, self.r, shape)
        return self

    def groups(self, n):
        """The group of each of n targets, [0, 0, …, 1, …]; a last one may be larger."""
        count = max(1, round(n * (1.0 - self.weight_tying)))
        return [min(i // max(1, n // count), count - 1) for i in range(n)]

    def terms(self, config):
        groups = self.groups(len(self.fitting(config.target_shapes)))
        return [Term({"group": len({*groups})}, "u", {"u": self.u})]

    def make_deltas(self, model, rng):
        targets, deltas, vectors = self.fitting(matrices(model)), {}, {}
        groups = self.groups(len(targets))
        for i, (path, layer) in enumerate(targets.items()):
            v = vectors.setdefault(groups[i], Parameter(np.zeros(self.u)))
            own = TorchGenerator(self.projection_seed + i)
            p = array(own.normal(self.r**-0.5, self.u, self.r, self.r))
            deltas[path] = TinyLoRADelta(layer, self, f"tinylora_v_{groups[i]}", v, p)
        return deltas

    def to_hf(self, values, adapter):
        if not self.balanced:
            raise ValueError(
                "HF PEFT gives both factors √S; attach TinyLoRA(balanced=True) for an adapter "
                "that goes there"
            )
        return values

    @classmethod
    def from_hf(cls, values, targets):
        values = {option: v for option, v in values.items() if option != "init_v_bound"}
        return values | {"balanced": True}


class TinyLoRADelta(Delta):
    """One change: f(x) + B (Σᵢ vᵢ Pᵢ) A x, (…, in) -> (…, out)."""

    adds = True

    def __init__(self, layer, method, name, v, p):
        self.made_for = (weight(layer),)
        u, s, vt = directions(weight(layer).data, method.r)
        root = xp.sqrt(s)
        self.a, self.b = (root[:, None] * vt, u * root) if method.balanced else (vt, u * s)
        self.p, self.name = p, name
        setattr(self, name, v)  # its name says which group shares it
        self.dropout = Dropout(method.tinylora_dropout)

    def middle(self):
        """Σᵢ vᵢ Pᵢ, a Tensor (r, r)."""
        n, r, _ = self.p.shape
        return (getattr(self, self.name).reshape(1, n) @ self.p.reshape(n, r * r)).reshape(r, r)

    def __call__(self, f, x):
        thin = linear(linear(self.dropout(x), self.a), self.middle())  # (…, r)
        return f(x) + linear(thin, self.b)

    def merged(self, layer):
        return {"weight": weight(layer).data + self.b @ self.middle().data @ self.a}

    def hf_frozen(self):
        return {"tinylora_A": self.a, "tinylora_B": self.b, "tinylora_P": self.p}


def directions(w, r):
    """U (out, r), S (r,) and Vᵀ (r, in) of the best part of rank r of a matrix.

    A singular vector and its negative are as good, and libraries differ in which they give.
    Here the largest element of each row of Vᵀ is positive, so that a file means one change.
    """
    u, s, vt = xp.linalg.svd(w, full_matrices=False)
    u, s, vt = u[:, :r], s[:r], vt[:r]
    largest = abs(vt).argmax(axis=-1)[..., None]
    signs = xp.sign(xp.take_along_axis(vt, largest, axis=-1))  # (r, 1)
    return u * signs.T, s, vt * signs
