"""Full fine-tuning."""

from hypothesis import strategies as st

import minipeft as mp
from laws.equations import Copies
from spec import COUNTED, GPT2_MEDIUM, Bug, Row, Spec
from theirs import chosen

SHARED = "its weights replace the base's, which all rows of a batch share"


def everything(method, model):
    """W ← W + ΔW for all parameters."""
    return [path for path, _ in model.named_parameters()]


BUGS = (
    Bug("full fine-tuning: trains the base itself, not a copy",
        "copies = {path: Parameter(p.data) for path, p in originals.items()}",
        "copies = {path: p for path, p in originals.items()}", 2, mp.Full(),
        module="peft.attach"),
    Bug("disable: the copies of full fine-tuning stay",
        "swap(adapter.modules, adapter.originals)", "pass", 6, mp.Full(), module="peft.attach"),
)  # fmt: skip

ROWS = {
    "full": Row(mp.Full(), chosen(lambda name: True), recorded=False),
    "full, GPT-2": Row(mp.Full(), chosen(lambda name: True), "gpt2", tied=True),
}

LAYER = 16 + 72 + 36 + 36 + 72 + 16 + 54 + 56  # of COUNTED: norm, q, k, v, o, norm, up, down
BLOCK = {  # the names of a layer of FILED's Llama in a file
    "ln_1.weight": (8,),
    "attn.q_proj.weight": (8, 8),
    "attn.k_proj.weight": (4, 8),
    "attn.v_proj.weight": (4, 8),
    "attn.o_proj.weight": (8, 8),
    "ln_2.weight": (8,),
    "mlp.gate_proj.weight": (6, 8),
    "mlp.up_proj.weight": (6, 8),
    "mlp.down_proj.weight": (8, 6),
}
OUTSIDE = {"wte.weight": (11, 8), "ln_f.weight": (8,), "lm_head.weight": (11, 8)}

SPEC = Spec(
    mp.Full,
    draw=lambda config: st.just(mp.Full()),
    small=mp.Full(),
    equation=Copies(everything),
    bugs=BUGS,
    rows=ROWS,
    counts=(
        (mp.Full(), COUNTED, 11 * 8 + 16 * 8 + 2 * LAYER + 16),
        (mp.Full(), GPT2_MEDIUM, 354_823_168),  # as transformers counts gpt2-medium
    ),
    saved=((mp.Full(), BLOCK | OUTSIDE),),
    exempt={15: SHARED},
)
