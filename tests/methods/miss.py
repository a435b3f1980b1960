"""MiSS."""

from hypothesis import strategies as st

import minipeft as mp
from laws.equations import OnMatrix
from minipeft.engine.backend import np
from spec import COUNTED, LLAMA_7B, Bug, Row, Spec
from strategies import DROPOUTS, targets
from theirs import with_peft


def equation(method, a, w):
    """W + [D D … D]"""
    return w + a.miss_block.T[:, np.arange(w.shape[1]) % method.r]


@st.composite
def drawn(draw, config):
    """A MiSS of any r that its matrices have inputs for."""
    names, _ = draw(targets(config))
    shapes = mp.MiSS(1, names).targets(config.target_shapes).values()
    return mp.MiSS(draw(st.integers(1, min(n for _, n in shapes))), names, draw(DROPOUTS))


SQUARE = mp.MiSS(r=3, target_modules=("q_proj", "o_proj"))
BUGS = (
    Bug("MiSS: sums neighbours, not what is r apart", "x.reshape(*x.shape[:-1], -1, r)",
        "x.reshape(*x.shape[:-1], r, -1).transpose(0, 1, 3, 2)", 5, SQUARE),
    Bug("MiSS: the last copy of D not cut but shifted", "copies[:, : w.shape[1]]",
        "copies[:, -w.shape[1] :]", 5, SQUARE),
)  # fmt: skip

NAMES = ["q_proj", "v_proj", "down_proj"]
ALL = ("q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "gate_proj", "down_proj")
SPEC = Spec(
    mp.MiSS,
    draw=drawn,
    small=mp.MiSS(2),
    equation=OnMatrix(equation, rank=lambda method: method.r),
    bugs=BUGS,
    rows={
        "miss": Row(
            mp.MiSS(4, tuple(NAMES)), with_peft("MissConfig", r=4, target_modules=NAMES)
        ),
        "miss, r does not divide in": Row(
            mp.MiSS(7, tuple(NAMES)), with_peft("MissConfig", r=7, target_modules=NAMES)
        ),
    },
    counts=(
        (mp.MiSS(4), COUNTED, 2 * 4 * (8 + 4)),
        (mp.MiSS(64, ALL), LLAMA_7B, 87_031_808),  # Kang & Yin, table 7: 87.0 M
    ),
    saved=((mp.MiSS(2), {"attn.q_proj.miss_block": (2, 8), "attn.v_proj.miss_block": (2, 4)}),),
    wrong=(lambda: mp.MiSS(0), lambda: mp.MiSS(miss_dropout=1.0)),
    exchanged=True,
)
