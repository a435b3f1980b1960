"""The sizes of models that are not of this package's shape: encoders, T5, parallel blocks, …

Such a model is told by the shape of each of its parameters, under this package's names where
they mean the same (blocks.0.attn.q_proj.weight, ln_f.bias, wte.weight). With the few numbers
beside them that is all that a method's `count` asks of a Config, so that it counts here too.
"""

import math
from dataclasses import dataclass

LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True, repr=False)
class Architecture:
    """A model by its parameters, {path: shape}, and what a Config has beside them.

    Blocks are numbered through: a decoder's follow those of its encoder. `layers` is the number
    of all of them, and `kv_heads` · `head_width` the width of a key.
    """

    vocab: int
    width: int
    layers: int
    heads: int
    kv_heads: int
    head_width: int
    context: int | None  # None: no limit but memory
    parameter_shapes: dict[str, tuple[int, ...]]

    @property
    def target_shapes(self):
        """(out, in) of what a method may change: the blocks' matrices, the table, the head."""
        paths = [path.removesuffix(".weight") for path in self.parameter_shapes]
        found = [path for path in paths if path.split(".")[-1] in LINEARS]
        blocks = {path: self.parameter_shapes[f"{path}.weight"] for path in found}
        return blocks | {"wte": (self.width, self.vocab), "lm_head": (self.vocab, self.width)}

    @property
    def size(self):
        """How many parameters it has."""
        return sum(map(math.prod, self.parameter_shapes.values()))

    def __repr__(self):
        return f"Architecture({self.layers} layers, width {self.width}, {self.size:,} numbers)"


def like(config, more, without=()):
    """The model of a Config with more parameters, {path: shape}, and some left out.

    A path with * stands for one in every block; what has a word of `without` is left out.
    """
    of_config = config.parameter_shapes.items()
    shapes = {p: shape for p, shape in of_config if not set(p.split(".")) & set(without)}
    for path, shape in more.items():
        for i in range(config.layers if "*" in path else 1):
            shapes[path.replace("*", str(i))] = shape
    names = ("vocab", "width", "layers", "heads", "kv_heads", "head_width", "context")
    return Architecture(*(getattr(config, name) for name in names), shapes)


def norm(path, width, bias=True):
    """The parameters of one norm, {path: shape}: a gain, and a bias if it has one."""
    both = {f"{path}.weight": (width,), f"{path}.bias": (width,)}
    return both if bias else {f"{path}.weight": (width,)}


def t5(vocab, width, layers, heads, ffn, *, head_width=64, gated=True, tied=False):
    """T5: `layers` blocks of the encoder, then as many of the decoder, which look back at it.

    RMSNorm, no biases, 32 learned biases by distance for each head of either half; gated and
    untied from version 1.1 on.  Raffel et al. 2020, section 2.1, arXiv:1910.10683
    """
    inner, shapes = heads * head_width, {"wte.weight": (vocab, width)}
    for i in range(2 * layers):
        for attn in ("attn", "cross") if i >= layers else ("attn",):
            for kind in ("q_proj", "k_proj", "v_proj"):
                shapes[f"blocks.{i}.{attn}.{kind}.weight"] = inner, width
            shapes[f"blocks.{i}.{attn}.o_proj.weight"] = width, inner
            shapes |= norm(f"blocks.{i}.ln_{attn}", width, False)
        for kind in ("gate_proj", "up_proj") if gated else ("up_proj",):
            shapes[f"blocks.{i}.mlp.{kind}.weight"] = ffn, width
        shapes[f"blocks.{i}.mlp.down_proj.weight"] = width, ffn
        shapes |= norm(f"blocks.{i}.ln_mlp", width, False)
    for half in ("encoder", "decoder"):
        shapes[f"{half}.distances.weight"] = 32, heads
        shapes |= norm(f"{half}.ln_f", width, False)
    if not tied:
        shapes["lm_head.weight"] = vocab, width
    return Architecture(vocab, width, 2 * layers, heads, heads, head_width, None, shapes)


def whisper(vocab, width, layers, heads, *, bands=80, frames=1500, context=448):
    """Whisper: two convolutions, `layers` blocks of the encoder, as many of the decoder.

    Biases but for the keys, tied head; the encoder's positions are fixed and counted, as they
    are among its weights.  Radford et al. 2022, section 2.2, arXiv:2212.04356
    """
    D, shapes = width, {"wte.weight": (vocab, width), "wpe.weight": (context, width)}
    shapes |= {"encoder.positions.weight": (frames, D)}
    shapes |= {"encoder.conv_1.weight": (D, bands, 3), "encoder.conv_1.bias": (D,)}
    shapes |= {"encoder.conv_2.weight": (D, D, 3), "encoder.conv_2.bias": (D,)}
    for i in range(2 * layers):
        for attn in ("attn", "cross") if i >= layers else ("attn",):
            for kind in ("q_proj", "k_proj", "v_proj", "o_proj"):
                shapes[f"blocks.{i}.{attn}.{kind}.weight"] = D, D
                if kind != "k_proj":
                    shapes[f"blocks.{i}.{attn}.{kind}.bias"] = (D,)
            shapes |= norm(f"blocks.{i}.ln_{attn}", D)
        for kind, n_out, n_in in (("up_proj", 4 * D, D), ("down_proj", D, 4 * D)):
            shapes[f"blocks.{i}.mlp.{kind}.weight"] = n_out, n_in
            shapes[f"blocks.{i}.mlp.{kind}.bias"] = (n_out,)
        shapes |= norm(f"blocks.{i}.ln_mlp", D)
    for half in ("encoder", "decoder"):
        shapes |= norm(f"{half}.ln_f", D)
    return Architecture(vocab, D, 2 * layers, heads, heads, D // heads, context, shapes)
