"""Poly: a few LoRAs, called skills, of which every task takes its own weighted mean.

    f(x) + (1 / r) (Σ w_s B_s) (Σ w_s A_s) x        w = σ(Z_k) / Σ σ(Z_k),  s = 1 … S,  task k

Each target has S factors A_s: (r, in) random and B_s: (out, r) zero, and Z: (tasks, S) from
U(±0.001). B = 0, so attaching changes nothing. With LoRA, several tasks either share one
adapter, which they pull in different directions, or have one each and share nothing. Here they
share the skills, and a row of Z says how much of each a task uses. The paper finds that a new
task then needs fewer examples, as it can use skills that other tasks have trained. The means
are of the factors, not of the outputs, so it costs as much time as one LoRA of rank r, and the
change of a task has rank ≤ r. Merges exactly: W + (1 / r) (Σ w_s B_s) (Σ w_s A_s).

With n_splits = q > 1 the inputs and the outputs are cut into q parts, and each part has its own
weights w: multi-head routing. Trains S r (in + out) + tasks q S parameters a target.

An adapter computes the change of one task, `task`. To train several, set `task` of each Delta
before a batch; a file keeps the method's. In training only, the paper and HF PEFT add random
noise to Z, which drives the weights towards 0 and 1; here there is none.

Ponti et al. 2022, section 3, arXiv:2202.13914; multi-head routing: Caccia et al. 2022,
arXiv:2211.03831
"""

import math
from dataclasses import dataclass

from ...engine.backend import np
from ...engine.functional import linear
from ...engine.ops import sigmoid
from ...model.layers import Parameter
from ...options import option
from ..base import Delta
from ..targets import Targeted, check_rank, shape, weight


@dataclass(frozen=True)
class Poly(Targeted):
    """Poly with n_skills LoRAs of rank r on the named matrices, for n_tasks tasks."""

    r: int = option(8, at_least=1)
    target_modules: tuple[str, ...] | str = ("q_proj", "v_proj")
    n_tasks: int = option(1, at_least=1)
    n_skills: int = option(4, at_least=1)
    n_splits: int = option(1, at_least=1)
    task: int = option(0, at_least=0)
    layers_to_transform: tuple[int, ...] | int | None = None

    name = "poly"
    family = "mixture"
    paper = "Ponti et al. 2022, arXiv:2202.13914"
    idea = "every task takes its weighted mean of a few LoRAs"
    claim = "quality", "lora"
    contains = ("lora: one skill",)
    equation = "f(x) + (1 / r) (Σ w_s B_s) (Σ w_s A_s) x"
    learning_rate = 0.1
    peft_type = "POLY"
    hf_config = "PolyConfig"
    hf_prefix = "poly_"
    hf_lacks = ("task", "layers_to_transform", "fan_in_fan_out")
    hf_on_gpt2 = False

    def __post_init__(self):
        super().__post_init__()
        if self.task >= self.n_tasks:
            raise ValueError(
                f"task = {self.task}, but n_tasks = {self.n_tasks}; tasks count from 0"
            )

    def for_module(self, path, shape):
        check_rank(path, self.r, shape)
        for size in shape:
            if size % self.n_splits:
                raise ValueError(
                    f"n_splits = {self.n_splits} does not divide the {tuple(shape)} weight of "
                    f"{path}; choose a divisor of both sizes"
                )
        return self

    def formula(self, n_out, n_in):
        values = {"s": self.n_skills, "r": self.r, "tasks": self.n_tasks, "q": self.n_splits}
        return "s r (in + out) + tasks q s", values | {"in": n_in, "out": n_out}

    def delta(self, layer, rng):
        return PolyDelta(layer, self, rng)

    def hf_name(self, name):
        return "poly_router.module_logits" if name == "module_logits" else name

    @classmethod
    def from_hf(cls, values, targets):
        return {option: v for option, v in values.items() if option != "poly_type"}


class PolyDelta(Delta):
    """The mean of some low-rank changes: f(x) + (1 / r) B A x, (…, in) -> (…, out)."""

    adds = True

    def __init__(self, layer, method, rng):
        (n_out, n_in), r = shape(layer), method.r
        q, s = self.routed = method.n_splits, method.n_skills
        a = rng.uniform(-1.0, 1.0, (q, s, n_in // q, r)) / math.sqrt(n_in // q)
        self.poly_lora_A = Parameter(a)
        self.poly_lora_B = Parameter(np.zeros((q, s, r, n_out // q)))
        self.module_logits = Parameter(rng.uniform(-1e-3, 1e-3, (method.n_tasks, q * s)))  # Z
        self.task = method.task

    def factors(self):
        """A (r, in) and B (out, r) of the task: means over the skills, split by split."""
        w = sigmoid(self.module_logits[self.task].reshape(*self.routed, 1, 1))
        w = w / (w.sum(axis=1, keepdims=True) + 1e-12)  # the addend is HF PEFT's
        a, b = (w * self.poly_lora_A).sum(axis=1), (w * self.poly_lora_B).sum(axis=1)
        r = a.shape[-1]
        return a.reshape(-1, r).transpose(1, 0), b.transpose(0, 2, 1).reshape(-1, r)

    def __call__(self, f, x):
        a, b = self.factors()
        return f(x) + linear(linear(x, a) * (1.0 / len(a)), b)

    def merged(self, layer):
        a, b = (factor.data for factor in self.factors())
        return {"weight": weight(layer).data + b @ a / len(a)}
