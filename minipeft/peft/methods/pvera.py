"""PVeRA: VeRA whose hidden vector is drawn from a learnt normal distribution in training.

    f(x) + b ∘ B z             z ~ N(μ, exp ℓ)    [μ; ℓ] = d ∘ A x    A: (2 r, in)  B: (out, r)

In training z = μ + ε ∘ exp(ℓ / 2), with new ε from N(0, 1) for every token and pass; otherwise
z is its mean μ. A and B are frozen and shared as VeRA's are. b: (out,) starts at zero and d:
(2 r,) at 0.1, so attaching changes nothing. Trains 2 r + out parameters a target. The mean
merges exactly: W + diag(b) B diag(d₁) A₁, of the first r numbers of d and rows of A.

Against VeRA: it has noise in training, whose size is learnt and depends on the input; that of
dropout is one chosen number. The paper finds better accuracy from a thousand examples, and
certainties nearer to how often the answers are right. Merged, it costs nothing.

Fillioux et al. 2025, arXiv:2512.07703. From one seed, A and B are those of HF PEFT. As there,
no term of the loss draws the distribution to N(0, 1).
"""

from dataclasses import dataclass

from ...engine.backend import np
from ...engine.functional import linear
from ...engine.ops import exp
from ...model.layers import Dropout, Noise, Parameter
from ...options import option
from ..base import Delta
from ..targets import Targeted, matrices, shape, weight
from .vera import largest, projections


@dataclass(frozen=True)
class PVeRA(Targeted):
    """PVeRA of rank r on the named matrices; d starts at d_initial."""

    r: int = option(256, at_least=1, below=2**16)  # the random matrices are not in the file
    target_modules: tuple[str, ...] | str = ("q_proj", "v_proj")
    pvera_dropout: float = option(0.0, at_least=0, below=1)
    d_initial: float = 0.1
    projection_prng_key: int = option(0, at_least=0)
    layers_to_transform: tuple[int, ...] | int | None = None

    name = "pvera"
    family = "shared"
    paper = "Fillioux et al. 2025, arXiv:2512.07703"
    idea = "VeRA with noise in training, whose size is learnt"
    claim = "quality", "vera"
    contains = ("vera: no noise",)
    equation = "f(x) + b ∘ B z"
    per_matrix = "2 r + out"
    learning_rate = 0.1
    peft_type = "PVERA"
    hf_config = "PveraConfig"
    hf_prefix = "pvera_"
    hf_lacks = ("layers_to_transform",)
    hf_whole = True

    def make_deltas(self, model, rng):
        targets = self.targets(matrices(model))
        a, b = projections(self.projection_prng_key, targets.values(), 2 * self.r, self.r)
        return {path: PVeRADelta(layer, self, a, b) for path, layer in targets.items()}

    def hf_frozen(self, adapter):
        a, b = largest(adapter.deltas.values())
        return {"base_model.pvera_A": a, "base_model.pvera_B": b}


class PVeRADelta(Delta):
    """One change: f(x) + b ∘ B z, (…, in) -> (…, out)."""

    adds = True

    def __init__(self, layer, method, a, b):
        n_out, n_in = shape(layer)
        self.a, self.b = a[:, :n_in], b[:n_out]  # views of the shared matrices
        self.pvera_lambda_b = Parameter(np.zeros(n_out))
        self.pvera_lambda_d = Parameter(np.full(2 * method.r, method.d_initial))
        self.dropout, self.noise = Dropout(method.pvera_dropout), Noise()

    def __call__(self, f, x):
        r = self.b.shape[1]
        both = linear(self.dropout(x), self.a) * self.pvera_lambda_d  # (…, 2 r)
        z, noise = both[..., :r], self.noise(both[..., :r])
        if noise is not None:
            z = z + exp(both[..., r:] * 0.5) * noise
        return f(x) + linear(z, self.b) * self.pvera_lambda_b

    def merged(self, layer):
        r = self.b.shape[1]
        scaled = self.pvera_lambda_b.data[:, None] * self.b * self.pvera_lambda_d.data[:r]
        return {"weight": weight(layer).data + scaled @ self.a[:r]}
