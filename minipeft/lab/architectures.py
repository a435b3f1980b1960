"""Families of models by their sizes: what is needed to count parameters, not the weights.

GPT-2 and Llama have this package's shape, so they are Configs. A model of another shape is an
Architecture: it lists the shape of each parameter, under this package's names where they mean
the same (blocks.0.attn.q_proj.weight, ln_f.bias, wte.weight). A method's `count` needs no more
of a model than both of them have.
"""

import math
from dataclasses import dataclass

from ..model.config import Config

LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
SIZES = ("vocab", "width", "layers", "heads", "kv_heads", "head_width", "context")


@dataclass(frozen=True, repr=False)
class Architecture:
    """The sizes of a model and the shape of each of its parameters.

    Blocks are numbered through: those of a decoder follow those of its encoder.
    """

    vocab: int
    width: int
    layers: int  # all blocks, of an encoder and of a decoder
    heads: int
    kv_heads: int
    head_width: int
    context: int | None  # None: no limit but memory
    parameter_shapes: dict[str, tuple[int, ...]]  # {path: shape}

    @property
    def target_shapes(self):
        """{path: (out, in)} of what a method may change: linear layers, token table, head."""
        paths = [path.removesuffix(".weight") for path in self.parameter_shapes]
        linears = [path for path in paths if path.split(".")[-1] in LINEARS]
        shapes = {path: self.parameter_shapes[f"{path}.weight"] for path in linears}
        return shapes | {"wte": (self.width, self.vocab), "lm_head": (self.vocab, self.width)}

    @property
    def size(self):
        """How many parameters it has."""
        return sum(map(math.prod, self.parameter_shapes.values()))

    def __repr__(self):
        sizes = f"{self.layers} layers, width {self.width}, {self.size:,} parameters"
        return f"Architecture({sizes})"


def extend(config, extra, without=()):
    """Returns the Architecture of a Config's model with other parameters.

    extra: {path: shape} to add, where a * in a path stands for the number of each block.
    without: names of modules whose parameters are left out.
    """
    shapes = {
        path: shape
        for path, shape in config.parameter_shapes.items()
        if not set(path.split(".")) & set(without)
    }
    for path, shape in extra.items():
        for i in range(config.layers if "*" in path else 1):
            shapes[path.replace("*", str(i))] = shape
    return Architecture(*(getattr(config, name) for name in SIZES), shapes)


def norm(path, width, bias=True):
    """Returns {path: shape} of a LayerNorm's gain and bias, or of the gain of an RMSNorm."""
    gain = {f"{path}.weight": (width,)}
    return gain | {f"{path}.bias": (width,)} if bias else gain


def gpt2(width, layers, heads, **other):
    """GPT-2.  Radford et al. 2019"""
    sizes = dict(vocab=50257, context=1024, width=width, layers=layers, heads=heads)
    return Config.gpt2(**sizes | other)


def llama(width, layers, heads, ffn, *, vocab=32000, context=2048, **other):
    """Llama.  Touvron et al. 2023, table 2, arXiv:2302.13971"""
    sizes = dict(vocab=vocab, context=context, width=width, layers=layers, heads=heads, ffn=ffn)
    return Config.llama(**sizes | other)


def qwen(width, layers, heads, kv_heads, ffn):
    """Qwen2.5: Llama with biases on q, k and v.  Qwen 2024, arXiv:2412.15115"""
    sizes = dict(vocab=151936, context=32768, kv_heads=kv_heads, tied=True)
    kv_width = kv_heads * width // heads
    widths = {"q_proj": width, "k_proj": kv_width, "v_proj": kv_width}
    biases = {f"blocks.*.attn.{name}.bias": (n,) for name, n in widths.items()}
    return extend(llama(width, layers, heads, ffn, **sizes), biases)


def phi(width, layers, heads):
    """Phi-2: attention and MLP in parallel behind one norm, RoPE, a head with a bias."""
    sizes = dict(vocab=51200, context=2048, width=width, layers=layers, heads=heads)
    config = Config.gpt2(**sizes, position="rope", tied=False)
    return extend(config, {"lm_head.bias": (51200,)}, without=["ln_2"])


def opt(width, layers, heads):
    """OPT: GPT-2 with ReLU.  Zhang et al. 2022, table 1, arXiv:2205.01068

    Its table of positions has two rows that no token uses.
    """
    return gpt2(width, layers, heads, vocab=50272, context=2048 + 2)


def bloom(width, layers, heads):
    """BLOOM: GPT-2 with ALiBi in place of the table of positions, and a norm of the embeddings.

    BigScience 2022, section 3.2, arXiv:2211.05100
    """
    config = gpt2(width, layers, heads, vocab=250880, context=2048)
    return extend(config, norm("ln_e", width), without=["wpe"])


def bert(width, layers, heads, *, vocab=30522, context=512, segments=2):
    """BERT: an encoder with a table of segments and a pooler; its only head is the token table.

    Norms come after the additions; GPT-2's last norm counts for BERT's norm of the embeddings.
    Devlin et al. 2019, section 3, arXiv:1810.04805
    """
    extra = {
        "segments.weight": (segments, width),
        "pooler.weight": (width, width),
        "pooler.bias": (width,),
    }
    return extend(gpt2(width, layers, heads, vocab=vocab, context=context), extra)


def roberta(width, layers, heads):
    """RoBERTa: BERT with one segment.  Liu et al. 2019, arXiv:1907.11692

    Its table of positions has two rows that no token uses.
    """
    return bert(width, layers, heads, vocab=50265, context=512 + 2, segments=1)


def deberta(width, layers, heads):
    """DeBERTa-v3: an encoder with a table of 512 relative positions and a norm of that table.

    The queries and keys of positions come from the projections of the content.
    He et al. 2021, arXiv:2111.09543
    """
    config = gpt2(width, layers, heads, vocab=128100, context=512)
    extra = {"relative_positions.weight": (512, width)} | norm("ln_relative_positions", width)
    return extend(config, extra, without=["wpe"])


def t5(vocab, width, layers, heads, ffn, *, head_width=64, gated=True, tied=False):
    """T5: an encoder of `layers` blocks, then a decoder of as many, which attends to it too.

    RMSNorm, no biases in linear layers, and in either half 32 relative position biases for each
    head. The MLP is gated and the head untied from version 1.1 on.
    Raffel et al. 2020, section 2.1, arXiv:1910.10683
    """
    inner, shapes = heads * head_width, {"wte.weight": (vocab, width)}
    for i in range(2 * layers):
        for attention in ("attn", "cross") if i >= layers else ("attn",):
            for name in ("q_proj", "k_proj", "v_proj"):
                shapes[f"blocks.{i}.{attention}.{name}.weight"] = inner, width
            shapes[f"blocks.{i}.{attention}.o_proj.weight"] = width, inner
            shapes |= norm(f"blocks.{i}.ln_{attention}", width, bias=False)
        for name in ("gate_proj", "up_proj") if gated else ("up_proj",):
            shapes[f"blocks.{i}.mlp.{name}.weight"] = ffn, width
        shapes[f"blocks.{i}.mlp.down_proj.weight"] = width, ffn
        shapes |= norm(f"blocks.{i}.ln_mlp", width, bias=False)
    for half in ("encoder", "decoder"):
        shapes[f"{half}.relative_positions.weight"] = 32, heads
        shapes |= norm(f"{half}.ln_f", width, bias=False)
    if not tied:
        shapes["lm_head.weight"] = vocab, width
    return Architecture(vocab, width, 2 * layers, heads, heads, head_width, None, shapes)


def whisper(vocab, width, layers, heads, *, bands=80, frames=1500, context=448):
    """Whisper: two convolutions, an encoder of `layers` blocks, and a decoder of as many.

    Biases everywhere but on the keys; a tied head. The encoder's sinusoidal positions
    (frames, width) do not train, but they are in the checkpoint and are counted.
    Radford et al. 2022, section 2.2, arXiv:2212.04356
    """
    D, shapes = width, {"wte.weight": (vocab, width), "wpe.weight": (context, width)}
    shapes |= {"encoder.positions.weight": (frames, D)}
    shapes |= {"encoder.conv_1.weight": (D, bands, 3), "encoder.conv_1.bias": (D,)}
    shapes |= {"encoder.conv_2.weight": (D, D, 3), "encoder.conv_2.bias": (D,)}
    for i in range(2 * layers):
        for attention in ("attn", "cross") if i >= layers else ("attn",):
            for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
                shapes[f"blocks.{i}.{attention}.{name}.weight"] = D, D
                if name != "k_proj":
                    shapes[f"blocks.{i}.{attention}.{name}.bias"] = (D,)
            shapes |= norm(f"blocks.{i}.ln_{attention}", D)
        for name, n_out, n_in in (("up_proj", 4 * D, D), ("down_proj", D, 4 * D)):
            shapes[f"blocks.{i}.mlp.{name}.weight"] = n_out, n_in
            shapes[f"blocks.{i}.mlp.{name}.bias"] = (n_out,)
        shapes |= norm(f"blocks.{i}.ln_mlp", D)
    for half in ("encoder", "decoder"):
        shapes |= norm(f"{half}.ln_f", D)
    return Architecture(vocab, D, 2 * layers, heads, heads, D // heads, context, shapes)
