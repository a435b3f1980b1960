"""LLaMA-Adapter: a prefix with an attention of its own, added through a gate that is zero.

    softmax(q kᵀ / √K) v + g · softmax(q (W_k P)ᵀ / √K) (W_v P)      P: (n, width)    g: zero

in the last L layers. W_k and W_v are the layer's own frozen projections, the keys of P are not
rotated, and every token sees all of P. g = 0, so attaching changes nothing; P, from N(0, 1),
learns from the second step on. The prefix has a softmax of its own, so it takes no attention
from the tokens: it adds to their output, where prefix tuning makes both share one softmax. The
KV cache is no longer than without it. Trains L (n width + H) parameters, a gate for each of H
heads; without `per_head` a layer has one gate, as in HF PEFT: L (n width + 1). Cannot be
merged, as no weight computes the same.

Zhang et al. 2023, section 3.2, arXiv:2303.16199, with n = 10 and L = 30 of 32
"""

from dataclasses import dataclass

from ...engine.backend import np
from ...engine.functional import attention
from ...engine.ops import broadcast
from ...errors import Refusal
from ...model.layers import Parameter
from ...options import option
from ..base import Delta, Method
from ..formula import Term
from ..targets import matching, sites


@dataclass(frozen=True)
class LlamaAdapter(Method):
    """A zero-gated prefix of adapter_len vectors in the last adapter_layers (default: all)."""

    adapter_len: int = option(10, at_least=1)
    adapter_layers: int | None = option(None, at_least=1)
    per_head: bool = True  # a gate for each head; otherwise one for the layer

    name = "llama-adapter"
    family = "prompt"
    paper = "Zhang et al. 2023, arXiv:2303.16199"
    idea = "a prefix with a softmax apart, behind a gate that starts at 0"
    claim = "parameters", "full"
    equation = "softmax(q kᵀ / √K) v + g · softmax(q (W_k P)ᵀ / √K) (W_v P)"
    place = "attention, beside its softmax"
    learning_rate = 0.1
    peft_type = "ADAPTION_PROMPT"
    hf_config = "AdaptionPromptConfig"
    hf_lacks = ("per_head",)

    def layers(self, there):
        """The range of the layers that have a prefix: the last ones."""
        wanted = there if self.adapter_layers is None else self.adapter_layers
        if wanted > there:
            raise ValueError(f"adapter_layers = {wanted}, but the model has {there}; use fewer")
        return range(there - wanted, there)

    def terms(self, config):
        values = {"n": self.adapter_len, "width": config.width}
        values["gates"] = config.heads if self.per_head else 1
        return [Term({"layer": len(self.layers(config.layers))}, "n width + gates", values)]

    def check_hf(self, model_type, config):
        whole = config.heads * config.head_width == config.width
        if model_type not in ("llama", "mistral") or config.bias or not whole:
            raise Refusal(
                "HF PEFT computes the same LlamaAdapter on llama and mistral only, with heads "
                f"of width / heads and without biases of attention, and this is {model_type}; "
                "train it in the library that is to use it, and save_adapter keeps it here"
            )

    def to_hf(self, values, adapter):
        if self.per_head:
            raise ValueError(
                f"HF PEFT has one gate a layer, and {self} one a head; save_adapter can save it"
            )
        return values | {"adapter_layers": len(adapter.deltas)}

    @classmethod
    def from_hf(cls, values, targets):
        return values | {"per_head": False}

    def make_deltas(self, model, rng):
        attentions = matching(sites(model), ("attn",))
        paths = [f"blocks.{i}.attn" for i in self.layers(len(attentions))]
        return {f"{p}.attend": LlamaAdapterDelta(attentions[p], self, rng) for p in paths}


class LlamaAdapterDelta(Delta):
    """The prefix of one layer, (B, H, T, K) -> (B, H, T, K)."""

    def __init__(self, attn, method, rng):
        heads, width = attn.heads, attn.k_proj.weight.shape[1]
        self.adaption_prompt = Parameter(rng.standard_normal((1, method.adapter_len, width)))
        self.adaption_gate = Parameter(np.zeros(heads if method.per_head else 1))
        self.kv_heads = attn.kv_heads
        self.projections = attn.k_proj, attn.v_proj  # in a tuple, as they are not its children

    def __call__(self, f, q, k, v, mask):
        B, _, _, K = q.shape
        _, n, width = self.adaption_prompt.shape
        # one for each row, for the projections may have adapters that only some rows use
        prompt = broadcast(self.adaption_prompt, (B, n, width))
        keys, values = (
            project(prompt).reshape(B, n, self.kv_heads, K).transpose(0, 2, 1, 3)
            for project in self.projections
        )
        gate = self.adaption_gate.reshape(1, -1, 1, 1)
        return f(q, k, v, mask) + attention(q, keys, values, None) * gate
