"""Adapters exchanged with HF PEFT, for models of the shape of HF's Llama or GPT-2.

    mp.export_adapter(model, "default", folder)     PeftModel.from_pretrained(theirs, folder)
    theirs.save_pretrained(folder)                  mp.import_adapter(model, folder)

The arrays are the same here and there, but for an axis or a factor that a method's own file
tells. What differs is the paths of modules by which a file names them: blocks.0.attn.q_proj is
model.layers.0.self_attn.q_proj in Llama. Where a method sits is written by every module's path,
and so are other r and α, so names and patterns that chose them need not be translated.
HF's files do not say which base they belong to.
"""

from dataclasses import asdict
from pathlib import Path

from ..engine.backend import np, to_numpy, xp
from ..errors import unknown
from ..peft.attach import check_name, install, prepare, use
from ..peft.base import base_parameters, find
from ..peft.methods import METHODS
from ..peft.targets import Targeted, first_match
from .checkpoint import hf_name, method_of
from .files import blaming, header, numbers_in, read_arrays, read_json, write_arrays, write_json

# HF's names of the parts of a path, where they are not ours
LLAMA = {
    "wte": "model.embed_tokens",
    "ln_f": "model.norm",
    "blocks": "model.layers",
    "ln_1": "input_layernorm",
    "ln_2": "post_attention_layernorm",
    "attn": "self_attn",
}
GPT2 = {name: f"transformer.{name}" for name in ("wte", "wpe", "ln_f")}
GPT2 |= {
    "blocks": "transformer.h",
    "o_proj": "c_proj",
    "up_proj": "c_fc",
    "down_proj": "c_proj",
}
FUSED = ("q_proj", "k_proj", "v_proj")  # one matrix in HF's GPT-2, c_attn
EXCHANGED = {method.peft_type: method for method in METHODS.values() if method.hf_config}
# what a configuration of HF's says that changes nothing of what its arrays compute
WITHOUT_EFFECT = (
    "auto_mapping", "base_model_name_or_path", "encoder_dropout", "encoder_num_layers",
    "encoder_reparameterization_type", "exclude_modules", "fan_in_fan_out",
    "feedforward_modules", "inference_mode", "init_ia3_weights", "init_lora_weights",
    "init_weights", "layers_pattern", "layers_to_transform", "megatron_core", "module_dropout",
    "num_attention_heads", "num_layers", "num_transformer_submodules", "peft_version",
    "prompt_tuning_init", "prompt_tuning_init_text", "qalora_group_size", "rank_dropout",
    "revision", "save_projection", "target_modules", "task_type", "token_dim",
    "tokenizer_kwargs", "tokenizer_name_or_path", "total_step",
)  # fmt: skip
STARTS = (True, False, "gaussian", "orthogonal", "eva")  # those that leave the base as it is


def export_adapter(model, name, folder):
    """Write one adapter as HF PEFT does, for `PeftModel.from_pretrained`; returns the folder.

    Raises ValueError if HF PEFT has no such method, or HF no such model.
    """
    adapter, theirs = find(model, name), hf_paths(model)
    config = hf_config(adapter, theirs, model.config)
    arrays = hf_arrays(model, adapter, theirs)
    write_arrays(Path(folder) / "adapter_model.safetensors", arrays)
    write_json(Path(folder) / "adapter_config.json", config)
    return Path(folder)


def import_adapter(model, folder, name=None):
    """Attach what HF PEFT saved in a folder, under a name (default: the folder's); use it.

    Returns the Adapter. Raises ValueError, and leaves the model as it was, if the file does not
    fit the model or holds what has no counterpart here.
    """
    path, theirs = Path(folder) / "adapter_model.safetensors", hf_paths(model)
    name = Path(folder).resolve().name if name is None else name
    check_name(model, name)
    values, (names, _) = read_json(Path(folder) / "adapter_config.json"), header(path)
    with blaming(path):
        method = method_from_hf(values, names, theirs)
        if method.count(model.config) > numbers_in(path):
            raise ValueError(f"it holds fewer parameters than {method} trains on this model")
        adapter = prepare(model, method, name)
        arrays = hf_arrays(model, adapter, theirs, tables=names)
        like = {n: np.empty(a.shape, names.get(n, ("float32",))[0]) for n, a in arrays.items()}
    in_file, _ = read_arrays(path, like)
    trained = hf_names(adapter, theirs)
    for key in arrays.keys() - trained.values():
        if not np.array_equal(in_file[key], to_numpy(arrays[key])):
            raise ValueError(f"{path}: {key} is frozen, and not equal to that of this model")
    for key, p in adapter.named_parameters():
        array = in_file[trained[key]] / method.hf_factor(key.split(".")[-1])
        p.data = xp.asarray(array.reshape(p.shape), dtype=p.dtype)
    install(model, adapter)
    use(model, name)
    return adapter


class Paths(dict):
    """{path of a module: its path in HF's model}."""

    def __missing__(self, path):
        raise ValueError(
            f"{path} is a part of one matrix in HF's GPT-2, c_attn, where a change of it alone "
            "has no form; in that shape use o_proj, up_proj and down_proj"
        )


def hf_paths(model):
    """The Paths of a model, without GPT-2's queries, keys and values.

    Raises ValueError for a shape that HF does not have.
    """
    c = model.config
    kind = c.norm, c.position, c.mlp
    if kind == ("rms", "rope", "swiglu"):
        parts, fused = LLAMA, ()
    elif kind == ("layer", "learned", "gelu") and c.bias and c.kv_heads == c.heads:
        parts, fused = GPT2, FUSED
    else:
        raise ValueError(
            f"HF has no model of this shape ({', '.join(kind)}); those of Config.llama and "
            "Config.gpt2 can be exchanged"
        )
    paths = [path.split(".") for path, _ in model.named_modules() if not path.endswith(fused)]
    return Paths({".".join(p): ".".join(parts.get(n, n) for n in p) for p in paths})


def hf_names(adapter, theirs):
    """{path of an array that an adapter saves: its name in HF's file}."""
    names = {}
    for key in adapter.saved():
        module, _, name = key.rpartition(".")
        name = f"ln_tuning_layers.{name}" if key in adapter.copies else name
        names[key] = hf_name(f"{theirs[module]}.{name}", adapter.method.export_form())
    return names


def hf_arrays(model, adapter, theirs, tables=()):
    """{name: array} as in a file of HF's: what was trained, and what it repeats of the frozen.

    The token tables are repeated if they are among the names `tables`.
    """
    names, method = hf_names(adapter, theirs), adapter.method
    arrays = {
        names[key]: array * method.hf_factor(key.split(".")[-1])
        for key, array in adapter.saved().items()
    }
    arrays |= method.hf_frozen(adapter)
    base = dict(base_parameters(model))
    for path in ("wte", "lm_head"):
        name = f"base_model.model.{theirs[path]}.base_layer.weight"
        if name in tables:
            arrays[name] = base.get(f"{path}.weight", base["wte.weight"]).data
    return arrays


def hf_config(adapter, theirs, config):
    """The configuration of an adapter as HF PEFT writes it; ValueError if it has none."""
    method, on_gpt2 = adapter.method.export_form(), theirs["ln_f"] == "transformer.ln_f"
    if not method.hf_config:
        raise ValueError(f"HF PEFT has no {method}; save_adapter can save it")
    if on_gpt2 and not method.hf_on_gpt2:
        kind = type(method).__name__
        raise ValueError(f"HF PEFT has no {kind} for GPT-2; save_adapter can save it")
    values = asdict(method)
    if isinstance(method, Targeted):
        paths = list(adapter.deltas)
        values |= {"target_modules": paths, "fan_in_fan_out": on_gpt2}
        own = {path: method.for_module(path, config.matrices[path]) for path in paths}
        values |= by_module(method, own)
    if method.hf_flag:
        values[method.hf_flag] = True
    values = method.to_hf(values, adapter)
    for option in ("target_modules", "feedforward_modules"):
        if option in values:
            values[option] = [theirs[path] for path in values[option]]
    for option in ("rank_pattern", "alpha_pattern"):
        if option in values:
            values[option] = {theirs[path]: value for path, value in values[option].items()}
    values = {option: v for option, v in values.items() if option not in method.hf_lacks}
    about = {"base_model_name_or_path": None, "inference_mode": True, "task_type": "CAUSAL_LM"}
    return values | about | {"peft_type": method.peft_type}


def by_module(method, own):
    """The patterns of r and α, {our path: value}, where a module differs from the method."""
    alpha = "lora_alpha" if hasattr(method, "lora_alpha") else "alpha"
    values = {}
    for table, option in (("rank_pattern", "r"), ("alpha_pattern", alpha)):
        if hasattr(method, table):
            at = {path: getattr(m, option) for path, m in own.items()}
            values[table] = {p: v for p, v in at.items() if v != getattr(method, option)}
    return values


def method_from_hf(values, names, theirs):
    """The Method that a configuration of HF's and {name of an array: (type, shape)} describe.

    Raises ValueError for an option that changes the result and has no counterpart here.
    """
    kind, start = values.get("peft_type"), values.get("init_lora_weights", True)
    if kind not in EXCHANGED:
        raise ValueError(unknown("peft_type", kind, EXCHANGED))
    if start not in STARTS:
        raise ValueError(f"it is for a base that init_lora_weights={start!r} has changed")
    kept = {o: v for o, v in values.items() if o not in WITHOUT_EFFECT and not is_off(v)}
    targets = targets_in(names, theirs)
    if targets:
        kept["target_modules"] = tuple(targets)
    kept = EXCHANGED[kind].from_hf(kept, targets)
    for table in {"rank_pattern", "alpha_pattern"} & kept.keys():
        keys = {path: first_match(kept[table], theirs[path]) for path in targets}
        kept[table] = {path: kept[table][key] for path, key in keys.items() if key is not None}
    return method_of(kept)[0].export_form()


def targets_in(names, theirs):
    """{our path of each module that a file has arrays for: shape of the first of them}."""
    ours, targets = {module: path for path, module in theirs.items()}, {}
    prefixes = {f".{method.hf_prefix}" for method in EXCHANGED.values() if method.hf_prefix}
    for name, (_, shape) in names.items():
        parts = name.removeprefix("base_model.model.")
        start = min((parts.find(prefix) for prefix in prefixes if prefix in parts), default=-1)
        if parts == name or start < 0:
            continue
        if parts[:start] not in ours:
            raise ValueError(f"it changes {parts[:start]}, which has no counterpart here")
        targets.setdefault(ours[parts[:start]], shape)
    return targets


def is_off(value):
    """Whether a value in a configuration of HF's says that an option is not used."""
    return value is None or value is False or value in ({}, [], "none")
