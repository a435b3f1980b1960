"""HRA."""

from hypothesis import assume
from hypothesis import strategies as st

import minipeft as mp
from laws.equations import OnMatrix
from minipeft.engine.backend import np
from spec import COUNTED, LLAMA_7B, Bug, Row, Spec
from strategies import targets
from theirs import with_peft

ROUNDING = "equal reflections undo each other but for rounding"


def equation(method, a, w):
    """W H₁ H₂ … H_r, one reflection after the other"""
    for u in a.hra_u.T:
        w = w @ (np.eye(len(u)) - 2 * np.outer(u, u) / (u @ u))
    return w


@st.composite
def reflections(draw, config):
    """An HRA of any even number of reflections that its targets allow."""
    names, most = draw(targets(config, least=2))
    assume(most > 1)
    return mp.HRA(2 * draw(st.integers(1, most // 2)), names)


SQUARE = mp.HRA(4, ("q_proj", "o_proj"))
BUGS = (
    Bug("HRA: the reflections in the other order in the merge",
        "w - w @ u @ s @ u.T", "w - w @ u @ s.T @ u.T", 5, SQUARE),
    Bug("HRA: vectors not of unit length", "self.hra_u / sqrt(square(self.hra_u).sum(axis=0))",
        "self.hra_u * 1.0", 13, SQUARE),
    Bug("HRA: the diagonal of S is 1, not 1 / 2", "0.5 * one", "one", 13, SQUARE),
    Bug("HRA: a gradient for what is below the diagonal", "lambda g: xp.triu(g, 1)",
        "lambda g: g", 4, SQUARE),
)  # fmt: skip

NAMES = ["q_proj", "v_proj", "down_proj"]
SPEC = Spec(
    mp.HRA,
    draw=reflections,
    small=mp.HRA(2),
    equation=OnMatrix(equation, rank=lambda method: method.r),
    bugs=BUGS,
    rows={
        "hra": Row(
            mp.HRA(4, tuple(NAMES)),
            with_peft("HRAConfig", r=4, target_modules=NAMES),
        ),
    },
    counts=(
        (mp.HRA(2), COUNTED, 2 * 2 * (2 * 8)),
        (mp.HRA(4, ("down_proj",)), COUNTED, 2 * (4 * 6)),
        (mp.HRA(32), LLAMA_7B, 32 * 2 * 32 * 4096),
    ),
    saved=((mp.HRA(2), {f"attn.{n}_proj.hra_u": (8, 2) for n in "qv"}),),
    wrong=(lambda: mp.HRA(0), lambda: mp.HRA(3), lambda: mp.HRA(target_modules=7)),
    exempt={1: ROUNDING},
    exchanged=True,
)
