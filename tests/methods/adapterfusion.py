"""AdapterFusion."""

from hypothesis import strategies as st

import minipeft as mp
from laws import equations
from laws.equations import agrees, changes
from methods.bottleneck import STYLES, inner
from minipeft.engine.backend import np, xp
from minipeft.engine.tensor import Tensor, value
from spec import COUNTED, Bug, Row, Spec
from strategies import FEW, NARROW, NONLINEARITIES
from theirs import fusions


def equation(method, a, parts, h):
    """h + V Σ p_i A_i(h), p = softmax_i (Q h · K A_i(h)), token by token"""
    out = h.copy()
    for row, token in np.ndindex(h.shape[:2]):
        x = h[row, token]
        answers = [inner(method, part, x) for part in parts]
        scores = np.exp([(a.query @ x) @ (a.key @ answer) for answer in answers])
        shares = scores / scores.sum()
        out[row, token] += a.value @ sum(p * z for p, z in zip(shares, answers, strict=True))
    return out


class Fused:
    """The equation, of the arrays of each adapter and of their fusion."""

    def check(self, case, net, adapter):
        x = np.random.default_rng(case.seed).standard_normal((2, 3, case.config.width))
        for path, delta, arrays in changes(adapter):
            parts = [equations.Arrays(path, part) for part in delta.parts]
            found = delta(lambda x: Tensor(xp.sin(value(x))), Tensor(xp.asarray(x)))
            agrees(found, equation(case.method, arrays, parts, np.sin(x)), delta, path)


THREE = mp.AdapterFusion(2, nonlinearity="gelu", n_adapters=3)
BUGS = (
    Bug("AdapterFusion: all adapters share one weight", "softmax(scores)[..., None] * changes",
        "softmax(scores * 0.0)[..., None] * changes", 13, THREE),
    Bug("AdapterFusion: keys of the token, not of the changes", 
        "query = linear(h, self.query)[:, :, None]\n"
        "scores = (query * linear(changes, self.key)).sum(axis=-1)",
        "query = linear(h, self.query)[:, :, None]\n"
        "scores = (query * linear(h, self.key)[:, :, None]).sum(axis=-1)", 13, THREE),
    Bug("AdapterFusion: h lost", "h + linear(mixed, self.value)", "linear(mixed, self.value)",
        1, THREE),
    Bug("AdapterFusion: the count of one adapter only",
        '{"n": self.n_adapters, "m": self.m, "width": config.width}',
        '{"n": 1, "m": self.m, "width": config.width}', 3, THREE),
)  # fmt: skip


def layout(m, n, *places):
    """The names and shapes in a file of a fusion at these places."""
    found = {}
    for place in places:
        found |= {f"{place}.{name}": (8, 8) for name in ("query", "key", "value")}
        arrays = {"down": (m, 8), "down_bias": (m,), "up": (8, m), "up_bias": (8,)}
        for i in range(n):
            found |= {f"{place}.parts.{i}.{name}": shape for name, shape in arrays.items()}
    return found


ONE = 2 * 3 * 8 + 3 + 8  # an adapter of width 3
SPEC = Spec(
    mp.AdapterFusion,
    draw=lambda config: st.builds(
        mp.AdapterFusion, m=NARROW, style=STYLES, nonlinearity=NONLINEARITIES, n_adapters=FEW
    ),
    small=mp.AdapterFusion(2, n_adapters=2),
    equation=Fused(),
    bugs=BUGS,
    rows={
        "adapterfusion": Row(
            mp.AdapterFusion(5, n_adapters=3), fusions(("mlp",), 5, 3), recorded=False
        ),
        "adapterfusion, GPT-2": Row(
            mp.AdapterFusion(5, nonlinearity="gelu", n_adapters=2),
            fusions(("mlp",), 5, 2, "gelu"),
            "gpt2",
            tied=True,
            recorded=False,
        ),
    },
    counts=(
        (mp.AdapterFusion(3, n_adapters=2), COUNTED, 2 * (2 * ONE + 3 * 64)),
        (mp.AdapterFusion(3, "houlsby", n_adapters=1), COUNTED, 2 * 2 * (ONE + 3 * 64)),
    ),
    saved=((mp.AdapterFusion(3, n_adapters=2), layout(3, 2, "mlp")),),
    wrong=(
        lambda: mp.AdapterFusion(0),
        lambda: mp.AdapterFusion(n_adapters=0),
        lambda: mp.AdapterFusion(adapters="one"),
    ),
)
