"""LoRA-FA."""

import minipeft as mp
from laws.equations import OnMatrix
from methods.lora import FACTORS, equation, low_rank
from minipeft.engine.backend import np, to_numpy
from spec import COUNTED, GPT2_MEDIUM, Bug, Row, Spec
from theirs import QV, with_peft


def first_step(method, adapter, path, g):
    """AdamW's, of g (A Aᵀ)⁻¹ / s²"""
    if method.corrected:
        a = to_numpy(adapter.deltas[path.removesuffix(".lora_B")].lora_A)
        scale = method.lora_alpha / method.r
        g = g @ np.linalg.inv(a @ a.T + 1e-8 * np.eye(len(a))) / scale**2
    return g / (abs(g) + 1e-8)


FA = mp.LoRAFA(r=2, lora_alpha=3.0)
BUGS = (
    Bug("LoRA-FA: A trains too", "self.lora_A = self.lora_A.data", "pass", 3, FA),
    Bug("LoRA-FA: the gradient multiplied by A Aᵀ, not divided",
        "xp.linalg.solve(square, self.lora_B.grad.T)", "square @ self.lora_B.grad.T", 16, FA),
    Bug("LoRA-FA: A not in the file", "self.frozen() | super().saved()", "super().saved()",
        3, FA),
)  # fmt: skip


def theirs(**options):
    """HF's LoRA; that A does not train, its optimiser sees to only when it is made."""
    put = with_peft("LoraConfig", **options)

    def frozen(model):
        theirs = put(model)
        for name, p in theirs.named_parameters():
            if "lora_A" in name:
                p.requires_grad = False
        return theirs

    return frozen


def carry(pair):
    """A, which is frozen."""
    there = dict(pair.theirs.named_parameters())
    for path, delta in pair.adapter.deltas.items():
        name = f"base_model.model.{pair.name(path + '.lora_A')}.default.weight"
        delta.lora_A[...] = there[name].numpy()


def optimizer(pair, lr, weight_decay):
    """HF's, with ε and the decay where PyTorch's AdamW has them, and without bfloat16."""
    from peft.optimizers import create_lorafa_optimizer, lorafa

    lorafa.is_bf16_available = lambda: False
    ours = pair.row.ours
    theirs = create_lorafa_optimizer(pair.theirs, ours.r, ours.lora_alpha, lr)
    corrected, steps = theirs.step, iter(range(1, 99))

    def step():
        t = next(steps)
        for group in theirs.param_groups:
            group["eps"] = 1e-8 * (1 - group["betas"][1] ** t) ** 0.5
            for p in pair.hf.values():
                p.data *= 1 - group["lr"] * weight_decay
        corrected()

    theirs.step = step
    return theirs


SPEC = Spec(
    mp.LoRAFA,
    draw=lambda config: low_rank(config, mp.LoRAFA),
    small=mp.LoRAFA(2),
    equation=OnMatrix(equation, rank=lambda method: method.r),
    bugs=BUGS,
    rows={
        "lora-fa": Row(
            mp.LoRAFA(r=3),
            theirs(r=3, lora_alpha=8, target_modules=QV),
            carry=carry,
            optimizer=optimizer,
            clip=None,  # HF's gradient is clipped before it is corrected, ours after
            recorded=False,
        ),
    },
    counts=(
        (mp.LoRAFA(2), COUNTED, 2 * (2 * 8 + 2 * 4)),
        (mp.LoRAFA(8), GPT2_MEDIUM, 24 * 2 * 8 * 1024),
    ),
    saved=((mp.LoRAFA(2), FACTORS),),
    wrong=(lambda: mp.LoRAFA(lora_alpha=0.0).count(COUNTED), lambda: mp.LoRAFA(corrected=2)),
    exchanged=True,
    first_step=first_step,
)
