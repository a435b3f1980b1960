"""Methods that HF PEFT lacks, written by hand in PyTorch and hooked into HF's models."""

from hf import torch
from torch import nn
from torch.nn import functional as F

NONLINEAR = {
    "relu": F.relu,
    "gelu": lambda x: F.gelu(x, approximate="tanh"),
    "silu": F.silu,
    "identity": lambda x: x,
}


class Bottleneck(nn.Module):
    """U φ(D h + b₁) + b₂, random in all parts."""

    def __init__(self, width, m, nonlinearity):
        super().__init__()
        self.down, self.up = random(m, width), random(width, m)
        self.down_bias, self.up_bias = random(m), random(width)
        self.nonlinear = NONLINEAR[nonlinearity]

    def forward(self, h):
        narrow = self.nonlinear(F.linear(h, self.down, self.down_bias))
        return F.linear(narrow, self.up, self.up_bias)


class Fusion(nn.Module):
    """V Σ p_i A_i(h), p = softmax_i (Q h · K A_i(h)), of n bottlenecks A_i."""

    def __init__(self, width, m, nonlinearity, n):
        super().__init__()
        self.parts = nn.ModuleList(Bottleneck(width, m, nonlinearity) for _ in range(n))
        # small, as a softmax of large scores has gradients that are rounding alone
        self.query, self.key, self.value = (
            nn.Parameter(0.1 * random(width, width).detach()) for _ in range(3)
        )

    def forward(self, h):
        changes = torch.stack([part(h) for part in self.parts], dim=-1)  # (…, width, n)
        scores = torch.einsum("...i,ki,kj,...jn->...n", h, self.query, self.key, changes)
        return torch.einsum("ij,...jn,...n->...i", self.value, changes, scores.softmax(-1))


def random(*shape):
    return nn.Parameter(0.3 * torch.randn(shape, dtype=torch.float64))


def hooked(places, make, join):
    """What puts a new adapter on every sub-layer, "attn" or "mlp", that `places` names.

    The sub-layer's result h of its input x becomes join(adapter, x, h).
    """

    def hook(module, args, options, output):
        x = args[0] if args else options["hidden_states"]
        if isinstance(output, tuple):  # attention's probabilities come second
            return join(module.adapter, x, output[0]), *output[1:]
        return join(module.adapter, x, output)

    def put(model):
        model.requires_grad_(False)
        new = make(model.config.hidden_size)
        blocks = model.transformer.h if hasattr(model, "transformer") else model.model.layers
        for block in blocks:
            parts = {"attn": getattr(block, "attn", None) or block.self_attn, "mlp": block.mlp}
            for name in ("attn", "mlp"):
                if name in places:
                    parts[name].adapter = new()
                    parts[name].register_forward_hook(hook, with_kwargs=True)
        return model.to(model.dtype)

    return put


def after(adapter, x, h):
    """Houlsby's and Pfeiffer's place: on the result, before it is added to the stream."""
    return h + adapter(h)


def beside(scale):
    """The parallel place: on the input, beside the sub-layer."""
    return lambda adapter, x, h: h + scale * adapter(x)


def fusions(places, m, n, nonlinearity="relu"):
    """n plain adapters of width m and their fusion."""
    return hooked(places, lambda width: lambda: Fusion(width, m, nonlinearity, n), after)


def bottlenecks(places, m, nonlinearity="relu", join=after):
    """Plain adapters of width m."""
    return hooked(places, lambda width: lambda: Bottleneck(width, m, nonlinearity), join)
