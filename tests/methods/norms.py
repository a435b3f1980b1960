"""Fine-tuning of the gains and biases of all norms."""

from hypothesis import strategies as st

import minipeft as mp
from laws.equations import Copies
from methods.full import SHARED
from minipeft.model.layers import LayerNorm, RMSNorm
from spec import COUNTED, GPT2_MEDIUM, LLAMA_7B, Bug, Files, Row, Spec
from theirs import with_peft


def gains_and_biases(method, model):
    """γ ← γ + Δγ, β ← β + Δβ, every norm."""
    norms = {p for p, m in model.named_modules() if isinstance(m, (LayerNorm, RMSNorm))}
    return [p for p, _ in model.named_parameters() if p.rpartition(".")[0] in norms]


BUGS = (
    Bug("norms: the norm before the MLP left out",
        'owner.startswith("ln_")', 'owner.startswith("ln_1")',
        13, mp.NormTuning()),
)  # fmt: skip

IN_PLACE = Files(same=False)  # whose file has the norms' own names here
ROWS = {
    "norms": Row(
        mp.NormTuning(),
        with_peft(
            "LNTuningConfig",
            target_modules=["input_layernorm", "post_attention_layernorm", "norm"],
        ),
        files=IN_PLACE,
    ),
    "norms, GPT-2": Row(
        mp.NormTuning(),
        with_peft("LNTuningConfig", target_modules=["ln_1", "ln_2", "ln_f"]),
        "gpt2",
        tied=True,
        files=IN_PLACE,
        recorded=False,
    ),
}

SPEC = Spec(
    mp.NormTuning,
    draw=lambda config: st.just(mp.NormTuning()),
    small=mp.NormTuning(),
    equation=Copies(gains_and_biases),
    bugs=BUGS,
    rows=ROWS,
    counts=(
        (mp.NormTuning(), COUNTED, 2 * 4 * 8 + 2 * 8),
        (mp.NormTuning(), GPT2_MEDIUM, 100_352),  # as HF PEFT prints for bloomz-560m
        (mp.NormTuning(), LLAMA_7B, (2 * 32 + 1) * 4096),
    ),
    saved=((mp.NormTuning(), {"ln_1.weight": (8,), "ln_2.weight": (8,), "ln_f.weight": (8,)}),),
    exempt={15: SHARED},
    exchanged=True,
)
