"""RoAd: turns the outputs of a layer pair by pair, by a learnt angle, and stretches them.

    R f(x)          R = diag(R₁ …)          R_i = α_i [cos θ_i, −sin θ_i; sin θ_i, cos θ_i]

That is α cos θ ∘ y + α sin θ ∘ (y turned by 90°), all elementwise, as RoPE turns queries; but
here the angle is learnt, and is the same at every position. θ = 0 and α = 1, so attaching
changes nothing. Trains out parameters a target as "road_1", half of them angles. "road_2" has
an α and θ for each row of R_i, "road_4" for each of its four elements: 2 and 4 times as many.
R_i is then no rotation, but any 2 × 2 matrix as "road_4". Merges exactly: W ← R W, b ← R b.

What it changes about LoRA: no matrix is multiplied, so rows of a batch that use different
adapters cost no more than rows that use one. What it changes about (IA)³, which has α alone:
two outputs can be mixed. The paper finds that fine-tuning changes angles more than lengths.

A pair is outputs i and i + group_size / 2 of a group: neighbours with 2, as in the paper. HF
PEFT's default is 64. It chooses other pairs, but none is better than another beforehand.

Liao et al. 2024, section 3, arXiv:2409.00119
"""

from dataclasses import dataclass

from ...engine.backend import np, xp
from ...engine.ops import concat
from ...engine.tensor import Tensor, record, value
from ...model.layers import Parameter
from ...options import option
from ..base import Delta
from ..targets import Targeted, shape, weight

PER_PAIR = {"road_1": 1, "road_2": 2, "road_4": 4}  # how many θ a pair has, and how many α


@dataclass(frozen=True)
class RoAd(Targeted):
    """RoAd with pairs inside groups of `group_size` outputs of the named matrices."""

    variant: str = option("road_1", one_of=tuple(PER_PAIR))
    group_size: int = option(2, at_least=2)
    target_modules: tuple[str, ...] | str = ("q_proj", "v_proj")
    layers_to_transform: tuple[int, ...] | int | None = None

    name = "road"
    family = "orthogonal"
    paper = "Liao et al. 2024, arXiv:2409.00119"
    idea = "(IA)³ that also turns pairs of outputs"
    claim = "parameters", "lora"
    contains = ("ia3: angles 0",)
    equation = "R f(x)"
    learning_rate = 0.3
    peft_type = "ROAD"
    hf_config = "RoadConfig"
    hf_prefix = "road_"
    hf_lacks = ("layers_to_transform", "fan_in_fan_out")
    hf_on_gpt2 = False
    hf_whole = True

    def __post_init__(self):
        super().__post_init__()
        if self.group_size % 2:
            raise ValueError(f"group_size must be even, got {self.group_size}")

    def for_module(self, path, shape):
        if shape[0] % self.group_size:
            raise ValueError(
                f"the {shape[0]} outputs of {path} do not divide into groups of "
                f"{self.group_size}; choose another group_size or leave {path} out"
            )
        return self

    def formula(self, n_out, n_in):
        n = PER_PAIR[self.variant]
        return "out" if n == 1 else f"{n} out", {"out": n_out}

    def delta(self, layer, rng):
        return RoAdDelta(layer, self)


class RoAdDelta(Delta):
    """One turned output: R f(x), (…, in) -> (…, out)."""

    def __init__(self, layer, method):
        size = shape(layer)[0] // 2 * PER_PAIR[method.variant]
        self.half = method.group_size // 2
        self.road_theta = Parameter(np.zeros(size))
        self.road_alpha = Parameter(np.ones(size))
        self.per_pair = PER_PAIR[method.variant]

    def turned(self, y):
        """R y, (…, out), in groups of two halves: the pairs are across."""
        grid = -1, self.per_pair, self.half
        theta, alpha = self.road_theta.reshape(*grid), self.road_alpha.reshape(*grid)
        same, other = (alpha * cos(theta))[:, :2], (alpha * sin(theta))[:, -2:]
        halves = y.reshape(*y.shape[:-1], -1, 2, self.half)
        quarter_turn = concat([-halves[..., 1:, :], halves[..., :1, :]], axis=-2)
        return (halves * same + quarter_turn * other).reshape(*y.shape)

    def __call__(self, f, x):
        return self.turned(f(x))

    def merged(self, layer):
        columns, bias = Tensor(weight(layer).data.T), getattr(layer, "bias", None)
        merged = {"weight": self.turned(columns).data.T.copy()}  # row by row in memory
        if bias is not None:
            merged["bias"] = self.turned(Tensor(bias.data)).data
        return merged


def cos(x):
    """cos x; dx = −g sin x."""
    a = value(x)
    return record(xp.cos(a), (x, lambda g: -g * xp.sin(a)))


def sin(x):
    """sin x; dx = g cos x."""
    a = value(x)
    return record(xp.sin(a), (x, lambda g: g * xp.cos(a)))
