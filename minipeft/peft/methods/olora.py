"""OLoRA: LoRA that starts from an orthonormal basis of the weight's first columns.

    W x − s B₀ A₀ x + s B A x       W = Q R,  B₀ = Q[:, :r],  A₀ = R[:r];  s = α / r

The QR decomposition writes every column of W in an orthonormal basis, the columns of Q: the
first r of them span what the first r columns of W span, and Q[:, :r] R[:r] is the projection of
W onto it. B starts at B₀: (out, r) and A at A₀: (r, in), so attaching changes nothing but
rounding. Trains r (in + out) parameters a target. Merges exactly: W + s (B A − B₀ A₀).

LoRA starts from B = 0, and a B A that is small and badly conditioned for many steps. Here the
columns of B begin orthonormal, so that at first all r directions learn at a like pace; the
paper says that it converges faster. PiSSA takes the largest singular values instead. A QR costs
much less than an SVD, but it depends on the order of the columns: which r directions it takes
is not chosen by their size.

In memory and in files this is PiSSA with another B₀ A₀, which see; so 2 r ≤ min(in, out).

Büyükakyüz 2024, section 3, arXiv:2406.01775. HF PEFT computes it in float32.
"""

from dataclasses import dataclass

from ...engine.backend import xp
from .pissa import PiSSA


@dataclass(frozen=True)
class OLoRA(PiSSA):
    """LoRA that starts from the QR decomposition of the weight."""

    name = "olora"
    paper = "Büyükakyüz 2024, arXiv:2406.01775"
    learning_rate = 0.01

    def first_factors(self, w):
        q, r = xp.linalg.qr(w)
        return q[:, : self.r], r[: self.r]
