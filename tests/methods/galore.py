"""GaLore."""

from hypothesis import strategies as st

import minipeft as mp
from laws.equations import Copies
from methods.full import BLOCK, LAYER, OUTSIDE, SHARED, everything
from minipeft.engine.backend import np
from spec import COUNTED, Bug, Spec


def first_step(method, adapter, path, g):
    """scale · P (AdamW's of Pᵀ g), P of the singular vectors of the shorter side"""
    if g.ndim < 2 or min(g.shape) <= method.r or not path.startswith("blocks."):
        return g / (abs(g) + 1e-8)
    u, _, vt = np.linalg.svd(g, full_matrices=False)
    if g.shape[0] <= g.shape[1]:
        low = u[:, : method.r].T @ g
        return method.scale * u[:, : method.r] @ (low / (abs(low) + 1e-8))
    low = g @ vt[: method.r].T
    return method.scale * (low / (abs(low) + 1e-8)) @ vt[: method.r]


GALORE = mp.GaLore(r=2)
BUGS = (
    Bug("GaLore: the last singular vectors",
        "xp.linalg.svd(g, full_matrices=False)[0][:, : self.method.r]",
        "xp.linalg.svd(g, full_matrices=False)[0][:, -self.method.r :]", 16, GALORE),
    Bug("GaLore: its scale forgotten", "self.method.scale * rate", "rate", 16, GALORE),
    Bug("GaLore: a checkpoint forgets P", 'super().state | {"projector": self.projector}',
        "super().state", 8, GALORE),
)  # fmt: skip


SPEC = Spec(
    mp.GaLore,
    draw=lambda config: st.builds(mp.GaLore, r=st.integers(1, 4)),
    small=GALORE,
    equation=Copies(everything),
    bugs=BUGS,
    no_rows="HF PEFT has no GaLore; test_methods_optimizers.py has its algorithm in NumPy",
    counts=((GALORE, COUNTED, 11 * 8 + 16 * 8 + 2 * LAYER + 16),),
    saved=((GALORE, BLOCK | OUTSIDE),),
    wrong=(
        lambda: mp.GaLore(r=0),
        lambda: mp.GaLore(update_proj_gap=0),
        lambda: mp.GaLore(scale=0.0),
    ),
    exempt={15: SHARED},
    first_step=first_step,
)
