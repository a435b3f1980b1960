"""FourierFT: learns a few frequencies of the change of a weight, and transforms them back.

    f(x) + α Re(IDFT₂ F) x        F: (out, in), c at n random places, zero elsewhere    c: (n,)

IDFT₂ is the inverse Fourier transform over rows and columns: with a coefficient at row u and
column v of F, the entry p, q of the change gets α c cos(2 π (p u / out + q v / in)) / (out in),
a wave over the whole matrix. The places are drawn once by the seed `random_loc_seed` and are
the same in all targets of one shape. Only c is trained and saved, n parameters a target however
large it is, or as many as it has entries if these are fewer. Merges exactly: W + α Re(IDFT₂ F).
The (out, in) matrix is formed in every step. As c is real, the waves are cosines alone: u, v
and −u, −v give the same one, so half of all changes are out of reach even with all places.

What it changes about LoRA: a sum of n waves instead of r products B A. A wave costs one
parameter, where a rank costs in + out, and n of them may have any rank; the paper reaches
LoRA's scores with 0.2 to 14 % of its parameters.

Gao et al. 2024, section 3, arXiv:2405.03003. There c is normal, so that attaching changes the
model. Here c = 0, as HF PEFT has it with `init_weights`: the change is linear in c, so that it
trains from there too. HF's places come from PyTorch's generator, which `first_places` repeats.
"""

from dataclasses import dataclass

from ...engine.backend import array, np, xp
from ...engine.functional import linear
from ...engine.tensor import record, value
from ...model.layers import Parameter
from ...options import option
from ..base import Delta
from ..targets import Targeted, matrices, shape, weight


@dataclass(frozen=True)
class FourierFT(Targeted):
    """FourierFT with n = `n_frequency` coefficients and α = `scaling` on the named matrices."""

    n_frequency: int = option(1000, at_least=1)
    scaling: float = 150.0
    random_loc_seed: int = option(777, at_least=0, below=2**32)
    target_modules: tuple[str, ...] | str = ("q_proj", "v_proj")
    layers_to_transform: tuple[int, ...] | int | None = None

    name = "fourierft"
    family = "spectral"
    paper = "Gao et al. 2024, arXiv:2405.03003"
    idea = "a sum of a few waves in place of B A: one parameter each"
    claim = "parameters", "lora"
    equation = "f(x) + α Re(IDFT₂ F) x"
    learning_rate = 0.03
    peft_type = "FOURIERFT"
    hf_config = "FourierFTConfig"
    hf_prefix = "fourierft_"
    hf_lacks = ("layers_to_transform",)
    hf_whole = True

    def number(self, size):
        """How many coefficients the change of a matrix (out, in) has."""
        return min(self.n_frequency, size[0] * size[1])

    def formula(self, n_out, n_in):
        return "n", {"n": self.number((n_out, n_in))}

    def make_deltas(self, model, rng):
        sizes = {path: shape(layer) for path, layer in self.targets(matrices(model)).items()}
        shared = {}  # {(out, in): rows and columns of the coefficients}
        for size in set(sizes.values()):
            places = first_places(*size, self.number(size), self.random_loc_seed)
            shared[size] = tuple(array(index, int) for index in places)
        return {path: self.delta_of(size, shared[size]) for path, size in sizes.items()}

    def delta_of(self, size, places):
        """The Delta of a matrix (out, in) whose coefficients stand at (rows, columns)."""
        return FourierFTDelta(self, size, places)

    def to_hf(self, values, adapter):
        numbers = {path: self.number(delta.size) for path, delta in adapter.deltas.items()}
        fewer = {path: n for path, n in numbers.items() if n != self.n_frequency}
        return values | {"n_frequency_pattern": fewer}

    @classmethod
    def from_hf(cls, values, targets):
        # the arrays are compared with what n_frequency makes of each matrix
        return {o: v for o, v in values.items() if o != "n_frequency_pattern"}


class FourierFTDelta(Delta):
    """One change: f(x) + α Re(IDFT₂ F) x, (…, in) -> (…, out)."""

    adds = True

    def __init__(self, method, size, places):
        self.fourierft_spectrum = Parameter(np.zeros(method.number(size)))  # c
        self.size, self.places, self.scaling = size, places, method.scaling

    def change(self):
        """ΔW, a Tensor (out, in)."""
        c = self.fourierft_spectrum * self.scaling
        return inverse_dft(spread(c, self.places, self.size))

    def __call__(self, f, x):
        return f(x) + linear(x, self.change())

    def merged(self, layer):
        return {"weight": weight(layer).data + self.change().data}


def first_places(n_out, n_in, n, seed):
    """Rows and columns (n,) of the first n of all places in a random order, NumPy arrays.

    It is the order of PyTorch's `randperm` with that seed, for up to 2³² / 20 places: numbers
    of the Mersenne Twister choose one place after the other among those that are left.
    """
    size, swapped, chosen = n_out * n_in, {}, []
    draws = np.random.RandomState(seed).randint(0, 2**32, n, dtype=np.uint32).tolist()
    for i, draw in enumerate(draws):
        j = i + draw % (size - i)  # place i changes with place j; most are where they were
        chosen.append(swapped.get(j, j))
        swapped[j] = swapped.get(i, i)
    return np.divmod(np.array(chosen), n_in)


def spread(x, places, shape):
    """A matrix with the numbers x (n,) at n places, zero elsewhere; dx = g at these places."""
    y = xp.zeros_like(value(x), shape=shape)
    y[places] = value(x)
    return record(y, (x, lambda g: g[places]))


def inverse_dft(x):
    """Re(IDFT₂ x) of a real matrix; dx = Re(IDFT₂ g), as cosines are symmetric."""

    def transformed(a):
        return xp.real(xp.fft.ifft2(a)).astype(a.dtype)

    return record(transformed(value(x)), (x, transformed))
