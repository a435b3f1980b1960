"""Import and export adapters of Hugging Face PEFT, for models of the shape of Llama or GPT-2.

    from here to HF PEFT:  mp.export_adapter(model, "default", folder)
                           PeftModel.from_pretrained(hf_model, folder)
    from HF PEFT to here:  peft_model.save_pretrained(folder)
                           mp.import_adapter(model, folder)

The arrays are the same, except for a factor or an axis that the file of a method states. The
paths of modules differ: blocks.0.attn.q_proj is model.layers.0.self_attn.q_proj in HF's Llama.
A configuration lists the target modules, and those with another r or α, by their full paths, so
that no pattern of names has to be translated.

HF PEFT's files have no fingerprint of their base: that it is the right one cannot be checked.
"""

import hashlib
from dataclasses import asdict

from ..engine.backend import np, to_numpy, xp
from ..errors import unknown
from ..model.transaction import all_or_nothing
from ..peft.attach import check_name, install, prepare, use
from ..peft.base import base_parameters, find
from ..peft.methods import METHODS
from ..peft.targets import Targeted, first_match
from .arrays import read_arrays, write_arrays
from .checkpoint import OURS, hf_name, method_from_config
from .files import as_path, error_context, json_object, json_text, read_text, write_bytes
from .safetensors import Safetensors

# {part of a path here: the part in HF's model} where they differ
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
# options in HF PEFT's configurations that do not change what the arrays in the file compute
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
SEAL = (
    "config_sha256"  # in the metadata of the arrays: that they and a configuration are a pair
)
# values of init_lora_weights that leave the weights of the base as they are
BASE_UNCHANGED = (True, False, "gaussian", "orthogonal", "eva")


def export_adapter(model, name, folder):
    """Write one adapter in HF PEFT's format, for `PeftModel.from_pretrained`.

    Returns the folder's Path. Raises ValueError if there is no adapter of that name, if HF PEFT
    does not have its method, or if HF has no model of this shape.
    """
    adapter, hf_path, folder = find(model, name), hf_paths(model), as_path(folder)
    config = json_text(hf_config(adapter, hf_path, model.config))
    arrays = hf_arrays(model, adapter, hf_path)
    seal = {SEAL: hashlib.sha256(config).hexdigest()}
    write_arrays(folder / "adapter_model.safetensors", arrays, seal)
    write_bytes(folder / "adapter_config.json", config)
    return folder


@all_or_nothing
def import_adapter(model, folder, name=None):
    """Attach an adapter that HF PEFT saved in a folder, and use it. Returns the Adapter.

    Its name is that of the folder unless given. Raises ValueError, and leaves the model as it
    was, if the files do not fit the model, or need what this package does not have.
    """
    folder, hf_path = as_path(folder), hf_paths(model)
    name = folder.resolve().name if name is None else name
    check_name(model, name)
    path = folder / "adapter_model.safetensors"
    with Safetensors(path) as file:
        values, entries = sealed_config(file, folder / "adapter_config.json"), file.entries
        with error_context(path):
            method = method_from_hf(values, entries, hf_path)
            if method.count(model.config) > file.count:
                raise ValueError(
                    f"it holds fewer parameters than {method} trains on this model"
                )
            adapter = prepare(model, method, name)
            arrays = hf_arrays(model, adapter, hf_path, tables=entries)
            like = {
                key: np.empty(a.shape, entries.get(key, ("float32",))[0])
                for key, a in arrays.items()
            }
        loaded = read_arrays(file, like)
    trained = hf_names(adapter, hf_path)
    for key in arrays.keys() - trained.values():
        if not np.array_equal(loaded[key], to_numpy(arrays[key])):
            raise ValueError(
                f"{path}: {key} is frozen, and not equal to that of this model; "
                "load it on its own base"
            )
    for key, p in adapter.named_parameters():
        array = loaded[trained[key]] / method.hf_factor(key.split(".")[-1])
        p.data = xp.asarray(array.reshape(p.shape), dtype=p.dtype)
    install(model, adapter)
    use(model, name)
    return adapter


def sealed_config(file, path):
    """Returns the configuration beside a Safetensors file.

    Raises ValueError if `export_adapter` wrote the two in different calls.
    """
    text = read_text(path)
    if file.metadata.get(SEAL) not in (None, hashlib.sha256(text).hexdigest()):
        raise ValueError(
            f"{path} is not the one that {file.path} was exported with; export both again"
        )
    return json_object(text, path)


class HFPaths(dict):
    """{path of a module: its path in HF's model}; ValueError for one that HF does not have."""

    def __missing__(self, path):
        raise ValueError(
            f"{path} is a part of a larger matrix in HF's GPT-2, c_attn, and cannot be adapted "
            "alone there; on this shape target o_proj, up_proj and down_proj"
        )


def hf_paths(model):
    """Returns the HFPaths of a model; on GPT-2 without q_proj, k_proj and v_proj.

    Raises ValueError if HF has no model of this shape.
    """
    c = model.config
    kind = c.norm, c.position, c.mlp
    if kind == ("rms", "rope", "swiglu"):
        parts, fused = LLAMA, ()
    elif kind == ("layer", "learned", "gelu") and c.bias and c.kv_heads == c.heads:
        parts, fused = GPT2, FUSED
    else:
        raise ValueError(
            f"HF has no model of this shape ({', '.join(kind)}); only models of Config.llama "
            "and Config.gpt2 can be exchanged"
        )
    paths = [path.split(".") for path, _ in model.named_modules() if not path.endswith(fused)]
    return HFPaths({".".join(p): ".".join(parts.get(n, n) for n in p) for p in paths})


def hf_names(adapter, hf_path):
    """Returns {path of an array that an adapter saves: its name in HF PEFT's file}."""
    names = {}
    for key in adapter.saved():
        module, _, name = key.rpartition(".")
        name = f"ln_tuning_layers.{name}" if key in adapter.copies else name
        names[key] = hf_name(f"{hf_path[module]}.{name}", adapter.method.export_form())
    return names


def hf_arrays(model, adapter, hf_path, tables=()):
    """Returns {name: array} as in HF PEFT's file: trained arrays, and frozen ones it repeats.

    The token tables are among them if their names are among `tables`.
    """
    names, method = hf_names(adapter, hf_path), adapter.method
    arrays = {
        names[key]: array * method.hf_factor(key.split(".")[-1])
        for key, array in adapter.saved().items()
    }
    arrays |= method.hf_frozen(adapter)
    base = dict(base_parameters(model))
    for path in ("wte", "lm_head"):
        name = f"base_model.model.{hf_path[path]}.base_layer.weight"
        if name in tables:
            arrays[name] = base.get(f"{path}.weight", base["wte.weight"]).data
    return arrays


def hf_config(adapter, hf_path, config):
    """Returns the configuration of an adapter as HF PEFT writes it.

    Raises ValueError if HF PEFT does not have the method, or not on this model.
    """
    method, on_gpt2 = adapter.method.export_form(), hf_path["ln_f"] == "transformer.ln_f"
    if not method.hf_config:
        raise ValueError(f"HF PEFT has no {method}; save_adapter can save it")
    if on_gpt2 and not method.hf_on_gpt2:
        kind = type(method).__name__
        raise ValueError(f"HF PEFT has no {kind} for GPT-2; save_adapter can save it")
    values = asdict(method)
    if isinstance(method, Targeted):
        paths = list(adapter.deltas)
        values |= {"target_modules": paths, "fan_in_fan_out": on_gpt2}
        methods = {path: method.for_module(path, config.target_shapes[path]) for path in paths}
        values |= patterns(method, methods)
    if method.hf_flag:
        values[method.hf_flag] = True
    values = method.to_hf(values, adapter)
    for option in ("target_modules", "feedforward_modules"):
        if option in values:
            values[option] = [hf_path[path] for path in values[option]]
    for option in ("rank_pattern", "alpha_pattern"):
        if option in values:
            values[option] = {hf_path[path]: value for path, value in values[option].items()}
    values = {option: v for option, v in values.items() if option not in method.hf_lacks}
    extra = {"base_model_name_or_path": None, "inference_mode": True, "task_type": "CAUSAL_LM"}
    return values | extra | {"peft_type": method.peft_type}


def patterns(method, methods):
    """Returns rank_pattern and alpha_pattern, {path: value} of modules with another r or α.

    methods: {path: the method with the r and α that it has at that module}.
    """
    alpha = "lora_alpha" if hasattr(method, "lora_alpha") else "alpha"
    values = {}
    for pattern, option in (("rank_pattern", "r"), ("alpha_pattern", alpha)):
        if hasattr(method, pattern):
            of_modules = {path: getattr(m, option) for path, m in methods.items()}
            default = getattr(method, option)
            values[pattern] = {path: v for path, v in of_modules.items() if v != default}
    return values


def method_from_hf(values, entries, hf_path):
    """Returns the Method of HF PEFT's configuration and {name of an array: (type, shape)}.

    Raises ValueError for an option that changes the result and that this package does not have.
    """
    peft_type, init = values.get("peft_type"), values.get("init_lora_weights", True)
    if str(peft_type).startswith(OURS):
        raise ValueError("it was written by save_adapter, which load_adapter reads")
    if peft_type not in EXCHANGED:
        raise ValueError(unknown("peft_type", peft_type, EXCHANGED))
    if init not in BASE_UNCHANGED:
        raise ValueError(f"it is for a base that init_lora_weights={init!r} has changed")
    options = {o: v for o, v in values.items() if o not in WITHOUT_EFFECT and not is_unused(v)}
    targets = targets_in(entries, hf_path)
    if targets:
        options["target_modules"] = tuple(targets)
    options = EXCHANGED[peft_type].from_hf(options, targets)
    for pattern in {"rank_pattern", "alpha_pattern"} & options.keys():
        keys = {path: first_match(options[pattern], hf_path[path]) for path in targets}
        options[pattern] = {
            p: options[pattern][key] for p, key in keys.items() if key is not None
        }
    return method_from_config(options)[0].export_form()


def targets_in(entries, hf_path):
    """Returns {path here of a module that a file has arrays for: shape of the first of them}.

    Raises ValueError for arrays of a module that this model does not have.
    """
    path_of, targets = {module: path for path, module in hf_path.items()}, {}
    prefixes = {f".{method.hf_prefix}" for method in EXCHANGED.values() if method.hf_prefix}
    for name, (_, shape) in entries.items():
        path = name.removeprefix("base_model.model.")
        end = min((path.find(prefix) for prefix in prefixes if prefix in path), default=-1)
        if path == name or end < 0:
            continue
        module = path[:end]
        if module not in path_of:
            raise ValueError(f"it changes {module}, which this model does not have")
        targets.setdefault(path_of[module], shape)
    return targets


def is_unused(value):
    """Returns whether a value in HF PEFT's configuration means that an option is not used."""
    return value is None or value is False or value in ({}, [], "none")
