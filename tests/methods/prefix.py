"""Prefix tuning, and P-tuning v2."""

from hypothesis import strategies as st

import minipeft as mp
from laws.equations import BeforeTokens
from minipeft.engine.backend import np, xp
from spec import COUNTED, Bug, Files, Row, Spec
from strategies import FEW
from theirs import PROMPT, network, prompt_learning

NO_NEUTRAL = "virtual tokens take attention from the real ones whatever they hold"


def vectors(method, a):
    """P (n, 2 · layers · G · K), of the network P = W₂ tanh(W₁ E + b₁) + b₂"""
    if method.prefix_projection:
        return np.tanh(a.embedding @ a.w_1.T + a.b_1) @ a.w_2.T + a.b_2
    return a.prompt_embeddings


def left(table, cache):
    """The keys and values of the first row in the cache, slot by slot."""
    pairs = zip(cache.keys, cache.values, strict=True)
    slots = xp.stack([kv.data[0] for pair in pairs for kv in pair])  # (2 layers, G, n, K)
    return slots.transpose(2, 0, 1, 3)


TWO = mp.Prefix(num_virtual_tokens=2)
NETWORK = mp.Prefix(2, prefix_projection=True, encoder_hidden_size=3)
BUGS = (
    Bug("prefix: positions of the tokens not shifted",
        "positions = np.arange(self.length - T, self.length)",
        "positions = np.arange(T)", 13, TWO, module="model.kv_cache"),
    Bug("prefix: its keys rotated", "cache.with_prefix(slots[::2], slots[1::2])",
        "cache.with_prefix([k * -1.0 for k in slots[::2]], slots[1::2])", 13, TWO),
    Bug("prefix: keys and values swapped", "cache.with_prefix(slots[::2], slots[1::2])",
        "cache.with_prefix(slots[1::2], slots[::2])", 13, TWO),
    Bug("prefix: hidden wherever there is padding",
        "old = np.ones((B, self.length - T), bool) if old is None else old",
        "old = np.zeros((B, self.length - T), bool) if old is None else old", 11, TWO,
        module="model.kv_cache"),
    Bug("prefix: its network without its nonlinearity",
        "tanh(linear(self.embedding, self.w_1, self.b_1))",
        "linear(self.embedding, self.w_1, self.b_1)", 13, NETWORK),
    Bug("prefix: half of what its network makes is saved",
        'return {"prompt_embeddings": self.prefix().data}',
        'return {"prompt_embeddings": self.prefix().data * 0.5}', 8, NETWORK),
    Bug("rows of a batch: all see a prefix", "np.repeat(rows[:, None], added, axis=1)",
        "np.ones((len(rows), added), bool)", 15, TWO, module="model.transformer"),
)  # fmt: skip

IN_FLOAT32 = Files(logits=1e-6)  # as which HF PEFT takes virtual tokens from a file
ROWS = {
    "prefix": Row(
        mp.Prefix(5),
        prompt_learning("PrefixTuningConfig", num_virtual_tokens=5),
        names=PROMPT,
        files=IN_FLOAT32,
    ),
    "prefix, GPT-2": Row(
        mp.PTuningV2(5),
        prompt_learning("PrefixTuningConfig", num_virtual_tokens=5),
        "gpt2",
        tied=True,
        names=PROMPT,
        files=IN_FLOAT32,
    ),
    "prefix, projection": Row(
        mp.Prefix(5, prefix_projection=True, encoder_hidden_size=7),
        prompt_learning(
            "PrefixTuningConfig",
            num_virtual_tokens=5,
            prefix_projection=True,
            encoder_hidden_size=7,
        ),
        names=network("transform", (0, 2)),
        files=IN_FLOAT32,
    ),
}

SPEC = Spec(
    mp.Prefix,
    draw=lambda config: st.builds(
        mp.Prefix,
        num_virtual_tokens=FEW,
        prefix_projection=st.booleans(),
        encoder_hidden_size=FEW,
    ),
    small=mp.Prefix(3),
    equation=BeforeTokens(vectors, "prefix", left),
    bugs=BUGS,
    rows=ROWS,
    counts=(
        (mp.Prefix(3), COUNTED, 2 * 2 * 3 * 4),
        (mp.Prefix(3, True, 5), COUNTED, 3 * 4 + 4 * 5 + 5 + 5 * 16 + 16),
    ),
    saved=(
        (mp.Prefix(3), {"prompt_embeddings": (3, 2 * 2 * 2)}),
        (NETWORK, {"prompt_embeddings": (2, 2 * 2 * 2)}),
    ),
    wrong=(
        lambda: mp.Prefix(init_std="1"),
        lambda: mp.Prefix(init_std=float("inf")),
        lambda: mp.Prefix(prefix_projection="maybe"),
    ),
    exempt={1: NO_NEUTRAL},
    exchanged=True,
)
