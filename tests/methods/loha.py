"""LoHa."""

from hypothesis import strategies as st

import minipeft as mp
from laws.equations import OnMatrix
from spec import COUNTED, Bug, Row, Spec
from strategies import ALPHAS, targets
from theirs import with_peft


def equation(method, a, w):
    """W + (α / r) (B₁ A₁) ∘ (B₂ A₂)"""
    product = (a.hada_w1_a @ a.hada_w1_b) * (a.hada_w2_a @ a.hada_w2_b)
    return w + method.alpha / method.r * product


@st.composite
def products(draw, config, method=mp.LoHa):
    """A LoHa, or a LoKr, of a small rank."""
    names, most = draw(targets(config))
    return method(draw(st.integers(1, most)), draw(ALPHAS), names)


BUGS = (
    Bug("LoHa: the products added, not multiplied",
        "one * two * self.scaling", "(one + two) * self.scaling", 1, mp.LoHa(r=2, alpha=3.0)),
)  # fmt: skip


def layout(r):
    """The names and shapes in a file."""
    return {
        f"attn.{name}_proj.hada_w{i}_{key}": shape
        for name, n in {"q": 8, "v": 4}.items()
        for i in (1, 2)
        for key, shape in {"a": (n, r), "b": (r, 8)}.items()
    }


SPEC = Spec(
    mp.LoHa,
    draw=products,
    small=mp.LoHa(2),
    equation=OnMatrix(equation, rank=lambda method: method.r**2),
    bugs=BUGS,
    rows={
        "loha": Row(
            mp.LoHa(r=2, alpha=4.0, target_modules="all-linear"),
            with_peft("LoHaConfig", r=2, alpha=4, target_modules="all-linear"),
        ),
    },
    counts=((mp.LoHa(2), COUNTED, 2 * 2 * (2 * 16 + 2 * 12)),),
    saved=((mp.LoHa(2), layout(2)),),
    wrong=(
        lambda: mp.LoHa(0),
        lambda: mp.LoHa(rank_pattern={"q_proj": "4"}),
        lambda: mp.LoHa(alpha_pattern={"(?i)q": 4.0}),
    ),
    exchanged=True,
)
