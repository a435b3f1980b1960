"""Prompt tuning."""

from hypothesis import strategies as st

import minipeft as mp
from laws.equations import BeforeTokens
from methods.prefix import IN_FLOAT32, NO_NEUTRAL
from spec import COUNTED, Bug, Row, Spec
from strategies import FEW
from theirs import PROMPT, prompt_learning


def vectors(method, a):
    """P (n, width)"""
    return a.prompt_embeddings


def left(table, cache):
    """The embeddings of the tokens."""
    return table


TWO = mp.Prompt(num_virtual_tokens=2)
BUGS = (
    Bug("prompt: behind the tokens",
        "x = concat([broadcast(prompt, (len(x), n, width)), x], axis=1)",
        "x = concat([x, broadcast(prompt, (len(x), n, width))], axis=1)", 13, TWO),
    Bug("prompt: logits of the first tokens, the prompt's, returned",
        "x = x[:, T - tokens :]", "x = x[:, :tokens]", 13, TWO, module="model.transformer"),
    Bug("prompt: taken for padding", "virtual = np.ones((len(attention_mask), n), bool)",
        "virtual = np.zeros((len(attention_mask), n), bool)", 11, TWO),
)  # fmt: skip

ROWS = {
    "prompt": Row(
        mp.Prompt(4),
        prompt_learning("PromptTuningConfig", num_virtual_tokens=4),
        names=PROMPT,
        padding=("right",),
        files=IN_FLOAT32,
    ),
    "prompt, GPT-2": Row(
        mp.Prompt(4, init_ids=(3, 1, 2)),
        prompt_learning("PromptTuningConfig", num_virtual_tokens=4),
        "gpt2",
        tied=True,
        names=PROMPT,
        padding=("right",),
        files=IN_FLOAT32,
    ),
}

SPEC = Spec(
    mp.Prompt,
    draw=lambda config: st.builds(
        mp.Prompt, num_virtual_tokens=FEW, init_ids=st.sampled_from([None, (1, 4)])
    ),
    small=mp.Prompt(3),
    equation=BeforeTokens(vectors, "prompt", left),
    bugs=BUGS,
    rows=ROWS,
    counts=((mp.Prompt(3), COUNTED, 3 * 8),),
    saved=((mp.Prompt(3), {"prompt_embeddings": (3, 8)}),),
    wrong=(lambda: mp.Prompt(init_ids=5), lambda: mp.Prompt(init_ids=(1.5,))),
    exempt={1: NO_NEUTRAL},
    exchanged=True,
)
