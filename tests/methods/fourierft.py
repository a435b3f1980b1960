"""FourierFT."""

from hypothesis import strategies as st

import minipeft as mp
from laws.equations import OnMatrix
from minipeft.engine.backend import np
from spec import COUNTED, GPT2_MEDIUM, LLAMA_7B, Bug, Row, Spec
from strategies import targets
from theirs import CONV1D, with_peft


def equation(method, a, w):
    """W + the sum of the waves, each with its coefficient"""
    (n_out, n_in), change = w.shape, np.zeros(w.shape)
    rows, columns = places(method, w.shape)
    p, q = np.arange(n_out)[:, None], np.arange(n_in)
    for c, u, v in zip(a.fourierft_spectrum, rows, columns, strict=True):
        change += c * np.cos(2 * np.pi * (p * u / n_out + q * v / n_in))
    return w + method.scaling * change / (n_out * n_in)


def places(method, size):
    """Rows and columns, by swapping all places as Fisher and Yates do."""
    order = np.arange(size[0] * size[1])
    twister = np.random.RandomState(method.random_loc_seed)
    for i, draw in enumerate(twister.randint(0, 2**32, method.n_frequency, np.uint32)):
        j = i + int(draw) % (len(order) - i)
        order[[i, j]] = order[[j, i]]
    return np.divmod(order[: method.n_frequency], size[1])


@st.composite
def few_places(draw, config, method=mp.FourierFT, **more):
    """One with as many coefficients as its smallest target has entries, or fewer."""
    names, _ = draw(targets(config))
    made = method(1, target_modules=names)
    least = min(o * i for o, i in made.targets(config.target_shapes).values())
    n, seed = draw(st.integers(1, min(least, 40))), draw(st.sampled_from([0, 777]))
    return method(n, draw(st.sampled_from([0.5, 30.0])), seed, names, **more)


SQUARE = mp.FourierFT(9, 30.0, target_modules=("q_proj", "o_proj"))
BUGS = (
    Bug("FourierFT: α missing", "self.fourierft_spectrum * self.scaling",
        "self.fourierft_spectrum * 1.0", 13, SQUARE),
    Bug("FourierFT: rows and columns of the places mixed up",
        "np.divmod(np.array(chosen), n_in)", "np.divmod(np.array(chosen), n_in)[::-1]",
        13, SQUARE),
    Bug("FourierFT: the gradient without its transform",
        "record(transformed(value(x)), (x, transformed))",
        "record(transformed(value(x)), (x, lambda g: g))", 4, SQUARE),
)  # fmt: skip


def exact(theirs):
    """HF's layers, which transform in float32, made to do so in the model's precision."""
    import torch
    from peft.tuners.fourierft.layer import FourierFTLinear

    class Exact(FourierFTLinear):
        def get_delta_weight(self, adapter):
            spectrum = self.fourierft_spectrum[adapter]
            dense = torch.zeros(self.out_features, self.in_features, dtype=spectrum.dtype)
            dense[tuple(self.indices[adapter])] = spectrum
            return torch.fft.ifft2(dense).real * self.fourierft_scaling[adapter]

    for module in theirs.modules():
        if type(module) is FourierFTLinear:
            module.__class__ = Exact
    return theirs


def theirs(**options):
    """HF PEFT's FourierFT with so many coefficients."""
    put = with_peft("FourierFTConfig", scaling=30.0, **options)
    return lambda model: exact(put(model))


NAMES = ["q_proj", "v_proj", "up_proj"]
SPEC = Spec(
    mp.FourierFT,
    draw=few_places,
    small=mp.FourierFT(5),
    equation=OnMatrix(equation),
    bugs=BUGS,
    rows={
        "fourierft": Row(
            mp.FourierFT(20, 30.0, target_modules=tuple(NAMES)),
            theirs(n_frequency=20, target_modules=NAMES),
            opened=exact,
        ),
        # not its c_proj: the next layer norm takes off the mean, which is one of the waves
        "fourierft, GPT-2": Row(
            mp.FourierFT(30, 30.0, 5, ("up_proj",)),
            theirs(n_frequency=30, random_loc_seed=5, target_modules=["c_fc"], **CONV1D),
            "gpt2",
            opened=exact,
            recorded=False,
        ),
    },
    counts=(
        (mp.FourierFT(5), COUNTED, 2 * 2 * 5),
        (mp.FourierFT(), GPT2_MEDIUM, 48_000),  # Gao et al., table 3: 0.048 M
        (mp.FourierFT(), LLAMA_7B, 64_000),
    ),
    saved=((mp.FourierFT(5), {f"attn.{n}_proj.fourierft_spectrum": (5,) for n in "qv"}),),
    wrong=(
        lambda: mp.FourierFT(0),
        lambda: mp.FourierFT(scaling=float("inf")),
        lambda: mp.FourierFT(random_loc_seed=-1),
    ),
    exchanged=True,
)
