"""WaveFT."""

from hypothesis import strategies as st

import minipeft as mp
from laws.equations import OnMatrix
from methods.fourierft import few_places, places
from minipeft.engine.backend import np
from spec import COUNTED, LLAMA_7B, Bug, Row, Spec
from theirs import CONV1D, with_peft


def equation(method, a, w):
    """W + the sum of the wavelets, each with its coefficient"""
    rows, columns = places(method, w.shape)
    height, width = (n + n % 2 for n in w.shape)
    change = np.zeros((height, width))
    if not method.use_idwt:
        change[rows, columns] = a.waveft_spectrum
        return w + method.scaling * change[: w.shape[0], : w.shape[1]]
    low, high = np.array([1, 1]) / np.sqrt(2), np.array([1, -1]) / np.sqrt(2)
    for c, u, v in zip(a.waveft_spectrum, rows, columns, strict=True):
        # top right: high from top to bottom; bottom left: high from left to right
        down = high if v >= width // 2 else low
        across = high if u >= height // 2 else low
        p, q = 2 * (u % (height // 2)), 2 * (v % (width // 2))
        change[p : p + 2, q : q + 2] += c * np.outer(down, across)
    return w + method.scaling * change[: w.shape[0], : w.shape[1]]


@st.composite
def wavelets(draw, config):
    """A WaveFT, or the sparse change that it is without wavelets."""
    return draw(few_places(config, mp.WaveFT, use_idwt=draw(st.booleans())))


SQUARE = mp.WaveFT(9, 3.0, target_modules=("q_proj", "o_proj"))
BUGS = (
    Bug("WaveFT: wavelets twice as high", 
        "same, other = (a + h) * 0.5, (a - h) * 0.5\n"
        "plus, minus = (v + d) * 0.5, (v - d) * 0.5",
        "same, other = (a + h) * 0.5, (a - h) * 0.5\nplus, minus = v + d, v - d", 13, SQUARE),
    Bug("WaveFT: the lower two of a square mixed up",
        "x[::2, ::2], x[::2, 1::2], x[1::2, ::2], x[1::2, 1::2]",
        "x[::2, ::2], x[::2, 1::2], x[1::2, 1::2], x[1::2, ::2]", 13, SQUARE),
    Bug("WaveFT: the gradient by the transform the same way round",
        "moved(g, squares, quarters)", "moved(g, quarters, squares)", 4, SQUARE),
)  # fmt: skip

NAMES = ["q_proj", "v_proj", "up_proj"]
SPEC = Spec(
    mp.WaveFT,
    draw=wavelets,
    small=mp.WaveFT(5),
    equation=OnMatrix(equation),
    bugs=BUGS,
    rows={
        "waveft": Row(
            mp.WaveFT(20, 1.0, target_modules=tuple(NAMES)),
            with_peft("WaveFTConfig", n_frequency=20, scaling=1.0, target_modules=NAMES),
        ),
        "waveft, sparse": Row(
            mp.WaveFT(20, 1.0, target_modules=tuple(NAMES), use_idwt=False),
            with_peft(
                "WaveFTConfig",
                n_frequency=20,
                scaling=1.0,
                target_modules=NAMES,
                use_idwt=False,
            ),
            recorded=False,
        ),
        "waveft, GPT-2": Row(
            mp.WaveFT(30, 1.0, 5, ("up_proj",)),
            with_peft(
                "WaveFTConfig",
                n_frequency=30,
                scaling=1.0,
                random_loc_seed=5,
                target_modules=["c_fc"],
                **CONV1D,
            ),
            "gpt2",
            recorded=False,
        ),
    },
    counts=(
        (mp.WaveFT(5), COUNTED, 2 * 2 * 5),
        (mp.WaveFT(), LLAMA_7B, 64 * 2592),
    ),
    saved=((mp.WaveFT(5), {f"attn.{n}_proj.waveft_spectrum": (5,) for n in "qv"}),),
    wrong=(
        lambda: mp.WaveFT(0),
        lambda: mp.WaveFT(use_idwt=1),
        lambda: mp.WaveFT(random_loc_seed=2**32),
    ),
    exchanged=True,
)
