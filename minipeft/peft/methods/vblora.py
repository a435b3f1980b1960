"""VB-LoRA: LoRA whose matrices are pieced together from one bank of vectors.

    f(x) + B(bank, σ) A(bank, σ) x      each piece is Σₛ wₛ bankₛ with w = softmax(top k of σ)

The rows of A and the columns of B are cut into pieces of b numbers. A piece is a mixture of k
of the h vectors of the bank, which all targets share: those with the largest of the h logits σ
that the piece has for itself, weighted by their softmax. The bank is U(±0.02), logits are
N(0, 0.1²). Trains the bank, h b, and h r (in + out) / b logits a target. Merges exactly:
W + B A, of rank ≤ r.

Against LoRA: all targets share the numbers that A and B are made of. Most of what trains are
logits; after training only the k choices of each piece matter, and the paper stores no more
than these, 0.4 % of what LoRA stores for Llama 2 of 13 billion parameters. Here, as in HF PEFT
unless told, a file keeps all logits, so that training can go on.

B A is small at the start, but not zero, so attaching changes the logits a little: with a bank
of zeros both B and A would be zero, and nothing would learn.

Li et al. 2024, section 3, arXiv:2405.15179, with b = 256 for models of width 768 and more
"""

import math
from dataclasses import dataclass

from ...engine.backend import xp
from ...engine.functional import linear, softmax
from ...model.layers import Dropout, Parameter
from ...options import option
from ..base import Delta
from ..formula import Term
from ..targets import Targeted, check_rank, matrices, shape, weight


@dataclass(frozen=True)
class VBLoRA(Targeted):
    """VB-LoRA of rank r from a bank of num_vectors vectors of vector_length numbers."""

    r: int = option(4, at_least=1)
    num_vectors: int = option(32, at_least=1)
    vector_length: int = option(8, at_least=1)
    topk: int = option(2, at_least=1)
    target_modules: tuple[str, ...] | str = ("q_proj", "v_proj")
    vblora_dropout: float = option(0.0, at_least=0, below=1)
    init_vector_bank_bound: float = option(0.02, above=0)
    init_logits_std: float = option(0.1, at_least=0)
    layers_to_transform: tuple[int, ...] | int | None = None

    name = "vb-lora"
    family = "shared"
    paper = "Li et al. 2024, arXiv:2405.15179"
    idea = "A and B are pieced together from one bank of vectors"
    claim = "parameters", "lora"
    within = ("lora: A and B tied",)
    equation = "f(x) + B(bank, σ) A(bank, σ) x"
    per_matrix = "h r (in + out) / b"
    learning_rate = 0.03
    peft_type = "VBLORA"
    hf_config = "VBLoRAConfig"
    hf_prefix = "vblora_"
    shared = ("vblora_vector_bank",)
    hf_lacks = ("layers_to_transform",)
    hf_whole = True

    def __post_init__(self):
        super().__post_init__()
        if self.topk > self.num_vectors:
            raise ValueError(
                f"topk = {self.topk} is more than num_vectors = {self.num_vectors}; lower it"
            )

    def for_module(self, path, shape):
        check_rank(path, self.r, shape)
        if any(n % self.vector_length for n in shape):
            raise ValueError(
                f"vector_length = {self.vector_length} does not divide the sizes of {path}, "
                f"{tuple(shape)}; choose a divisor of both, or leave {path} out"
            )
        return self

    def formula(self, n_out, n_in):
        equation, values = super().formula(n_out, n_in)
        return equation, values | {"h": self.num_vectors, "b": self.vector_length}

    def terms(self, config):
        bank = Term({}, "h b", {"h": self.num_vectors, "b": self.vector_length})
        return [*super().terms(config), bank]

    def make_deltas(self, model, rng):
        bound, size = self.init_vector_bank_bound, (self.num_vectors, self.vector_length)
        bank = Parameter(rng.uniform(-bound, bound, size))
        targets = self.fitting(matrices(model))
        return {path: VBLoRADelta(layer, self, bank, rng) for path, layer in targets.items()}


class VBLoRADelta(Delta):
    """One change: f(x) + B A x, (…, in) -> (…, out)."""

    adds = True

    def __init__(self, layer, method, bank, rng):
        (n_out, n_in), r, (h, b) = shape(layer), method.r, bank.shape
        std, self.topk = method.init_logits_std, method.topk
        self.vblora_logits_A = Parameter(rng.normal(0.0, std, (r, n_in // b, h)))
        self.vblora_logits_B = Parameter(rng.normal(0.0, std, (n_out // b, r, h)))
        self.vblora_vector_bank = bank
        self.dropout = Dropout(method.vblora_dropout)

    def pieces(self, logits):
        """Mixtures of the bank's vectors, (m, n, h) -> (m, n, b)."""
        a = logits.data
        least = xp.sort(a, axis=-1)[..., -self.topk][..., None]  # the k-th largest
        none, all_of_it = xp.full((), -math.inf, a.dtype), xp.zeros((), a.dtype)
        weights = softmax(logits, xp.where(a < least, none, all_of_it))
        return weights @ self.vblora_vector_bank

    def factors(self):
        """A (r, in) and B (out, r)."""
        a, b = self.pieces(self.vblora_logits_A), self.pieces(self.vblora_logits_B)
        r = len(a)
        return a.reshape(r, -1), b.transpose(0, 2, 1).reshape(-1, r)

    def __call__(self, f, x):
        a, b = self.factors()
        return f(x) + linear(linear(self.dropout(x), a), b)

    def merged(self, layer):
        a, b = (factor.data for factor in self.factors())
        return {"weight": weight(layer).data + b @ a}
