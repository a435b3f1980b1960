"""LoRA+."""

import minipeft as mp
from laws.equations import OnMatrix
from methods.lora import FACTORS, equation, low_rank
from spec import COUNTED, Bug, Row, Spec
from theirs import QV, with_peft


def rate(method, path):
    """B learns at λ times the learning rate."""
    return method.loraplus_lr_ratio if path.endswith("lora_B") else 1.0


def optimizer(pair, lr, weight_decay):
    """HF PEFT's optimiser for LoRA+."""
    import torch
    from peft.optimizers import create_loraplus_optimizer

    return create_loraplus_optimizer(
        pair.theirs,
        torch.optim.AdamW,
        lr=lr,
        loraplus_lr_ratio=pair.row.ours.loraplus_lr_ratio,
        loraplus_weight_decay=weight_decay,
    )


BUGS = (
    Bug("LoRA+: A learns faster, not B", "delta.lora_B.rate = self.loraplus_lr_ratio",
        "delta.lora_A.rate = self.loraplus_lr_ratio", 16, mp.LoRAPlus(r=2)),
    Bug("AdamW: decay not at the parameter's own rate",
        "1.0 - lr * p.rate * self.weight_decay", "1.0 - lr * self.weight_decay",
        16, mp.LoRAPlus(r=2), module="engine.optimizer"),
)  # fmt: skip

SPEC = Spec(
    mp.LoRAPlus,
    draw=lambda config: low_rank(config, mp.LoRAPlus),
    small=mp.LoRAPlus(2),
    equation=OnMatrix(equation, rank=lambda method: method.r),
    bugs=BUGS,
    rows={
        "lora+": Row(
            mp.LoRAPlus(r=3, loraplus_lr_ratio=4.0),
            with_peft("LoraConfig", r=3, lora_alpha=8, target_modules=QV),
            optimizer=optimizer,
        ),
    },
    counts=((mp.LoRAPlus(2), COUNTED, 2 * (2 * 16 + 2 * 12)),),
    saved=((mp.LoRAPlus(2), FACTORS),),
    wrong=(lambda: mp.LoRAPlus(loraplus_lr_ratio=0.0),),
    exchanged=True,
    rate=rate,
)
