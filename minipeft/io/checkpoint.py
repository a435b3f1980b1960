"""Save and load base models and adapters, with the names of Hugging Face PEFT where it has one.

    base/      config.json           model.safetensors            all parameters
    adapter/   adapter_config.json   adapter_model.safetensors    only what was trained

An adapter's file carries its configuration and the fingerprint of the base that it was trained
on. So loading it on another base is an error, not a model with wrong answers.
"""

import hashlib
import json
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path

from ..engine.backend import dtype, np, to_numpy, xp
from ..errors import unknown
from ..model.config import Config
from ..model.quantize import QuantizedParameter, quantize_weights
from ..model.transaction import all_or_nothing
from ..model.transformer import Transformer
from ..peft.attach import check_name, install, prepare, use
from ..peft.base import base_parameters, find
from ..peft.methods import METHODS
from .files import (
    count_elements,
    error_context,
    read_arrays,
    read_config,
    write_arrays,
    write_json,
)

# the keys of an adapter's configuration that are no options of its method
EXTRA_KEYS = ("base_fingerprint", "base_model_name_or_path", "inference_mode", "task_type")


def save_model(model, folder):
    """Write the base of a model, without adapters, to config.json and model.safetensors.

    Quantised weights are written as codes and scales.
    """
    config = asdict(model.config) | {"dtype": str(model.wte.weight.dtype)}
    parameters = dict(base_parameters(model))
    quantized = {path: p for path, p in parameters.items() if isinstance(p, QuantizedParameter)}
    if quantized:
        config["packed"] = {path: p.quantization for path, p in quantized.items()}
    arrays = stored_arrays(parameters)
    write_arrays(Path(folder) / "model.safetensors", arrays, {"config": json.dumps(config)})
    write_json(Path(folder) / "config.json", config)


def load_model(folder):
    """Returns a Transformer from a folder of `save_model`, in the precision of the file.

    Raises ValueError for files that are damaged or do not fit together, and FileNotFoundError
    if one is missing.
    """
    path = Path(folder) / "model.safetensors"
    values = read_config(path, Path(folder) / "config.json")
    precision, quantization = values.pop("dtype", "float32"), values.pop("packed", {})
    elements = count_elements(path)
    with error_context(path), dtype(precision):
        config = Config.from_dict(values)
        fits = config.size <= 2 * elements if quantization else config.size == elements
        if not fits:  # checked before memory is allocated; two 4-bit codes may share an element
            raise ValueError(f"it holds {elements:,} values, its config needs {config.size:,}")
        model = Transformer(config, rng=0)
        quantize_weights(model, quantization)
    arrays = stored_arrays(dict(model.named_parameters()))
    loaded, _ = read_arrays(path, like=arrays)
    for name, a in arrays.items():
        a[...] = xp.asarray(loaded[name])
    return model


def stored_arrays(parameters):
    """Returns {name in a file: array} for {path: Parameter}: one each, several if quantised."""
    return {
        f"{path}{end}": array
        for path, p in parameters.items()
        for end, array in p.arrays.items()
    }


def load_base():
    """Returns the pretrained backbone of the package, which `minipeft pretrain` trains anew."""
    return load_model(files("minipeft") / "base")


def save_adapter(model, name, folder):
    """Write the trained parameters of one adapter to a folder. Returns the folder's Path.

    The configuration has the fingerprint of the base. A network that only computes other
    parameters, such as that of prefix tuning, is replaced by the parameters that it computes.
    Raises ValueError if there is no adapter of that name.
    """
    adapter = find(model, name)
    method = adapter.method.export_form()
    config = asdict(method) | ({method.hf_flag: True} if method.hf_flag else {})
    config |= {
        "peft_type": method.peft_type,
        "task_type": "CAUSAL_LM",
        "inference_mode": True,
        "base_model_name_or_path": None,
        "base_fingerprint": fingerprint(model),
    }
    arrays = {hf_name(path, method): a for path, a in adapter.saved().items()}
    write_arrays(
        Path(folder) / "adapter_model.safetensors", arrays, {"config": json.dumps(config)}
    )
    write_json(Path(folder) / "adapter_config.json", config)
    return Path(folder)


@all_or_nothing
def load_adapter(model, folder, name=None):
    """Attach the adapter in a folder and use it. Returns the Adapter.

    Its name is that of the folder unless given. Raises ValueError, and leaves the model as it
    was, if the files are damaged or do not fit the model, or if the model is not the base that
    the adapter was trained on; raises FileNotFoundError if a file is missing.
    """
    path = Path(folder) / "adapter_model.safetensors"
    name = Path(folder).resolve().name if name is None else name
    check_name(model, name)
    values = read_config(path, Path(folder) / "adapter_config.json")
    with error_context(path):
        method, extra = method_from_config(values)
        method = method.export_form()  # HF PEFT's files name a network but do not hold it
        elements, trained = count_elements(path), method.count(model.config)
        if elements != trained:
            raise ValueError(
                f"it holds {elements:,} parameters, but {method} trains {trained:,} "
                "on this model"
            )
    trained_on, this = extra.get("base_fingerprint"), fingerprint(model)
    if trained_on not in (None, this):
        raise ValueError(
            f"{folder} was trained on the base {str(trained_on)[:12]}…, this one is "
            f"{this[:12]}…; load it on its own base (unmerge what was merged)"
        )
    with error_context(path):
        adapter = prepare(model, method, name)
    like = {hf_name(key, method): a for key, a in adapter.saved().items()}
    arrays, _ = read_arrays(path, like)
    for key, p in adapter.named_parameters():
        p.data = xp.asarray(arrays[hf_name(key, method)]).reshape(p.shape)
    install(model, adapter)
    use(model, adapter.name)
    return adapter


def hf_name(path, method):
    """Returns HF PEFT's name for an array: base_model.model.….q_proj.lora_A.weight."""
    module, _, name = path.rpartition(".")
    if module == "start":
        return name
    name += ".weight" if name in method.hf_weights else ""
    module = module.removesuffix(".attend")  # HF has no module for attention itself
    return f"base_model.model.{module}.{name}"


def method_from_config(values):
    """Returns the Method that a file's configuration describes, and {key: value} of the rest.

    Where several methods share a peft_type, a flag in the configuration says which it is.
    """
    values = dict(values)
    peft_type = values.pop("peft_type", None)
    candidates = [method for method in METHODS.values() if method.peft_type == peft_type]
    if not candidates:
        known = dict.fromkeys(method.peft_type for method in METHODS.values())
        raise ValueError(unknown("peft_type", peft_type, known))
    extra = {key: values.pop(key) for key in EXTRA_KEYS if key in values}
    flagged = [m for m in candidates if m.hf_flag and values.get(m.hf_flag) is True]
    method = (flagged or candidates)[0]
    values.pop(method.hf_flag, None)
    return method.from_dict(values), extra


def fingerprint(model):
    """Returns the SHA-256 of the base: names, shapes and bytes, in hexadecimal.

    Adapters do not change it; merging one into the weights does.
    """
    digest = hashlib.sha256()
    for path, p in sorted(base_parameters(model)):
        digest.update(f"{path} {p.shape} {p.dtype}".encode())
        digest.update(np.ascontiguousarray(to_numpy(p.data)))
    return digest.hexdigest()
