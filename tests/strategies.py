"""What properties are drawn over: small transformers of both shapes, targets and batches."""

import itertools

from hypothesis import assume
from hypothesis import strategies as st

import minipeft as mp
from minipeft.engine.backend import np, xp

# what single families do in another way, beside their shape
VARIANTS = {
    "gpt2": ({"mlp": "relu"}, {"mlp": "gelu-erf", "parallel": True}, {"mlp_bias": False}),
    "llama": (
        {"qkv_bias": True, "mlp_bias": False, "window": 3},
        {"head_width": 6, "qk_norm": True, "nope": (0,)},
        {"rotary": 0.5, "head_width": 4, "rope_scaling": (8.0, 1.0, 4.0, 6.0)},
        dict(embedding_scale=2.0, attention_scale=0.3, residual_scale=0.5, logits_scale=3.0),
    ),
}


@st.composite
def configs(draw, shapes=("gpt2", "llama"), context=16, variants=True):
    """A Config: odd widths where heads allow, one or two layers, grouped heads, tied or not.

    A GPT-2 has biases, a Llama may have them. Either may have what only some families have, if
    there are to be variants.
    """
    shape = draw(st.sampled_from(shapes))
    kv_heads, groups = draw(st.integers(1, 2)), draw(st.integers(1, 3))
    heads = kv_heads * groups
    head_width = draw(st.integers(1, 4)) * (2 if shape == "llama" else 1)
    make = getattr(mp.Config, shape)
    config = make(
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
    variant = draw(st.sampled_from(({}, *VARIANTS[shape]))) if variants else {}
    return config.with_(**variant)


@st.composite
def targets(draw, config, tables=("lm_head",), least=1):
    """(names, most) that a method may have: one to three kinds of matrix by name, or all.

    `most` is the largest rank that all of them can have; it is at least `least`.
    """
    ranks = {}  # {name: the largest rank of such a matrix}
    for path, shape in config.target_shapes.items():
        name = path.split(".")[-1]
        ranks[name] = min(*shape, ranks.get(name, min(shape)))
    inner = min(rank for name, rank in ranks.items() if name not in ("wte", "lm_head"))
    some = [n for n, rank in ranks.items() if rank >= least and (n != "wte" or n in tables)]
    assume(some)
    lists = st.lists(st.sampled_from(some), min_size=1, max_size=3, unique=True).map(tuple)
    names = draw(lists if inner < least else st.one_of(st.just("all-linear"), lists))
    return names, inner if names == "all-linear" else min(map(ranks.get, names))


ALPHAS = st.sampled_from([0.5, 1.0, 3.0])
DROPOUTS = st.sampled_from([0.0, 0.3])  # that evaluation must not do
FEW, NARROW = st.integers(1, 3), st.integers(1, 5)  # virtual tokens, widths inside
NONLINEARITIES = st.sampled_from(["relu", "gelu", "silu"])


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


def by_turns(config, *axes):
    """All combinations if thorough, else every second of them, as on a chessboard.

    config: of pytest, which knows the profile.
    """
    thorough = config.getoption("--profile") == "thorough"
    places = itertools.product(*(range(len(axis)) for axis in axes))
    cases = zip(places, itertools.product(*axes), strict=True)
    return [case for place, case in cases if thorough or sum(place) % 2 == 0]
