"""DeLoRA: LoRA whose directions have length 1, and whose strength is a number that trains.

    f(x) + (λ / r) B Ξ A (w ∘ x)    Ξ = diag(1 / (‖bᵢ‖ ‖aᵢ‖))   A: (r, in)  B: (out, r)  λ: (1,)

aᵢ are the rows of A, bᵢ the columns of B, and w holds the norms of the columns of W. A and B
start random, and what they add at the start is subtracted ever after, so attaching changes
nothing. Trains r (in + out) + 1 parameters a target. Merges exactly: W + (λ / r) B Ξ A diag(w)
less the same of the start. The start is drawn from `start_seed`, which a file keeps.

Against LoRA: Ξ takes the lengths out of B A. Measured in units of w, (λ / r) B Ξ A is never
longer than λ, whatever A and B become. The paper finds that a learning rate too high, or a run
too long, then does the model far less harm.

Bini et al. 2025, section 2, arXiv:2503.18225; ‖W‖ there is the norm of each column, as in its
code. HF PEFT starts with B = 0 and subtracts nothing, which the paper found unstable: the first
step of B makes the change as long as λ allows. `start_seed=None` does that, and goes to HF and
back. As in HF, no length counts for less than 10⁻⁴.
"""

from dataclasses import dataclass

from ...engine.backend import np, xp
from ...engine.functional import linear
from ...engine.tensor import record, value
from ...model.layers import Dropout, Parameter, kaiming_uniform
from ...options import option
from ..base import Delta
from ..targets import Targeted, check_factors, patterned, shape, weight

SHORTEST = 1e-4  # what a length is taken for at least


@dataclass(frozen=True)
class DeLoRA(Targeted):
    """DeLoRA of rank r on the named matrices; λ starts at delora_lambda."""

    r: int = option(8, at_least=1)
    delora_lambda: float = option(15.0, above=0)
    module_dropout: float = option(0.0, at_least=0, below=1)
    target_modules: tuple[str, ...] | str = ("q_proj", "v_proj")
    start_seed: int | None = option(0, at_least=0)
    layers_to_transform: tuple[int, ...] | int | None = None
    rank_pattern: dict[str, int] = option(default_factory=dict, hash=False, at_least=1)

    name = "delora"
    family = "lora"
    paper = "Bini et al. 2025, arXiv:2503.18225"
    idea = "the directions have length 1, and their strength is a number that trains"
    claim = "quality", "lora"
    within = ("lora: r = 1",)
    equation = "f(x) + (λ / r) B Ξ A (w ∘ x)"
    per_matrix = "r (in + out) + 1"
    learning_rate = 0.1
    peft_type = "DELORA"
    hf_config = "DeloraConfig"
    hf_prefix = "delora_"
    hf_lacks = ("layers_to_transform", "start_seed", "fan_in_fan_out")
    hf_on_gpt2 = False
    hf_whole = True

    def for_module(self, path, shape):
        own = patterned(self, path)
        check_factors(path, own.r, shape)
        return own

    def make_deltas(self, model, rng):
        own = rng if self.start_seed is None else np.random.default_rng(self.start_seed)
        return super().make_deltas(model, own)

    def delta(self, layer, rng):
        return DeLoRADelta(layer, self, rng)

    def to_hf(self, values, adapter):
        if self.start_seed is not None:
            raise ValueError(
                "HF PEFT subtracts no start from DeLoRA; attach DeLoRA(start_seed=None) for an "
                "adapter that goes there"
            )
        return values

    @classmethod
    def from_hf(cls, values, targets):
        return values | {"start_seed": None}


class DeLoRADelta(Delta):
    """One change: f(x) + (λ / r) B Ξ A (w ∘ x) less that of the start, (…, in) -> (…, out)."""

    adds = True

    def __init__(self, layer, method, rng):
        (n_out, n_in), r = shape(layer), method.r
        zero = method.start_seed is None
        self.delora_A = Parameter(kaiming_uniform(rng, r, n_in))
        self.delora_B = Parameter(
            np.zeros((n_out, r)) if zero else kaiming_uniform(rng, n_out, r)
        )
        self.delora_lambda = Parameter(np.full(1, method.delora_lambda))
        self.start_A, self.start_B, self.start_lambda = (p.data.copy() for p in self.factors())
        self.dropout = Dropout(method.module_dropout)
        self.made_for = (weight(layer),)
        self.w = xp.linalg.norm(weight(layer).data, axis=0)

    def factors(self):
        """A, B and λ."""
        return self.delora_A, self.delora_B, self.delora_lambda

    def start(self):
        """What these were at the start."""
        return self.start_A, self.start_B, self.start_lambda

    def __call__(self, f, x):
        stretched = self.dropout(x) * self.w
        now, before = (
            linear(linear(stretched, a) * strengths(a, b, lam), b)
            for a, b, lam in (self.factors(), self.start())
        )
        return f(x) + (now - before)

    def merged(self, layer):
        now, before = (
            (value(b) * value(strengths(a, b, lam))) @ value(a)
            for a, b, lam in (self.factors(), self.start())
        )
        return {"weight": weight(layer).data + (now - before) * self.w}

    def hf_frozen(self):
        return {"delora_w_norm": self.w}


def strengths(a, b, lam):
    """(λ / r) Ξ, (r,)."""
    return lam / (lengths(a, 1) * lengths(b, 0) * float(len(a)))


def lengths(x, axis):
    """max(‖x‖, 10⁻⁴) along an axis; dx = g x / ‖x‖, or zero where the norm is smaller."""
    a = value(x)
    norms = xp.linalg.norm(a, axis=axis)
    y, long = xp.maximum(norms, SHORTEST), norms >= SHORTEST
    return record(y, (x, lambda g: xp.expand_dims(g * long / y, axis) * a))
