"""(IA)³."""

from hypothesis import strategies as st

import minipeft as mp
from laws.equations import OnMatrix
from minipeft.engine.backend import np
from spec import COUNTED, GPT2, Bug, Row, Spec
from strategies import targets
from theirs import CONV1D, with_peft


def inside(method, a):
    """Whether l stretches the input of a matrix, given by its path."""
    return a.path.split(".")[-1] in method.feedforward_modules


def weight(method, a, w):
    """diag(l) W, or W diag(l) in a feed-forward module."""
    return w @ np.diag(a.ia3_l) if inside(method, a) else np.diag(a.ia3_l) @ w


def bias(method, a, b):
    """l ∘ b, or b in a feed-forward module."""
    return b if inside(method, a) else a.ia3_l * b


@st.composite
def drawn(draw, config):
    """An (IA)³ on any matrices, inside some of them."""
    names, _ = draw(targets(config))
    within = () if names == "all-linear" else draw(st.sets(st.sampled_from(names)).map(tuple))
    return mp.IA3(names, within)


INSIDE = mp.IA3(("q_proj",), ("q_proj",))
BUGS = (
    Bug("(IA)³: on the wrong side of the weight",
        "return f(x * self.ia3_l)", "return f(x) * self.ia3_l", 5, INSIDE),
    Bug("(IA)³: bias not stretched in the merge",
        '{"bias": l * bias.data}', '{"bias": bias.data}', 5, mp.IA3(), GPT2),
)  # fmt: skip

ROWS = {
    "ia3": Row(
        mp.IA3(),
        with_peft(
            "IA3Config",
            target_modules=["k_proj", "v_proj", "down_proj"],
            feedforward_modules=["down_proj"],
        ),
    ),
    "ia3, GPT-2": Row(
        mp.IA3(("up_proj", "down_proj"), ("down_proj",)),
        with_peft(
            "IA3Config",
            target_modules=["c_fc", "mlp.c_proj"],
            feedforward_modules=["mlp.c_proj"],
            **CONV1D,
        ),
        "gpt2",
    ),
}
DEFAULT = {
    "attn.k_proj.ia3_l": (4, 1),
    "attn.v_proj.ia3_l": (4, 1),
    "mlp.down_proj.ia3_l": (1, 6),
}

SPEC = Spec(
    mp.IA3,
    draw=drawn,
    small=mp.IA3(),
    equation=OnMatrix(weight, bias),
    bugs=BUGS,
    rows=ROWS,
    counts=((mp.IA3(), COUNTED, 2 * (4 + 4 + 6)),),
    saved=(
        (mp.IA3(), DEFAULT),
        (mp.IA3(("q_proj",), ()), {"attn.q_proj.ia3_l": (8, 1)}),
        (INSIDE, {"attn.q_proj.ia3_l": (1, 8)}),
    ),
    wrong=(lambda: mp.IA3(feedforward_modules=7),),
    exchanged=True,
)
