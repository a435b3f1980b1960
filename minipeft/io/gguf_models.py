"""Models in GGUF files, read and written: which array is which parameter.

llama.cpp names the arrays blk.0.attn_q.weight and so on. For RoPE it turns neighbours, where
Hugging Face and this package turn the two halves of a head; of the families that come from
Llama's code it therefore reorders the rows of q and k, which is undone here.
"""

import math

from ..engine.backend import np, to_numpy, xp
from ..errors import unknown
from ..model.config import Config
from ..model.quantize import CodedParameter
from ..model.transformer import scaled_frequencies
from ..peft.attach import check_unused
from ..peft.base import base_parameters
from .block_formats import FORMATS, half
from .files import as_path, error_context
from .gguf import GGUF, write_gguf
from .unfilled import unfilled_model

# {part of a path here: the part there}
NAMES = {
    "wte": "token_embd", "wpe": "position_embd", "ln_f": "output_norm", "lm_head": "output",
    "attn.q_proj": "attn_q", "attn.k_proj": "attn_k", "attn.v_proj": "attn_v",
    "attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down", "ln_1": "attn_norm", "ln_2": "ffn_norm",
    "attn.q_norm": "attn_q_norm", "attn.k_norm": "attn_k_norm",
}  # fmt: skip
# {key after the architecture's name: field of a Config}
KEYS = {
    "context_length": "context", "embedding_length": "width", "block_count": "layers",
    "feed_forward_length": "ffn", "attention.head_count": "heads",
    "attention.head_count_kv": "kv_heads", "attention.key_length": "head_width",
    "attention.layer_norm_rms_epsilon": "norm_eps", "attention.layer_norm_epsilon": "norm_eps",
    "attention.sliding_window": "window", "embedding_scale": "embedding_scale",
    "attention.scale": "attention_scale", "residual_scale": "residual_scale",
    "logit_scale": "logits_scale", "rope.freq_base": "rope_theta",
}  # fmt: skip
# {key that must have one value, if it is there: that value for a Config}
FIXED = {
    "attention.causal": lambda config: True,
    "attention.value_length": lambda config: config.head_width,
    "rope.dimension_count": lambda config: config.head_width,
    "rope.scaling.type": lambda config: "none",
    "vocab_size": lambda config: config.vocab,
}
WITHOUT_EFFECT = {"rope.scaling.original_context_length"}  # where no RoPE is scaled
LLAMA = dict(norm="rms", position="rope", mlp="swiglu", bias=False)
LIKE_LLAMA = ("llama", "granite")  # where llama.cpp knows biases of the MLP, and a scaled RoPE
# {architecture there: (fields of a Config, whether rows of q and k are reordered)}
ARCHITECTURES = {
    "llama": (LLAMA, True),
    "granite": (LLAMA, True),
    "smollm3": (LLAMA, True),
    "qwen2": (LLAMA | {"qkv_bias": True}, False),
    "qwen3": (LLAMA | {"qk_norm": True}, False),
    "starcoder2": (dict(norm="layer", position="rope", mlp="gelu", bias=True), False),
}
LLAMA3 = ((8.0, 1.0, 4.0, 8192.0), (32.0, 1.0, 4.0, 8192.0))  # rope_scaling of Llama 3.1, 3.2
HELD = ("Q4_0", "Q4_1")  # what can stay in the codes of the file
HELD_BITS = 6  # that a weight then takes, with its block's scale and minimum in float32


def model_from_gguf(path, quantized=False):
    """Returns the Transformer in a GGUF file; see `from_pretrained`."""
    with GGUF(path) as file:
        kind, config = architecture_in(file)
        check_entries(file, config)
        model = unfilled_model(config)
        modules = dict(model.named_modules())
        for path_here, p in dict(model.named_parameters()).items():
            name = name_of(path_here)
            module, _, attribute = path_here.rpartition(".")
            order = rows_order(path_here, p.shape, config, kind)
            if quantized and file.entries[name][0] in HELD:
                setattr(modules[module], attribute, held(file, name, order))
                continue
            a = file.read(name)
            if not np.isfinite(a).all():
                raise ValueError(f"{file.path} holds infinite numbers or NaN in {name}")
            p.data = xp.asarray(a if order is None else a[order], dtype=p.dtype)
        if quantized:
            for p in model.parameters():
                p.requires_grad = False
        model.pretrained = {"gguf": str(as_path(path).resolve())}
    return model


def config_of_gguf(path):
    """Returns the Config of the model in a GGUF file."""
    with GGUF(path) as file:
        return architecture_in(file)[1]


def bytes_of_gguf(path, quantized=False):
    """Returns how many bytes the model in a GGUF file takes in memory; see `bytes_of`."""
    with GGUF(path) as file:
        return sum(
            math.prod(shape) * (HELD_BITS if quantized and kind in HELD else 32) // 8
            for kind, shape in file.entries.values()
        )


def architecture_in(file):
    """Returns (architecture, Config) of a file; ValueError for one that is not known."""
    kind = file.metadata.get("general.architecture")
    if kind not in ARCHITECTURES:
        raise ValueError(f"{file.path}: {unknown('architecture', kind, ARCHITECTURES)}")
    return kind, config_from_gguf(file, kind)


def config_from_gguf(file, kind):
    """Returns the Config that the metadata of a file describe.

    Raises ValueError for a value that changes the logits and that no field can express.
    """
    prefix, fields = f"{kind}.", dict(ARCHITECTURES[kind][0])
    for key, value in file.metadata.items():
        name = key.removeprefix(prefix)
        if name == key or name in WITHOUT_EFFECT or name in FIXED:
            continue
        if name not in KEYS:
            raise ValueError(f"{file.path} has {key} = {value!r:.80}, which is not here")
        fields[KEYS[name]] = value
    if "token_embd.weight" not in file.entries:
        raise ValueError(f"{file.path} has no token_embd.weight")
    fields["vocab"] = file.entries["token_embd.weight"][1][0]
    fields["tied"] = "output.weight" not in file.entries
    for name, value in fields.items():
        if type(value) is float:  # of float32 the digits that count
            fields[name] = float(f"{value:.7g}")
    biases = {"qkv_bias": "attn_q", "bias": "attn_output", "mlp_bias": "ffn_up"}
    fields |= {key: f"blk.0.{name}.bias" in file.entries for key, name in biases.items()}
    if kind == "smollm3":
        fields["nope"] = no_rope_layers(fields["layers"])
    with error_context(file.path):
        config = Config.from_dict({k: v for k, v in fields.items() if v is not None})
    for name, value_for in FIXED.items():
        told, value = file.metadata.get(prefix + name), value_for(config)
        if told not in (None, value):
            raise ValueError(
                f"{file.path} has {prefix}{name} = {told!r:.80}, here it must be {value!r}; "
                "give another file"
            )
    return with_rope_factors(file, config)


def no_rope_layers(layers):
    """Returns the layers of SmolLM 3 without RoPE, each fourth, which a file does not tell."""
    return tuple(range(3, layers, 4))


def with_rope_factors(file, config):
    """Returns the Config with the rope_scaling that the factors in a file are of, if any."""
    if "rope_freqs.weight" not in file.entries:
        return config
    factors = file.read("rope_freqs.weight")
    if (factors == 1.0).all():
        return config
    if scaling := scaling_of(config, factors):
        return config.with_(rope_scaling=scaling)
    raise ValueError(f"{file.path} has RoPE factors that are not those of Llama 3.1 or 3.2")


def scaling_of(config, factors):
    """Returns the rope_scaling that divides frequencies by such factors, or None."""
    found = (s for s in LLAMA3 if np.allclose(divisors(config, s), factors, rtol=1e-5))
    return next(found, None)


def name_of(path):
    """Returns the name there of a parameter here."""
    module, _, kind = path.rpartition(".")
    if not module.startswith("blocks."):
        return f"{NAMES[module]}.{kind}"
    _, layer, part = module.split(".", 2)
    return f"blk.{layer}.{NAMES[part]}.{kind}"


def check_entries(file, config):
    """Raises ValueError, before memory is taken, if names or shapes are not the model's."""
    wanted = {name_of(path): shape for path, shape in config.parameter_shapes.items()}
    entries = {n: shape for n, (_, shape) in file.entries.items() if n != "rope_freqs.weight"}
    if different := sorted(wanted.keys() ^ entries.keys()):
        here = "has no place" if different[0] in entries else "is missing"
        raise ValueError(f"{file.path}: {different[0]} {here}")
    for name, shape in wanted.items():
        if entries[name] != shape:
            raise ValueError(f"{file.path}: {name} is {entries[name]}, expected {shape}")


def rows_order(path, shape, config, kind):
    """Returns the rows of an array in a file in the order here, or None if it is the same."""
    heads = {"q_proj": config.heads, "k_proj": config.kv_heads}.get(path.split(".")[-2])
    if heads is None or not ARCHITECTURES[kind][1]:
        return None
    rows = np.arange(shape[0]).reshape(heads, -1, 2)  # pairs of neighbours
    return rows.swapaxes(1, 2).reshape(-1)


def held(file, name, order):
    """Returns the CodedParameter of an array in a file."""
    kind, shape = file.entries[name]
    blocks = file.blocks(name)
    if order is not None:
        blocks = blocks.reshape(shape[0], -1)[order].reshape(len(blocks), -1)
    first = FORMATS[kind].bytes - 16
    scales, minima = half(blocks, 0), half(blocks, 2) if kind == "Q4_1" else None
    if not all(np.isfinite(a).all() for a in (scales, minima) if a is not None):
        raise ValueError(f"{file.path} holds infinite numbers or NaN in {name}")
    return CodedParameter.from_halves(blocks[:, first:], scales, minima, shape)


def write_model(model, file, kind, vocabulary):
    """Write a model, without adapters, to a GGUF file, its matrices as `kind`; see `save_gguf`.

    vocabulary: a function that returns the metadata of its vocabulary and chat template,
    ({key: value}, {key: type}).
    """
    name = str(kind).upper()
    if name not in ("Q8_0", "F16", "F32"):
        raise ValueError(unknown("kind of GGUF", kind, ("q8_0", "f16", "f32")))
    check_unused(model)
    architecture = architecture_of(model.config)
    text, types = vocabulary()
    metadata = {"general.architecture": architecture, "general.name": "minipeft"} | text
    metadata |= config_to_gguf(model.config, architecture)
    metadata["general.file_type"] = {"Q8_0": 7, "F16": 1, "F32": 0}[name]
    arrays = {
        name_of(path): entry(path, p, model.config, architecture, name)
        for path, p in base_parameters(model)
    }
    if model.config.rope_scaling:
        arrays["rope_freqs.weight"] = rope_factors(model.config)
    write_gguf(as_path(file), metadata, arrays, types)


def architecture_of(config):
    """Returns the first architecture that has a model of this Config; ValueError if none."""
    for kind in ARCHITECTURES:
        if is_of(config, kind):
            return kind
    raise ValueError(
        f"there is no GGUF form of this shape here; there are {', '.join(ARCHITECTURES)}, "
        "without windows and with RoPE of the whole head, unscaled or as in Llama 3; "
        "save_pretrained writes it as a folder"
    )


def is_of(config, kind):
    """Returns whether llama.cpp computes a model of this Config as this architecture."""
    fields, like_llama = ARCHITECTURES[kind][0], kind in LIKE_LLAMA
    scales = (config.embedding_scale, config.residual_scale, config.logits_scale)
    scaled = scales != (1.0, 1.0, 1.0) or config.attention_scale is not None
    mlp_bias, scaling = config.has_bias("mlp.up_proj"), config.rope_scaling
    return (
        all(getattr(config, key) == value for key, value in fields.items())
        and config.has_bias("q_proj") == fields.get("qkv_bias", config.bias)
        and (mlp_bias == config.bias or (mlp_bias and like_llama))
        and config.qk_norm == fields.get("qk_norm", False)
        and not (config.window or config.parallel or config.rotary != 1.0)
        and config.nope == (no_rope_layers(config.layers) if kind == "smollm3" else ())
        and (not scaled or kind == "granite")
        and (not scaling or (like_llama and read_back(config, scaling)))
    )


def read_back(config, scaling):
    """Returns whether the factors of a rope_scaling are those that are read from a file."""
    factors = divisors(config, scaling)
    return bool((factors == 1.0).all()) or scaling_of(config, factors) is not None


def config_to_gguf(config, kind):
    """Returns the metadata that describe a Config."""
    skip = {"norm_eps", "attention_scale", "window"}
    if kind != "granite":
        skip |= {"embedding_scale", "residual_scale", "logits_scale"}
    values = {k: getattr(config, field) for k, field in KEYS.items() if field not in skip}
    norm = "layer_norm_rms_epsilon" if config.norm == "rms" else "layer_norm_epsilon"
    values |= {f"attention.{norm}": config.norm_eps, "rope.dimension_count": config.head_width}
    values |= {"attention.value_length": config.head_width, "vocab_size": config.vocab}
    if kind == "granite":
        values["attention.scale"] = config.attention_scale or config.head_width**-0.5
    return {f"{kind}.{key}": value for key, value in values.items()}


def entry(path, p, config, architecture, kind):
    """Returns (format, shape, function that returns the array) of a parameter."""
    order = rows_order(path, p.shape, config, architecture)
    if p.ndim == 1 or p.shape[-1] % FORMATS[kind].values:
        kind = "F32"

    def array():
        a = to_numpy(p.data)
        if order is not None:
            back = np.empty_like(a)
            back[order] = a
            a = back
        return a

    return kind, p.shape, array


def rope_factors(config):
    """Returns the entry of the factors by which llama.cpp divides the frequencies of RoPE."""
    factors = divisors(config, config.rope_scaling).astype("float32")
    return "F32", factors.shape, lambda: factors


def divisors(config, scaling):
    """Returns by what a rope_scaling divides the frequency of each pair, (head_width / 2,)."""
    K = config.head_width
    frequencies = config.rope_theta ** (-np.arange(0, K, 2) / K)
    return frequencies / scaled_frequencies(frequencies, *scaling)
