"""DoRA."""

import minipeft as mp
from laws.equations import OnMatrix
from methods.lora import FACTORS, FIVE, changed, low_rank
from minipeft.engine.backend import np
from spec import COUNTED, GPT2, LLAMA_7B, Bug, Row, Spec
from theirs import CONV1D, with_peft

DETACHED = "the norm of each row is held constant in the gradient, as the paper says"


def equation(method, a, w):
    """m / ‖V‖ · V, row by row, V = W + (α / r) B A"""
    v = changed(method.lora_alpha / method.r, a, w)
    return a.lora_magnitude_vector[:, None] * v / np.sqrt((v * v).sum(axis=1, keepdims=True))


SQUARE = mp.DoRA(r=2, lora_alpha=3.0, target_modules=("q_proj", "o_proj"))
BUGS = (
    Bug("DoRA: norms of columns, not of rows",
        "xp.linalg.norm(self.made_for[0].data + self.change(), axis=1)",
        "xp.linalg.norm(self.made_for[0].data + self.change(), axis=0)", 13, SQUARE),
    Bug("DoRA: norm of W alone, not of W + B A",
        "xp.linalg.norm(self.made_for[0].data + self.change(), axis=1)",
        "xp.linalg.norm(self.made_for[0].data, axis=1)", 13, SQUARE),
    Bug("DoRA: the bias stretched too", "y if bias is None else y - bias", "y",
        5, SQUARE, GPT2),
)  # fmt: skip

ROWS = {
    "dora": Row(
        mp.DoRA(r=3, target_modules="all-linear"),
        with_peft("LoraConfig", r=3, use_dora=True, target_modules="all-linear"),
    ),
    "dora, GPT-2": Row(
        mp.DoRA(r=3, target_modules=("o_proj", "up_proj", "down_proj")),
        with_peft(
            "LoraConfig", r=3, use_dora=True, target_modules=["c_proj", "c_fc"], **CONV1D
        ),
        "gpt2",
    ),
}

MAGNITUDES = {
    "attn.q_proj.lora_magnitude_vector": (8,),
    "attn.v_proj.lora_magnitude_vector": (4,),
}

SPEC = Spec(
    mp.DoRA,
    draw=lambda config: low_rank(config, mp.DoRA),
    small=mp.DoRA(2),
    equation=OnMatrix(equation),
    bugs=BUGS,
    rows=ROWS,
    counts=(
        (mp.DoRA(2), COUNTED, 2 * (2 * 16 + 8 + 2 * 12 + 4)),
        (mp.DoRA(16, target_modules=FIVE), LLAMA_7B, 28_925_952),  # Liu et al.: 0.43 %
    ),
    saved=((mp.DoRA(2), FACTORS | MAGNITUDES),),
    exempt={4: DETACHED},
    exchanged=True,
)
