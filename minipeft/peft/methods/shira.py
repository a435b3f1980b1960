"""SHiRA: trains a few elements of the weight, at random places, and no others.

    f(x) + S x                      S: (out, in), zero but at r (in + out) random places

S = 0 everywhere at the start, so attaching changes nothing. Trains the elements at those
places: r (in + out) parameters a target, as many as LoRA of rank r. Merges exactly: W + S.
The places come from `random_seed`, which a file keeps.

Against LoRA: the change is sparse and of high rank, where LoRA's is dense and of rank r.
Merged, it touches few of the weights, in the paper 1 or 2 of 100. There this makes it faster to
swap one adapter for another on a small device, and several at once disturb each other less.
Training forms S, a matrix (out, in), in each step.

Bhardwaj et al. 2024, section 3, arXiv:2406.13175, with its mask SHiRA-Rand; its other masks
choose places by the weights or their gradients. From one seed, the places are those that HF
PEFT draws. HF's default is to have no seed: such a file is refused, as its places cannot be
drawn again.
"""

import functools
from dataclasses import dataclass

from ...engine.backend import np, xp
from ...engine.functional import linear
from ...engine.tensor import record, value
from ...model.layers import Parameter
from ...options import option
from ..base import Delta
from ..targets import Targeted, shape, weight
from ..torch_random import TorchGenerator


@dataclass(frozen=True)
class SHiRA(Targeted):
    """SHiRA with r (in + out) random places on each of the named matrices."""

    r: int = option(8, at_least=1)
    target_modules: tuple[str, ...] | str = ("q_proj", "v_proj")
    random_seed: int = option(0, at_least=0)
    layers_to_transform: tuple[int, ...] | int | None = None

    name = "shira"
    family = "lora"
    paper = "Bhardwaj et al. 2024, arXiv:2406.13175"
    idea = "a few elements of W at random places in place of B A: sparse, and of high rank"
    claim = "quality", "lora"
    contains = ("full: all places, of its matrices",)
    equation = "f(x) + S x"
    per_matrix = "r (in + out)"
    learning_rate = 0.03
    peft_type = "SHIRA"
    hf_config = "ShiraConfig"
    hf_prefix = "shira_"
    hf_lacks = ("layers_to_transform",)
    hf_on_gpt2 = False
    hf_whole = True

    def for_module(self, path, shape):
        n_out, n_in = shape
        if self.r * (n_out + n_in) > n_out * n_in:
            raise ValueError(
                f"r (in + out) = {self.r} ({n_in} + {n_out}) places are more than {path} has, "
                f"{n_out * n_in}; lower r or leave {path} out"
            )
        return self

    def delta(self, layer, rng):
        return SHiRADelta(layer, self)

    def to_hf(self, values, adapter):
        return values | {"mask_type": "random"}

    @classmethod
    def from_hf(cls, values, targets):
        if values.get("mask_type") != "random":
            raise ValueError(f"its mask_type is {values.get('mask_type')!r}; expected 'random'")
        return {option: v for option, v in values.items() if option != "mask_type"}


class SHiRADelta(Delta):
    """One change: f(x) + S x, (…, in) -> (…, out)."""

    adds = True

    def __init__(self, layer, method):
        self.size = shape(layer)
        self.places = xp.asarray(places(method.random_seed, method.r, *self.size))  # (2, k)
        self.shira_weight = Parameter(np.zeros(self.places.shape[1]))

    def change(self):
        """S, a Tensor (out, in); the gradient of its elements is that of S at their places."""
        elements, (rows, columns) = value(self.shira_weight), self.places
        s = xp.zeros_like(elements, shape=self.size)
        s[rows, columns] = elements
        return record(s, (self.shira_weight, lambda g: g[rows, columns]))

    def __call__(self, f, x):
        return f(x) + linear(x, self.change())

    def merged(self, layer):
        return {"weight": weight(layer).data + self.change().data}

    def hf_frozen(self):
        return {"shira_indices": self.places}


@functools.lru_cache(maxsize=64)
def places(seed, r, n_out, n_in):
    """Rows and columns (2, r (in + out)) of the random places, row by row."""
    chosen = TorchGenerator(seed).choice(n_out * n_in, r * (n_out + n_in))
    return np.stack(np.divmod(np.sort(chosen), n_in)).astype("int32")
