"""P-tuning."""

from dataclasses import replace

from hypothesis import strategies as st

import minipeft as mp
from laws.equations import BeforeTokens
from methods.prefix import IN_FLOAT32, NO_NEUTRAL
from methods.prompt import left
from minipeft.engine.backend import np
from spec import COUNTED, Bug, Row, Spec
from strategies import FEW
from theirs import network, prompt_learning


def vectors(method, a):
    """P = W₃ relu(W₂ relu(W₁ E + b₁) + b₂) + b₃"""
    hidden = np.maximum(a.embedding @ a.w_1.T + a.b_1, 0)
    hidden = np.maximum(hidden @ a.w_2.T + a.b_2, 0)
    return hidden @ a.w_3.T + a.b_3


BUGS = (
    Bug("P-tuning: its network without its first nonlinearity",
        "hidden = relu(linear(self.embedding, self.w_1, self.b_1))",
        "hidden = linear(self.embedding, self.w_1, self.b_1)", 13, mp.PTuning(2)),
    Bug("P-tuning: half of what its network makes is saved",
        'return {"prompt_embeddings": self.prompt().data}',
        'return {"prompt_embeddings": self.prompt().data * 0.5}', 8, mp.PTuning(2)),
)  # fmt: skip

ROWS = {
    "p-tuning": Row(
        mp.PTuning(4, encoder_hidden_size=7),
        prompt_learning("PromptEncoderConfig", num_virtual_tokens=4, encoder_hidden_size=7),
        names=network("mlp_head", (0, 2, 4)),
        padding=("right",),
        files=replace(IN_FLOAT32, config=False),  # it goes as the prompt that its network makes
    ),
}

SPEC = Spec(
    mp.PTuning,
    draw=lambda config: st.builds(mp.PTuning, num_virtual_tokens=FEW),
    small=mp.PTuning(3),
    equation=BeforeTokens(vectors, "prompt", left),
    bugs=BUGS,
    rows=ROWS,
    counts=(
        (mp.PTuning(3), COUNTED, 3 * 8 + 3 * (8 * 8 + 8)),
        (mp.PTuning(3, 5), COUNTED, 3 * 8 + (8 * 5 + 5) + (5 * 5 + 5) + (5 * 8 + 8)),
    ),
    saved=((mp.PTuning(3), {"prompt_embeddings": (3, 8)}),),
    wrong=(lambda: mp.PTuning(0), lambda: mp.PTuning(2, encoder_hidden_size=0)),
    exempt={1: NO_NEUTRAL},
    exchanged=True,
)
