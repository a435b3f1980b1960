"""Prefix tuning: trainable keys and values in front of those of every layer's attention.

    attention(q, [P_k ; k], [P_v ; v])          P: (n, 2 · layers · G · K) random

In other words, a trainable start of the KV cache. Tokens begin at position n, and the keys of
the prefix are not rotated, both as in HF PEFT. Trains 2 n layers G K parameters (G key heads of
width K). Attaching changes the output, as there is no neutral prefix. No weight computes the
same, so it cannot be merged, and every sequence is n slots longer.

With `prefix_projection` a network makes the prefix, P = W₂ tanh(W₁ E + b₁) + b₂, E: (n, G K),
which makes training more stable. With h hidden units it trains
n G K + (G K + 1) h + (h + 1) 2 layers G K parameters. Only P is saved: after loading, the
network is gone.

Li & Liang 2021, section 4, arXiv:2101.00190
Without the network it is P-tuning v2: Liu et al. 2021, arXiv:2110.07602
"""

from dataclasses import dataclass, replace

from ...engine.functional import linear
from ...engine.ops import broadcast, tanh
from ...engine.tensor import no_grad
from ...model.layers import Parameter, kaiming_uniform
from ...options import option
from ..base import Delta, Method
from ..formula import Term
from ..targets import room_for


@dataclass(frozen=True)
class Prefix(Method):
    """Prefix tuning; `prefix_projection` is the network, `encoder_hidden_size` wide inside."""

    num_virtual_tokens: int = option(8, at_least=1)
    prefix_projection: bool = False
    encoder_hidden_size: int = option(64, at_least=1)
    init_std: float = 1.0

    name = "prefix"
    family = "prompt"
    paper = "Li & Liang 2021, arXiv:2101.00190"
    idea = "keys and values in front of those of every layer"
    claim = "parameters", "full"
    equation = "attention(q, [P_k ; k], [P_v ; v])"
    place = "keys and values of every layer"
    learning_rate = 0.3
    peft_type = "PREFIX_TUNING"
    hf_config = "PrefixTuningConfig"
    hf_lacks = ("init_std",)

    def terms(self, config):
        values = {"n": self.num_virtual_tokens, "layers": config.layers}
        values |= {"kv": config.kv_heads * config.head_width, "h": self.encoder_hidden_size}
        network = "n kv + (kv + 1) h + (h + 1) 2 layers kv"
        return [Term({}, network if self.prefix_projection else "2 n layers kv", values)]

    def make_deltas(self, model, rng):
        room_for(self.num_virtual_tokens, model.config.context)
        return {"start": PrefixDelta(model.start, self, rng)}

    def export_form(self):
        return replace(self, prefix_projection=False)


PTuningV2 = Prefix  # Liu et al.'s "deep prompt tuning" is a prefix, by default without network


class PrefixDelta(Delta):
    """The prefix of all layers, put at the start of the KV cache."""

    def __init__(self, start, method, rng):
        n, kv = method.num_virtual_tokens, start.kv_heads * start.head_width
        width, hidden = 2 * start.layers * kv, method.encoder_hidden_size
        self.shape = (n, 2 * start.layers, start.kv_heads, start.head_width)
        if method.prefix_projection:
            self.embedding = Parameter(method.init_std * rng.standard_normal((n, kv)))
            self.w_1 = Parameter(kaiming_uniform(rng, hidden, kv))
            self.b_1 = Parameter(kaiming_uniform(rng, hidden, kv)[:, 0])
            self.w_2 = Parameter(kaiming_uniform(rng, width, hidden))
            self.b_2 = Parameter(kaiming_uniform(rng, width, hidden)[:, 0])
        else:
            vectors = method.init_std * rng.standard_normal((n, width))
            self.prompt_embeddings = Parameter(vectors)

    def prefix(self):
        """P (n, 2 · layers · G · K): pairs of key and value, layer after layer."""
        if hasattr(self, "prompt_embeddings"):
            return self.prompt_embeddings
        return linear(tanh(linear(self.embedding, self.w_1, self.b_1)), self.w_2, self.b_2)

    def __call__(self, f, x, attention_mask):
        x, attention_mask, cache = f(x, attention_mask)
        slots = self.prefix().reshape(*self.shape).transpose(1, 2, 0, 3)  # (2 layers, G, n, K)
        slots = [broadcast(slots[i], (len(x), *slots.shape[1:])) for i in range(len(slots))]
        return x, attention_mask, cache.with_prefix(slots[::2], slots[1::2])

    def saved(self):
        with no_grad():
            return {"prompt_embeddings": self.prefix().data}
