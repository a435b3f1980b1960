"""Save and load base models and adapters, with the names of Hugging Face PEFT where it has one.

    base/      config.json           model.safetensors            all parameters
    adapter/   adapter_config.json   adapter_model.safetensors    only what was trained

An adapter's file carries its configuration and the identity of the base that it was trained on.
So loading it on another base is an error, not a model with wrong answers. The names of modules
are not Hugging Face's. So that HF PEFT refuses such a folder, the name of the method in it
begins with "minipeft."; `export_adapter` writes what HF PEFT reads.
"""

import json
from dataclasses import asdict
from importlib.resources import files

from ..engine.backend import dtype, xp
from ..errors import unknown
from ..model.config import Config
from ..model.quantize import QuantizedParameter, quantize_weights
from ..model.transaction import all_or_nothing
from ..peft.attach import check_name, install, prepare, use
from ..peft.base import adapters, base_parameters, find
from ..peft.methods import METHODS
from ..peft.targets import any_rank
from .arrays import read_arrays, read_config, write_arrays
from .files import as_path, error_context, write_json
from .identity import base_identity, difference
from .safetensors import Safetensors
from .unfilled import unfilled_model

OURS = "minipeft."  # before the method's name in a file of `save_adapter`
# the keys of an adapter's configuration that are no options of its method
EXTRA_KEYS = (
    "base", "base_fingerprint", "base_model_name_or_path", "edition", "inference_mode",
    "task_type",
)  # fmt: skip


def save_model(model, folder):
    """Write the base of a model, without adapters, to config.json and model.safetensors.

    Quantised weights are written as codes and scales. Raises ValueError while an adapter that
    trains base parameters is in use: what it has learnt would be missing.
    """
    folder = as_path(folder)
    for adapter in adapters(model).values():
        if adapter.originals:
            raise ValueError(
                f"{adapter.name!r} has replaced parameters of the base, which would be saved "
                "without it; merge it first, or use(model, None) to save the base as it was"
            )
    config = asdict(model.config) | {"dtype": str(model.wte.weight.dtype)}
    parameters = dict(base_parameters(model))
    quantized = {path: p for path, p in parameters.items() if isinstance(p, QuantizedParameter)}
    if quantized:
        config["packed"] = {path: p.quantization for path, p in quantized.items()}
    arrays = stored_arrays(parameters)
    write_arrays(folder / "model.safetensors", arrays, {"config": json.dumps(config)})
    write_json(folder / "config.json", config)


def load_model(folder):
    """Returns a Transformer from a folder of `save_model`, in the precision of the file.

    Raises ValueError for files that are damaged or do not fit together, and FileNotFoundError
    if one is missing.
    """
    path = as_path(folder) / "model.safetensors"
    with Safetensors(path) as file:
        values = read_config(file, as_path(folder) / "config.json")
        precision, quantization = values.pop("dtype", "float32"), values.pop("packed", {})
        with error_context(path), dtype(precision):
            config = Config.from_dict(values)
            fits = config.size <= 2 * file.count if quantization else config.size == file.count
            if not fits:  # before memory is taken; two 4-bit codes may share an element
                raise ValueError(
                    f"it holds {file.count:,} values, its config needs {config.size:,}"
                )
            model = unfilled_model(config)
            quantize_weights(model, quantization)
        parameters = dict(model.named_parameters())
        arrays = stored_arrays(parameters)
        loaded = read_arrays(file, like=arrays)
    for path, p in parameters.items():
        if isinstance(p, QuantizedParameter):
            for end, a in p.arrays.items():
                a[...] = xp.asarray(loaded[f"{path}{end}"])
        else:
            p.data = xp.asarray(loaded[path])
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

    The configuration has the identity of the base. A network that only computes other
    parameters, such as that of prefix tuning, is replaced by the parameters that it computes.
    Raises ValueError if there is no adapter of that name.
    """
    adapter = find(model, name)
    method = adapter.method.export_form()
    config = asdict(method) | ({method.hf_flag: True} if method.hf_flag else {})
    config |= {
        "peft_type": OURS + method.peft_type,
        "task_type": "CAUSAL_LM",
        "inference_mode": True,
        "base_model_name_or_path": None,
        "base": base_identity(model),
        "edition": method.edition,
    }
    folder = as_path(folder)
    arrays = {hf_name(path, method): a for path, a in adapter.saved().items()}
    write_arrays(folder / "adapter_model.safetensors", arrays, {"config": json.dumps(config)})
    write_json(folder / "adapter_config.json", config)
    return folder


@all_or_nothing
def load_adapter(model, folder, name=None):
    """Attach the adapter in a folder and use it. Returns the Adapter.

    Its name is that of the folder unless given. Raises ValueError, and leaves the model as it
    was, if the files are damaged or do not fit the model, or if the model is not the base that
    the adapter was trained on; raises FileNotFoundError if a file is missing.
    """
    folder = as_path(folder)
    name = folder.resolve().name if name is None else name
    check_name(model, name)
    with Safetensors(folder / "adapter_model.safetensors") as file:
        values = read_config(file, folder / "adapter_config.json")
        with error_context(file.path):
            if not {"base", "base_fingerprint"} & values.keys():
                raise ValueError("it is not of save_adapter; import_adapter reads HF PEFT's")
            method, extra = method_from_config(values)
            check_edition(method, extra.get("edition", 1))
            method = method.export_form()  # older files name a network but do not hold it
        check_base(file.path, model, extra)
        with error_context(file.path), any_rank(file.count):
            check_count(file, method, model.config)
            adapter = prepare(model, method, name)
        like = {hf_name(key, method): a for key, a in adapter.saved().items()}
        arrays = read_arrays(file, like)
    for key, p in adapter.named_parameters():
        p.data = xp.asarray(arrays[hf_name(key, method)]).reshape(p.shape)
    install(model, adapter)
    use(model, adapter.name)
    return adapter


def check_edition(method, edition):
    """Raises ValueError for a file whose numbers meant something else when it was written."""
    if edition != method.edition:
        raise ValueError(
            f"it is of edition {edition} of {type(method).__name__}, here is edition "
            f"{method.edition}, which computes something else from the same numbers; load it "
            "with the version of minipeft that wrote it"
        )


def check_base(path, model, extra):
    """Raises ValueError if a file's adapter was trained on another base.

    An older file has only the fingerprint.
    """
    ours, theirs = base_identity(model), extra.get("base")
    if "base" not in extra:
        ours = {"fingerprint": ours["fingerprint"]}
        theirs = {"fingerprint": extra["base_fingerprint"]}
    if differs := difference(theirs, ours, "base"):
        raise ValueError(
            f"{path} was trained on another base: {differs}; load it on its own, with nothing "
            "merged into it, and quantised as it was then"
        )


def check_count(file, method, config):
    """Raises ValueError, before memory is taken, if a file does not hold a method's numbers."""
    count = method.count(config)
    if file.count != count:
        raise ValueError(
            f"it holds {file.count:,} parameters, but {method} trains {count:,} on this model"
        )


def hf_name(path, method):
    """Returns HF PEFT's name for an array: base_model.model.….q_proj.lora_A.weight."""
    module, _, name = path.rpartition(".")
    if module == "start":
        return name
    module = module.removesuffix(".attend")  # HF has no module for attention itself
    return f"base_model.model.{module}.{method.hf_name(name)}"


def method_from_config(values):
    """Returns the Method that a file's configuration describes, and {key: value} of the rest.

    Where several methods share a peft_type, a flag in the configuration says which it is.
    """
    values = dict(values)
    peft_type = str(values.pop("peft_type", None)).removeprefix(OURS)
    candidates = [method for method in METHODS.values() if method.peft_type == peft_type]
    if not candidates:
        known = dict.fromkeys(method.peft_type for method in METHODS.values())
        raise ValueError(unknown("peft_type", peft_type, known))
    extra = {key: values.pop(key) for key in EXTRA_KEYS if key in values}
    flagged = [m for m in candidates if m.hf_flag and values.get(m.hf_flag) is True]
    method = (flagged or candidates)[0]
    values.pop(method.hf_flag, None)
    return method.from_dict(values), extra
