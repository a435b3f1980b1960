"""DeLoRA: LoRA whose directions have length 1, and whose strength is a number that trains.

    f(x) + (λ / r) B Ξ A (w ∘ x)    Ξ = diag(1 / (‖bᵢ‖ ‖aᵢ‖))   A: (r, in)  B: (out, r)  λ: (1,)

aᵢ are the rows of A, bᵢ the columns of B, and w holds the norms of the columns of W. A and B
start random, and what they add at the start is subtracted ever after, so attaching changes
nothing. Trains r (in + out) + 1 parameters a target. Merges exactly: W + (λ / r) B Ξ A diag(w)
less the same of the start. The start is drawn from `start_seed`, which a file keeps.

Against LoRA: Ξ takes the lengths out of B A, so that in units of w the change is never longer
than λ. The paper finds that runs at a learning rate too high, or for too long, then ruin the
model far less.

Bini et al. 2025, section 2.2, arXiv:2503.18225, as in its code with the norms of columns for
‖W‖. HF PEFT starts with B = 0 and subtracts nothing, which the paper calls unstable: the first
step of B makes the change as long as λ allows. `start_seed=None` does that, and goes there and
back. As there, no length counts for less than 10⁻⁴.
"""

from dataclasses import dataclass

from ...engine.backend import np, xp
from ...engine.functional import linear
from ...engine.tensor import record, value
from ...model.layers import Dropout, Parameter, kaiming_uniform
from ...options import option
from ..base import Delta
from ..targets import Targeted, check_rank, patterned, shape, weight

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
    equation = "f(x) + (λ / r) B Ξ A (w ∘ x)"
    per_matrix = "r (in + out) + 1"
    learning_rate = 0.01
    peft_type = "DELORA"
    hf_config = "DeloraConfig"
    hf_prefix = "delora_"
    hf_lacks = ("layers_to_transform", "start_seed", "fan_in_fan_out")
    hf_on_gpt2 = False

    def for_module(self, path, shape):
        own = patterned(self, path)
        check_rank(path, own.r, shape)
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
        subtracts = method.start_seed is not None
        self.delora_A = Parameter(kaiming_uniform(rng, r, n_in))
        self.delora_B = Parameter(
            kaiming_uniform(rng, n_out, r) if subtracts else np.zeros((n_out, r))
        )
        self.delora_lambda = Parameter(np.full(1, method.delora_lambda))
        self.dropout = Dropout(method.module_dropout)
        self.made_for = (weight(layer),)
        self.w = xp.linalg.norm(weight(layer).data, axis=0)
        if subtracts:
            self.start_a, self.start_b, self.start_lam = (p.data.copy() for p in self.factors())

    def factors(self):
        """A, B and λ."""
        return self.delora_A, self.delora_B, self.delora_lambda

    def start(self):
        """What these were at the start, if it is subtracted, else ()."""
        return (self.start_a, self.start_b, self.start_lam) if hasattr(self, "start_a") else ()

    def __call__(self, f, x):
        x_w = self.dropout(x) * self.w
        low = along(x_w, *self.factors())
        if start := self.start():
            low = low - along(x_w, *start)
        return f(x) + low

    def merged(self, layer):
        change = product(*(p.data for p in self.factors()))
        if start := self.start():
            change = change - product(*start)
        return {"weight": weight(layer).data + change * self.w}

    def hf_frozen(self):
        return {"delora_w_norm": self.w}


def strengths(a, b, lam):
    """(λ / r) Ξ, (r,)."""
    return lam / (lengths(a, 1) * lengths(b, 0) * float(len(a)))


def along(x, a, b, lam):
    """(λ / r) B Ξ A x, (…, in) -> (…, out)."""
    return linear(linear(x, a) * strengths(a, b, lam), b)


def product(a, b, lam):
    """(λ / r) B Ξ A, an array (out, in)."""
    return (b * value(strengths(a, b, lam))) @ a


def lengths(x, axis):
    """max(‖x‖, 10⁻⁴) along an axis; dx = g x / ‖x‖, or zero where the norm is smaller."""
    a = value(x)
    norms = xp.linalg.norm(a, axis=axis)
    y, long = xp.maximum(norms, SHORTEST), norms >= SHORTEST
    return record(y, (x, lambda g: xp.expand_dims(g * long / y, axis) * a))
