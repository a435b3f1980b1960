"""Compacter."""

from hypothesis import strategies as st

import minipeft as mp
from laws.equations import PHI, OnSubLayer
from methods.bottleneck import STYLES
from minipeft.engine.backend import np
from spec import COUNTED, Bug, Row, Spec
from strategies import FEW


def equation(method, a, f, x):
    """h + φ(h D + b₁) U + b₂, D and U sums of Kronecker products, h = f(x)"""
    down, up = (
        sum(np.kron(rule, s @ t) for rule, s, t in zip(a.phm_rule, left, right, strict=True))
        for left, right in ((a.down_left, a.down_right), (a.up_left, a.up_right))
    )
    narrow = PHI[method.nonlinearity](f(x) @ down + a.down_bias)
    return f(x) + narrow @ up + a.up_bias


def drawn(config):
    """Compacters whose number of blocks divides both sides of their matrices."""
    divisors = [n for n in range(1, config.width + 1) if config.width % n == 0]
    return st.sampled_from(divisors).flatmap(
        lambda n: st.builds(
            mp.Compacter, m=FEW.map(lambda k: k * n), phm_dim=st.just(n), style=STYLES
        )
    )


BUGS = (
    Bug("Compacter: its matrices in the other order",
        "return linear(narrow, up.transpose(1, 0), self.up_bias)",
        "return linear(narrow, up.reshape(*up.shape[::-1]), self.up_bias)",
        13, mp.Compacter(m=4, phm_dim=4)),
)  # fmt: skip


def by_hand(places, m, n, k, nonlinearity="gelu"):
    """Compacter's φ(h D + b₁) U + b₂ in PyTorch, with one rule A (n, n, n) for all."""

    def put(model):
        import torch
        from handwritten import NONLINEAR, after, hooked, random

        class Hypercomplex(torch.nn.Module):
            def __init__(self, width, rule):
                super().__init__()
                self.phm_rule = rule
                self.down_left, self.down_right = random(n, width // n, k), random(n, k, m // n)
                self.up_left, self.up_right = random(n, m // n, k), random(n, k, width // n)
                self.down_bias, self.up_bias = random(m), random(width)

            def forward(self, h):
                down, up = (
                    sum(torch.kron(*pair) for pair in zip(self.phm_rule, s @ t, strict=True))
                    for s, t in (
                        (self.down_left, self.down_right),
                        (self.up_left, self.up_right),
                    )
                )
                narrow = NONLINEAR[nonlinearity](h @ down + self.down_bias)
                return narrow @ up + self.up_bias

        def make(width):
            rule = random(n, n, n)
            return lambda: Hypercomplex(width, rule)

        return hooked(places, make, after)(model)

    return put


ROWS = {
    "compacter": Row(
        mp.Compacter(m=6, phm_dim=3, phm_rank=2), by_hand(("attn", "mlp"), 6, 3, 2)
    ),
    "compacter++, GPT-2": Row(
        mp.Compacter(m=8, style="pfeiffer"), by_hand(("mlp",), 8, 4, 1), "gpt2", recorded=False
    ),
}
LAYOUT = {  # the rule is written once, where it is first
    "attn.phm_rule": (4, 4, 4),
    **{
        f"{place}.{name}": shape
        for place in ("attn", "mlp")
        for name, shape in {
            "down_left": (4, 2, 1),
            "down_right": (4, 1, 1),
            "down_bias": (4,),
            "up_left": (4, 1, 1),
            "up_right": (4, 1, 2),
            "up_bias": (8,),
        }.items()
    },
}

SPEC = Spec(
    mp.Compacter,
    draw=drawn,
    small=mp.Compacter(m=4),
    equation=OnSubLayer(equation),
    bugs=BUGS,
    rows=ROWS,
    counts=((mp.Compacter(m=4, phm_dim=2), COUNTED, 4 * (2 * (8 + 4) + 4 + 8) + 2**3),),
    saved=((mp.Compacter(m=4), LAYOUT),),
    wrong=(lambda: mp.Compacter(style="none"),),
)
