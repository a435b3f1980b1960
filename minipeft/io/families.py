"""The families of pretrained models: what Hugging Face's files call their sizes and parameters.

    config.json               Config                          {name there: parameter here}
    {"hidden_size": 576, …}   Config.llama(width=576, …)      model.layers.0.mlp.up_proj.weight

A Family is a table of the differences: the keys of its config.json, its names of parameters,
which matrices it holds as one, and whether it holds them transposed. A key that changes a logit
and has no counterpart in a Config raises an error: none is ignored.
"""

import json
from dataclasses import dataclass, field

from ..engine.backend import np
from ..errors import unknown
from ..model.config import Config

# {part of a path here: the part there} where they differ
LLAMA = {
    "wte": "model.embed_tokens", "ln_f": "model.norm", "blocks": "model.layers",
    "ln_1": "input_layernorm", "ln_2": "post_attention_layernorm", "attn": "self_attn",
}  # fmt: skip
GPT2 = {
    "wte": "transformer.wte", "wpe": "transformer.wpe", "ln_f": "transformer.ln_f",
    "blocks": "transformer.h", "o_proj": "c_proj", "up_proj": "c_fc", "down_proj": "c_proj",
}  # fmt: skip
STARCODER = LLAMA | {"up_proj": "c_fc", "down_proj": "c_proj"}
NEOX = {
    "wte": "gpt_neox.embed_in", "ln_f": "gpt_neox.final_layer_norm",
    "blocks": "gpt_neox.layers", "ln_1": "input_layernorm", "ln_2": "post_attention_layernorm",
    "attn": "attention", "o_proj": "dense", "up_proj": "dense_h_to_4h",
    "down_proj": "dense_4h_to_h", "lm_head": "embed_out",
}  # fmt: skip
OPT = {
    "wte": "model.decoder.embed_tokens", "wpe": "model.decoder.embed_positions",
    "ln_f": "model.decoder.final_layer_norm", "blocks": "model.decoder.layers",
    "ln_1": "self_attn_layer_norm", "ln_2": "final_layer_norm", "attn": "self_attn",
    "o_proj": "out_proj", "up_proj": "fc1", "down_proj": "fc2", "mlp": "",
}  # fmt: skip
QKV = ("q_proj", "k_proj", "v_proj")

# {key there: field here}
SIZES = {
    "vocab_size": "vocab", "max_position_embeddings": "context", "hidden_size": "width",
    "num_hidden_layers": "layers", "num_attention_heads": "heads",
    "num_key_value_heads": "kv_heads", "intermediate_size": "ffn",
    "tie_word_embeddings": "tied",
}  # fmt: skip
LLAMA_KEYS = SIZES | {"rms_norm_eps": "norm_eps", "head_dim": "head_width"}
BIASES = {"attention_bias": "bias", "mlp_bias": "mlp_bias"}
NEOX_KEYS = {k: v for k, v in SIZES.items() if k != "num_key_value_heads"} | {
    "layer_norm_eps": "norm_eps", "use_parallel_residual": "parallel", "attention_bias": "bias",
}  # fmt: skip
GPT2_KEYS = {
    "vocab_size": "vocab", "n_positions": "context", "n_embd": "width", "n_layer": "layers",
    "n_head": "heads", "n_inner": "ffn", "layer_norm_epsilon": "norm_eps",
    "tie_word_embeddings": "tied",
}  # fmt: skip
OPT_KEYS = {
    "vocab_size": "vocab", "max_position_embeddings": "context", "hidden_size": "width",
    "num_hidden_layers": "layers", "num_attention_heads": "heads", "ffn_dim": "ffn",
    "enable_bias": "bias", "tie_word_embeddings": "tied",
}  # fmt: skip
GRANITE_KEYS = {
    "embedding_multiplier": "embedding_scale", "attention_multiplier": "attention_scale",
    "residual_multiplier": "residual_scale", "logits_scaling": "logits_scale",
}  # fmt: skip
SWIGLU = {"silu": "swiglu"}
GELU = {
    "gelu_new": "gelu", "gelu_pytorch_tanh": "gelu", "gelu_fast": "gelu", "gelu": "gelu-erf",
    "relu": "relu",
}  # fmt: skip
ROPE_SCALING = (
    "factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings",
)  # fmt: skip

# keys that change no logit of a forward pass without dropout; some are of old versions
WITHOUT_EFFECT = {
    "_attn_implementation", "_attn_implementation_autoset", "_name_or_path",
    "activation_dropout", "architectures", "attention_dropout", "attention_softmax_in_fp32",
    "attn_implementation", "attn_pdrop", "auto_map", "bos_token_id",
    "chunk_size_feed_forward", "classifier_dropout", "decoder_start_token_id", "dropout",
    "dtype", "embd_pdrop", "embedding_dropout", "eos_token_id", "gradient_checkpointing",
    "hidden_dropout", "id2label", "init_std", "initializer_range", "is_decoder",
    "is_llama_config", "label2id", "layerdrop", "length_penalty", "max_length",
    "max_window_layers", "min_length", "model_max_length", "model_type", "n_ctx",
    "num_beam_groups", "num_beams", "num_labels", "num_return_sequences",
    "original_max_position_embeddings", "pad_token_id", "prefix", "pretraining_tp",
    "problem_type", "repetition_penalty", "resid_pdrop", "residual_dropout", "return_dict",
    "rope_interleaved", "scale_attention_softmax_in_fp32", "sep_token_id",
    "summary_activation", "summary_first_dropout", "summary_proj_to_labels", "summary_type",
    "summary_use_proj", "task_specific_params", "temperature", "tf_legacy_loss",
    "tokenizer_class", "top_k", "top_p", "torch_dtype", "torchscript",
    "transformers.js_config", "transformers_version", "typical_p", "unk_token_id",
    "unsloth_fixed", "unsloth_version", "use_bfloat16", "use_cache",
}  # fmt: skip
OUT_OF_SCOPE = {
    "gemma": "its embeddings are scaled and its norms multiply by 1 + γ",
    "gemma2": "it caps its logits and norms the outputs of its blocks",
    "gemma3_text": "it norms the outputs of its blocks and mixes kinds of attention",
    "olmo2": "it norms the outputs of its blocks",
    "mixtral": "it has several experts in a layer",
    "phi": "its head has a bias and one norm serves attention and MLP",
    "bloom": "its attention has linear biases of distance",
    "falcon": "its attention shares one norm with the MLP",
}


@dataclass(frozen=True)
class Family:
    """How one kind of model differs from ours, in config.json and in its parameters' names."""

    architecture: str  # its class in transformers
    keys: dict  # {key of its config.json: field of a Config}
    names: dict  # {part of a path here: the part there}
    fixed: dict  # fields of a Config that its config.json does not tell
    defaults: dict = field(default_factory=dict)  # values of keys that are not in the file
    activation: tuple = ("hidden_act", SWIGLU)  # the key, and {its values: ours}
    only: dict = field(default_factory=dict)  # keys that must have one value, if there
    fused: dict = field(default_factory=dict)  # {module there: the modules here it holds}
    by_head: bool = False  # a fused matrix has a head's rows of each of them side by side
    transposed: bool = False  # whether the matrices of its blocks are (in, out)
    window: str = ""  # "always": sliding_window counts; "flag": if use_sliding_window is true
    partial_rope: bool = False  # whether a share of a head may be rotary
    spare_positions: int = 0  # rows at the start of its position table that no token uses
    unread: tuple = ()  # keys in its files that transformers does not read

    def module(self, path):
        """Returns the path there of a module here; several may be parts of the same."""
        *parts, last = path.split(".")
        for whole, ours in self.fused.items():
            if last in ours and parts:
                last = whole
        parts = [self.names.get(part, part) for part in [*parts, last]]
        return ".".join(part for part in parts if part)

    def split(self, array, sizes, heads):
        """Returns the parts of a fused array, of so many rows each."""
        if len(sizes) == 1:
            return [array]
        if self.by_head:
            apart = array.reshape(heads, len(sizes), -1, *array.shape[1:])
            return [apart[:, i].reshape(-1, *array.shape[1:]) for i in range(len(sizes))]
        return np.split(array, np.cumsum(sizes)[:-1])

    def join(self, arrays, heads):
        """Returns the fused array of some parts, the inverse of `split`."""
        if len(arrays) == 1:
            return arrays[0]
        if self.by_head:
            rest = arrays[0].shape[1:]
            stacked = np.stack([a.reshape(heads, -1, *rest) for a in arrays], axis=1)
            return stacked.reshape(-1, *rest)
        return np.concatenate(arrays)


ALWAYS, FLAG = "always", "flag"
ROPE = dict(position="rope")
LLAMA_SHAPE = dict(norm="rms", bias=False, **ROPE)
UNTIED = {"tie_word_embeddings": False, "rms_norm_eps": 1e-6}
TIED = {"tie_word_embeddings": True}
GATE_UP = {"gate_up_proj": ("gate_proj", "up_proj")}

FAMILIES = {
    "llama": Family("LlamaForCausalLM", LLAMA_KEYS | BIASES, LLAMA, LLAMA_SHAPE,
                    UNTIED | {"attention_bias": False, "mlp_bias": False}),
    "mistral": Family("MistralForCausalLM", LLAMA_KEYS, LLAMA, LLAMA_SHAPE,
                      UNTIED | {"sliding_window": 4096}, window=ALWAYS),
    "qwen2": Family("Qwen2ForCausalLM", LLAMA_KEYS, LLAMA, LLAMA_SHAPE | {"qkv_bias": True},
                    UNTIED, window=FLAG),
    "qwen3": Family("Qwen3ForCausalLM", LLAMA_KEYS | {"attention_bias": "bias"}, LLAMA,
                    LLAMA_SHAPE | {"qk_norm": True, "mlp_bias": False},
                    UNTIED | {"attention_bias": False, "head_dim": 128}, window=FLAG),
    "smollm3": Family("SmolLM3ForCausalLM", LLAMA_KEYS | BIASES, LLAMA, LLAMA_SHAPE,
                      UNTIED | TIED | {"attention_bias": False, "mlp_bias": False,
                                       "no_rope_layers": None, "no_rope_layer_interval": 4},
                      window=FLAG),
    "phi3": Family("Phi3ForCausalLM", LLAMA_KEYS, LLAMA, LLAMA_SHAPE,
                   UNTIED | {"rms_norm_eps": 1e-5}, fused={"qkv_proj": QKV} | GATE_UP,
                   window=ALWAYS, partial_rope=True),
    "granite": Family("GraniteForCausalLM", LLAMA_KEYS | BIASES | GRANITE_KEYS, LLAMA,
                      LLAMA_SHAPE,
                      UNTIED | {"attention_bias": False, "mlp_bias": False}
                      | dict.fromkeys(GRANITE_KEYS, 1.0)),
    "starcoder2": Family("Starcoder2ForCausalLM",
                         SIZES | {"norm_epsilon": "norm_eps", "use_bias": "bias"}, STARCODER,
                         dict(norm="layer", **ROPE),
                         TIED | {"norm_epsilon": 1e-5, "use_bias": True,
                                 "hidden_act": "gelu_pytorch_tanh"},
                         ("hidden_act", GELU), window=ALWAYS,
                         unread=("activation_function", "layer_norm_epsilon", "mlp_type",
                                 "norm_type", "scale_attn_weights")),
    "gpt_neox": Family("GPTNeoXForCausalLM", NEOX_KEYS, NEOX,
                       dict(norm="layer", mlp_bias=True, **ROPE),
                       {"tie_word_embeddings": False, "use_parallel_residual": True,
                        "attention_bias": True, "layer_norm_eps": 1e-5, "hidden_act": "gelu",
                        "rotary_pct": 0.25},
                       ("hidden_act", GELU), fused={"query_key_value": QKV}, by_head=True,
                       partial_rope=True),
    "gpt2": Family("GPT2LMHeadModel", GPT2_KEYS, GPT2, {},
                   TIED | {"layer_norm_epsilon": 1e-5, "activation_function": "gelu_new"},
                   ("activation_function", GELU),
                   {"scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False,
                    "reorder_and_upcast_attn": False, "add_cross_attention": False},
                   fused={"c_attn": QKV}, transposed=True),
    "opt": Family("OPTForCausalLM", OPT_KEYS, OPT, {},
                  TIED | {"enable_bias": True, "activation_function": "relu"},
                  ("activation_function", GELU),
                  {"do_layer_norm_before": True, "_remove_final_layer_norm": False,
                   "layer_norm_elementwise_affine": True}, spare_positions=2),
}  # fmt: skip


def config_from_hf(values):
    """Returns (family, Config) that a config.json, as a JSON object, describes.

    Raises ValueError for a family that is not known, and names what has no counterpart here.
    """
    kind, left = values.get("model_type"), dict(values)
    if kind in OUT_OF_SCOPE:
        raise ValueError(f"model_type {kind!r} is out of scope: {OUT_OF_SCOPE[kind]}")
    if kind not in FAMILIES:
        raise ValueError(unknown("model_type", kind, FAMILIES))
    family = FAMILIES[kind]

    def take(key, default=None):
        return left.pop(key, family.defaults.get(key, default))

    fields = family.fixed | {ours: take(theirs) for theirs, ours in family.keys.items()}
    fields["mlp"] = activation(family, take)
    if family.fixed.get("position") == "rope":
        fields |= rope(take)
        if not family.partial_rope:
            require("partial_rotary_factor", fields["rotary"], (1.0,))
    fields["window"] = sliding_window(family, take, fields["layers"])
    fields["nope"] = layers_without_rope(family, take, fields["layers"])
    for key, value in family.only.items():
        require(key, take(key, value), (value,))
    require("word_embed_proj_dim", take("word_embed_proj_dim", fields["width"]),
            (fields["width"],))  # fmt: skip
    for key, value in left.items():
        unread = key in WITHOUT_EFFECT or key in family.unread
        if not unread and value not in (None, False, [], {}):
            raise ValueError(f"its config.json has {key} = {value!r:.80}, which is not here")
    return family, Config(**{k: v for k, v in fields.items() if v is not None})


def require(key, value, allowed):
    """Raises ValueError for a key of config.json with a value that has no counterpart."""
    if value not in allowed:
        known = " or ".join(repr(value) for value in allowed)
        raise ValueError(f"its config.json has {key} = {value!r:.80}, here it must be {known}")


def activation(family, take):
    """Returns the field `mlp` of the Config."""
    key, kinds = family.activation
    value = take(key, next(iter(kinds)))
    require(key, value, tuple(kinds))
    return kinds[value]


def rope(take):
    """Returns the fields of a Config about RoPE.

    transformers 5 has them in "rope_parameters", before it they were keys of their own.
    """
    old = {"rope_theta": take("rope_theta", take("rotary_emb_base", 10000.0))}
    old["partial_rotary_factor"] = take("partial_rotary_factor", take("rotary_pct", 1.0))
    told = old | (take("rope_scaling") or {}) | (take("rope_parameters") or {})
    kind = told.pop("rope_type", told.pop("type", None))
    told.pop("type", None)
    require("rope_type", kind, (None, "default", "llama3"))
    fields = {"rope_theta": float(told.pop("rope_theta"))}
    fields["rotary"] = float(told.pop("partial_rotary_factor"))
    if kind == "llama3":
        missing = [key for key in ROPE_SCALING if key not in told]
        if missing:
            raise ValueError(f"its rope_type is llama3, without {', '.join(missing)}")
        fields["rope_scaling"] = tuple(float(told.pop(key)) for key in ROPE_SCALING)
    for key, value in told.items():
        if key not in ROPE_SCALING or kind == "llama3":
            raise ValueError(f"its RoPE has {key} = {value!r:.80}, which is not here")
    return fields


def sliding_window(family, take, layers):
    """Returns the window of all layers, None without one. Raises ValueError for a mixture."""
    if not family.window:
        return None
    used = take("use_sliding_window", False) if family.window == FLAG else True
    window, first, kinds = take("sliding_window"), take("max_window_layers", 0), None
    if family.window == FLAG:
        kinds = take("layer_types")
    if not used or window is None:
        return None
    if kinds is None:
        whole = first if family.window == FLAG else 0
        kinds = ["full_attention"] * whole + ["sliding_attention"] * max(0, layers - whole)
    if set(kinds[:layers]) == {"full_attention"}:
        return None
    if set(kinds[:layers]) != {"sliding_attention"} or "no_rope_layers" in family.defaults:
        raise ValueError("some of its layers have a sliding window, here all or none have one")
    return window


def layers_without_rope(family, take, layers):
    """Returns the layers without RoPE. Only SmolLM 3 has some, by default each fourth."""
    if "no_rope_layers" not in family.defaults:
        return ()
    told, interval = take("no_rope_layers"), take("no_rope_layer_interval")
    if told is None:
        return tuple(range(interval - 1, layers, interval)) if interval else ()
    if len(told) != layers:
        raise ValueError(f"its no_rope_layers are {len(told)}, its layers are {layers}")
    return tuple(i for i, rotated in enumerate(told) if not rotated)


def config_to_hf(config, family_name):
    """Returns a config.json, as a JSON object, that describes a Config in a family's words.

    Raises ValueError if the family has no such model: what `config_from_hf` makes of it must be
    the same Config.
    """
    family = FAMILIES[family_name]
    values = {theirs: getattr(config, ours) for theirs, ours in family.keys.items()}
    key, kinds = family.activation
    names = [family.defaults.get(key), *kinds]  # of several for the same, the family's own
    values[key] = next((name for name in names if kinds.get(name) == config.mlp), None)
    values |= dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))
    values |= {"model_type": family_name, "architectures": [family.architecture]}
    for flag in ("attention_bias", "mlp_bias"):
        if flag in values:
            values[flag] = config.has_bias("mlp.up_proj" if flag == "mlp_bias" else "o_proj")
    if "attention_multiplier" in values and config.attention_scale is None:
        values["attention_multiplier"] = config.head_width**-0.5
    if config.position == "rope":
        told = {"rope_type": "default", "rope_theta": config.rope_theta}
        if config.rope_scaling:
            told |= {"rope_type": "llama3"} | dict(
                zip(ROPE_SCALING, config.rope_scaling, strict=True)
            )
        if family.partial_rope:
            told["partial_rotary_factor"] = config.rotary
        values["rope_parameters"] = told
    if family.window:
        values["sliding_window"] = config.window
    if family.window == FLAG:
        values |= {"use_sliding_window": config.window is not None, "max_window_layers": 0}
    if family_name == "smollm3":
        values["no_rope_layers"] = [int(i not in config.nope) for i in range(config.layers)]
    if family_name == "opt":
        values["word_embed_proj_dim"] = config.width
    if not same_model(config_from_hf(values)[1], config):
        raise ValueError(f"{family.architecture} has no model of {config}")
    return values


def same_model(one, two):
    """Returns whether two Configs describe the same function of the same parameters."""
    paths = one.linear_shapes.keys()
    if one.parameter_shapes != two.parameter_shapes or paths != two.linear_shapes.keys():
        return False
    told = [
        "norm", "position", "mlp", "tied", "norm_eps", "heads", "kv_heads", "head_width",
        "qk_norm", "parallel", "window", "embedding_scale", "residual_scale", "logits_scale",
    ]  # fmt: skip
    if one.position == "rope":
        told += ["rope_theta", "rotary_width", "rope_scaling", "nope"]
    scales = [c.attention_scale or c.head_width**-0.5 for c in (one, two)]
    return scales[0] == scales[1] and all(getattr(one, f) == getattr(two, f) for f in told)


def family_of(config):
    """Returns the name of the first family that has a model of this Config.

    Raises ValueError if none has.
    """
    for name in FAMILIES:
        try:
            config_to_hf(config, name)
        except (ValueError, TypeError, KeyError):
            continue
        return name
    raise ValueError(
        "Hugging Face's transformers has no model of this shape: "
        f"{json.dumps({k: getattr(config, k) for k in ('norm', 'position', 'mlp', 'bias')})}"
    )
