"""OFT: rotates the input of a weight, block by block, by learnt orthogonal matrices.

    f(Rᵀ x)          R = diag(R₁ … R_k)      R_i = (I − Q_i) (I + Q_i)⁻¹      Q_i: (b, b) zero

This is the Cayley transform: R_i is orthogonal for every skew-symmetric Q_i = −Q_iᵀ. Q = 0
gives R = I, so attaching changes nothing. The rows of the weight keep their lengths and the
angles between them: only their common orientation is learnt. Trains the upper triangle of each
Q_i, k b (b − 1) / 2 parameters a target with k = in / b blocks; with `block_share` the blocks
of a target share one Q. Where b does not divide in, the nearest divisor is taken. Merges
exactly: W ← W Rᵀ. Every step inverts k small matrices.

With `use_cayley_neumann` the inverse is replaced by the first terms of its Neumann series,
which is faster, but R is only nearly orthogonal: R = I + 2 Q + 2 Q² + … + Q^(terms − 1).

Qiu et al. 2023, section 3, arXiv:2306.07280, which rotates the outputs of a weight. As in HF
PEFT the inputs are rotated here. The series is HF's default, not the paper's.
"""

from dataclasses import dataclass

from ...engine.backend import np, xp
from ...engine.ops import matmul
from ...engine.tensor import record, value
from ...model.layers import Parameter
from ...options import option
from ..base import Delta
from ..targets import Targeted, shape, weight


@dataclass(frozen=True)
class OFT(Targeted):
    """OFT with rotations of blocks of `oft_block_size` inputs on the named matrices."""

    oft_block_size: int = option(32, at_least=1)
    target_modules: tuple[str, ...] | str = ("q_proj", "v_proj")
    block_share: bool = False
    use_cayley_neumann: bool = False
    num_cayley_neumann_terms: int = option(5, at_least=4)
    layers_to_transform: tuple[int, ...] | int | None = None

    name = "oft"
    family = "orthogonal"
    paper = "Qiu et al. 2023, arXiv:2306.07280"
    idea = "rotates the inputs: rows of W keep their lengths and the angles between them"
    claim = "remembers", "lora"
    equation = "f(Rᵀ x)"
    learning_rate = 0.01
    peft_type = "OFT"
    hf_config = "OFTConfig"
    hf_prefix = "oft_"
    hf_weights = ("oft_R",)
    hf_lacks = ("layers_to_transform",)

    def block_size(self, n_in):
        """The divisor of n_in that is nearest to oft_block_size, the smaller of two."""
        divisors = (n for n in range(1, n_in + 1) if n_in % n == 0)
        return min(divisors, key=lambda n: abs(n - self.oft_block_size))

    def for_module(self, path, shape):
        if self.block_size(shape[1]) == 1:
            raise ValueError(
                f"blocks of one input leave nothing to rotate at {path}; choose an "
                f"oft_block_size nearer to another divisor of {shape[1]}"
            )
        return self

    def formula(self, n_out, n_in):
        b = self.block_size(n_in)
        blocks = 1 if self.block_share else n_in // b
        return "k b (b − 1) / 2", {"k": blocks, "b": b}

    def delta(self, layer, rng):
        return OFTDelta(layer, self)

    def to_hf(self, values, adapter):
        return values | {"r": 0}

    @classmethod
    def from_hf(cls, values, targets):
        without_effect = ("r", "eps")  # the number of blocks, and an option of COFT
        return {option: v for option, v in values.items() if option not in without_effect}


class OFTDelta(Delta):
    """One rotated input: f(Rᵀ x), (…, in) -> (…, out)."""

    def __init__(self, layer, method):
        n_in = shape(layer)[1]
        self.block = method.block_size(n_in)
        blocks = 1 if method.block_share else n_in // self.block
        self.oft_R = Parameter(np.zeros((blocks, self.block * (self.block - 1) // 2)))
        self.terms = method.num_cayley_neumann_terms if method.use_cayley_neumann else None

    def rotation(self):
        """R_1 … R_k (k, b, b), or (1, b, b) if all blocks share one."""
        q, one = skew(self.oft_R, self.block), xp.eye(self.block, dtype=self.oft_R.dtype)
        if self.terms is None:
            return inverse(q + one) * 2.0 - one  # = (I − Q) (I + Q)⁻¹
        power, series = q, one + q * 2.0
        for term in range(2, self.terms):
            power = power @ q
            series = series + power * (1.0 if term == self.terms - 1 else 2.0)
        return series

    def __call__(self, f, x):
        lead, n_in = x.shape[:-1], x.shape[-1]
        blocks = x.reshape(-1, n_in // self.block, self.block).transpose(1, 0, 2)  # (k, N, b)
        turned = matmul(blocks, self.rotation())
        return f(turned.transpose(1, 0, 2).reshape(*lead, n_in))

    def merged(self, layer):
        w = weight(layer).data
        rows = w.reshape(len(w), -1, self.block).transpose(1, 0, 2)  # (k, out, b)
        turned = rows @ xp.swapaxes(self.rotation().data, -1, -2)
        return {"weight": turned.transpose(1, 0, 2).reshape(w.shape)}


def skew(upper, size):
    """Skew-symmetric matrices (k, b, b) from their upper triangles (k, b (b − 1) / 2)."""
    rows, columns = (xp.asarray(index) for index in np.triu_indices(size, 1))
    q = xp.zeros_like(value(upper), shape=(len(upper), size, size))
    q[:, rows, columns] = value(upper)
    q = q - xp.swapaxes(q, -1, -2)
    return record(q, (upper, lambda g: g[:, rows, columns] - g[:, columns, rows]))


def inverse(x):
    """M = x⁻¹ of matrices (k, b, b); dx = −Mᵀ g Mᵀ."""
    m = xp.linalg.inv(value(x))
    turned = xp.swapaxes(m, -1, -2)
    return record(m, (x, lambda g: -(turned @ g @ turned)))
