"""Uni-LoRA."""

from hypothesis import strategies as st

import minipeft as mp
from laws.equations import OnMatrix
from minipeft.engine.backend import np
from spec import COUNTED, LLAMA_7B, Bug, Files, Row, Spec
from strategies import DROPOUTS, targets
from theirs import with_peft

NOT_ZERO = "B and A are made of the same vector, and if that were zero, nothing would learn"


def equation(method, a, w):
    """W + B A, A and B of entries of θ by their scales"""
    factors = {
        side: np.vectorize(lambda i, s: a.unilora_theta_d[i] * s)(
            getattr(a, f"taken_{side}"), getattr(a, f"scale_{side}")
        )
        for side in "ab"
    }
    return w + factors["b"] @ factors["a"]


@st.composite
def drawn(draw, config):
    """A Uni-LoRA of fewer entries than places, or more."""
    names, most = draw(targets(config))
    seed = draw(st.integers(0, 9))
    r, d = draw(st.integers(1, most)), draw(st.integers(1, 99))
    return mp.UniLoRA(r, d, names, draw(DROPOUTS), seed)


SQUARE = mp.UniLoRA(2, 9, ("q_proj", "o_proj"))
BUGS = (
    Bug("Uni-LoRA: scale missing",
        "theta[self.taken_a] * self.scale_a, theta[self.taken_b] * self.scale_b",
        "theta[self.taken_a] * self.scale_a, theta[self.taken_b]", 13, SQUARE),
    Bug("Uni-LoRA: a vector for each target", "UniLoRADelta(self, theta, *part)",
        "UniLoRADelta(self, Parameter(theta.data.copy()), *part)", 3, SQUARE),
    Bug("Uni-LoRA: its places not those of its seed", "np.random.default_rng(seed)",
        "np.random.default_rng()", 8, SQUARE),
)  # fmt: skip

NAMES = ["q_proj", "v_proj", "down_proj", "gate_proj"]
SPEC = Spec(
    mp.UniLoRA,
    draw=drawn,
    small=mp.UniLoRA(2, 9),
    equation=OnMatrix(equation, rank=lambda method: method.r),
    bugs=BUGS,
    rows={
        "unilora": Row(
            mp.UniLoRA(3, 50, tuple(NAMES), proj_seed=7),
            with_peft(
                "UniLoraConfig", r=3, theta_d_length=50, target_modules=NAMES, proj_seed=7
            ),
            files=Files(same=False),
        ),
    },
    counts=((mp.UniLoRA(2, 9), COUNTED, 9), (mp.UniLoRA(4, 23_040), LLAMA_7B, 23_040)),
    saved=((mp.UniLoRA(2, 9), {"attn.q_proj.unilora_theta_d": (9,)}),),
    wrong=(
        lambda: mp.UniLoRA(0),
        lambda: mp.UniLoRA(theta_d_length=0),
        lambda: mp.UniLoRA(init_theta_d_bound=0.0),
    ),
    exempt={1: NOT_ZERO},
    exchanged=True,
)
