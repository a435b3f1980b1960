"""Bottleneck adapters after the MLPs only."""

from hypothesis import strategies as st

import minipeft as mp
from laws.equations import OnSubLayer
from methods.bottleneck import equation, layout
from spec import COUNTED, Bug, Row, Spec
from strategies import NARROW, NONLINEARITIES
from theirs import bottlenecks

BUGS = (
    Bug("Pfeiffer's adapter: after attention too",
        "places = matching(sites(model), PLACES[self.style])",
        'places = matching(sites(model), PLACES["houlsby"])', 3, mp.Pfeiffer(m=3),
        module="peft.methods.bottleneck"),
)  # fmt: skip

SPEC = Spec(
    mp.Pfeiffer,
    draw=lambda config: st.builds(mp.Pfeiffer, m=NARROW, nonlinearity=NONLINEARITIES),
    small=mp.Pfeiffer(m=4),
    equation=OnSubLayer(equation),
    bugs=BUGS,
    rows={
        "pfeiffer": Row(
            mp.Pfeiffer(5, nonlinearity="gelu"), bottlenecks(("mlp",), 5, "gelu"), "gpt2"
        ),
    },
    counts=((mp.Pfeiffer(3), COUNTED, 2 * (2 * 3 * 8 + 3 + 8)),),
    saved=((mp.Pfeiffer(m=4), layout(4, "mlp")),),
    wrong=(lambda: mp.Pfeiffer(nonlinearity="rely"),),
)
