"""UniPELT: a prefix, an adapter and a LoRA in every layer, each behind a gate that is learnt.

    f(x) + g(x) · Δ(x)        g(x) = σ(w · x + b), and three Δ in every layer:

    f(x) + g_L(x) · (α / r) B A x                       on queries and values
    h + g_A(x) · (U φ(D h + b₁) + b₂),  h = f(x)        on the MLP
    attention(q, [g_P P_k ; k], [g_P P_v ; v])          g_P reads q

Which of the three methods is best depends on the task and on the number of examples, and is
not known before. Here all three are present, and gates between 0 and 1 say for each token how
much each of them counts. The paper finds this as good as the best of the three or better. With
all gates at 1 it is prefix tuning, LoRA and adapters in use together, except that this prefix
takes no positions. A layer trains what these three do, and the weights of its three gates:
2 n kv + (2 m width + m + width) + r (2 width + q + kv) + (q + 1) + 2 (width + 1) parameters.

w = b = 0, so every gate starts at ½. B and U are zero, but the prefix, from N(0, 1), takes
attention from the tokens, so attaching changes the output. As the gates depend on the input, no
weight computes the same, and it cannot be merged.

Mao et al. 2021, section 3, arXiv:2110.07577. There a gate is one number for a sequence, made of
the mean of its tokens. In a decoder no token may see later ones, so here each token has its own
gates; and the prefix's gate, which reads the layer's input there, reads the query here.
"""

from dataclasses import dataclass

from ...engine.backend import np, xp
from ...engine.functional import linear, softmax
from ...engine.ops import concat, matmul, sigmoid
from ...model.layers import Module, Parameter, kaiming_uniform
from ...options import option
from ..base import Delta, Method
from ..formula import Term
from ..targets import check_rank, linears, matching, shape, sites
from .bottleneck import NONLINEAR, BottleneckDelta


@dataclass(frozen=True)
class UniPELT(Method):
    """A prefix of prefix_len vectors, an adapter of width m and a LoRA of rank r, gated."""

    prefix_len: int = option(8, at_least=1)  # n
    m: int = option(16, at_least=1)
    r: int = option(8, at_least=1)
    lora_alpha: float = 8.0
    nonlinearity: str = option("relu", one_of=NONLINEAR)

    name = "unipelt"
    family = "mixture"
    paper = "Mao et al. 2021, arXiv:2110.07577"
    idea = "a prefix, an adapter and a LoRA in every layer, each behind a gate"
    claim = "quality", "lora"
    contains = (
        "lora: the other gates 0",
        "prefix: the other gates 0",
        "pfeiffer: the other gates 0",
    )
    equation = "f(x) + g(x) · Δ(x)"
    place = "queries, values, attention and MLP"
    learning_rate = 0.01
    peft_type = "UNIPELT"

    def check(self, config):
        """Raises ValueError if the queries or values of a model cannot have this rank."""
        for path, size in config.target_shapes.items():
            if path.endswith((".q_proj", ".v_proj")):
                check_rank(path, self.r, size)

    def terms(self, config):
        self.check(config)
        kv, q = (n * config.head_width for n in (config.kv_heads, config.heads))
        values = {"n": self.prefix_len, "m": self.m, "r": self.r}
        values |= {"width": config.width, "q": q, "kv": kv}
        parts = "2 n kv + (2 m width + m + width) + r (2 width + q + kv)"
        return [Term({"layer": config.layers}, f"{parts} + (q + 1) + 2 (width + 1)", values)]

    def make_deltas(self, model, rng):
        self.check(model.config)
        deltas, layers, width = {}, linears(model), model.start.width
        for path, attn in matching(sites(model), ("attn",)).items():
            deltas[f"{path}.attend"] = GatedPrefix(attn, self, rng)
            gate = Gate(width)  # of queries and values
            for name in (f"{path}.q_proj", f"{path}.v_proj"):
                deltas[name] = GatedLoRA(layers[name], self, gate, rng)
            mlp = path.removesuffix("attn") + "mlp"
            deltas[mlp] = GatedBottleneck(width, self, rng)
        return deltas


class Gate(Module):
    """σ(w · x + b), (…, in) -> (…, 1)."""

    def __init__(self, n_in):
        self.weight, self.bias = Parameter(np.zeros((1, n_in))), Parameter(np.zeros(1))

    def forward(self, x):
        return sigmoid(linear(x, self.weight, self.bias))


class GatedLoRA(Delta):
    """f(x) + g(x) · (α / r) B A x, (…, in) -> (…, out)."""

    adds = True

    def __init__(self, layer, method, gate, rng):
        n_out, n_in = shape(layer)
        self.gate, self.scaling = gate, method.lora_alpha / method.r
        self.lora_A = Parameter(kaiming_uniform(rng, method.r, n_in))
        self.lora_B = Parameter(np.zeros((n_out, method.r)))

    def __call__(self, f, x):
        thin = linear(x, self.lora_A) * (self.gate(x) * self.scaling)  # (…, r)
        return f(x) + linear(thin, self.lora_B)


class GatedBottleneck(BottleneckDelta):
    """h + g(x) · (U φ(D h + b₁) + b₂), h = f(x), (B, T, D) -> (B, T, D)."""

    def __init__(self, width, method, rng):
        super().__init__(width, method, rng)
        self.gate = Gate(width)

    def __call__(self, f, x):
        h = f(x)
        return h + self.change(h) * self.gate(x)


class GatedPrefix(Delta):
    """attention(q, [g P_k ; k], [g P_v ; v]), (B, H, T, K) -> (B, H, T, K).

    The prefix takes the share λ of the attention: that is (1 − λ) f plus what it adds.
    """

    def __init__(self, attn, method, rng):
        width = shape(attn.q_proj)[0]
        size = attn.kv_heads, method.prefix_len, width // attn.heads
        self.prefix_keys = Parameter(rng.standard_normal(size))
        self.prefix_values = Parameter(rng.standard_normal(size))
        self.gate = Gate(width)

    def __call__(self, f, q, k, v, mask):
        (B, H, T, K), (G, n, _) = q.shape, self.prefix_keys.shape
        gate = self.gate(q.transpose(0, 2, 1, 3).reshape(B, T, H * K)).reshape(B, 1, T, 1)
        grouped = q.reshape(B, G, -1, K) * K**-0.5  # heads that share their keys together
        tokens, prefix = (
            matmul(grouped, keys.transpose(*axes)).reshape(B, H, T, -1)
            for keys, axes in ((k, (0, 1, 3, 2)), (self.prefix_keys, (0, 2, 1)))
        )
        seen = mask[:, None] if mask.ndim == 3 else mask  # of the tokens; the prefix always is
        seen = xp.concatenate([xp.zeros_like(seen, shape=(*seen.shape[:-1], n)), seen], axis=-1)
        p = softmax(concat([prefix * gate, tokens], axis=-1), seen)[..., :n]  # (B, H, T, n)
        added = matmul(p.reshape(B, G, -1, n), self.prefix_values).reshape(B, H, T, K)
        share = p.sum(axis=-1, keepdims=True)  # λ
        return f(q, k, v, mask) * (1.0 - share) + added * gate
