"""SHiRA."""

from hypothesis import assume
from hypothesis import strategies as st

import minipeft as mp
from laws.equations import OnMatrix
from spec import COUNTED, LLAMA_7B, Bug, Files, Row, Spec
from strategies import targets
from theirs import QV, with_peft


def equation(method, a, w):
    """W + S"""
    w = w.copy()
    for row, column, element in zip(*a.places, a.shira_weight, strict=True):
        w[row, column] += element
    return w


@st.composite
def drawn(draw, config):
    """A SHiRA that its matrices have places for."""
    names, _ = draw(targets(config))
    shapes = mp.SHiRA(1, names).targets(config.target_shapes).values()
    most = min(m * n // (m + n) for m, n in shapes)
    assume(most)
    return mp.SHiRA(draw(st.integers(1, most)), names, draw(st.integers(0, 9)))


SQUARE = mp.SHiRA(r=2, target_modules=("q_proj", "o_proj"))
BUGS = (
    Bug("SHiRA: merged in place of W, not added", "weight(layer).data + self.change().data",
        "self.change().data", 5, SQUARE),
    Bug("SHiRA: gradient of other places", "g[rows, columns]", "g[columns, rows]", 4, SQUARE),
    Bug("SHiRA: its places not those of its seed",
        "places(method.random_seed, method.r, *self.size)",
        "places(int(np.random.default_rng().integers(2**31)), method.r, *self.size)",
        8, SQUARE),
)  # fmt: skip

SPEC = Spec(
    mp.SHiRA,
    draw=drawn,
    small=mp.SHiRA(2),
    equation=OnMatrix(equation),
    bugs=BUGS,
    rows={
        "shira": Row(
            mp.SHiRA(3, random_seed=5),
            with_peft("ShiraConfig", r=3, random_seed=5, target_modules=QV),
            files=Files(same=False),
        ),
    },
    counts=(
        (mp.SHiRA(2), COUNTED, 2 * (2 * 16 + 2 * 12)),
        (mp.SHiRA(32), LLAMA_7B, 32 * 2 * 32 * 8192),
    ),
    saved=(
        (mp.SHiRA(2), {"attn.q_proj.shira_weight": (32,), "attn.v_proj.shira_weight": (24,)}),
    ),
    wrong=(lambda: mp.SHiRA(0), lambda: mp.SHiRA(random_seed=-1)),
    exchanged=True,
)
