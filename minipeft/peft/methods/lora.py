"""Low-rank adaptation: learn the change of a weight as a product of two thin matrices.

    f(x) + (α / r) B A x            A: (r, in) random        B: (out, r) zero

B = 0, so attaching changes nothing. A is random, so B has a gradient at once, and A from the
second step on. Trains r (in + out) parameters a target. Merges exactly: W + (α / r) B A. The
change has rank ≤ r; with r = min(in, out) it can be any matrix. The bias stays as it is.
Merged, it costs nothing at inference; attached, it costs two thin products.

On the token table, "wte", A has a column for each token: f(t) + (α / r) B A[:, t], A zero and B
from N(0, 1) as in HF PEFT. On a head that is tied to the table, only the head changes:
merging unties the two.

Hu et al. 2021, section 4.1, arXiv:2106.09685. As in HF PEFT, A is drawn from U(±1/√in); the
paper's is Gaussian.
"""

import math
from dataclasses import dataclass, fields

from ...engine.backend import np, xp
from ...engine.functional import embedding, linear
from ...model.layers import Dropout, Embedding, Parameter, kaiming_uniform
from ...options import option
from ..base import Delta, base_parameters
from ..formula import terms_of_shapes
from ..targets import Targeted, check_factors, matching, patterned, shape, weight


@dataclass(frozen=True)
class LoRA(Targeted):
    """LoRA of rank r on the named matrices; lora_dropout acts on the input of A only.

    rank_pattern and alpha_pattern give single modules another r or α, by the end of their path
    with * for anything: {"down_proj": 16}. The first pattern that matches counts, and the
    module is scaled by its own α / r, as in HF PEFT. layers_to_transform picks blocks by index.
    Beside B and A, copies of base parameters can train: all biases or those of the targets
    (bias), and all parameters of modules such as "lm_head" (modules_to_save).
    """

    r: int = option(8, at_least=1)
    lora_alpha: float = 8.0
    lora_dropout: float = option(0.0, at_least=0, below=1)
    target_modules: tuple[str, ...] | str = ("q_proj", "v_proj")
    layers_to_transform: tuple[int, ...] | int | None = None
    rank_pattern: dict[str, int] = option(default_factory=dict, hash=False, at_least=1)
    alpha_pattern: dict[str, float] = option(default_factory=dict, hash=False)
    bias: str = option("none", one_of=("none", "all", "lora_only"))
    modules_to_save: tuple[str, ...] = ()

    name = "lora"
    family = "lora"
    paper = "Hu et al. 2021, arXiv:2106.09685"
    idea = "a change of low rank beside each frozen weight"
    claim = "parameters", "full"
    equation = "f(x) + (α / r) B A x"
    per_matrix = "r (in + out)"
    learning_rate = 0.01
    embeds = True
    peft_type = "LORA"
    hf_config = "LoraConfig"
    hf_prefix = "lora_"
    hf_weights = ("lora_A", "lora_B")
    hf_lacks = ("layers_to_transform",)

    @property
    def scaling(self):
        """The factor of B A, α / r."""
        return self.lora_alpha / self.r

    def for_module(self, path, shape):
        own = patterned(self, path, "lora_alpha")
        check_factors(path, own.r, shape)
        return own

    def copied(self, config):
        """{path: shape} of the base parameters of which copies train."""
        targets, shapes = self.targets(config.target_shapes), dict(config.parameter_shapes)
        shapes.setdefault("lm_head.weight", (config.vocab, config.width))  # of a tied head
        owners = {path: path.rpartition(".")[0] for path in shapes}
        saved = {}
        for name in self.modules_to_save:
            saved |= matching({owner: owner for owner in owners.values()}, (name,))
        if both := sorted(saved.keys() & targets.keys()):
            raise ValueError(f"{both[0]} is a target and in modules_to_save; name it once")
        biases = {"none": (), "all": owners.values(), "lora_only": targets}[self.bias]
        return {
            path: shapes[path]
            for path, owner in owners.items()
            if owner in saved or (path.endswith(".bias") and owner in biases)
        }

    def terms(self, config):
        return super().terms(config) + terms_of_shapes(list(self.copied(config).values()))

    def count_new(self, config):
        known = self.copied(config).keys() & config.parameter_shapes.keys()
        return self.count(config) - sum(math.prod(config.parameter_shapes[p]) for p in known)

    def base_parameters_to_copy(self, model):
        base = dict(base_parameters(model))
        return {path: base.get(path, base["wte.weight"]) for path in self.copied(model.config)}

    def as_lora(self, **changed):
        """LoRA with the options of this method that it has, some of them changed."""
        return LoRA(**{f.name: getattr(self, f.name) for f in fields(LoRA)} | changed)

    def hf_copy(self, name, is_target):
        return f"base_layer.{name}" if is_target else name

    def delta(self, layer, rng):
        kind = LoRAEmbeddingDelta if isinstance(layer, Embedding) else LoRADelta
        return kind(layer, self, rng)


class LoRADelta(Delta):
    """One low-rank change: f(x) + (α / r) B A x, (…, in) -> (…, out)."""

    adds = True

    def __init__(self, layer, method, rng):
        n_out, n_in = shape(layer)
        self.lora_A = Parameter(kaiming_uniform(rng, method.r, n_in))
        self.lora_B = Parameter(np.zeros((n_out, method.r)))
        self.dropout = Dropout(method.lora_dropout)
        self.scaling = method.scaling

    def __call__(self, f, x):
        thin = linear(self.dropout(x), self.lora_A) * self.scaling  # (…, r)
        return f(x) + linear(thin, self.lora_B)

    def change(self):
        """ΔW = (α / r) B A, an array (out, in)."""
        return self.scaling * (self.lora_B.data @ self.lora_A.data)

    def merged(self, layer):
        return {"weight": weight(layer).data + self.change()}


class LoRAEmbeddingDelta(Delta):
    """One low-rank change of the token table: f(t) + (α / r) B A[:, t], (B, T) -> (B, T, D)."""

    adds = True

    def __init__(self, layer, method, rng):
        n_out, n_in = shape(layer)
        self.lora_embedding_A = Parameter(np.zeros((method.r, n_in)))
        self.lora_embedding_B = Parameter(rng.standard_normal((n_out, method.r)))
        self.scaling = method.scaling

    def __call__(self, f, ids):
        thin = embedding(self.lora_embedding_A.transpose(1, 0), ids) * self.scaling
        return f(ids) + linear(thin, self.lora_embedding_B)

    def merged(self, layer):
        change = self.scaling * (self.lora_embedding_B.data @ self.lora_embedding_A.data)
        return {"weight": layer.weight.data + change.T}


def leading(matrix, rank):
    """The best approximation b a of a matrix by so low a rank, b = U √S and a = √S Vᵀ."""
    u, s, vt = xp.linalg.svd(matrix, full_matrices=False)
    root = xp.sqrt(s[:rank])
    return u[:, :rank] * root, root[:, None] * vt[:rank]
