"""OFT."""

from hypothesis import assume
from hypothesis import strategies as st

import minipeft as mp
from laws.equations import OnMatrix
from minipeft.engine.backend import np
from spec import COUNTED, Bug, Row, Spec
from strategies import targets
from theirs import with_peft


def equation(method, a, w):
    """W Rᵀ, R of blocks (I − Q) (I + Q)⁻¹ or of the first terms of its series"""
    n_in = w.shape[1]
    b = method.block_size(n_in)
    rotation = np.zeros((n_in, n_in))
    for i in range(n_in // b):
        q = np.zeros((b, b))
        q[np.triu_indices(b, 1)] = a.oft_R[0 if method.block_share else i]
        q, one = q - q.T, np.eye(b)
        block = (one - q) @ np.linalg.inv(one + q)
        if method.use_cayley_neumann:
            last = method.num_cayley_neumann_terms - 1
            powers = [np.linalg.matrix_power(q, k) for k in range(last + 1)]
            block = one + 2 * sum(powers[1:last]) + powers[last]
        rotation[i * b : (i + 1) * b, i * b : (i + 1) * b] = block
    return w @ rotation.T


@st.composite
def rotations(draw, config):
    """An OFT of small blocks, exact or by the series."""
    names, _ = draw(targets(config))
    method = mp.OFT(
        draw(st.integers(1, 6)),
        names,
        block_share=draw(st.booleans()),
        use_cayley_neumann=draw(st.booleans()),
        num_cayley_neumann_terms=draw(st.integers(4, 6)),
    )
    sizes = [method.block_size(n) for _, n in method.targets(config.target_shapes).values()]
    assume(min(sizes) > 1)
    return method


SQUARE = mp.OFT(4, ("q_proj", "o_proj"))
BUGS = (
    Bug("OFT: rotates the other way in the merge", "xp.swapaxes(self.rotation().data, -1, -2)",
        "self.rotation().data", 5, SQUARE),
    Bug("OFT: Q symmetric, R not orthogonal", "q = q - xp.swapaxes(q, -1, -2)",
        "q = q + xp.swapaxes(q, -1, -2)", 13, SQUARE),
    Bug("OFT: the gradient of the inverse has the wrong sign", "-(turned @ g @ turned)",
        "turned @ g @ turned", 4, SQUARE),
)  # fmt: skip


def theirs(block, **options):
    """HF PEFT's OFT with blocks of that size."""
    return with_peft("OFTConfig", oft_block_size=block, **options)


EXACT = dict(use_cayley_neumann=False)
SPEC = Spec(
    mp.OFT,
    draw=rotations,
    small=mp.OFT(4),
    equation=OnMatrix(equation),
    bugs=BUGS,
    rows={
        "oft": Row(
            mp.OFT(4, ("q_proj", "o_proj")),
            theirs(4, target_modules=["q_proj", "o_proj"], **EXACT),
        ),
        "oft, shared blocks": Row(
            mp.OFT(4, block_share=True),
            theirs(4, target_modules=["q_proj", "v_proj"], block_share=True, **EXACT),
        ),
        "oft, series": Row(
            mp.OFT(4, use_cayley_neumann=True),
            theirs(4, target_modules=["q_proj", "v_proj"]),
        ),
    },
    counts=((mp.OFT(4), COUNTED, 2 * 2 * 2 * 6), (mp.OFT(8), COUNTED, 2 * 2 * 28)),
    saved=((mp.OFT(4), {f"attn.{n}_proj.oft_R.weight": (2, 6) for n in "qv"}),),
    wrong=(lambda: mp.OFT(0), lambda: mp.OFT(num_cayley_neumann_terms=3)),
    exchanged=True,
)
