"""GaLore: full fine-tuning whose optimiser sees a part of low rank of each gradient.

    W ← W − η (s P N + λ W)     R = Pᵀ G, (r, n)    N: AdamW's direction for a gradient R

G (m, n) is the gradient of W, transposed where W has more rows than columns, so that m ≤ n. The
columns of P (m, r) are the first r left singular vectors of G, found anew every
`update_proj_gap` updates. The moments are kept meanwhile, so each new vector gets the sign,
which an SVD leaves open, that turns it the least. η is the learning rate, λ the weight decay,
and s the `scale`.

LoRA makes the whole change of W low-rank. Here every parameter trains, and only each step has
rank r: steps with different P add up to a change of any rank. What is small is the optimiser,
r m + 2 r n numbers for a matrix where AdamW has 2 m n; for a square matrix that is less while
r < ⅔ m. The paper trains a model of 7 billion parameters from scratch on one consumer GPU.

Like `Full`, what trains is a private copy: attaching changes nothing, and merging makes the
copy the base. The matrices of the blocks with m > r are projected, and AdamW updates all other
parameters. So with an r that large it is full fine-tuning.

Zhao et al. 2024, section 4, arXiv:2403.03507, with s = 0.25 (α there) and a gap of 200. They
update each layer as soon as its gradient is there, and free that; here all gradients are held
until the update. Their code leaves the signs to the SVD, and projects a square matrix on the
other side. HF PEFT has no GaLore.
"""

from dataclasses import dataclass

from ...engine.backend import xp
from ...engine.optimizer import AdamW
from ...options import option
from .full import Full


@dataclass(frozen=True)
class GaLore(Full):
    """Full fine-tuning whose optimiser sees gradients of rank r."""

    r: int = option(8, at_least=1)
    update_proj_gap: int = option(200, at_least=1)
    scale: float = option(0.25, above=0)

    name = "galore"
    paper = "Zhao et al. 2024, arXiv:2403.03507"
    idea = "full fine-tuning whose optimiser sees a low-rank part of each gradient"
    claim = "equal", "full"
    contains = ("full: r ≥ every side",)
    equation = "W ← W − η (s P N + λ W)"
    learning_rate = 0.01
    peft_type = "GALORE"

    def make_optimizer(self, adapter, betas, weight_decay):
        projected = [
            p
            for path, p in adapter.copies.items()
            if path.startswith("blocks.")
            and p.ndim == 2
            and min(p.shape) > self.r
            and p.requires_grad
        ]
        return ProjectedAdamW(self, projected, betas, weight_decay) if projected else None


class ProjectedAdamW(AdamW):
    """AdamW for matrices, whose moments are those of the projected gradients."""

    def __init__(self, method, parameters, betas, weight_decay):
        super().__init__((), betas, weight_decay=weight_decay)
        self.method, self.parameters, self.skipped = method, parameters, [0] * len(parameters)
        wide = [lying(p.data) for p in parameters]
        self.m = [xp.zeros_like(a[: method.r]) for a in wide]
        self.v = [xp.zeros_like(a[: method.r]) for a in wide]
        self.projector = [xp.zeros_like(a[:, : method.r]) for a in wide]  # P

    @property
    def state(self):
        return super().state | {"projector": self.projector}

    def update_one(self, i, p, factors, scale, saved, written):
        decay, rate, root = factors
        g, projector = lying(p.grad) * scale, self.projector[i]
        if (self.steps - self.skipped[i] - 1) % self.method.update_proj_gap == 0:
            u = xp.linalg.svd(g, full_matrices=False)[0][:, : self.method.r]
            projector[...] = u * xp.where((u * projector).sum(axis=0) < 0, -1.0, 1.0)
        direction = self.direction(projector.T @ g, self.m[i], self.v[i], root)
        change = projector @ direction * (self.method.scale * rate)
        saved[...] = p.data
        written.append((p.data, saved))
        w = lying(p.data)
        w *= decay
        w -= change


def lying(a):
    """A matrix, or a view of it transposed, with no more rows than columns."""
    return a if a.shape[0] <= a.shape[1] else a.T
