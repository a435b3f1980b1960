"""OLoRA."""

import minipeft as mp
from laws.equations import OnMatrix
from methods.lora import changed, low_rank
from methods.pissa import ROUNDING, TWICE, TWO, carry, theirs
from minipeft.engine.backend import np
from spec import COUNTED, Bug, Row, Spec


def equation(method, a, w):
    """W − s Q Qᵀ W + s B A, the r columns of Q an orthonormal basis of W's first r"""
    q, scale = gram_schmidt(w[:, : method.r]), method.lora_alpha / method.r
    return changed(scale, a, w - scale * q @ (q.T @ w))


def gram_schmidt(columns):
    """An orthonormal basis of what some columns span, one after the other."""
    basis = np.zeros((len(columns), 0))
    for column in columns.T:
        for _ in range(2):  # twice is enough for rounding
            column = column - basis @ (basis.T @ column)
        basis = np.column_stack([basis, column / np.linalg.norm(column)])
    return basis


def same_start(pair):
    """HF's start, in float32, is ours but for its rounding; then take it over."""
    for path, wanted in pair.as_ours(pair.hf).items():
        off = np.abs(pair.fresh[path] - wanted).max()
        assert off <= 1e-4 * np.abs(wanted).max(), f"{path} starts elsewhere, by {off:.1e}"
    carry(pair)


SQUARE = mp.OLoRA(r=2, lora_alpha=3.0, target_modules=("q_proj", "o_proj"))
BUGS = (
    Bug("OLoRA: the last columns of Q, not the first",
        "return q[:, : self.r], upper[: self.r]", "return q[:, -self.r :], upper[-self.r :]",
        13, SQUARE),
    Bug("OLoRA: α / r forgotten where Q R is taken off W",
        "self.a0[...], self.minus_b0[...] = a, -b",
        "self.a0[...], self.minus_b0[...] = a / self.scaling, -b",
        13, SQUARE, module="peft.methods.pissa"),
)  # fmt: skip

NAMES = ["q_proj", "down_proj"]
ROWS = {
    "olora": Row(
        mp.OLoRA(r=3, lora_alpha=6.0, target_modules=tuple(NAMES)),
        theirs("olora", r=3, lora_alpha=6, target_modules=NAMES),
        carry=same_start,
        files=TWO,
        recorded=False,
    ),
}

SPEC = Spec(
    mp.OLoRA,
    draw=lambda config: low_rank(config, mp.OLoRA, share=2),
    small=mp.OLoRA(2),
    equation=OnMatrix(equation, rank=lambda method: 2 * method.r),
    bugs=BUGS,
    rows=ROWS,
    counts=((mp.OLoRA(2), COUNTED, 2 * (2 * 16 + 2 * 12)),),
    saved=((mp.OLoRA(2), TWICE),),
    wrong=(lambda: mp.OLoRA(lora_alpha=0.0),),
    exempt={1: ROUNDING},
    exchanged=True,
)
