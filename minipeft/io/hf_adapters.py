"""Adapters exchanged with HF PEFT, for models of the shape of HF's Llama or GPT-2.

    mp.export_adapter(model, "default", folder)     PeftModel.from_pretrained(theirs, folder)
    theirs.save_pretrained(folder)                  mp.import_adapter(model, folder)

Tensors are the same here and there, but for (IA)³'s axis of one and a factor in AdaLoRA; the
paths of modules, by which a file names them, differ: blocks.0.attn.q_proj is
model.layers.0.self_attn.q_proj in Llama. HF's files do not say which base they belong to.
"""

from pathlib import Path

from ..engine.backend import np, to_numpy, xp
from ..peft.attach import check_name, install, prepare, use
from ..peft.base import base_parameters, find
from .checkpoint import hf_name
from .files import blaming, header, numbers_in, read_arrays, read_json, write_arrays, write_json
from .hf_config import in_words_of_hf, method_in_words_of_hf

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


def export_adapter(model, name, folder):
    """Write one adapter as HF PEFT does, for `PeftModel.from_pretrained`; returns the folder.

    Raises ValueError if HF PEFT has no such method, or HF no such model.
    """
    adapter, theirs = find(model, name), modules(model)
    config = in_words_of_hf(adapter, theirs, model.config)
    tensors = in_hf(model, adapter, theirs)
    write_arrays(Path(folder) / "adapter_model.safetensors", tensors)
    write_json(Path(folder) / "adapter_config.json", config)
    return Path(folder)


def import_adapter(model, folder, name=None):
    """Attach what HF PEFT saved in a folder, under a name (default: the folder's); use it.

    Raises ValueError, and leaves the model as it was, if the file does not fit the model or
    holds what has no counterpart here. Returns the Adapter.
    """
    path, theirs = Path(folder) / "adapter_model.safetensors", modules(model)
    name = Path(folder).resolve().name if name is None else name
    check_name(model, name)
    values, (names, _) = read_json(Path(folder) / "adapter_config.json"), header(path)
    with blaming(path):
        method = method_in_words_of_hf(values, names, theirs)
        if method.count(model.config) > numbers_in(path):
            raise ValueError(f"it holds fewer numbers than {method} trains on this model")
        adapter = prepare(model, method, name)
        tensors = in_hf(model, adapter, theirs, tables=names)
        like = {n: np.empty(a.shape, names.get(n, ("float32",))[0]) for n, a in tensors.items()}
    found, _ = read_arrays(path, like)
    for key in tensors.keys() - named(adapter, theirs).values():
        if not np.array_equal(found[key], to_numpy(tensors[key])):
            raise ValueError(f"{path}: {key} is frozen, and other numbers than those here")
    for key, p in adapter.named_parameters():
        array = found[named(adapter, theirs)[key]] / factor(method, key)
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


def modules(model):
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


def named(adapter, theirs):
    """{path of what an adapter saves: its name in HF's file}."""
    names = {}
    for key in adapter.saved():
        module, _, name = key.rpartition(".")
        name = f"ln_tuning_layers.{name}" if key in adapter.copies else name
        names[key] = hf_name(f"{theirs[module]}.{name}", adapter.method.export_form())
    return names


def factor(method, key):
    """What HF's number is that of ours times: its AdaLoRA divides by r + 10⁻⁵."""
    return 1.0 + 1e-5 / method.init_r if key.endswith("lora_E") else 1.0


def in_hf(model, adapter, theirs, tables=()):
    """{name: array} as in a file of HF's: what was trained, and what it repeats of the frozen.

    That is VeRA's two matrices and, if they are among the names `tables`, the token tables.
    """
    names, saved = named(adapter, theirs), adapter.saved()
    arrays = {names[key]: a * factor(adapter.method, key) for key, a in saved.items()}
    if adapter.method.peft_type == "VERA":
        deltas = adapter.deltas.values()
        arrays["base_model.vera_A"] = max((d.a for d in deltas), key=lambda a: a.shape[1])
        arrays["base_model.vera_B"] = max((d.b for d in deltas), key=len)
    base = dict(base_parameters(model))
    for path in ("wte", "lm_head"):
        name = f"base_model.model.{theirs[path]}.base_layer.weight"
        if name in tables:
            arrays[name] = base.get(f"{path}.weight", base["wte.weight"]).data
    return arrays
