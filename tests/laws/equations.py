"""What each change computes, restated in plain NumPy from the equation of its paper.

A matrix's change is restated as the weight and bias (W', b') of the Linear that would do the
same; a sub-layer's as a function of the sub-layer f and its input x.
"""

import minipeft as mp
from minipeft.engine.backend import np, to_numpy

PHI = {
    "relu": lambda h: np.maximum(h, 0.0),
    "gelu": lambda h: 0.5 * h * (1 + np.tanh((2 / np.pi) ** 0.5 * (h + 0.044715 * h**3))),
    "silu": lambda h: h / (1 + np.exp(-h)),
    "identity": lambda h: h,
}


def scale(method):
    """α / r, for rsLoRA α / √r"""
    return method.lora_alpha / method.r ** (0.5 if isinstance(method, mp.RSLoRA) else 1)


def lora(method, a, w):
    """W + (α / r) B A"""
    return w + scale(method) * a.lora_B @ a.lora_A


def pissa(method, a, w):
    """W − (its best part of rank r) + (α / r) B A"""
    u, s, v = np.linalg.svd(w, full_matrices=False)
    r = method.r
    return lora(method, a, w - (u[:, :r] * s[:r]) @ v[:r])


def dora(method, a, w):
    """m / ‖V‖ · V, row by row, V = W + (α / r) B A"""
    v = lora(method, a, w)
    return a.lora_magnitude_vector[:, None] * v / np.sqrt((v * v).sum(axis=1, keepdims=True))


def vera(method, a, w):
    """W + diag(b) B diag(d) A"""
    return w + np.diag(a.vera_lambda_b) @ a.b @ np.diag(a.vera_lambda_d) @ a.a


def adalora(method, a, w):
    """W + (α / r) P Λ Q"""
    return w + method.lora_alpha / method.init_r * a.lora_B @ np.diag(a.lora_E) @ a.lora_A


def loha(method, a, w):
    """W + (α / r) (B₁ A₁) ∘ (B₂ A₂)"""
    product = (a.hada_w1_a @ a.hada_w1_b) * (a.hada_w2_a @ a.hada_w2_b)
    return w + method.alpha / method.r * product


def lokr(method, a, w):
    """W + (α / r) W₁ ⊗ W₂"""
    one, two = (
        getattr(a, n) if hasattr(a, n) else getattr(a, f"{n}_a") @ getattr(a, f"{n}_b")
        for n in ("lokr_w1", "lokr_w2")
    )
    return w + method.alpha / method.r * np.kron(one, two)


MATRIX = {  # {class of a Delta: its W' from W}; an (IA)³ is below, as it has a bias
    "LoRADelta": lora,
    "DoRADelta": dora,
    "PiSSADelta": pissa,
    "VeRADelta": vera,
    "AdaLoRADelta": adalora,
    "LoHaDelta": loha,
    "LoKrDelta": lokr,
    "IA3Delta": lambda method, a, w: np.diag(a.ia3_l) @ w,
    "IA3InputDelta": lambda method, a, w: w @ np.diag(a.ia3_l),
    "LoRAEmbeddingDelta": lambda method, a, w: (
        w + scale(method) * (a.lora_embedding_B @ a.lora_embedding_A).T
    ),
}
RANK = {  # {class of a Delta: the largest rank that W' − W may have}
    "LoRADelta": lambda method: method.r,
    "PiSSADelta": lambda method: 2 * method.r,
    "VeRADelta": lambda method: method.r,
    "AdaLoRADelta": lambda method: method.init_r,
}


def bottleneck(method, a, f, x):
    """h + U φ(D h + b₁) + b₂, h = f(x)"""
    h = f(x)
    return h + PHI[method.nonlinearity](h @ a.down.T + a.down_bias) @ a.up.T + a.up_bias


def parallel(method, a, f, x):
    """f(x) + s (U φ(D x + b₁) + b₂)"""
    change = PHI[method.nonlinearity](x @ a.down.T + a.down_bias) @ a.up.T + a.up_bias
    return f(x) + method.scale * change


def compacter(method, a, f, x):
    """h + φ(h D + b₁) U + b₂, D and U sums of Kronecker products"""
    down, up = (
        sum(np.kron(rule, s @ t) for rule, s, t in zip(a.phm_rule, left, right, strict=True))
        for left, right in ((a.down_left, a.down_right), (a.up_left, a.up_right))
    )
    h = f(x)
    return h + PHI[method.nonlinearity](h @ down + a.down_bias) @ up + a.up_bias


SUBLAYER = {
    "BottleneckDelta": bottleneck,
    "ParallelDelta": parallel,
    "CompacterDelta": compacter,
}


class Arrays:
    """The arrays of a Delta, and of what it shares with others, by their names there."""

    def __init__(self, delta):
        for name, value in vars(delta).items():
            value = getattr(value, "data", value)
            if hasattr(value, "shape"):
                setattr(self, name, to_numpy(value))
