"""Low-rank adaptation: learn the change of a weight as a product of two thin matrices.

    f(x) + (α / r) B A x            A: (r, in) random        B: (out, r) zero

B = 0, so attaching changes nothing; A is random, so B has a gradient at once, and A from the
second step. Trains r (in + out) numbers a target. Merges exactly: W + (α / r) B A. The change
has rank ≤ r, and r = min(in, out) can reach any change. The bias is left alone. Merged, it
costs nothing at inference; before that, two thin products.

Hu et al. 2021, section 4.1, arXiv:2106.09685. As in HF PEFT, A is drawn from U(±1/√in); the
paper's is Gaussian.
"""

from dataclasses import dataclass

from ..backend import np, xp
from ..functional import linear
from ..nn import Dropout, Parameter, kaiming_uniform
from .base import Delta, Method
from .targets import at_least_1, linears, targeted


@dataclass(frozen=True)
class LoRA(Method):
    """LoRA of rank r on the named Linears; lora_dropout acts on the input of A only."""

    r: int = 8
    lora_alpha: float = 8.0
    lora_dropout: float = 0.0
    target_modules: tuple[str, ...] | str = ("q_proj", "v_proj")

    family = "lora"
    peft_type = "LORA"
    folds = True

    def __post_init__(self):
        at_least_1(r=self.r)

    def count(self, config):
        shapes = targeted(config.linears, self.target_modules).values()
        return sum(self.r * (n_out + n_in) for n_out, n_in in shapes)

    def build(self, model, rng):
        targets = targeted(linears(model), self.target_modules)
        for path, layer in targets.items():
            if self.r > min(layer.weight.shape):
                raise ValueError(
                    f"r = {self.r} is more than {path} can use: a {layer.weight.shape} weight "
                    f"has rank ≤ {min(layer.weight.shape)}; lower r or leave {path} out"
                )
        return {path: LoRADelta(layer, self, rng) for path, layer in targets.items()}


class LoRADelta(Delta):
    """One low-rank change: f(x) + (α / r) B A x, (…, in) -> (…, out)."""

    def __init__(self, layer, method, rng):
        n_out, n_in = layer.weight.shape
        self.lora_A = Parameter(kaiming_uniform(rng, method.r, n_in))
        self.lora_B = Parameter(np.zeros((n_out, method.r)))
        self.dropout = Dropout(method.lora_dropout)
        self.scaling = method.lora_alpha / method.r

    def __call__(self, f, x):
        thin = linear(self.dropout(x), self.lora_A) * self.scaling  # (…, r)
        return f(x) + linear(thin, self.lora_B)

    def merged(self, layer):
        change = self.scaling * (self.lora_B.data @ self.lora_A.data)
        return {"weight": layer.weight.data + change}


def leading(matrix, rank):
    """The best approximation b a of a matrix by so low a rank, b = U √S and a = √S Vᵀ."""
    u, s, vt = xp.linalg.svd(matrix, full_matrices=False)
    root = xp.sqrt(s[:rank])
    return u[:, :rank] * root, root[:, None] * vt[:rank]
