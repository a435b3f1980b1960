"""Fine-tuning of the last k blocks."""

from hypothesis import strategies as st

import minipeft as mp
from laws.equations import Copies
from methods.full import BLOCK, LAYER, SHARED
from spec import COUNTED, GPT2_MEDIUM, Bug, Row, Spec
from theirs import chosen


def last_blocks(method, model):
    """W ← W + ΔW, last k blocks."""
    layers = model.config.layers
    last = tuple(f"blocks.{i}." for i in range(layers - method.k, layers))
    return [path for path, _ in model.named_parameters() if path.startswith(last)]


BUGS = (
    Bug("last k: one block too few", "int(number) >= layers - self.k",
        "int(number) > layers - self.k", 13, mp.LastK(2)),
)  # fmt: skip

SPEC = Spec(
    mp.LastK,
    draw=lambda config: st.builds(mp.LastK, st.integers(1, config.layers)),
    small=mp.LastK(),
    equation=Copies(last_blocks),
    bugs=BUGS,
    rows={
        "last-k": Row(mp.LastK(), chosen(lambda name: "layers.1." in name), recorded=False),
    },
    counts=(
        (mp.LastK(), COUNTED, LAYER),
        (mp.LastK(2), GPT2_MEDIUM, 25_192_448),  # Hu et al., table 3, FT-Top2: 25.19 M
    ),
    saved=((mp.LastK(), BLOCK),),
    wrong=(
        lambda: mp.LastK(0),
        lambda: mp.LastK(-1),
        lambda: mp.LastK(1.5),
        lambda: mp.LastK(True),
    ),
    exempt={15: SHARED},
)
