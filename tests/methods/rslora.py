"""Rank-stabilised LoRA."""

import math

import minipeft as mp
from laws.equations import OnMatrix
from methods.lora import FACTORS, changed, low_rank
from spec import COUNTED, Bug, Row, Spec
from theirs import with_peft


def equation(method, a, w):
    """W + (α / √r) B A"""
    return changed(method.lora_alpha / math.sqrt(method.r), a, w)


SQUARE = mp.RSLoRA(r=2, lora_alpha=3.0, target_modules=("q_proj", "o_proj"))
NAMES = ["k_proj", "gate_proj"]

SPEC = Spec(
    mp.RSLoRA,
    draw=lambda config: low_rank(config, mp.RSLoRA, tables=("lm_head", "wte")),
    small=mp.RSLoRA(2),
    equation=OnMatrix(equation, rank=lambda method: method.r),
    bugs=(Bug("rsLoRA: scaled by α / r", "math.sqrt(self.r)", "self.r", 13, SQUARE),),
    rows={
        "rslora": Row(
            mp.RSLoRA(r=4, lora_alpha=6.0, target_modules=tuple(NAMES)),
            with_peft("LoraConfig", r=4, lora_alpha=6, use_rslora=True, target_modules=NAMES),
        ),
    },
    counts=((mp.RSLoRA(3, target_modules=("down_proj",)), COUNTED, 2 * 3 * 14),),
    saved=((mp.RSLoRA(2), FACTORS),),
    exchanged=True,
)
