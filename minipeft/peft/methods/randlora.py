"""RandLoRA: a sum of products of frozen random matrices, each stretched by learnt vectors.

    f(x) + (α / r) Σⱼ Bⱼ Λⱼ A Γⱼ x         A: (r, in), Bⱼ: (out, r) frozen     Λⱼ, Γⱼ diagonal

The sum has n = ⌈in / r⌉ terms. Λⱼ: (r,) starts at zero and Γⱼ: (in,) at 1 / max(n, in), so
attaching changes nothing. Where out < in, the transposed matrix is made in this way, so that
A and Γⱼ are always as wide as the smaller side, d. All targets take their parts of one A and
one B, as large as the largest needs. Trains n (r + d) parameters a target. Merges exactly.
Only Λ, Γ and the seed `projection_prng_key` are saved: the same seed draws the same matrices.

Against LoRA: A and B are random and only scales train, as in VeRA, but n such products add up
to a change of full rank. A smaller r means more terms, and trains more. The paper finds it
better than LoRA of as many parameters where LoRA is held back by its rank.

Albert et al. 2025, section 4, arXiv:2502.00987. As in HF PEFT, A and B are uniform, in
bfloat16, and divided by their standard deviations. From one seed they are HF's, bit for bit.
"""

import math
from dataclasses import dataclass

from ...engine.backend import array, np
from ...engine.functional import linear
from ...model.layers import Dropout, Parameter
from ...options import option
from ..base import Delta
from ..targets import Targeted, matrices, shape, weight
from ..torch_random import TorchGenerator, bfloat16


@dataclass(frozen=True)
class RandLoRA(Targeted):
    """RandLoRA of bases of rank r on the named matrices; α is usually 20 r."""

    r: int = option(32, at_least=1, below=2**16)
    randlora_alpha: float = 640.0
    target_modules: tuple[str, ...] | str = ("q_proj", "v_proj")
    randlora_dropout: float = option(0.0, at_least=0, below=1)
    projection_prng_key: int = option(0, at_least=0)
    layers_to_transform: tuple[int, ...] | int | None = None

    name = "randlora"
    family = "shared"
    paper = "Albert et al. 2025, arXiv:2502.00987"
    idea = "a sum of frozen random products, each scaled: full rank"
    claim = "quality", "lora"
    contains = ("vera: one term",)
    equation = "f(x) + (α / r) Σⱼ Bⱼ Λⱼ A Γⱼ x"
    per_matrix = "n (r + d)"
    learning_rate = 0.003
    peft_type = "RANDLORA"
    hf_config = "RandLoraConfig"
    hf_prefix = "randlora_"
    hf_lacks = ("layers_to_transform",)
    hf_whole = True

    def formula(self, n_out, n_in):
        d = min(n_out, n_in)
        return self.per_matrix, {"n": math.ceil(d / self.r), "r": self.r, "d": d}

    def make_deltas(self, model, rng):
        targets = self.targets(matrices(model))
        outs, ins = zip(*(shape(layer) for layer in targets.values()), strict=True)
        small, large = sorted((max(outs), max(ins)))
        own, how = TorchGenerator(self.projection_prng_key), dict(gain=1 / 3, rounded=bfloat16)
        a = of_deviation_1(own.kaiming(self.r, small, **how))
        n = math.ceil(small / self.r)
        b = np.stack([own.kaiming(large, self.r, **how) for _ in range(n)], axis=1)
        a, b = array(a), array(of_deviation_1(b))
        return {path: RandLoRADelta(layer, self, a, b) for path, layer in targets.items()}

    def hf_frozen(self, adapter):
        a, b = next((d.whole_a, d.whole_b) for d in adapter.deltas.values())
        return {"base_model.randlora_A": a[:, None], "base_model.randlora_B": b}


class RandLoRADelta(Delta):
    """One change: f(x) + (α / r) Σⱼ Bⱼ Λⱼ A Γⱼ x, (…, in) -> (…, out)."""

    adds = True

    def __init__(self, layer, method, a, b):
        small, large = sorted(shape(layer))
        r, n = method.r, math.ceil(small / method.r)
        self.narrow = shape(layer)[0] < shape(layer)[1]  # whether out is the smaller side
        self.whole_a, self.whole_b = a, b  # of all targets
        self.a = a[:, None, :small]  # (r, 1, small), a view as the next
        self.b = b[:large, :n]  # (large, n, r)
        self.randlora_lambda = Parameter(np.zeros((r, n)))
        self.randlora_gamma = Parameter(np.full((n, small), 1 / max(n, small)))
        self.dropout = Dropout(method.randlora_dropout)
        self.scaling = method.randlora_alpha / r

    def factors(self):
        """All Λⱼ A Γⱼ above each other (r n, small), and all Bⱼ side by side (large, r n).

        Row k n + j of the former is that of rank k in term j, so Bⱼ is every n-th column.
        """
        (r, n), small = self.randlora_lambda.shape, self.a.shape[-1]
        a = self.randlora_lambda.reshape(r, n, 1) * self.a * self.randlora_gamma
        return a.reshape(r * n, small), self.b.reshape(len(self.b), r * n)

    def __call__(self, f, x):
        a, b = self.factors()
        first, second = (b.T, a.transpose(1, 0)) if self.narrow else (a, b)
        return f(x) + linear(linear(self.dropout(x), first) * self.scaling, second)

    def merged(self, layer):
        a, b = self.factors()
        change = self.scaling * (b @ a.data)
        return {"weight": weight(layer).data + (change.T if self.narrow else change)}


def of_deviation_1(x):
    """x divided by its standard deviation, in bfloat16; a single number has none and stays."""
    deviation = np.std(x, dtype="float64", ddof=min(1, x.size - 1)) or 1.0
    return bfloat16(x / bfloat16(deviation))
