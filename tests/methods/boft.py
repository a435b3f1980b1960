"""BOFT."""

from hypothesis import assume
from hypothesis import strategies as st

import minipeft as mp
from laws.equations import OnMatrix
from minipeft.engine.backend import np
from spec import COUNTED, Bug, Row, Spec
from strategies import targets
from theirs import with_peft


def equation(method, a, w):
    """diag(s) W Bᵀ, the butterfly's factors written element by element"""
    n, b = w.shape[1], method.boft_block_size
    product = np.eye(n)
    for i, blocks in enumerate(a.boft_R):
        factor, distance = np.zeros((n, n)), 2**i
        # a half of a block is paired with the half whose number differs in bit i
        halves = [np.arange(j, j + b // 2) for j in range(0, n - b % 2, b // 2)]
        pairs = [j for j in range(len(halves)) if not j & distance]
        index = [np.append(halves[j], halves[j | distance]) for j in pairs]
        if b % 2:  # with one factor there are no halves
            index = np.arange(n).reshape(-1, b)
        for r, own in zip(blocks, index, strict=True):
            q, one = (r - r.T) / 2, np.eye(b)
            factor[np.ix_(own, own)] = (one - q) @ np.linalg.inv(one + q)
        product = factor @ product
    return np.diag(a.boft_s) @ w @ product.T


@st.composite
def butterflies(draw, config):
    """A BOFT with small blocks and as many factors as its targets allow."""
    names, _ = draw(targets(config))
    m = draw(st.integers(1, 3))
    b = draw(st.sampled_from([2, 3, 4] if m == 1 else [2, 4]))
    method = mp.BOFT(b, m, names)
    inputs = [n for _, n in method.targets(config.target_shapes).values()]
    assume(not any(n % (b * 2 ** (m - 1)) for n in inputs))
    return method


def theirs(**options):
    """HF PEFT's, with its CUDA kernel, which makes a matrix of blocks, written in PyTorch."""
    put = with_peft("BOFTConfig", **options)

    def with_kernel(model):
        import torch
        from peft.tuners.boft import layer

        class Kernel:
            @staticmethod
            def apply(blocks):
                return torch.stack([torch.block_diag(*each) for each in blocks])

        layer.get_fbd_cuda, layer.FastBlockDiag = (lambda: True), Kernel
        return put(model)

    return with_kernel


SQUARE = mp.BOFT(2, 2, ("q_proj", "o_proj"))
BUGS = (
    Bug("BOFT: rotates the other way in the merge", "w @ b.T", "w @ b", 5, SQUARE),
    Bug("BOFT: every factor pairs neighbours", "2**i", "1", 13, SQUARE),
    Bug("BOFT: its factors in the other order", "reversed(range(len(rotations)))",
        "range(len(rotations))", 13, mp.BOFT(2, 3, ("q_proj", "o_proj"))),
    Bug("BOFT: the bias stretched too", "y * s - bias * (s - 1.0)", "y * s",
        5, SQUARE,
        COUNTED),
)  # fmt: skip
QO = ("q_proj", "o_proj")
ROWS = {
    "boft": Row(mp.BOFT(4, 1, QO), theirs(boft_block_size=4, target_modules=[*QO])),
    "boft, 2 factors": Row(
        mp.BOFT(6, 2, QO),
        theirs(boft_block_size=6, boft_n_butterfly_factor=2, target_modules=[*QO]),
        recorded=False,
    ),
}

SPEC = Spec(
    mp.BOFT,
    draw=butterflies,
    small=mp.BOFT(2),
    equation=OnMatrix(equation),
    bugs=BUGS,
    rows=ROWS,
    counts=(
        (mp.BOFT(4), COUNTED, 2 * ((2 * 16 + 8) + (2 * 16 + 4))),
        (mp.BOFT(2, 3), COUNTED, 2 * ((3 * 4 * 4 + 8) + (3 * 4 * 4 + 4))),
    ),
    saved=(
        (
            mp.BOFT(4, 2),
            {
                f"attn.{name}_proj.boft_{part}": shape
                for name, n in {"q": 8, "v": 4}.items()
                for part, shape in {"R": (2, 2, 4, 4), "s": (n, 1)}.items()
            },
        ),
    ),
    wrong=(
        lambda: mp.BOFT(1),
        lambda: mp.BOFT(3, 2),
        lambda: mp.BOFT(4, 0),
    ),
    exchanged=True,
)
