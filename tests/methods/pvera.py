"""PVeRA."""

from hypothesis import strategies as st

import minipeft as mp
from laws.equations import OnMatrix
from minipeft.engine.backend import np
from spec import COUNTED, GPT2_MEDIUM, Bug, Files, Row, Spec
from strategies import DROPOUTS, targets
from theirs import with_peft


def equation(method, a, w):
    """W + diag(b) B diag(d₁) A₁, of the rows of A and the numbers of d that make the mean"""
    d, rows = a.pvera_lambda_d[: method.r], a.a[: method.r]
    return w + np.diag(a.pvera_lambda_b) @ a.b @ np.diag(d) @ rows


@st.composite
def drawn(draw, config):
    """A PVeRA of any rank, also larger than its matrices."""
    names, _ = draw(targets(config))
    return mp.PVeRA(draw(st.integers(1, 20)), names, draw(DROPOUTS))


SQUARE = mp.PVeRA(r=5, target_modules=("q_proj", "o_proj"))
BUGS = (
    Bug("PVeRA: the same noise for any rows", "normal(x, rng)",
        "normal(x, np.random.default_rng(0))", 14, SQUARE, module="model.layers"),
    Bug("PVeRA: noise at evaluation too", "self.noise(both[..., :r])",
        "both[..., :r].data * 0.0 + 1.0", 5, SQUARE),
    Bug("PVeRA: the variance's half of d in the merge", "self.pvera_lambda_d.data[:r]",
        "self.pvera_lambda_d.data[r:]", 5, SQUARE),
)  # fmt: skip


def mean(**options):
    """HF's, in evaluation, so that it takes the mean; what wraps a model begins in training."""
    return lambda model: with_peft("PveraConfig", **options)(model).eval()


def carry(pair):
    """Ours takes the mean in training too."""
    for delta in pair.adapter.deltas.values():
        delta.noise = lambda x: None


NAMES = ["q_proj", "v_proj", "down_proj"]
SPEC = Spec(
    mp.PVeRA,
    draw=drawn,
    small=mp.PVeRA(2),
    equation=OnMatrix(equation, rank=lambda method: method.r),
    bugs=BUGS,
    rows={
        "pvera": Row(
            mp.PVeRA(r=9, target_modules=tuple(NAMES), projection_prng_key=4),
            mean(r=9, target_modules=NAMES, projection_prng_key=4),
            carry=carry,
            recorded=False,  # without its noise
            files=Files(same=False),
        ),
    },
    counts=(
        (mp.PVeRA(256), COUNTED, 2 * (2 * 2 * 256 + 8 + 4)),
        (mp.PVeRA(1024), GPT2_MEDIUM, 48 * (2048 + 1024)),
    ),
    saved=(
        (
            mp.PVeRA(2),
            {
                "attn.q_proj.pvera_lambda_b": (8,),
                "attn.q_proj.pvera_lambda_d": (4,),
                "attn.v_proj.pvera_lambda_b": (4,),
                "attn.v_proj.pvera_lambda_d": (4,),
            },
        ),
    ),
    wrong=(lambda: mp.PVeRA(0), lambda: mp.PVeRA(projection_prng_key=-1)),
    exchanged=True,
)
