"""Bottleneck adapters."""

from hypothesis import strategies as st

import minipeft as mp
from laws.equations import PHI, OnSubLayer
from spec import COUNTED, Bug, Row, Spec
from strategies import NARROW, NONLINEARITIES
from theirs import bottlenecks

STYLES = st.sampled_from(["houlsby", "pfeiffer"])


def inner(method, a, h):
    """U φ(D h + b₁) + b₂"""
    return PHI[method.nonlinearity](h @ a.down.T + a.down_bias) @ a.up.T + a.up_bias


def equation(method, a, f, x):
    """h + U φ(D h + b₁) + b₂, h = f(x)"""
    return f(x) + inner(method, a, f(x))


HOUSLBY = mp.Bottleneck(m=3, nonlinearity="gelu")
BUGS = (
    Bug("adapter: outside the residual, h lost",
        "return h + self.change(h)", "return self.change(h)", 1, HOUSLBY),
    Bug("adapter: up-projection does not start at zero",
        "Parameter(np.zeros((width, method.m)))", "Parameter(np.full((width, method.m), 0.01))",
        1, HOUSLBY),
    Bug("adapter: reads the sub-layer's input",
        "h = f(*args)\nreturn h + self.change(h)",
        "h = f(*args)\nreturn h + self.change(args[0])", 13, HOUSLBY),
)  # fmt: skip

ROWS = {
    "adapter": Row(mp.Bottleneck(5), bottlenecks(("attn", "mlp"), 5)),
    "adapter, GPT-2": Row(
        mp.Bottleneck(5, nonlinearity="silu"),
        bottlenecks(("attn", "mlp"), 5, "silu"),
        "gpt2",
        tied=True,
        recorded=False,
    ),
}


def layout(m, *places):
    """The names and shapes in a file of adapters at these places."""
    arrays = {"down": (m, 8), "down_bias": (m,), "up": (8, m), "up_bias": (8,)}
    return {f"{place}.{name}": shape for place in places for name, shape in arrays.items()}


SPEC = Spec(
    mp.Bottleneck,
    draw=lambda config: st.builds(
        mp.Bottleneck, m=NARROW, style=STYLES, nonlinearity=NONLINEARITIES
    ),
    small=mp.Bottleneck(m=4),
    equation=OnSubLayer(equation),
    bugs=BUGS,
    rows=ROWS,
    counts=(
        (mp.Bottleneck(3), COUNTED, 2 * 2 * (2 * 3 * 8 + 3 + 8)),
        (mp.Bottleneck(3, "pfeiffer"), COUNTED, 2 * (2 * 3 * 8 + 3 + 8)),
    ),
    saved=((mp.Bottleneck(m=4), layout(4, "attn", "mlp")),),
    wrong=(lambda: mp.Bottleneck(0), lambda: mp.Bottleneck(style="hulsby")),
)
