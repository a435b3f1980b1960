"""AdaLoRA: low-rank changes that compete for a shrinking budget of ranks.

    f(x) + (α / r) P Λ Q x          Q: (r, in), P: (out, r) from N(0, 0.02²)    Λ: (r,) zero

r = init_r. Λ = 0, so attaching changes nothing. P Λ Q has the form of an SVD. To keep P and Q
nearly orthogonal, γ (‖Pᵀ P − I‖² + ‖Q Qᵀ − I‖²), averaged over the targets, is added to the
loss. Then λₖ alone says how much the k-th triplet (column of P, λ, row of Q) matters: it can be
set to zero and come back. Trains r (in + out) + r parameters a target; in the end few triplets
are left. Merges exactly. The rank is the number of λ that are not zero.

After each update every parameter w with gradient g gets a score: its smoothed sensitivity
I ← β₁ I + (1 − β₁) |w g| times its smoothed uncertainty U ← β₂ U + (1 − β₂) | |w g| − I |. The
score of a triplet is that of λ plus the mean score in its column of P and in its row of Q.
Every deltaT updates, only the b(t) best triplets of the whole model keep their λ:

    b(t) = init_r N                                                   t ≤ tinit
    b(t) = (target_r + (init_r − target_r) (1 − τ)³) N                τ from 0 to 1
    b(t) = target_r N, those chosen at its start                      the last tfinal updates

for N targets. `fit` does all that, and notes the ranks after each update in the History. The
next `fit` begins with the triplets that are left: P and Q of the others are set to zero, so
that their gradients are zero too and they stay away.

Zhang et al. 2023, sections 3.1 to 3.3, arXiv:2303.10512. Defaults and initialisation are those
of HF PEFT, which divides by r + 10⁻⁵ and does not square the norms.
"""

from dataclasses import dataclass

from ...engine.backend import np, to_list, xp
from ...engine.functional import linear
from ...engine.ops import square
from ...model.layers import Dropout, Parameter
from ...options import option
from ..base import Delta
from ..targets import Targeted, check_factors, shape, weight


@dataclass(frozen=True)
class AdaLoRA(Targeted):
    """AdaLoRA on the named matrices, from init_r ranks each to target_r on average."""

    init_r: int = option(12, at_least=1)
    target_r: int = option(8, at_least=1)
    lora_alpha: float = 8.0
    lora_dropout: float = option(0.0, at_least=0, below=1)
    target_modules: tuple[str, ...] | str = ("q_proj", "v_proj")
    tinit: int = option(0, at_least=0)  # updates before the budget shrinks
    tfinal: int = option(0, at_least=0)  # updates after it has shrunk
    deltaT: int = option(1, at_least=1)
    beta1: float = option(0.85, at_least=0, below=1)
    beta2: float = option(0.85, at_least=0, below=1)
    orth_reg_weight: float = option(0.5, at_least=0)  # γ
    layers_to_transform: tuple[int, ...] | int | None = None

    name = "adalora"
    family = "lora"
    paper = "Zhang et al. 2023, arXiv:2303.10512"
    idea = "the ranks are shared out between the targets during training"
    claim = "quality", "lora"
    within = ("lora: B = P Λ",)
    equation = "f(x) + (α / r) P Λ Q x"
    per_matrix = "r (in + out) + r"
    learning_rate = 0.03
    peft_type = "ADALORA"
    hf_config = "AdaLoraConfig"
    hf_prefix = "lora_"
    hf_lacks = ("layers_to_transform",)

    def __post_init__(self):
        super().__post_init__()
        if self.target_r > self.init_r:
            raise ValueError(f"target_r = {self.target_r} is more than init_r = {self.init_r}")

    def for_module(self, path, shape):
        check_factors(path, self.init_r, shape)
        return self

    def formula(self, n_out, n_in):
        return self.per_matrix, {"out": n_out, "in": n_in, "r": self.init_r}

    def delta(self, layer, rng):
        return AdaLoRADelta(layer, self, rng)

    def to_hf(self, values, adapter):
        return values | {"total_step": self.tinit + self.tfinal + 1}

    @classmethod
    def from_hf(cls, values, targets):
        return {option: v for option, v in values.items() if option != "r"}  # unused, of LoRA

    def hf_factor(self, name):
        return 1.0 + 1e-5 / self.init_r if name == "lora_E" else 1.0

    def budget(self, step, steps, n):
        """b(t), the number of triplets that n targets have after update `step` of `steps`."""
        shrinking = steps - self.tfinal - self.tinit
        if shrinking < 1:
            both = f"tinit = {self.tinit} and tfinal = {self.tfinal}"
            raise ValueError(f"{both} leave none of {steps} steps to shrink in; lower them")
        left = min(max(1.0 - (step - self.tinit) / shrinking, 0.0), 1.0)
        return n * self.target_r + int(n * (self.init_r - self.target_r) * left**3)

    def before_step(self, adapter, step, steps):
        self.budget(step, steps, 1)  # raises if the run is too short
        deltas = adapter.deltas.values()
        if step == 1 and any(to_list([(delta.lora_E.data != 0).any() for delta in deltas])):
            for delta in deltas:
                delta.drop_pruned()
        if self.orth_reg_weight:
            share = self.orth_reg_weight / len(deltas)
            for delta in deltas:
                (delta.skewness() * share).backward()

    def after_step(self, adapter, step, steps, scale=1.0):
        deltas = adapter.deltas.values()
        budget, last = self.budget(step, steps, len(deltas)), steps - self.tfinal
        if step <= last:
            smooth = self.beta1, self.beta2, step == 1
            scores = [delta.score(*smooth, scale) for delta in deltas]
        if step == last or (self.tinit < step < last and step % self.deltaT == 0):
            best = xp.argsort(-xp.concatenate(scores), kind="stable")[:budget]
            kept = xp.zeros(self.init_r * len(deltas))
            kept[best] = 1.0
            for delta, own in zip(deltas, kept.reshape(len(deltas), -1), strict=True):
                delta.kept[...] = own
                delta.lora_E.data *= delta.kept
        elif step > last:
            for delta in deltas:
                delta.lora_E.data *= delta.kept
        ranks = to_list([(delta.lora_E.data != 0).sum() for delta in deltas])
        return dict(zip(adapter.deltas, ranks, strict=True))


class AdaLoRADelta(Delta):
    """One change: f(x) + (α / r) P Λ Q x, (…, in) -> (…, out)."""

    adds = True

    def __init__(self, layer, method, rng):
        (n_out, n_in), r = shape(layer), method.init_r
        self.lora_A = Parameter(0.02 * rng.standard_normal((r, n_in)))  # Q
        self.lora_B = Parameter(0.02 * rng.standard_normal((n_out, r)))  # P
        self.lora_E = Parameter(np.zeros(r))  # Λ
        self.dropout = Dropout(method.lora_dropout)
        self.scaling = method.lora_alpha / r
        self.sensitivity = [xp.zeros_like(p.data) for p in self.parameters()]  # I
        self.uncertainty = [xp.zeros_like(p.data) for p in self.parameters()]  # U
        self.kept = xp.ones_like(self.lora_E.data)  # 1 where the last allocation left a λ

    def __call__(self, f, x):
        thin = linear(self.dropout(x), self.lora_A) * (self.lora_E * self.scaling)  # (…, r)
        return f(x) + linear(thin, self.lora_B)

    def merged(self, layer):
        change = self.scaling * self.lora_B.data * self.lora_E.data @ self.lora_A.data
        return {"weight": weight(layer).data + change}

    def saved(self):
        return super().saved() | {"lora_E": self.lora_E.data[:, None]}  # as in HF PEFT

    def state(self):
        smoothed = {"sensitivity": self.sensitivity, "uncertainty": self.uncertainty}
        arrays = {f"{k}.{i}": a for k, list_ in smoothed.items() for i, a in enumerate(list_)}
        return arrays | {"kept": self.kept}

    @property
    def rank(self):
        """The number of λ that are not zero."""
        return int((self.lora_E.data != 0).sum())

    def drop_pruned(self):
        """Set P and Q to zero where λ is zero, and the gradient of that λ."""
        left = (self.lora_E.data != 0).astype(self.lora_E.dtype)
        self.lora_B.data *= left
        self.lora_A.data *= left[:, None]
        if self.lora_E.grad is not None:
            self.lora_E.grad = self.lora_E.grad * left

    def skewness(self):
        """‖Pᵀ P − I‖² + ‖Q Qᵀ − I‖², squared Frobenius norms, as a Tensor."""
        p, q, one = self.lora_B, self.lora_A, xp.eye(len(self.lora_E), dtype=self.lora_E.dtype)
        both = (p.transpose(1, 0) @ p - one, q @ q.transpose(1, 0) - one)
        return sum(square(off).sum() for off in both)

    def score(self, beta1, beta2, fresh, scale=1.0):
        """The triplets' scores (r,), after smoothing I and U further, or from zero if fresh.

        The gradients count times `scale`.
        """
        scores, averages = [], zip(self.sensitivity, self.uncertainty, strict=True)
        for p, (mean, off) in zip(self.parameters(), averages, strict=True):
            now = xp.zeros_like(p.data) if p.grad is None else xp.abs(p.data * (p.grad * scale))
            mean[...] = (1.0 - beta1) * now + (0.0 if fresh else beta1 * mean)
            off[...] = (1.0 - beta2) * xp.abs(now - mean) + (0.0 if fresh else beta2 * off)
            scores.append(mean * off)
        q, p, e = scores
        return e + p.mean(axis=0) + q.mean(axis=1)
