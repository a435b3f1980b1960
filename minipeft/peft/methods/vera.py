"""VeRA: all layers share two frozen random matrices; each layer trains two scaling vectors.

    f(x) + b ∘ B (d ∘ A x)      A: (r, in), B: (out, r) frozen    d: (r,) at 0.1, b: (out,) zero

A and B are drawn once, as large as the largest target needs, and every target takes their first
columns and rows. b = 0, so attaching changes nothing. Trains r + out parameters a target, so r
may be large, even larger than in and out. Only d, b and the seed `projection_prng_key` are
saved: the same seed draws the same matrices. Merges exactly: W + diag(b) B diag(d) A, of rank
≤ r. The frozen products take as much time as those of a LoRA of that rank.

Against LoRA: all targets share A and B, which do not train; only scales do. The paper trains a
tenth of LoRA's parameters, and fewer, to about the same accuracy.

Kopiczko et al. 2023, section 3, arXiv:2310.11454, with r from 256 to 1024. As in HF PEFT, A and
B are Kaiming-uniform, U(±√(6 / in)) and U(±√(6 / r)) of the largest; from one seed they are
those of HF, bit for bit.
"""

from dataclasses import dataclass

from ...engine.backend import array, np
from ...engine.functional import linear
from ...model.layers import Dropout, Parameter
from ...options import option
from ..base import Delta
from ..targets import Targeted, matrices, shape, weight
from ..torch_random import TorchGenerator


@dataclass(frozen=True)
class VeRA(Targeted):
    """VeRA of rank r on the named matrices; d starts at d_initial."""

    r: int = option(256, at_least=1, below=2**16)  # the random matrices are not in the file
    target_modules: tuple[str, ...] | str = ("q_proj", "v_proj")
    vera_dropout: float = option(0.0, at_least=0, below=1)
    d_initial: float = 0.1
    projection_prng_key: int = option(0, at_least=0)
    layers_to_transform: tuple[int, ...] | int | None = None

    name = "vera"
    family = "shared"
    paper = "Kopiczko et al. 2023, arXiv:2310.11454"
    idea = "A and B are random, frozen and shared; two vectors scale them"
    claim = "parameters", "lora"
    within = ("lora: A and B frozen, scaled",)
    equation = "f(x) + b ∘ B (d ∘ A x)"
    per_matrix = "r + out"
    learning_rate = 0.1
    peft_type = "VERA"
    edition = 2  # the first drew A and B by NumPy, not as HF PEFT does
    hf_config = "VeraConfig"
    hf_prefix = "vera_"
    hf_lacks = ("layers_to_transform",)
    hf_whole = True

    def make_deltas(self, model, rng):
        targets = self.targets(matrices(model))
        a, b = projections(self.projection_prng_key, targets.values(), self.r, self.r)
        return {path: VeRADelta(layer, self, a, b) for path, layer in targets.items()}

    def hf_frozen(self, adapter):
        a, b = largest(adapter.deltas.values())
        return {"base_model.vera_A": a, "base_model.vera_B": b}


class VeRADelta(Delta):
    """One change: f(x) + b ∘ B (d ∘ A x), (…, in) -> (…, out)."""

    adds = True

    def __init__(self, layer, method, a, b):
        n_out, n_in = shape(layer)
        self.a, self.b = a[:, :n_in], b[:n_out]  # views of the shared matrices
        self.vera_lambda_b = Parameter(np.zeros(n_out))
        self.vera_lambda_d = Parameter(np.full(method.r, method.d_initial))
        self.dropout = Dropout(method.vera_dropout)

    def __call__(self, f, x):
        thin = linear(self.dropout(x), self.a) * self.vera_lambda_d  # (…, r)
        return f(x) + linear(thin, self.b) * self.vera_lambda_b

    def merged(self, layer):
        scaled = self.vera_lambda_b.data[:, None] * self.b * self.vera_lambda_d.data
        return {"weight": weight(layer).data + scaled @ self.a}


def projections(seed, layers, rows, r):
    """Random A (rows, in) and B (out, r), as large as the largest layer needs."""
    own, sizes = TorchGenerator(seed), [shape(layer) for layer in layers]
    a = own.kaiming(rows, max(n_in for _, n_in in sizes))
    b = own.kaiming(max(n_out for n_out, _ in sizes), r)
    return array(a), array(b)


def largest(deltas):
    """The widest a and the longest b of some changes, which are views of the shared ones."""
    a, b = [delta.a for delta in deltas], [delta.b for delta in deltas]
    return max(a, key=lambda a: a.shape[1]), max(b, key=len)
