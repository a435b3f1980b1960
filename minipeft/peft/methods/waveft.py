"""WaveFT: learns a few wavelet coefficients of the change of a weight.

    f(x) + s IDWT₂(C) x        C: (out, in), c at n random places, zero elsewhere        c: (n,)

IDWT₂ is the inverse Haar wavelet transform, one level deep. The quarters of C hold coefficients
a, h, v and d, and one of each makes a square of four neighbours in the change:

    ½ [a + h + v + d    a + h − v − d]     a: their mean           v: left against right
      [a − h + v − d    a − h − v + d]     h: top against bottom   d: one diagonal or the other

Where out or in is odd, C has one row or column more, and what is over is cut off. The places
are drawn as FourierFT's, by the seed `random_loc_seed`. c = 0, so attaching changes nothing.
Trains n parameters a target, and only they are saved. Merges exactly: W + s IDWT₂(C). The
(out, in) matrix is formed in every step.

What it changes about LoRA: n counts single parameters, fewer than those of rank 1 if need be,
and the change may have any rank. What it changes about FourierFT: a coefficient acts on four
neighbours, not on the whole matrix, so that few coefficients overlap. Without `use_idwt` C
itself is the change, a sparse one. In the paper it scores above all three at making images.

Bilican et al. 2025, section 3, arXiv:2505.12532. HF PEFT has wavelets with longer filters too
(`wavelet_family`), and can share out the n by size (`proportional_parameters`): not here.
"""

from dataclasses import dataclass

from ...engine.backend import np, xp
from ...engine.tensor import record, value
from ...model.layers import Parameter
from ...options import option
from .fourierft import FourierFT, FourierFTDelta, spread


@dataclass(frozen=True)
class WaveFT(FourierFT):
    """WaveFT with n = `n_frequency` coefficients and s = `scaling` on the named matrices."""

    n_frequency: int = option(2592, at_least=1)
    scaling: float = 25.0
    use_idwt: bool = True

    name = "waveft"
    paper = "Bilican et al. 2025, arXiv:2505.12532"
    idea = "a few wavelets in place of B A, each of which acts on four neighbours"
    claim = "quality", "fourierft"
    contains = ("full: all places, of its matrices",)
    equation = "f(x) + s IDWT₂(C) x"
    learning_rate = 0.0003
    peft_type = "WAVEFT"
    hf_config = "WaveFTConfig"
    hf_prefix = "waveft_"

    def delta_of(self, size, places):
        return WaveFTDelta(self, size, places)

    @classmethod
    def from_hf(cls, values, targets):
        values = super().from_hf(values, targets)
        values = {o: v for o, v in values.items() if (o, v) != ("wavelet_family", "db1")}
        return {"use_idwt": False} | values  # what is False comes without its name


class WaveFTDelta(FourierFTDelta):
    """One change: f(x) + s IDWT₂(C) x, (…, in) -> (…, out)."""

    def __init__(self, method, size, places):
        self.waveft_spectrum = Parameter(np.zeros(method.number(size)))  # c
        self.size, self.places, self.scaling = size, places, method.scaling
        self.use_idwt = method.use_idwt

    def change(self):
        c, (n_out, n_in) = self.waveft_spectrum * self.scaling, self.size
        if not self.use_idwt:
            return spread(c, self.places, self.size)
        even = n_out + n_out % 2, n_in + n_in % 2
        return inverse_haar(spread(c, self.places, even))[:n_out, :n_in]


def inverse_haar(x):
    """IDWT₂ of a matrix with even sides; dx = DWT₂ of g, as the transform is orthogonal."""
    return record(
        moved(value(x), quarters, squares),
        (x, lambda g: moved(g, squares, quarters)),
    )


def moved(x, read, write):
    """What four parts of x make, written to four parts of a new matrix.

    The four sums are their own inverse, so the same serve both ways.
    """
    y, (a, h, v, d) = xp.zeros_like(x), read(x)
    same, other = (a + h) * 0.5, (a - h) * 0.5
    plus, minus = (v + d) * 0.5, (v - d) * 0.5
    parts = same + plus, same - plus, other + minus, other - minus
    for place, part in zip(write(y), parts, strict=True):
        place[...] = part
    return y


def quarters(x):
    """Views of a matrix: top left, top right, bottom left, bottom right."""
    row, column = x.shape[0] // 2, x.shape[1] // 2
    return x[:row, :column], x[:row, column:], x[row:, :column], x[row:, column:]


def squares(x):
    """Views of a matrix: of each square of four entries the same one, in that order."""
    return x[::2, ::2], x[::2, 1::2], x[1::2, ::2], x[1::2, 1::2]
