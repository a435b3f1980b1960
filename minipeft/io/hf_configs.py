"""The config.json of Hugging Face's models, as a Config, and back.

A key that changes a logit and has no counterpart in a Config raises an error: none is ignored.
A key that is not there has the value that transformers gives it.
"""

import json

from ..errors import Refusal, unknown
from ..model.config import Config
from .families import FAMILIES, FLAG

ROPE_SCALING = (
    "factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings",
)  # fmt: skip

ROPE = ("rope_theta", "partial_rotary_factor")

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
IN_ALL = {"is_causal": True}  # what no family may have otherwise
NULL = ("num_key_value_heads", "head_dim", "n_inner")  # which null leaves to be computed


def config_from_hf(values):
    """Returns (family, Config) that a config.json, as a JSON object, describes.

    Raises ValueError for a family that is not known, and names what has no counterpart here.
    """
    kind, left = values.get("model_type"), dict(values)
    if kind in OUT_OF_SCOPE:
        raise Refusal(
            f"model_type {kind!r} is out of scope: {OUT_OF_SCOPE[kind]}; give another model"
        )
    if kind not in FAMILIES:
        raise Refusal(unknown("model_type", kind, FAMILIES))
    family = FAMILIES[kind]

    def take(key, default=None):
        return left.pop(key, family.defaults.get(key, default))

    fields = family.fixed | {ours: take(theirs) for theirs, ours in family.keys.items()}
    for theirs, ours in family.keys.items():
        if fields[ours] is None and theirs not in NULL:
            raise ValueError(f"its config.json has no {theirs}")
    fields["mlp"] = activation(family, take)
    if family.fixed.get("position") == "rope":
        fields |= rope(family, take)
    fields["window"] = sliding_window(family, take, fields["layers"])
    fields["nope"] = layers_without_rope(family, take, fields["layers"])
    for key, value in (IN_ALL | family.only).items():
        require(key, take(key, value), (value,))
    require("word_embed_proj_dim", take("word_embed_proj_dim", fields["width"]),
            (fields["width"],))  # fmt: skip
    for key, value in left.items():
        unread = key in WITHOUT_EFFECT or key in family.unread
        if not unread and value not in (None, False, [], {}):
            raise Refusal(
                f"its config.json has {key} = {value!r:.80}, which is not here; give another "
                "model"
            )
    return family, Config(**{k: v for k, v in fields.items() if v is not None})


def require(key, value, allowed):
    """Raises ValueError for a key of config.json with a value that has no counterpart."""
    if value not in allowed:
        known = " or ".join(repr(value) for value in allowed)
        raise Refusal(
            f"its config.json has {key} = {value!r:.80}, here it must be {known}; give another "
            "model"
        )


def activation(family, take):
    """Returns the field `mlp` of the Config."""
    key, kinds = family.activation
    value = take(key, next(iter(kinds)))
    require(key, value, tuple(kinds))
    return kinds[value]


def rope(family, take):
    """Returns the fields of a Config about RoPE.

    transformers 5 has them in "rope_parameters", before it they were keys of their parent and
    "rope_scaling". Where both are there, they must agree.
    """
    dicts = [told for told in (take("rope_scaling"), take("rope_parameters")) if told]
    if len(dicts) == 2 and dicts[0] != dicts[1]:
        raise Refusal("its rope_scaling and its rope_parameters differ; leave out one of them")
    old = [take(key, usual) for key, usual in zip(family.rope_keys, (1e4, 1.0), strict=True)]
    told = dict(zip(ROPE, old, strict=True)) | (dicts[0] if dicts else {})
    for key in {*ROPE} - {*family.rope_keys}:
        if (value := take(key, told[key])) != told[key]:
            raise Refusal(
                f"its config.json has {key} = {value!r:.80}, where transformers reads "
                f"{' and '.join(family.rope_keys)}, and so {told[key]!r:.80}; leave it out"
            )
    kind = told.pop("rope_type", told.pop("type", None))
    told.pop("type", None)
    kinds = (None, "default", "llama3")
    require("rope_type", kind, kinds if family.scaled_rope else kinds[:2])
    fields = {"rope_theta": float(told.pop("rope_theta"))}
    fields["rotary"] = float(told.pop("partial_rotary_factor"))
    if not family.partial_rope:
        require("partial_rotary_factor", fields["rotary"], (1.0,))
    if kind == "llama3":
        missing = [key for key in ROPE_SCALING if key not in told]
        if missing:
            raise ValueError(f"its rope_type is llama3, without {', '.join(missing)}")
        context = ROPE_SCALING[-1]
        if take(context, told[context]) != told[context]:  # which transformers prefers
            raise Refusal(f"its config.json and its RoPE have another {context}; leave out one")
        fields["rope_scaling"] = tuple(float(told.pop(key)) for key in ROPE_SCALING)
    for key, value in told.items():
        if key not in ROPE_SCALING or kind == "llama3":
            raise Refusal(
                f"its RoPE has {key} = {value!r:.80}, which is not here; give another model"
            )
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
        raise Refusal(
            "some of its layers have a sliding window, here all or none have one; give another "
            "model"
        )
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
