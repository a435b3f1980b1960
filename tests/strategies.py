"""What properties are drawn over: small transformers of both shapes, and batches for them."""

from hypothesis import strategies as st

import minipeft as mp
from minipeft.engine.backend import np, xp


@st.composite
def configs(draw, shapes=("gpt2", "llama"), context=16):
    """A Config: odd widths where heads allow, one or two layers, grouped heads, tied or not.

    A GPT-2 has biases, a Llama may have them.
    """
    shape = draw(st.sampled_from(shapes))
    kv_heads, groups = draw(st.integers(1, 2)), draw(st.integers(1, 3))
    heads = kv_heads * groups
    head_width = draw(st.integers(1, 4)) * (2 if shape == "llama" else 1)
    make = getattr(mp.Config, shape)
    return make(
        vocab=draw(st.integers(5, 19)),
        context=context,
        width=heads * head_width,
        layers=draw(st.integers(1, 2)),
        heads=heads,
        kv_heads=kv_heads,
        ffn=draw(st.integers(1, 13)),
        bias=shape == "gpt2" or draw(st.booleans()),
        tied=draw(st.booleans()),
        init_std=0.3,
    )


def model(config, seed=0, precision="float64"):
    """A Transformer with random weights everywhere, biases and gains too: none is neutral."""
    rng = np.random.default_rng(seed)
    with mp.dtype(precision):
        built = mp.Transformer(config, rng)
    for p in built.parameters():
        p.data += xp.asarray(0.1 * rng.standard_normal(p.shape), dtype=p.dtype)
    return built


def batch(config, B=3, T=5, seed=0):
    """Random token ids (B, T) and labels (B, T)."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, config.vocab, (2, B, T))
