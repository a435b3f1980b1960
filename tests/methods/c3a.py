"""C3A."""

from hypothesis import assume
from hypothesis import strategies as st

import minipeft as mp
from laws.equations import OnMatrix
from minipeft.engine.backend import np
from spec import COUNTED, Bug, Row, Spec
from strategies import targets
from theirs import with_peft


def equation(method, a, w):
    """W + C(w) / in, the circulant blocks row by row"""
    b = a.c3a_kernel.shape[-1]
    circulant = lambda row: np.array([np.roll(row, p) for p in range(b)])  # noqa: E731
    change = np.block([[circulant(row) for row in rows] for rows in a.c3a_kernel])
    return w + change / (w.shape[1] if method.divide_by_inputs else 1)


@st.composite
def circulants(draw, config):
    """A C3A of any block size for which its targets have a divisor."""
    names, _ = draw(targets(config))
    b = draw(st.integers(1, 8))
    method = mp.C3A(b, names, draw(st.booleans()))
    sizes = [method.block(*s) for s in method.targets(config.target_shapes).values()]
    assume(b == 1 or min(sizes) > 1)
    return method


SQUARE = mp.C3A(4, ("q_proj", "o_proj"))
BUGS = (
    Bug("C3A: a convolution, not a correlation", "X @ xp.conj(xp.swapaxes(W, 1, 2))",
        "X @ xp.swapaxes(W, 1, 2)", 13, SQUARE),
    Bug("C3A: the gradient of x by the same product", "back(frequencies(g) @ W)",
        "back(frequencies(g) @ xp.conj(W))", 4, SQUARE),
    Bug("C3A: merged by its transpose", "self.convolved(one).data.T",
        "self.convolved(one).data", 5, SQUARE),
)  # fmt: skip


def exact(theirs, derived=True):
    """HF's layers, which compute in float32, made to do so in the model's precision.

    derived: by PyTorch. HF's own derivative, as the paper's algorithm A1, is wrong by x: it
    correlates g with w where C(w)ᵀ g is a convolution.
    """
    from peft.tuners.c3a.layer import C3ALinear
    from peft.tuners.c3a.utils import BlockCircularConvolution, get_circulant_fast

    class Exact(C3ALinear):
        def get_delta_weight(self, adapter):
            return get_circulant_fast(self.c3a_kernel[adapter]) / self.in_features

        def forward(self, x):
            kernel = self.c3a_kernel[self.active_adapters[0]]
            if derived:
                return self.base_layer(x) + x @ self.get_delta_weight("default").T
            change = BlockCircularConvolution.apply(x, kernel)
            return self.base_layer(x) + change / self.in_features

    for module in theirs.modules():
        if type(module) is C3ALinear:
            module.__class__ = Exact
    return theirs


def row(method, names, derived=True, **more):
    """The method here and in HF PEFT, where the matrices have these names."""
    put = with_peft("C3AConfig", block_size=method.block_size, target_modules=names)
    return Row(method, lambda model: exact(put(model), derived), opened=exact, **more)


QV = ["q_proj", "v_proj"]
ROWS = {
    "c3a": row(mp.C3A(4), QV, recorded=False),
    # with HF's derivative, where nothing that trains is below
    "c3a, last layer": row(
        mp.C3A(4, layers_to_transform=1),
        [f"layers.1.self_attn.{name}" for name in QV],
        derived=False,
        recorded=False,
    ),
    "c3a, odd blocks": row(mp.C3A(3, ("q_proj", "o_proj")), ["q_proj", "o_proj"]),
}

SPEC = Spec(
    mp.C3A,
    draw=circulants,
    small=mp.C3A(4),
    equation=OnMatrix(equation),
    bugs=BUGS,
    rows=ROWS,
    counts=(
        (mp.C3A(4), COUNTED, 2 * (8 * 8 // 4 + 4 * 8 // 4)),
        (mp.C3A(), COUNTED, 2 * (8 * 8 // 8 + 4 * 8 // 4)),
        (mp.C3A(1, ("down_proj",)), COUNTED, 2 * 8 * 6),
    ),
    saved=(
        (mp.C3A(4), {"attn.q_proj.c3a_kernel": (2, 2, 4), "attn.v_proj.c3a_kernel": (1, 2, 4)}),
    ),
    wrong=(
        lambda: mp.C3A(0),
        lambda: mp.C3A(divide_by_inputs=1),
        lambda: mp.C3A(2.0),
    ),
    exchanged=True,
)
