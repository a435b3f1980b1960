"""OLoRA: LoRA that starts from an orthonormal basis of the weight's first columns.

    W x − s B₀ A₀ x + s B A x       W = Q R,  B₀ = Q[:, :r],  A₀ = R[:r];  s = α / r

The columns of Q are orthonormal. The first r of them span what the first r columns of W span,
and Q[:, :r] R[:r] is the projection of W onto that. B starts at B₀: (out, r) and A at A₀:
(r, in); s B₀ A₀ is taken off W, so attaching changes nothing but rounding. Trains r (in + out)
parameters a target. Merges exactly: W + s (B A − B₀ A₀).

LoRA starts B at zero, so that at first A does not learn. Here both factors learn at once, and
the columns of B begin orthonormal: a step of A moves the output equally far along each. The
paper finds that it learns faster than LoRA. PiSSA does the same with the largest singular
values. A QR decomposition costs less than an SVD, but the order of the columns of W, and not
their size, decides which directions are taken.

In memory and in files it is PiSSA with other B₀ and A₀: see there. So 2 r ≤ min(in, out).

Büyükakyüz 2024, section 3, arXiv:2406.01775. HF PEFT computes Q and R in float32.
"""

from dataclasses import dataclass

from ...engine.backend import xp
from .pissa import PiSSA


@dataclass(frozen=True)
class OLoRA(PiSSA):
    """LoRA that starts from the QR decomposition of the weight."""

    name = "olora"
    idea = "starts from an orthonormal basis of the first columns of W"
    claim = "learning", "lora"
    paper = "Büyükakyüz 2024, arXiv:2406.01775"
    learning_rate = 0.01

    def first_factors(self, w):
        q, upper = xp.linalg.qr(w)
        return q[:, : self.r], upper[: self.r]
