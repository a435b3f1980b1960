"""BitFit: fine-tuning of all biases."""

from hypothesis import strategies as st

import minipeft as mp
from laws.equations import Copies
from methods.full import SHARED
from spec import COUNTED, GPT2, GPT2_MEDIUM, Bug, Row, Spec
from theirs import chosen


def biases(method, model):
    """b ← b + Δb, every bias."""
    return [path for path, _ in model.named_parameters() if path.split(".")[-1] == "bias"]


BUGS = (
    Bug("BitFit: trains the weights, not the biases",
        'path.endswith(".bias")', 'path.endswith(".weight")', 13, mp.BitFit(), GPT2),
)  # fmt: skip

SPEC = Spec(
    mp.BitFit,
    draw=lambda config: st.builds(mp.BitFit).filter(
        lambda _: config.bias or config.norm == "layer"
    ),
    small=mp.BitFit(),
    equation=Copies(biases),
    bugs=BUGS,
    rows={"bitfit": Row(mp.BitFit(), chosen(lambda name: name.endswith("bias")), "gpt2")},
    counts=(
        (mp.BitFit(), COUNTED, 2 * (8 + 8 + 4 + 4 + 8 + 8 + 6 + 8) + 8),
        (mp.BitFit(), COUNTED.with_(norm="rms"), 2 * (8 + 4 + 4 + 8 + 6 + 8)),
        (mp.BitFit(), COUNTED.with_(bias=False), 5 * 8),  # those of the norms
        (mp.BitFit(), GPT2_MEDIUM, 24 * 11 * 1024 + 1024),
    ),
    saved=(
        (
            mp.BitFit(),
            {
                "ln_1.bias": (8,),
                "attn.q_proj.bias": (8,),
                "attn.k_proj.bias": (4,),
                "attn.v_proj.bias": (4,),
                "attn.o_proj.bias": (8,),
                "ln_2.bias": (8,),
                "mlp.up_proj.bias": (6,),
                "mlp.down_proj.bias": (8,),
                "ln_f.bias": (8,),
            },
        ),
    ),
    exempt={15: SHARED},
    shapes=("gpt2",),  # a Llama has no biases unless asked
)
