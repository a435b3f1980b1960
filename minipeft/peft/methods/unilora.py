"""Uni-LoRA: every number of every LoRA matrix is an entry of one short vector that trains.

    f(x) + B(P θ) A(P θ) x          all A and B of a model, end to end, are P θ       θ: (d,)

P is frozen. Each of its D rows takes one entry of θ, divided by √(how many rows take it). All
entries are taken equally often, or once more, in an order shuffled by `proj_seed`. θ is
U(±0.02). Trains d parameters in all, whatever the model and the targets. Merges exactly:
W + B A, of rank ≤ r. Only θ and the seed are saved.

Against LoRA: its D = Σ r (in + out) numbers are tied to d values; with d = D it is LoRA. The
paper shows that VeRA, VB-LoRA and others are P θ too, with other P. This P keeps lengths,
‖P θ‖ = ‖θ‖, and treats all layers alike. The paper needs fewer parameters than with the others
to do as well.

B A is small at the start, but not zero, so attaching changes the logits a little: with θ = 0
both B and A would be zero, and nothing would learn.

Li et al. 2025, arXiv:2506.00799. From one seed, P is that of HF PEFT.
"""

from dataclasses import dataclass

from ...engine.backend import array, np, xp
from ...engine.functional import linear
from ...model.layers import Dropout, Parameter
from ...options import option
from ..base import Delta
from ..formula import Term
from ..targets import Targeted, check_rank, matrices, shape, weight


@dataclass(frozen=True)
class UniLoRA(Targeted):
    """Uni-LoRA of rank r on the named matrices, from a vector of theta_d_length entries."""

    r: int = option(4, at_least=1)
    theta_d_length: int = option(256, at_least=1)
    target_modules: tuple[str, ...] | str = ("q_proj", "v_proj")
    unilora_dropout: float = option(0.0, at_least=0, below=1)
    proj_seed: int = option(42, at_least=0)
    init_theta_d_bound: float = option(0.02, above=0)
    layers_to_transform: tuple[int, ...] | int | None = None

    name = "unilora"
    family = "shared"
    paper = "Li et al. 2025, arXiv:2506.00799"
    idea = "every number of every A and B is an entry of one short vector"
    claim = "parameters", "lora"
    contains = ("lora: a value for each number",)
    equation = "f(x) + B(P θ) A(P θ) x"
    learning_rate = 0.3
    peft_type = "UNILORA"
    shared = ("unilora_theta_d",)
    hf_config = "UniLoraConfig"
    hf_prefix = "unilora_"
    hf_lacks = ("layers_to_transform",)
    hf_whole = True

    def for_module(self, path, shape):
        check_rank(path, self.r, shape)
        return self

    def terms(self, config):
        self.fitting(config.target_shapes)  # raises for what `attach` would
        return [Term({}, "d", {"d": self.theta_d_length})]

    def make_deltas(self, model, rng):
        bound, targets = self.init_theta_d_bound, self.fitting(matrices(model))
        theta = Parameter(rng.uniform(-bound, bound, (self.theta_d_length,)))
        sizes = [shape(layer) for layer in targets.values()]
        ends = np.cumsum([self.r * sum(size) for size in sizes])
        taken = entries(ends[-1], self.theta_d_length, self.proj_seed)
        often = np.bincount(taken, minlength=self.theta_d_length).astype("float32")
        scale = np.float32(1.0) / np.sqrt(often[taken])
        parts = zip(sizes, np.split(taken, ends[:-1]), np.split(scale, ends[:-1]), strict=True)
        deltas = [UniLoRADelta(self, theta, *part) for part in parts]
        return dict(zip(targets, deltas, strict=True))


class UniLoRADelta(Delta):
    """One change: f(x) + B A x, (…, in) -> (…, out)."""

    adds = True

    def __init__(self, method, theta, size, taken, scale):
        (n_out, n_in), r = size, method.r
        self.unilora_theta_d = theta
        # of A and B: the entry of θ that is at each place, and its factor
        self.taken_a, self.taken_b = two(xp.asarray(taken), r, n_in, n_out)
        self.scale_a, self.scale_b = two(array(scale), r, n_in, n_out)
        self.dropout = Dropout(method.unilora_dropout)

    def factors(self):
        """A (r, in) and B (out, r)."""
        theta = self.unilora_theta_d
        return theta[self.taken_a] * self.scale_a, theta[self.taken_b] * self.scale_b

    def __call__(self, f, x):
        a, b = self.factors()
        return f(x) + linear(linear(self.dropout(x), a), b)

    def merged(self, layer):
        a, b = (factor.data for factor in self.factors())
        return {"weight": weight(layer).data + b @ a}


def two(values, r, n_in, n_out):
    """Those of A (r, in) and those of B (out, r), of an array in which B comes after A."""
    return values[: r * n_in].reshape(r, n_in), values[r * n_in :].reshape(n_out, r)


def entries(n, d, seed):
    """Which of d entries is at each of n places, as often as one another or once more."""
    rng = np.random.default_rng(seed)
    taken = np.repeat(np.arange(d), n // d)
    taken = np.concatenate([taken, rng.choice(d, n % d, replace=False)]) if n % d else taken
    rng.shuffle(taken)
    return taken
