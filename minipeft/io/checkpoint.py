"""Models and adapters in files, in HF PEFT's names where it has one.

    base/      config.json           model.safetensors
    adapter/   adapter_config.json   adapter_model.safetensors: what was trained, no more

An adapter's file carries its own configuration and the fingerprint of the base it was trained
on, so a wrong base is an error, never a wrong answer.
"""

import hashlib
import json
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path

from ..engine.backend import dtype, np, to_numpy, xp
from ..errors import unknown
from ..model.config import Config
from ..model.quantize import Packed, pack
from ..model.transformer import Transformer
from ..peft.attach import check_name, install, prepare, use
from ..peft.base import base_parameters, find
from ..peft.methods import METHODS
from .files import (
    blaming,
    numbers_in,
    own_config,
    read_arrays,
    read_json,
    write_arrays,
    write_json,
)

ABOUT = ("base_fingerprint", "base_model_name_or_path", "inference_mode", "task_type")


def save_model(model, folder):
    """Write the base of a model, adapters aside, to config.json and model.safetensors.

    Weights that are held in few bits are written as their codes and scales.
    """
    config = asdict(model.config) | {"dtype": str(model.wte.weight.dtype)}
    parameters = dict(base_parameters(model))
    packed = {path: p.packed_by for path, p in parameters.items() if isinstance(p, Packed)}
    if packed:
        config["packed"] = packed
    arrays = held(parameters)
    write_arrays(Path(folder) / "model.safetensors", arrays, {"config": json.dumps(config)})
    write_json(Path(folder) / "config.json", config)


def load_model(folder):
    """A Transformer as saved by `save_model`, in the precision in which it was saved."""
    path = Path(folder) / "model.safetensors"
    values = own_config(path, read_json(Path(folder) / "config.json"), "config")
    precision, packed = values.pop("dtype", "float32"), values.pop("packed", {})
    found = numbers_in(path)
    with blaming(path), dtype(precision):
        config = Config.from_dict(values)
        fits = config.size <= 2 * found if packed else config.size == found
        if not fits:  # two packed numbers may share a byte
            raise ValueError(f"it holds {found:,} numbers, its config needs {config.size:,}")
        model = Transformer(config, rng=0)
        pack(model, packed)
    wanted = held(dict(model.named_parameters()))
    arrays, _ = read_arrays(path, wanted)
    for name, a in wanted.items():
        a[...] = xp.asarray(arrays[name])
    return model


def held(parameters):
    """The arrays that hold {path: Parameter}, by their names in a file."""
    return {
        f"{path}{end}": array
        for path, p in parameters.items()
        for end, array in p.arrays.items()
    }


def load_base():
    """The pretrained backbone that ships with the package; `minipeft pretrain` remakes it."""
    return load_model(files("minipeft") / "base")


def save_adapter(model, name, folder):
    """Write what one adapter trained, and the base's fingerprint, to a folder; returns it.

    A network that only makes other numbers, such as prefix tuning's, is folded away.
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


def load_adapter(model, folder, name=None):
    """Attach an adapter from a folder under a name (default: the folder's); use and return it.

    Raises ValueError, and leaves the model as it was, if the files are damaged or do not fit
    the model, or if the base is not the one that the adapter was trained on.
    """
    path = Path(folder) / "adapter_model.safetensors"
    name = Path(folder).resolve().name if name is None else name
    check_name(model, name)
    values = own_config(path, read_json(Path(folder) / "adapter_config.json"), "config")
    with blaming(path):
        method, about = method_of(values)
        method = method.export_form()  # files of HF PEFT name the network that they do not hold
        found, wanted = numbers_in(path), method.count(model.config)
        if found != wanted:
            raise ValueError(
                f"it holds {found:,} numbers, but {method} trains {wanted:,} on this model"
            )
    trained_on, this = about.get("base_fingerprint"), fingerprint(model)
    if trained_on not in (None, this):
        raise ValueError(
            f"{folder} was trained on the base {str(trained_on)[:12]}…, this one is "
            f"{this[:12]}…; load it on its own base (unmerge what was merged)"
        )
    with blaming(path):
        adapter = prepare(model, method, name)
    like = {hf_name(key, method): a for key, a in adapter.saved().items()}
    arrays, _ = read_arrays(path, like)
    for key, p in adapter.named_parameters():
        p.data = xp.asarray(arrays[hf_name(key, method)]).reshape(p.shape)
    install(model, adapter)
    use(model, adapter.name)
    return adapter


def hf_name(path, method):
    """HF PEFT's name for an array of ours: base_model.model.….q_proj.lora_A.weight."""
    module, _, name = path.rpartition(".")
    if module == "start":
        return name
    name += ".weight" if name in method.hf_weights else ""
    module = module.removesuffix(".attend")  # HF has no module for attention itself
    return f"base_model.model.{module}.{name}"


def method_of(values):
    """(Method, what else the file says) from an adapter's configuration."""
    values = dict(values)
    kind = values.pop("peft_type", None)
    kinds = [method for method in METHODS.values() if method.peft_type == kind]
    if not kinds:
        known = dict.fromkeys(method.peft_type for method in METHODS.values())
        raise ValueError(unknown("peft_type", kind, known))
    about = {key: values.pop(key) for key in ABOUT if key in values}
    marked = [
        method for method in kinds if method.hf_flag and values.get(method.hf_flag) is True
    ]
    method = (marked or kinds)[0]
    values.pop(method.hf_flag, None)
    return method.from_dict(values), about


def fingerprint(model):
    """SHA-256 over names, shapes and bytes of the base's parameters, in hexadecimal."""
    digest = hashlib.sha256()
    for path, p in sorted(base_parameters(model)):
        digest.update(f"{path} {p.shape} {p.dtype}".encode())
        digest.update(np.ascontiguousarray(to_numpy(p.data)))
    return digest.hexdigest()
