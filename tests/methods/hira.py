"""HiRA."""

from hypothesis import strategies as st

import minipeft as mp
from laws.equations import OnMatrix
from spec import COUNTED, LLAMA_7B, Bug, Row, Spec
from strategies import DROPOUTS, targets
from theirs import CONV1D, with_peft


def equation(method, a, w):
    """W ∘ (1 + B A)"""
    return w * (1 + a.hira_B @ a.hira_A)


@st.composite
def drawn(draw, config):
    """A HiRA of any rank that its matrices can have, with dropout."""
    names, most = draw(targets(config))
    return mp.HiRA(draw(st.integers(1, most)), names, draw(DROPOUTS))


SQUARE = mp.HiRA(r=2, target_modules=("q_proj", "o_proj"))
CHANGE = "self.hira_B @ self.hira_A * self.made_for[0].data"
BUGS = (
    Bug("HiRA: LoRA, not times W", CHANGE, "self.hira_B @ self.hira_A", 13, SQUARE),
    Bug("HiRA: times W transposed", CHANGE,
        "self.hira_B @ self.hira_A * self.made_for[0].data.T", 13, SQUARE),
    Bug("HiRA: merged into W ∘ B A, W lost",
        "weight(layer).data + self.change().data", "self.change().data", 5, SQUARE),
)  # fmt: skip

NAMES = ["k_proj", "o_proj", "gate_proj"]
FACTORS = {
    "attn.q_proj.hira_A": (2, 8),
    "attn.q_proj.hira_B": (8, 2),
    "attn.v_proj.hira_A": (2, 8),
    "attn.v_proj.hira_B": (4, 2),
}
SPEC = Spec(
    mp.HiRA,
    draw=drawn,
    small=mp.HiRA(2),
    equation=OnMatrix(equation),
    bugs=BUGS,
    rows={
        "hira": Row(
            mp.HiRA(3, tuple(NAMES)), with_peft("HiraConfig", r=3, target_modules=NAMES)
        ),
        "hira on gpt2": Row(
            mp.HiRA(3, ("mlp.up_proj",)),
            with_peft("HiraConfig", r=3, target_modules=["c_fc"], **CONV1D),
            shape="gpt2",
        ),
    },
    counts=(
        (mp.HiRA(2), COUNTED, 2 * (2 * 16 + 2 * 12)),
        (mp.HiRA(32), LLAMA_7B, 32 * 2 * 32 * 8192),
    ),
    saved=((mp.HiRA(2), FACTORS),),
    wrong=(lambda: mp.HiRA(0), lambda: mp.HiRA(hira_dropout=1.0)),
    exchanged=True,
)
