"""LLaMA-Adapter."""

from hypothesis import strategies as st

import minipeft as mp
from laws.equations import OnAttention
from minipeft.engine.backend import np
from spec import COUNTED, Bug, Files, Row, Spec
from strategies import FEW
from theirs import with_peft


def equation(method, a, project, f, q):
    """f(q) + g · softmax(q (W_k P)ᵀ / √K) (W_v P), head by head"""
    heads, K = q.shape[1], q.shape[-1]
    keys, values = (project[name](a.adaption_prompt[0]) for name in "kv")  # (n, G K)
    shared = heads * K // keys.shape[-1]  # how many heads read the same keys
    gates, out = np.resize(a.adaption_gate, heads), f(q)
    for h in range(heads):
        own = np.s_[:, h // shared * K : (h // shared + 1) * K]
        scores = np.exp(q[:, h] @ keys[own].T / np.sqrt(K))
        p = scores / scores.sum(axis=-1, keepdims=True)
        out[:, h] = out[:, h] + gates[h] * p @ values[own]
    return out


BUGS = (
    Bug("LLaMA-Adapter: keys and values swapped", "attention(q, keys, values, None) * gate",
        "attention(q, values, keys, None) * gate", 13, mp.LlamaAdapter(adapter_len=2)),
    Bug("LLaMA-Adapter: gate missing", "attention(q, keys, values, None) * gate",
        "attention(q, keys, values, None)", 1, mp.LlamaAdapter(adapter_len=2)),
)  # fmt: skip


def exact_softmax(theirs):
    """HF's LLaMA-Adapter takes its softmax in float32 always; here in the input's type."""
    import peft
    import torch

    class Functions:
        softmax = staticmethod(lambda x, dim, dtype: torch.softmax(x, dim))

    peft.tuners.adaption_prompt.layer.F = Functions
    return theirs


def gate_per_head(theirs):
    """The paper's gates, one a head; HF has one a layer."""
    import torch

    for module in theirs.modules():
        if hasattr(module, "adaption_gate"):
            gates = torch.zeros(module.num_heads, 1, 1, dtype=module.adaption_gate.dtype)
            module.adaption_gate = torch.nn.Parameter(gates)
    return exact_softmax(theirs)


ROWS = {
    "llama-adapter": Row(
        mp.LlamaAdapter(5, per_head=False),
        lambda model: exact_softmax(
            with_peft("AdaptionPromptConfig", adapter_len=5, adapter_layers=2)(model)
        ),
        opened=exact_softmax,
        files=Files(logits=1e-6),
        recorded=False,
    ),
    "llama-adapter, last layer, per head": Row(
        mp.LlamaAdapter(5, adapter_layers=1),
        lambda model: gate_per_head(
            with_peft("AdaptionPromptConfig", adapter_len=5, adapter_layers=1)(model)
        ),
        files=Files(same=False, exported=False, imported=False),  # HF has one gate a layer
    ),
}

SPEC = Spec(
    mp.LlamaAdapter,
    draw=lambda config: st.builds(
        mp.LlamaAdapter,
        adapter_len=FEW,
        adapter_layers=st.sampled_from([None, 1]),
        per_head=st.booleans(),
    ),
    small=mp.LlamaAdapter(3, per_head=False),
    equation=OnAttention(equation),
    bugs=BUGS,
    rows=ROWS,
    counts=(
        (mp.LlamaAdapter(3), COUNTED, 2 * (3 * 8 + 4)),
        (mp.LlamaAdapter(3, 1, per_head=False), COUNTED, 3 * 8 + 1),
    ),
    saved=(
        (
            mp.LlamaAdapter(3),
            {"attn.adaption_prompt": (1, 3, 8), "attn.adaption_gate": (4,)},
        ),
        (
            mp.LlamaAdapter(3, per_head=False),
            {"attn.adaption_prompt": (1, 3, 8), "attn.adaption_gate": (1,)},
        ),
    ),
    wrong=(
        lambda: mp.LlamaAdapter(0),
        lambda: mp.LlamaAdapter(adapter_layers=0),
        lambda: mp.LlamaAdapter(per_head=0.5),
    ),
    exchanged=True,
)
