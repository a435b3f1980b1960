"""VB-LoRA."""

import math

from hypothesis import strategies as st

import minipeft as mp
from laws.equations import OnMatrix
from minipeft.engine.backend import np
from spec import COUNTED, GPT2_MEDIUM, Bug, Files, Row, Spec
from strategies import DROPOUTS, targets
from theirs import QV, with_peft

NOT_ZERO = "B and A are made of the same bank, and if that were zero, nothing would learn"


def piece(logits, bank, k):
    """One piece, of the k vectors with the largest logits."""
    best = np.argsort(logits)[-k:]
    weights = np.exp(logits[best])
    return (weights / weights.sum()) @ bank[best]


def equation(method, a, w):
    """W + Σ over ranks of a column of pieces times a row of pieces"""
    bank, change = a.vblora_vector_bank, np.zeros_like(w)
    for i in range(method.r):
        column = [piece(s, bank, method.topk) for s in a.vblora_logits_B[:, i]]
        row = [piece(s, bank, method.topk) for s in a.vblora_logits_A[i]]
        change += np.outer(np.concatenate(column), np.concatenate(row))
    return w + change


@st.composite
def drawn(draw, config):
    """A VB-LoRA whose pieces fit all its matrices."""
    names, most = draw(targets(config))
    shapes = mp.LoRA(1, target_modules=names).targets(config.target_shapes).values()
    whole = math.gcd(*(n for shape in shapes for n in shape))
    h = draw(st.integers(1, 7))
    return mp.VBLoRA(
        draw(st.integers(1, min(most, 4))),
        h,
        draw(st.sampled_from([n for n in range(1, whole + 1) if whole % n == 0])),
        draw(st.integers(1, h)),
        names,
        draw(DROPOUTS),
    )


SQUARE = mp.VBLoRA(2, 5, 4, 2, ("q_proj", "o_proj"))
BUGS = (
    Bug("VB-LoRA: one vector too many in a mixture", "xp.sort(a, axis=-1)[..., -self.topk]",
        "xp.sort(a, axis=-1)[..., -self.topk - 1]", 13, SQUARE),
    Bug("VB-LoRA: the pieces of B in the wrong order", "b.transpose(0, 2, 1).reshape(-1, r)",
        "b.reshape(-1, r)", 13, SQUARE),
    Bug("VB-LoRA: the count forgets the bank", "[*super().terms(config), bank]",
        "[*super().terms(config)]", 3, SQUARE),
)  # fmt: skip

SPEC = Spec(
    mp.VBLoRA,
    draw=drawn,
    small=mp.VBLoRA(2, 5, 2),
    equation=OnMatrix(equation, rank=lambda method: method.r),
    bugs=BUGS,
    rows={
        "vb-lora": Row(
            mp.VBLoRA(3, 7, 4, 3, ("q_proj", "v_proj")),
            with_peft(
                "VBLoRAConfig",
                r=3,
                num_vectors=7,
                vector_length=4,
                topk=3,
                target_modules=QV,
            ),
            recorded=False,
            files=Files(same=False),
        ),
    },
    counts=(
        (mp.VBLoRA(2, 5, 4), COUNTED, 5 * 4 + 2 * 5 * 2 * ((8 + 8) // 4 + (8 + 4) // 4)),
        (mp.VBLoRA(4, 256, 256), GPT2_MEDIUM, 256 * 256 + 24 * 2 * 256 * 4 * 8),
    ),
    saved=(
        (
            mp.VBLoRA(2, 5, 4),
            {
                "attn.q_proj.vblora_logits_A": (2, 2, 5),
                "attn.q_proj.vblora_logits_B": (2, 2, 5),
                "attn.q_proj.vblora_vector_bank": (5, 4),
                "attn.v_proj.vblora_logits_A": (2, 2, 5),
                "attn.v_proj.vblora_logits_B": (1, 2, 5),
            },
        ),
    ),
    wrong=(
        lambda: mp.VBLoRA(0),
        lambda: mp.VBLoRA(num_vectors=3, topk=4),
        lambda: mp.VBLoRA(vector_length=0),
    ),
    exempt={1: NOT_ZERO},
    exchanged=True,
)
