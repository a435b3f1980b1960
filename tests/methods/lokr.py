"""LoKr."""

import minipeft as mp
from laws.equations import OnMatrix
from methods.loha import products
from minipeft.engine.backend import np
from spec import COUNTED, Bug, Row, Spec
from theirs import QV, with_peft


def equation(method, a, w):
    """W + (α / r) W₁ ⊗ W₂, where a factor may be a product of two."""
    one, two = (
        getattr(a, n) if hasattr(a, n) else getattr(a, f"{n}_a") @ getattr(a, f"{n}_b")
        for n in ("lokr_w1", "lokr_w2")
    )
    return w + method.alpha / method.r * np.kron(one, two)


BUGS = (
    Bug("LoKr: Kronecker factors in the other order",
        "xp.kron(w1, w2)", "xp.kron(w2, w1)", 5, mp.LoKr(r=2, alpha=3.0)),
)  # fmt: skip

ROWS = {
    "lokr": Row(
        mp.LoKr(r=2, alpha=4.0, target_modules=("q_proj", "up_proj", "v_proj")),
        with_peft("LoKrConfig", r=2, alpha=4, target_modules=["q_proj", "up_proj", "v_proj"]),
    ),
    "lokr, both": Row(
        mp.LoKr(r=1, alpha=3.0, decompose_both=True, decompose_factor=4),
        with_peft(
            "LoKrConfig",
            r=1,
            alpha=3,
            decompose_both=True,
            decompose_factor=4,
            target_modules=QV,
        ),
        recorded=False,
    ),
}
WHOLE = {  # the larger factors as they are, 8 = 2 · 4 and 4 = 2 · 2
    "attn.q_proj.lokr_w1": (2, 2),
    "attn.q_proj.lokr_w2": (4, 4),
    "attn.v_proj.lokr_w1": (2, 2),
    "attn.v_proj.lokr_w2": (2, 4),
}
THIN = {  # and as products of rank 1
    "attn.q_proj.lokr_w1": (2, 2),
    "attn.q_proj.lokr_w2_a": (4, 1),
    "attn.q_proj.lokr_w2_b": (1, 4),
    "attn.v_proj.lokr_w1": (2, 2),
    "attn.v_proj.lokr_w2_a": (2, 1),
    "attn.v_proj.lokr_w2_b": (1, 4),
}

SPEC = Spec(
    mp.LoKr,
    draw=lambda config: products(config, mp.LoKr),
    small=mp.LoKr(2),
    equation=OnMatrix(equation),
    bugs=BUGS,
    rows=ROWS,
    counts=(
        (mp.LoKr(8), COUNTED, 2 * ((2 * 2 + 4 * 4) + (2 * 2 + 2 * 4))),
        (mp.LoKr(1), COUNTED, 2 * ((2 * 2 + 8) + (2 * 2 + 6))),
    ),
    saved=((mp.LoKr(2), WHOLE), (mp.LoKr(1), THIN)),
    wrong=(
        lambda: mp.LoKr(decompose_factor=0),
        lambda: mp.LoKr(alpha="8"),
        lambda: mp.LoKr(decompose_both=1),
    ),
    exchanged=True,
)
