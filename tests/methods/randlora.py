"""RandLoRA."""

from hypothesis import strategies as st

import minipeft as mp
from laws.equations import OnMatrix
from minipeft.engine.backend import np
from spec import COUNTED, LLAMA_7B, Bug, Files, Row, Spec
from strategies import ALPHAS, DROPOUTS, targets
from theirs import with_peft


def equation(method, a, w):
    """W + (α / r) Σⱼ Bⱼ Λⱼ A Γⱼ, transposed where out < in"""
    r, n = a.randlora_lambda.shape
    columns = a.b.reshape(len(a.b), r * n)
    change = sum(
        columns[:, j::n]
        @ np.diag(a.randlora_lambda[:, j])
        @ a.a[:, 0]
        @ np.diag(a.randlora_gamma[j])
        for j in range(n)
    )
    change = change.T if w.shape[0] < w.shape[1] else change
    return w + method.randlora_alpha / r * change


@st.composite
def drawn(draw, config):
    """A RandLoRA of any rank, also larger than its matrices."""
    names, _ = draw(targets(config))
    return mp.RandLoRA(draw(st.integers(1, 12)), draw(ALPHAS), names, draw(DROPOUTS))


SQUARE = mp.RandLoRA(3, 2.0, ("q_proj", "o_proj"))
BUGS = (
    Bug("RandLoRA: scale missing in the merge", "self.scaling * (b @ a.data)", "b @ a.data",
        5, SQUARE),
    Bug("RandLoRA: where out < in, not transposed in the merge",
        "change.T if self.narrow else change", "change", 5,
        mp.RandLoRA(3, 2.0, ("v_proj",))),
    Bug("RandLoRA: a term too few", "r, n = method.r, math.ceil(small / method.r)",
        "r, n = method.r, small // method.r", 3, SQUARE),
    Bug("RandLoRA: its matrices not those of its key",
        "TorchGenerator(self.projection_prng_key)",
        "TorchGenerator(int(np.random.default_rng().integers(2**31)))", 8, SQUARE),
)  # fmt: skip

NAMES = ["q_proj", "v_proj", "down_proj", "up_proj"]
SPEC = Spec(
    mp.RandLoRA,
    draw=drawn,
    small=mp.RandLoRA(2, 4.0),
    equation=OnMatrix(equation),
    bugs=BUGS,
    rows={
        "randlora": Row(
            mp.RandLoRA(5, 2.0, tuple(NAMES), projection_prng_key=3),
            with_peft(
                "RandLoraConfig",
                r=5,
                randlora_alpha=2,
                target_modules=NAMES,
                projection_prng_key=3,
            ),
            # HF's file has A and B once more for every target
            files=Files(same=False, beside=("proj.randlora_A", "proj.randlora_B")),
        ),
    },
    counts=(
        (mp.RandLoRA(3), COUNTED, 2 * (3 * (3 + 8) + 2 * (3 + 4))),
        (mp.RandLoRA(32), LLAMA_7B, 64 * (4096 * 4096 // 32 + 4096)),  # d² / r + d, section 4.2
    ),
    saved=(
        (
            mp.RandLoRA(3),
            {
                "attn.q_proj.randlora_gamma": (3, 8),
                "attn.q_proj.randlora_lambda": (3, 3),
                "attn.v_proj.randlora_gamma": (2, 4),
                "attn.v_proj.randlora_lambda": (3, 2),
            },
        ),
    ),
    wrong=(lambda: mp.RandLoRA(0), lambda: mp.RandLoRA(projection_prng_key=-1)),
    exchanged=True,
)
