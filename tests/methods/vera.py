"""VeRA."""

from hypothesis import strategies as st

import minipeft as mp
from laws.equations import OnMatrix
from minipeft.engine.backend import np
from spec import COUNTED, GPT2_MEDIUM, Bug, Files, Row, Spec
from strategies import DROPOUTS, targets
from theirs import with_peft


def equation(method, a, w):
    """W + diag(b) B diag(d) A"""
    return w + np.diag(a.vera_lambda_b) @ a.b @ np.diag(a.vera_lambda_d) @ a.a


@st.composite
def drawn(draw, config):
    """A VeRA of any rank, also larger than its matrices."""
    names, _ = draw(targets(config))
    return mp.VeRA(draw(st.integers(1, 20)), names, draw(DROPOUTS))


SQUARE = mp.VeRA(r=5, target_modules=("q_proj", "o_proj"))
BUGS = (
    Bug("VeRA: λ_d missing in the merge",
        "self.vera_lambda_b.data[:, None] * self.b * self.vera_lambda_d.data",
        "self.vera_lambda_b.data[:, None] * self.b", 5, SQUARE),
    Bug("VeRA: its matrices not those of its key",
        "TorchGenerator(seed)",
        "TorchGenerator(int(np.random.default_rng().integers(2**31)))", 8, SQUARE),
)  # fmt: skip


NAMES = ["q_proj", "v_proj", "down_proj"]
ROWS = {
    "vera": Row(
        mp.VeRA(r=9, target_modules=tuple(NAMES)),
        with_peft("VeraConfig", r=9, target_modules=NAMES),
        files=Files(same=False),
    ),
}


def layout(r):
    """The names and shapes in a file."""
    rows = {"q": 8, "v": 4}
    b = {f"attn.{name}_proj.vera_lambda_b": (n,) for name, n in rows.items()}
    return b | {f"attn.{name}_proj.vera_lambda_d": (r,) for name in rows}


SPEC = Spec(
    mp.VeRA,
    draw=drawn,
    small=mp.VeRA(2),
    equation=OnMatrix(equation, rank=lambda method: method.r),
    bugs=BUGS,
    rows=ROWS,
    counts=(
        (mp.VeRA(256), COUNTED, 2 * (2 * 256 + 8 + 4)),
        (mp.VeRA(1024), GPT2_MEDIUM, 98_304),  # Kopiczko et al., table 3: 0.098 M
    ),
    saved=((mp.VeRA(2), layout(2)), (mp.VeRA(9), layout(9))),
    wrong=(
        lambda: mp.VeRA(0),
        lambda: mp.VeRA(projection_prng_key=-1),
        lambda: mp.VeRA(d_initial=None),
    ),
    exchanged=True,
)
