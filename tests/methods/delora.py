"""DeLoRA."""

from hypothesis import strategies as st

import minipeft as mp
from laws.equations import OnMatrix
from minipeft.engine.backend import np
from spec import COUNTED, LLAMA_7B, Bug, Files, Row, Spec
from strategies import ALPHAS, DROPOUTS, targets
from theirs import with_peft


def bounded(a, b, lam):
    """(λ / r) Σᵢ bᵢ aᵢᵀ / (‖bᵢ‖ ‖aᵢ‖)"""
    parts = [np.outer(b[:, i], a[i]) for i in range(len(a))]
    return lam / len(a) * sum(part / np.linalg.norm(part) for part in parts)


def equation(method, a, w):
    """W + (λ / r) B Ξ A diag(w) less that of the start"""
    change = bounded(a.delora_A, a.delora_B, a.delora_lambda)
    if method.start_seed is not None:
        change = change - bounded(a.start_A, a.start_B, a.start_lambda)
    return w + change @ np.diag(np.sqrt((w * w).sum(0)))


@st.composite
def drawn(draw, config):
    """A DeLoRA of any rank that its matrices can have, with either start."""
    names, most = draw(targets(config))
    seed = draw(st.sampled_from([None, 0, 5]))
    r = draw(st.integers(1, most))
    return mp.DeLoRA(r, draw(ALPHAS), draw(DROPOUTS), names, start_seed=seed)


SQUARE = mp.DeLoRA(r=2, delora_lambda=2.0, target_modules=("q_proj", "o_proj"))
BUGS = (
    Bug("DeLoRA: B keeps its lengths", "lengths(a, 1) * lengths(b, 0) * float(len(a))",
        "lengths(a, 1) * float(len(a))", 13, SQUARE),
    Bug("DeLoRA: norms of the rows of W, not of its columns",
        "self.w = xp.linalg.norm(weight(layer).data, axis=0)",
        "self.w = xp.linalg.norm(weight(layer).data, axis=1)", 13, SQUARE),
    Bug("DeLoRA: the start stays in the merge", "(now - before) * self.w",
        "now * self.w", 5, SQUARE),
    Bug("DeLoRA: lengths taken for constants", "xp.expand_dims(g * long / y, axis) * a",
        "xp.expand_dims(g * long / y, axis) * 0.0 * a", 4, SQUARE),
)  # fmt: skip

NAMES = ["q_proj", "v_proj", "down_proj"]
FACTORS = {
    "attn.q_proj.delora_A": (2, 8),
    "attn.q_proj.delora_B": (8, 2),
    "attn.q_proj.delora_lambda": (1,),
    "attn.v_proj.delora_A": (2, 8),
    "attn.v_proj.delora_B": (4, 2),
    "attn.v_proj.delora_lambda": (1,),
}
SPEC = Spec(
    mp.DeLoRA,
    draw=drawn,
    small=mp.DeLoRA(2, start_seed=None),
    equation=OnMatrix(equation, rank=lambda method: 2 * method.r),
    bugs=BUGS,
    rows={
        "delora": Row(
            mp.DeLoRA(3, 2.0, target_modules=tuple(NAMES), start_seed=None),
            with_peft("DeloraConfig", r=3, delora_lambda=2, target_modules=NAMES),
            files=Files(same=False),
        ),
        "delora, ranks": Row(
            mp.DeLoRA(3, 2.0, start_seed=None, rank_pattern={"v_proj": 2}),
            with_peft(
                "DeloraConfig",
                r=3,
                delora_lambda=2,
                target_modules=NAMES[:2],
                rank_pattern={"v_proj": 2},
            ),
            files=Files(same=False),
        ),
    },
    counts=(
        (mp.DeLoRA(2), COUNTED, 2 * (2 * 16 + 1 + 2 * 12 + 1)),
        (mp.DeLoRA(8), LLAMA_7B, 64 * (8 * 8192 + 1)),
    ),
    saved=((mp.DeLoRA(2), FACTORS),),
    wrong=(
        lambda: mp.DeLoRA(0),
        lambda: mp.DeLoRA(delora_lambda=0.0),
        lambda: mp.DeLoRA(start_seed=-1),
    ),
    exchanged=True,
)
