"""Fine-tuning of the head's weight only."""

from hypothesis import strategies as st

import minipeft as mp
from laws.equations import Copies
from methods.full import SHARED
from spec import COUNTED, GPT2, GPT2_MEDIUM, Bug, Row, Spec
from theirs import chosen


def head(method, model):
    """W ← W + ΔW, head; one that is tied to the table gets a weight of its own."""
    return ["lm_head.weight"]


BUGS = (
    Bug("head: trains the table that it is tied to",
        '{"lm_head.weight": weight(model.lm_head)}', '{"wte.weight": weight(model.lm_head)}',
        13, mp.Head(), GPT2),
)  # fmt: skip

SPEC = Spec(
    mp.Head,
    draw=lambda config: st.just(mp.Head()),
    small=mp.Head(),
    equation=Copies(head),
    bugs=BUGS,
    rows={
        "head": Row(mp.Head(), chosen(lambda name: name == "lm_head.weight"), recorded=False),
    },
    counts=((mp.Head(), COUNTED, 11 * 8), (mp.Head(), GPT2_MEDIUM, 50257 * 1024)),
    saved=((mp.Head(), {"lm_head.weight": (11, 8)}),),
    exempt={15: SHARED},
)
