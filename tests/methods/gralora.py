"""GraLoRA."""

from hypothesis import assume
from hypothesis import strategies as st

import minipeft as mp
from laws.equations import OnMatrix
from minipeft.engine.backend import np
from spec import COUNTED, GPT3, Bug, Row, Spec
from strategies import ALPHAS, DROPOUTS, targets
from theirs import CONV1D, with_peft


def equation(method, a, w):
    """W + (α / (r + h)) (the blocks B_ij A_ij, and B A of rank h)"""
    k, s = method.gralora_k, method.r // method.gralora_k
    rows = []
    for i in range(k):
        low = [slice(j * s, (j + 1) * s) for j in range(k)]
        rows.append([(a.gralora_A[j][:, low[i]] @ a.gralora_B[i][low[j]]).T for j in range(k)])
    change = np.block(rows)
    if method.hybrid_r:
        change = change + a.gralora_B_general @ a.gralora_A_general
    return w + method.alpha / (method.r + method.hybrid_r) * change


@st.composite
def blocks(draw, config):
    """A GraLoRA whose targets divide into its blocks, with or without a LoRA beside it."""
    names, most = draw(targets(config))
    k = draw(st.integers(1, min(3, most)))
    sizes = mp.LoRA(1, target_modules=names).targets(config.target_shapes).values()
    assume(not any(side % k for size in sizes for side in size))
    r, h = k * draw(st.integers(1, most // k)), draw(st.integers(0, most))
    return mp.GraLoRA(r, draw(ALPHAS), draw(DROPOUTS), k, h, names)


SQUARE = mp.GraLoRA(4, 3.0, target_modules=("q_proj", "o_proj"))
BESIDE = mp.GraLoRA(2, 3.0, hybrid_r=3, target_modules=("q_proj", "o_proj"))
BUGS = (
    Bug("GraLoRA: blocks transposed in the merge",
        'xp.einsum("jnis,ijsm->imjn", a, b)', 'xp.einsum("jnis,ijsm->jmin", a, b)',
        5, SQUARE),
    Bug("GraLoRA: no exchange between blocks",
        "thin.transpose(2, 1, 0, 3).reshape(k, n, -1)",
        "thin.reshape(k, n, -1)", 13, SQUARE),
    Bug("GraLoRA: scaled by α / r beside a LoRA", "method.alpha / (r + h)", "method.alpha / r",
        13, BESIDE),
)  # fmt: skip
SPEC = Spec(
    mp.GraLoRA,
    draw=blocks,
    small=mp.GraLoRA(2),
    equation=OnMatrix(
        equation, rank=lambda method: method.gralora_k * method.r + method.hybrid_r
    ),
    bugs=BUGS,
    rows={
        "gralora": Row(
            mp.GraLoRA(4, 6.0),
            with_peft("GraloraConfig", r=4, alpha=6, target_modules=["q_proj", "v_proj"]),
        ),
        "gralora, hybrid": Row(
            mp.GraLoRA(3, 6.0, 0.0, 3, 1, ("q_proj", "o_proj")),
            with_peft(
                "GraloraConfig",
                r=3,
                alpha=6,
                gralora_k=3,
                hybrid_r=1,
                target_modules=["q_proj", "o_proj"],
            ),
            recorded=False,
        ),
        "gralora, GPT-2": Row(
            mp.GraLoRA(4, 6.0, target_modules=("o_proj",)),
            with_peft("GraloraConfig", r=4, alpha=6, target_modules=["attn.c_proj"], **CONV1D),
            "gpt2",
            recorded=False,
        ),
    },
    counts=(
        (mp.GraLoRA(2), COUNTED, 2 * (2 * 16 + 2 * 12)),
        (mp.GraLoRA(2, hybrid_r=1), COUNTED, 2 * (3 * 16 + 3 * 12)),
        (mp.GraLoRA(2), GPT3, mp.LoRA(2).count(GPT3)),
    ),
    saved=(
        (
            mp.GraLoRA(4, hybrid_r=1),
            {
                f"attn.{name}_proj.gralora_{part}": shape
                for name, n in {"q": 8, "v": 4}.items()
                for part, shape in {
                    "A": (2, 4, 4),
                    "B": (2, 4, n // 2),
                    "A_general.weight": (1, 8),
                    "B_general.weight": (n, 1),
                }.items()
            },
        ),
    ),
    wrong=(
        lambda: mp.GraLoRA(0),
        lambda: mp.GraLoRA(3),
        lambda: mp.GraLoRA(gralora_k=0),
        lambda: mp.GraLoRA(hybrid_r=-1),
    ),
    exchanged=True,
)
