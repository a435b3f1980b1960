"""GraLoRA: a LoRA for each of k × k blocks of a weight, for LoRA's number of parameters.

    f(x) + (α / (r + h)) G x      G_ij = B_ij A_ij, rank r / k      A: random      B: zero

Block i, j takes part j of the inputs, in / k of them, to part i of the outputs. The factors are
kept together: A (k, in / k, r) has the transposed A_ij of each part j side by side, B
(k, r, out / k) the transposed B_ij of each part i one below the other. B = 0, so attaching
changes nothing; A is U(±1/√(in / k)). With h = `hybrid_r` > 0 a LoRA of rank h is added. Trains
(r + h) (in + out) parameters a target. Merges exactly: W + (α / (r + h)) G.

What it changes about LoRA: the rank of the change can be k r, for the same parameters and the
same time; and a few inputs of extreme size disturb the gradients of their own blocks only,
where in LoRA they disturb all of B. The paper finds it better at high ranks, where LoRA
overfits. With k = 1 it is LoRA.

Jung et al. 2025, section 3, arXiv:2505.20355
"""

from dataclasses import dataclass

from ...engine.backend import np, xp
from ...engine.functional import linear
from ...engine.ops import matmul
from ...model.layers import Dropout, Parameter, kaiming_uniform
from ...options import option
from ..base import Delta
from ..targets import Targeted, check_rank, shape, weight


@dataclass(frozen=True)
class GraLoRA(Targeted):
    """GraLoRA of rank r in k² = `gralora_k`² blocks, beside a LoRA of rank `hybrid_r`."""

    r: int = option(8, at_least=1)
    alpha: float = 16.0
    gralora_dropout: float = option(0.0, at_least=0, below=1)
    gralora_k: int = option(2, at_least=1)
    hybrid_r: int = option(0, at_least=0)
    target_modules: tuple[str, ...] | str = ("q_proj", "v_proj")
    layers_to_transform: tuple[int, ...] | int | None = None

    name = "gralora"
    family = "lora"
    paper = "Jung et al. 2025, arXiv:2505.20355"
    idea = "a LoRA for each block of W: rank k r for the same parameters"
    claim = "quality", "lora"
    contains = ("lora: one block",)
    equation = "f(x) + (α / (r + h)) G x"
    learning_rate = 0.01
    peft_type = "GRALORA"
    hf_config = "GraloraConfig"
    hf_prefix = "gralora_"
    hf_weights = ("gralora_A_general", "gralora_B_general")
    hf_lacks = ("layers_to_transform",)
    hf_whole = True

    def __post_init__(self):
        super().__post_init__()
        if self.r % self.gralora_k:
            raise ValueError(
                f"a block has rank r / gralora_k, got {self.r} / {self.gralora_k}; choose an r "
                "that divides"
            )

    def for_module(self, path, shape):
        check_rank(path, max(self.r, self.hybrid_r), shape)
        if shape[0] % self.gralora_k or shape[1] % self.gralora_k:
            raise ValueError(
                f"{path}, {shape[0]} by {shape[1]}, does not divide into {self.gralora_k} by "
                f"{self.gralora_k} blocks; choose another gralora_k or leave {path} out"
            )
        return self

    def formula(self, n_out, n_in):
        values = {"r": self.r, "h": self.hybrid_r, "out": n_out, "in": n_in}
        return "(r + h) (in + out)" if self.hybrid_r else "r (in + out)", values

    def delta(self, layer, rng):
        return GraLoRADelta(layer, self, rng)


class GraLoRADelta(Delta):
    """One change: f(x) + (α / (r + h)) G x, (…, in) -> (…, out)."""

    adds = True

    def __init__(self, layer, method, rng):
        (n_out, n_in), r = shape(layer), method.r
        k, h = method.gralora_k, method.hybrid_r
        thin = kaiming_uniform(rng, k * r, n_in // k).reshape(k, r, n_in // k)
        self.gralora_A = Parameter(thin.transpose(0, 2, 1).copy())  # row by row in memory
        self.gralora_B = Parameter(np.zeros((k, r, n_out // k)))
        if h:
            self.gralora_A_general = Parameter(kaiming_uniform(rng, h, n_in))
            self.gralora_B_general = Parameter(np.zeros((n_out, h)))
        self.dropout = Dropout(method.gralora_dropout)
        self.scaling, self.k = method.alpha / (r + h), k

    def blocks(self, x):
        """G x, (N, in) -> (N, out)."""
        k, n = self.k, len(x)
        parts = x.reshape(n, k, -1).transpose(1, 0, 2)  # (k, N, in / k), one for each j
        thin = matmul(parts, self.gralora_A).reshape(k, n, k, -1)  # (j, N, i, r / k)
        gathered = thin.transpose(2, 1, 0, 3).reshape(k, n, -1)  # (i, N, r): for i, of all j
        return matmul(gathered, self.gralora_B).transpose(1, 0, 2).reshape(n, -1)

    def __call__(self, f, x):
        x_dropped = self.dropout(x)
        change = self.blocks(x_dropped.reshape(-1, x.shape[-1])).reshape(*x.shape[:-1], -1)
        if hasattr(self, "gralora_A_general"):
            thin = linear(x_dropped, self.gralora_A_general)
            change = change + linear(thin, self.gralora_B_general)
        return f(x) + change * self.scaling

    def merged(self, layer):
        w, k = weight(layer).data, self.k
        a = self.gralora_A.data.reshape(k, w.shape[1] // k, k, -1)  # (j, in / k, i, r / k)
        b = self.gralora_B.data.reshape(k, k, -1, w.shape[0] // k)  # (i, j, r / k, out / k)
        change = xp.einsum("jnis,ijsm->imjn", a, b).reshape(w.shape)
        if hasattr(self, "gralora_A_general"):
            change = change + self.gralora_B_general.data @ self.gralora_A_general.data
        return {"weight": w + self.scaling * change}
