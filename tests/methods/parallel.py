"""Parallel adapters."""

from hypothesis import strategies as st

import minipeft as mp
from laws.equations import OnSubLayer
from methods.bottleneck import inner, layout
from spec import COUNTED, Bug, Row, Spec
from strategies import NARROW, NONLINEARITIES
from theirs import bottlenecks


def equation(method, a, f, x):
    """f(x) + s (U φ(D x + b₁) + b₂)"""
    return f(x) + method.scale * inner(method, a, x)


BUGS = (
    Bug("parallel adapter: scale missing",
        "self.change(x) * self.scale", "self.change(x)", 13, mp.Parallel(m=3)),
)  # fmt: skip

ROWS = {
    "parallel": Row(mp.Parallel(5, scale=3.0), bottlenecks(("mlp",), 5, beside=3.0), "gpt2"),
    "parallel, both": Row(
        mp.Parallel(5, target_modules=("attn", "mlp")),
        bottlenecks(("attn", "mlp"), 5, beside=4.0),
        recorded=False,
    ),
}
BOTH = mp.Parallel(3, target_modules=("attn", "mlp"))

SPEC = Spec(
    mp.Parallel,
    draw=lambda config: st.builds(
        mp.Parallel,
        m=NARROW,
        scale=st.sampled_from([4.0, -0.5]),
        nonlinearity=NONLINEARITIES,
        target_modules=st.sampled_from([("mlp",), ("attn", "mlp")]),
    ),
    small=mp.Parallel(m=4),
    equation=OnSubLayer(equation),
    bugs=BUGS,
    rows=ROWS,
    counts=(
        (mp.Parallel(3), COUNTED, 2 * (2 * 3 * 8 + 3 + 8)),
        (BOTH, COUNTED, 2 * 2 * (2 * 3 * 8 + 3 + 8)),
    ),
    saved=((mp.Parallel(m=4), layout(4, "mlp")), (BOTH, layout(3, "attn", "mlp"))),
    wrong=(
        lambda: mp.Parallel(scale=0.0),
        lambda: mp.Parallel(scale=float("nan")),
        lambda: mp.Parallel(target_modules=("q_proj",)),
        lambda: mp.Parallel(nonlinearity="tan"),
    ),
)
