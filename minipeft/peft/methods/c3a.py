"""C3A: a change of a weight by circulant blocks, which is a convolution.

    f(x) + (1 / in) C(w) x        C(w)_ij = circulant(w_ij)        w: (out / b, in / b, b) zero

circulant(w_ij) has w_ij as its first row, and each row below is moved on by one. Multiplying by
it is a circular correlation, y[p] = Σ_q w[q] x[p + q] with indices modulo b, which the Fourier
transform makes a product, one frequency after the other:

    y_i = irfft(Σ_j rfft(w_ij)* ∘ rfft(x_j))

w = 0, so attaching changes nothing. Trains in out / b parameters a target. Where b does not
divide in and out, their common divisor nearest to it is taken. Merges exactly: W + C(w) / in.

What it changes about LoRA: the rank of the change no longer follows from the number of
parameters. The b numbers of a block make a matrix of rank up to b, where LoRA's rank r takes
r (in + out) of them; and as in LoRA, the (out, in) matrix is formed only for merging.

Chen et al. 2024, section 3, arXiv:2407.19342. There w is Xavier-uniform, so that attaching
changes the model; its ablation finds that the start hardly matters, and w = 0 is HF PEFT's
`init_weights=True`. HF PEFT divides by in; equation 1 of the paper does not: that is
`divide_by_inputs=False`. By x, HF PEFT and the paper's algorithm A1 derive another function:
they correlate g with w where C(w)ᵀ g is a convolution. So what is below a C3A gets a wrong
gradient there; here it is exact.
"""

import math
from dataclasses import dataclass

from ...engine.backend import np, xp
from ...engine.tensor import Tensor, record, value
from ...model.layers import Parameter
from ...options import option
from ..base import Delta
from ..targets import Targeted, shape, weight


@dataclass(frozen=True)
class C3A(Targeted):
    """C3A with circulant blocks (b, b), b = `block_size`, on the named matrices."""

    block_size: int = option(256, at_least=1)
    target_modules: tuple[str, ...] | str = ("q_proj", "v_proj")
    divide_by_inputs: bool = True
    layers_to_transform: tuple[int, ...] | int | None = None

    name = "c3a"
    family = "spectral"
    paper = "Chen et al. 2024, arXiv:2407.19342"
    idea = "circulant blocks in place of B A: a convolution, of high rank"
    claim = "quality", "lora"
    contains = ("full: blocks of 1, of its matrices",)
    equation = "f(x) + (1 / in) C(w) x"
    learning_rate = 10
    peft_type = "C3A"
    hf_config = "C3AConfig"
    hf_prefix = "c3a_"
    hf_lacks = ("divide_by_inputs", "layers_to_transform", "fan_in_fan_out")
    hf_whole = True
    hf_on_gpt2 = False

    def block(self, n_out, n_in):
        """The common divisor of both that is nearest to block_size, the smaller of two."""
        common = math.gcd(n_out, n_in)
        divisors = (n for n in range(1, common + 1) if common % n == 0)
        return min(divisors, key=lambda n: abs(n - self.block_size))

    def for_module(self, path, shape):
        if self.block(*shape) == 1 < self.block_size:
            raise ValueError(
                f"{shape[0]} and {shape[1]}, the sides of {path}, have no common divisor: "
                "it would train the whole matrix; leave it out or set block_size=1"
            )
        return self

    def formula(self, n_out, n_in):
        return "out in / b", {"out": n_out, "in": n_in, "b": self.block(n_out, n_in)}

    def delta(self, layer, rng):
        return C3ADelta(layer, self)

    def to_hf(self, values, adapter):
        if not self.divide_by_inputs:
            raise ValueError("HF PEFT's C3A divides by inputs; save_adapter can save this one")
        sizes = {path: delta.c3a_kernel.shape[-1] for path, delta in adapter.deltas.items()}
        others = {path: b for path, b in sizes.items() if b != self.block_size}
        return values | {"block_size_pattern": others}

    @classmethod
    def from_hf(cls, values, targets):
        # the arrays are compared with what block_size makes of each matrix
        return {o: v for o, v in values.items() if o != "block_size_pattern"}


class C3ADelta(Delta):
    """One change: f(x) + (1 / in) C(w) x, (…, in) -> (…, out)."""

    adds = True

    def __init__(self, layer, method):
        (n_out, n_in), b = shape(layer), method.block(*shape(layer))
        self.c3a_kernel = Parameter(np.zeros((n_out // b, n_in // b, b)))  # w
        self.scaling = 1.0 / n_in if method.divide_by_inputs else 1.0

    def convolved(self, x):
        """C(w) x / in, (N, in) -> (N, out)."""
        y = correlation(x.reshape(len(x), -1, self.c3a_kernel.shape[-1]), self.c3a_kernel)
        return y.reshape(len(x), -1) * self.scaling

    def __call__(self, f, x):
        rows = self.convolved(x.reshape(-1, x.shape[-1]))
        return f(x) + rows.reshape(*x.shape[:-1], -1)

    def merged(self, layer):
        w = weight(layer).data
        one = Tensor(xp.eye(w.shape[1], dtype=w.dtype))
        return {"weight": w + self.convolved(one).data.T}


def correlation(x, w):
    """y_i[p] = Σ_j Σ_q w_ij[q] x_j[p + q], (N, n, b) with (m, n, b) -> (N, m, b).

    With capitals for rfft: Y = X W*, dX = G W and dW = G* X, a product for each frequency.
    """
    X, W, (b, dtype) = frequencies(value(x)), frequencies(value(w)), (w.shape[-1], w.dtype)

    def back(y):  # (K, …) -> (…, b)
        return xp.fft.irfft(y.transpose(1, 2, 0), b).astype(dtype)

    return record(
        back(X @ xp.conj(xp.swapaxes(W, 1, 2))),
        (x, lambda g: back(frequencies(g) @ W)),
        (w, lambda g: back(xp.conj(xp.swapaxes(frequencies(g), 1, 2)) @ X)),
    )


def frequencies(x):
    """rfft of (N, n, b) along b, a matrix (N, n) for each of the K = b // 2 + 1 frequencies."""
    return xp.fft.rfft(x).transpose(2, 0, 1).copy()
