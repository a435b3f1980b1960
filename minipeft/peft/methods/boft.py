"""BOFT: OFT whose rotation is a product of m sparse ones, wired like a fast Fourier transform.

    s ∘ W Bᵀ x + b          B = B_m … B₂ B₁          B_i = P_i diag(R₁ … R_k) P_iᵀ

Each R is a rotation of b inputs, by OFT's Cayley transform of (R' − R'ᵀ) / 2 with a trained R'.
The permutation P_i takes the inputs in halves of b / 2 and pairs halves that are 2^(i − 1)
apart: neighbours in B₁, as in OFT, those two apart in B₂, those four apart in B₃. So after m
factors an output depends on 2^(m − 1) b inputs, where OFT's depends on b; after
1 + log₂(in / b) factors on all. s stretches each output, but not the bias.

R' = 0 and s = 1, so attaching changes nothing. Trains m k b² + out parameters a target, with
k = in / b. As in HF PEFT's files all b² numbers of an R' are kept, but only its skew-symmetric
part acts: the paper counts b (b − 1) / 2. Merges exactly: W ← s ∘ W Bᵀ.

What it changes about LoRA: the change is a rotation, which keeps the lengths of the rows of W
and the angles between them. What it changes about OFT: to mix all inputs takes b in log₂(in)
numbers or fewer, where a single block takes half of in²; the paper scores above both.

Liu et al. 2023, section 4, arXiv:2311.06243; s is from its experiments. HF PEFT computes more
than one factor on GPUs only; elsewhere it sets m = 1.
"""

from dataclasses import dataclass

from ...engine.backend import np, xp
from ...engine.ops import matmul
from ...engine.tensor import Tensor
from ...model.layers import Parameter
from ...options import option
from ..base import Delta
from ..targets import Targeted, shape, weight
from .oft import inverse


@dataclass(frozen=True)
class BOFT(Targeted):
    """BOFT of m = `boft_n_butterfly_factor` factors with blocks of `boft_block_size` inputs."""

    boft_block_size: int = option(4, at_least=2)
    boft_n_butterfly_factor: int = option(1, at_least=1, below=32)
    target_modules: tuple[str, ...] | str = ("q_proj", "v_proj")
    layers_to_transform: tuple[int, ...] | int | None = None

    name = "boft"
    family = "orthogonal"
    paper = "Liu et al. 2023, arXiv:2311.06243"
    idea = "OFT as a product of sparse rotations, which mix all inputs for few parameters"
    claim = "parameters", "oft"
    contains = ("oft: one factor, s = 1",)
    equation = "s ∘ W Bᵀ x + b"
    learning_rate = 0.1
    peft_type = "BOFT"
    hf_config = "BOFTConfig"
    hf_prefix = "boft_"
    hf_lacks = ("layers_to_transform",)
    hf_on_gpt2 = False

    def __post_init__(self):
        super().__post_init__()
        if self.boft_n_butterfly_factor > 1 and self.boft_block_size % 2:
            raise ValueError(
                f"factors after the first pair halves of blocks; boft_block_size = "
                f"{self.boft_block_size} has none, choose an even one"
            )

    def for_module(self, path, shape):
        reach = self.boft_block_size * 2 ** (self.boft_n_butterfly_factor - 1)
        if shape[1] % reach:
            raise ValueError(
                f"the {shape[1]} inputs of {path} do not divide into {reach} = boft_block_size "
                f"· 2^(boft_n_butterfly_factor − 1); lower them or leave {path} out"
            )
        return self

    def formula(self, n_out, n_in):
        b, m = self.boft_block_size, self.boft_n_butterfly_factor
        return "m k b² + out", {"m": m, "k": n_in // b, "b": b, "out": n_out}

    def delta(self, layer, rng):
        return BOFTDelta(layer, self)

    def to_hf(self, values, adapter):
        return values | {"boft_block_num": 0}

    @classmethod
    def from_hf(cls, values, targets):
        values = {o: v for o, v in values.items() if o != "boft_dropout"}  # of training alone
        return {o: v for o, v in values.items() if (o, v) != ("boft_block_num", 0)}


class BOFTDelta(Delta):
    """One rotated input and stretched output: s ∘ W Bᵀ x + b, (…, in) -> (…, out)."""

    def __init__(self, layer, method):
        (n_out, n_in), b = shape(layer), method.boft_block_size
        self.boft_R = Parameter(np.zeros((method.boft_n_butterfly_factor, n_in // b, b, b)))
        self.boft_s = Parameter(np.ones(n_out))
        self.made_for = (getattr(layer, "bias", None),)  # b, which is not stretched

    def rotated(self, x):
        """Rows x B = (Bᵀ xᵀ)ᵀ, (N, in)."""
        r, size = self.boft_R, self.boft_R.shape[-1]
        one = xp.eye(size, dtype=r.dtype)
        skew = (r - r.transpose(0, 1, 3, 2)) * 0.5
        rotations = inverse(skew + one) * 2.0 - one  # (m, k, b, b)
        for i in reversed(range(len(rotations))):
            grid = -1, 2, 2**i, size // 2  # (groups, a half or its partner, which, b / 2)
            paired = x.reshape(len(x), *grid).transpose(1, 3, 0, 2, 4)
            turned = matmul(paired.reshape(-1, len(x), size), rotations[i])
            x = turned.reshape(*paired.shape).transpose(2, 0, 3, 1, 4).reshape(*x.shape)
        return x

    def __call__(self, f, x):
        y = f(self.rotated(x.reshape(-1, x.shape[-1])).reshape(*x.shape))
        s, (bias,) = self.boft_s, self.made_for
        # = s ∘ (y − b) + b, written so that s = 1 leaves every bit of y
        return y * s if bias is None else y * s - bias * (s - 1.0)

    def merged(self, layer):
        w, s, (bias,) = weight(layer).data, self.boft_s.data, self.made_for
        b = self.rotated(Tensor(xp.eye(w.shape[1], dtype=w.dtype))).data
        merged = {"weight": s[:, None] * (w @ b.T)}
        if bias is None:
            return merged
        now = layer.bias.data  # no longer `bias` if another adapter was merged into it
        return merged | {"bias": now + (now - bias.data) * (s - 1.0)}

    def saved(self):
        return {"boft_R": self.boft_R.data, "boft_s": self.boft_s.data[:, None]}  # as HF PEFT
