"""Known models by name: what is needed to count, not their weights.

presets.architecture("roberta-base").size      124,645,632
presets.config("llama-2-7b")                    a Config, which a Transformer can be made of
"""

from ..errors import unknown
from ..model.config import Config
from .architectures import like, norm, t5, whisper


def gpt2(width, layers, heads, **other):
    """GPT-2 in one of its sizes.  Radford et al. 2019"""
    sizes = dict(vocab=50257, context=1024, width=width, layers=layers, heads=heads)
    return Config.gpt2(**sizes | other)


def llama(width, layers, heads, ffn, *, vocab=32000, context=2048, **other):
    """Llama in one of its sizes.  Touvron et al. 2023, table 2, arXiv:2302.13971"""
    sizes = dict(vocab=vocab, context=context, width=width, layers=layers, heads=heads, ffn=ffn)
    return Config.llama(**sizes | other)


def qwen(width, layers, heads, kv_heads, ffn):
    """Qwen2.5: Llama's shape with biases on q, k and v.  Qwen 2024, arXiv:2412.15115"""
    sizes = dict(vocab=151936, context=32768, kv_heads=kv_heads, tied=True)
    kv = kv_heads * width // heads
    biases = {"q_proj": (width,), "k_proj": (kv,), "v_proj": (kv,)}
    biases = {f"blocks.*.attn.{name}.bias": shape for name, shape in biases.items()}
    return like(llama(width, layers, heads, ffn, **sizes), biases)


def phi(width, layers, heads):
    """Phi-2: attention and MLP side by side behind one norm, RoPE, a head with a bias."""
    sizes = dict(vocab=51200, context=2048, width=width, layers=layers, heads=heads)
    shape = Config.gpt2(**sizes, position="rope", tied=False)
    return like(shape, {"lm_head.bias": (51200,)}, without=["ln_2"])


def opt(width, layers, heads):
    """OPT: GPT-2's shape with ReLU.  Zhang et al. 2022, table 1, arXiv:2205.01068

    Its table of positions has two rows that no token uses.
    """
    return gpt2(width, layers, heads, vocab=50272, context=2048 + 2)


def bloom(width, layers, heads):
    """BLOOM: no table of positions (ALiBi), a norm behind the token table.  arXiv:2211.05100"""
    shape = gpt2(width, layers, heads, vocab=250880, context=2048)
    return like(shape, norm("ln_e", width), without=["wpe"])


def bert(width, layers, heads, *, vocab=30522, context=512, types=2):
    """BERT: norms behind the additions, so that GPT-2's last one is behind the tables instead.

    With a table of segments and the pooler, and no head but the token table.
    Devlin et al. 2019, section 3, arXiv:1810.04805
    """
    more = {"segments.weight": (types, width), "pooler.weight": (width, width)}
    more |= {"pooler.bias": (width,)}
    return like(gpt2(width, layers, heads, vocab=vocab, context=context), more)


def roberta(width, layers, heads):
    """RoBERTa: two of its rows of positions are never used.  Liu et al. 2019"""
    return bert(width, layers, heads, vocab=50265, context=512 + 2, types=1)


def deberta(width, layers, heads):
    """DeBERTa-v3: a table of 512 distances with a norm in place of positions, keys shared.

    He et al. 2021, arXiv:2111.09543
    """
    shape = gpt2(width, layers, heads, vocab=128100, context=512)
    table = {"distances.weight": (512, width)}
    return like(shape, table | norm("ln_distances", width), without=["wpe"])


T5_FIRST = {  # width, layers of each half, heads, ffn, head width
    "small": (512, 6, 8, 2048, 64),
    "base": (768, 12, 12, 3072, 64),
    "large": (1024, 24, 16, 4096, 64),
    "3b": (1024, 24, 32, 16384, 128),
    "11b": (1024, 24, 128, 65536, 128),
}
T5_LATER = {  # width, layers of each half, heads, ffn
    "small": (512, 8, 6, 1024),
    "base": (768, 12, 12, 2048),
    "large": (1024, 24, 16, 2816),
    "xl": (2048, 24, 32, 5120),
    "xxl": (4096, 24, 64, 10240),
}
GROUPED = dict(kv_heads=8, ffn=14336)  # Llama 3 and Mistral

PRESETS = {
    "gpt2": gpt2(768, 12, 12),
    "gpt2-medium": gpt2(1024, 24, 16),
    "gpt2-large": gpt2(1280, 36, 20),
    "gpt2-xl": gpt2(1600, 48, 25),
    "gpt3-175b": gpt2(12288, 96, 96, context=2048),
    "llama-7b": llama(4096, 32, 32, 11008),
    "llama-13b": llama(5120, 40, 40, 13824),
    "llama-2-7b": llama(4096, 32, 32, 11008, context=4096),
    "llama-2-13b": llama(5120, 40, 40, 13824, context=4096),
    "llama-3-8b": llama(4096, 32, 32, vocab=128256, context=8192, rope_theta=5e5, **GROUPED),
    "mistral-7b": llama(4096, 32, 32, context=32768, **GROUPED),
    "smollm2-135m": llama(
        576, 30, 9, 1536, kv_heads=3, vocab=49152, context=8192, tied=True, rope_theta=1e5
    ),
    "qwen2.5-3b": qwen(2048, 36, 16, 2, 11008),
    "phi-2": phi(2560, 32, 32),
    "opt-6.7b": opt(4096, 32, 32),
    "bloomz-560m": bloom(1024, 24, 16),
    "bert-base": bert(768, 12, 12),
    "bert-large": bert(1024, 24, 16),
    "roberta-base": roberta(768, 12, 12),
    "roberta-large": roberta(1024, 24, 16),
    "deberta-v3-base": deberta(768, 12, 12),
    **{
        f"t5-{size}": t5(32128, *sizes, head_width=K, gated=False, tied=True)
        for size, (*sizes, K) in T5_FIRST.items()
    },
    **{
        f"{name}-{size}": t5(32128, *sizes)
        for name in ("t5-v1.1", "flan-t5")
        for size, sizes in T5_LATER.items()
    },
    "t0-3b": t5(32128, *T5_LATER["xl"]),
    "mt0-large": t5(250112, *T5_LATER["large"]),
    "whisper-large-v2": whisper(51865, 1280, 32, 20),
}


def architecture(name):
    """The Config or Architecture of that name; ValueError, with the nearest, for no such."""
    if name not in PRESETS:
        raise ValueError(unknown("preset", name, PRESETS))
    return PRESETS[name]


def config(name):
    """The Config of that name; ValueError for a model of another shape, which has none."""
    found = architecture(name)
    if isinstance(found, Config):
        return found
    own = [name for name, preset in PRESETS.items() if isinstance(preset, Config)]
    raise ValueError(f"{name} is not of this package's shape; those are {', '.join(own)}")
