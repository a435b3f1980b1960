"""Pretrained models in Hugging Face's folders, read and written.

    folder/   config.json   model.safetensors, or shards and model.safetensors.index.json

Where both are there, model.safetensors counts, as in transformers.

    model = mp.from_pretrained("SmolLM2-135M-Instruct/")
    mp.save_pretrained(model, "support/")                    transformers can load it

Weights in bfloat16 or float16 become float32. Reading goes array by array, so that it takes
little more memory than the model.
"""

import hashlib
import math
import shutil
from contextlib import ExitStack, suppress

from ..engine.backend import default_dtype, np, to_numpy, xp
from ..peft.attach import check_unused
from ..peft.base import base_parameters
from .arrays import SEAL, sealed_config
from .families import FAMILIES
from .files import as_path, error_context, json_text, read_json, write_bytes
from .hf_configs import config_from_hf, config_to_hf, family_of
from .safetensors import Safetensors, write_safetensors
from .unfilled import unfilled_model

WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"
# what a folder has beside the model, and `save_pretrained` copies
TEXT_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.json",
    "merges.txt", "chat_template.jinja", "generation_config.json", "added_tokens.json",
    "tokenizer.model",
)  # fmt: skip
# buffers in old files, which are no parameters
BUFFERS = (
    "rotary_emb.inv_freq", "attn.bias", "attn.masked_bias", "attention.bias",
    "attention.masked_bias",
)  # fmt: skip
ELEMENTS = {"float32", "float16", "float64"}  # bfloat16 is read as float32


def config_of_folder(path):
    """Returns the Config of the model in a Hugging Face folder."""
    with error_context(path / "config.json"):
        return config_from_hf(read_json(path / "config.json"))[1]


def model_from_folder(path):
    """Returns the Transformer in a Hugging Face folder; see `from_pretrained`."""
    values = read_json(path / "config.json")
    with ExitStack() as stack:
        with error_context(path / "config.json"):
            family, config = config_from_hf(values)
        weights = Weights(path, stack)
        weights.check_pair(path / "config.json")
        with error_context(path):
            check_size(config, weights, family)
            model = unfilled_model(config)
            fill(model, family, weights)
    model.pretrained = {"config": values, "folder": str(path.resolve())}
    return model


class Weights:
    """The arrays of a folder: of one file, or of the shards that an index names."""

    def __init__(self, folder, stack):
        names, shards = [WHOLE], None
        if not (folder / WHOLE).exists() and (folder / INDEX).exists():
            shards = shards_in(folder / INDEX)
            names = sorted(set(shards.values()))
        self.files, self.entries = {}, {}
        for name in names:
            file = stack.enter_context(Safetensors(folder / name))
            twice = self.entries.keys() & file.entries.keys()
            if twice:
                raise ValueError(f"{folder}: {min(twice)} is in two files")
            self.entries |= file.entries
            self.files |= dict.fromkeys(file.entries, file)
        if shards is not None and shards.keys() != self.entries.keys():
            different = sorted(shards.keys() ^ self.entries.keys())
            raise ValueError(
                f"{folder}: the index and the files name other arrays, such as {different[0]}"
            )

    def check_pair(self, path):
        """Raises ValueError if this package wrote the weights and a config.json apart."""
        for file in {*self.files.values()}:
            sealed_config(file, path)

    def read(self, name):
        """Returns an array in the default precision. Raises ValueError for inf or NaN."""
        a = self.files[name].read(name)
        if a.dtype.kind == "f" and not np.isfinite(a).all():
            raise ValueError(f"{name} holds infinite numbers or NaN")
        return a if a.dtype == default_dtype() else a.astype(default_dtype())


def shards_in(index):
    """Returns {name of an array: name of its file} of an index; ValueError if it has none."""
    shards = read_json(index).get("weight_map")
    if not isinstance(shards, dict) or not all(map(is_file_name, shards.values())):
        raise ValueError(f"{index} has no weight_map of file names; save the model again")
    return shards


def remove_shards(folder):
    """Remove the index and the shards of a model in whose place another one was written."""
    if not (folder / INDEX).is_file():
        return
    with suppress(ValueError):  # an index that nobody can read names no shards
        for name in set(shards_in(folder / INDEX).values()):
            if name.startswith("model-") and name.endswith(".safetensors"):
                (folder / name).unlink(missing_ok=True)
    (folder / INDEX).unlink()


def is_file_name(name):
    """Returns whether a value is the name of a file, in no other folder."""
    return isinstance(name, str) and name not in ("", ".", "..") and not {"/", "\\"} & {*name}


def hf_parameters(family, config):
    """Returns {name there: [paths here]} of every parameter of a model."""
    found = {}
    for path in config.parameter_shapes:
        module, _, kind = path.rpartition(".")
        found.setdefault(f"{family.module(module)}.{kind}", []).append(path)
    return found


def hf_shape(family, config, paths):
    """Returns the shape that the array of these parameters has there."""
    shapes = [config.parameter_shapes[path] for path in paths]
    rows, *rest = (sum(shape[0] for shape in shapes), *shapes[0][1:])
    rows += spare_rows(family, paths)
    return (*rest, rows) if is_transposed(family, paths, len(shapes[0])) else (rows, *rest)


def spare_rows(family, paths):
    """Returns how many rows the array there begins with that no parameter here has."""
    return family.spare_positions if paths == ["wpe.weight"] else 0


def is_transposed(family, paths, ndim):
    """Returns whether the array there is (in, out)."""
    return family.transposed and ndim == 2 and paths[0].startswith("blocks")


def check_size(config, weights, family):
    """Raises ValueError, before memory is taken, if names or shapes are not the model's."""
    wanted = hf_parameters(family, config)
    names = {name: name for name in weights.entries}
    prefix = next(iter(wanted)).split(".")[0] + "."
    if not any(name in wanted for name in names):  # saved without the head's class around it
        names = {prefix + name: name for name in names}
    weights.names = names
    missing = sorted(wanted.keys() - names.keys())
    if missing:
        raise ValueError(f"{len(missing)} arrays are missing, such as {missing[0]}")
    head = family.module("lm_head") + ".weight"
    extra = [name for name in names.keys() - wanted.keys() if not name.endswith(BUFFERS)]
    extra = sorted(name for name in extra if not (config.tied and name == head))
    if extra:
        raise ValueError(f"{len(extra)} arrays have no place, such as {extra[0]}")
    for name, paths in wanted.items():
        dtype, shape = weights.entries[names[name]]
        expected = hf_shape(family, config, paths)
        if shape != expected or dtype not in ELEMENTS:
            raise ValueError(f"{name} is {dtype} {shape}, its config needs {expected}")


def fill(model, family, weights):
    """Set all parameters of a model to those in its files."""
    config, parameters = model.config, dict(model.named_parameters())
    for name, paths in hf_parameters(family, config).items():
        a = weights.read(weights.names[name])[spare_rows(family, paths) :]
        if is_transposed(family, paths, a.ndim):
            a = a.T
        parts = family.split(a, [parameters[path].shape[0] for path in paths], config.heads)
        for path, part in zip(paths, parts, strict=True):
            parameters[path].data = xp.asarray(np.ascontiguousarray(part))
    if config.tied:
        check_tied(family, weights, parameters["wte.weight"])


def check_tied(family, weights, table):
    """Raises ValueError if a file's head differs from the table that its config ties it to."""
    head = weights.names.get(family.module("lm_head") + ".weight")
    if head is not None and not np.array_equal(weights.read(head), to_numpy(table.data)):
        raise ValueError(
            "its head and its table of tokens differ, and its config.json ties them; "
            "set tie_word_embeddings to false in it"
        )


def save_pretrained(model, folder):
    """Write the model, without adapters, for `AutoModelForCausalLM.from_pretrained`.

    Returns the folder's Path. What config.json said of a model that was read stays there, and
    the files of its tokenizer are copied. Shards of a model that was there before are removed,
    once the new file is whole. Raises ValueError while adapters are in use, which would be
    missing, and if transformers has no model of this shape.
    """
    folder, source = as_path(folder), vars(model).get("pretrained", {})
    check_unused(model)
    told = source.get("config", {})
    name = told.get("model_type") or family_of(model.config)
    values = hf_config(model.config, name, told)
    family, parameters = FAMILIES[name], dict(base_parameters(model))
    arrays = {
        there: Joined(family, model.config, [parameters[path] for path in paths], paths)
        for there, paths in hf_parameters(family, model.config).items()
    }
    config = json_text(values)
    seal = {"format": "pt", SEAL: hashlib.sha256(config).hexdigest()}
    write_safetensors(folder / WHOLE, arrays, seal)
    write_bytes(folder / "config.json", config)
    remove_shards(folder)
    for file in TEXT_FILES if source.get("folder") else ():
        there = as_path(source["folder"]) / file
        if there.is_file() and there.resolve() != (folder / file).resolve():
            shutil.copyfile(there, folder / file)
    return folder


def hf_config(config, name, told):
    """Returns a config.json for a model: what it `told` when it was read, brought up to date.

    If the head has been untied since, it says so.
    """
    values = config_to_hf(config, name)
    replaced = {"torch_dtype", "dtype", "rope_theta", "rope_scaling", "layer_types", *values}
    if FAMILIES[name].activation[0] in told:
        replaced -= {FAMILIES[name].activation[0]}  # another word for the same
    replaced -= {"bos_token_id", "eos_token_id", "pad_token_id"}
    kept = {key: value for key, value in told.items() if key not in replaced}
    return values | kept | {"dtype": str(default_dtype())}


class Joined:
    """The array that a file there has for some parameters here, made when it is written."""

    def __init__(self, family, config, parameters, paths):
        self.family, self.heads, self.parameters = family, config.heads, parameters
        self.spare = spare_rows(family, paths)
        self.shape = hf_shape(family, config, paths)
        self.flip = is_transposed(family, paths, len(self.shape))
        self.dtype = parameters[0].dtype
        self.itemsize = self.dtype.itemsize
        self.nbytes = math.prod(self.shape) * self.itemsize

    def __array__(self, dtype=None, copy=None):
        parts = [to_numpy(p.data) for p in self.parameters]
        a = self.family.join(parts, self.heads)
        if self.spare:
            a = np.concatenate([np.zeros((self.spare, a.shape[1]), a.dtype), a])
        return np.ascontiguousarray(a.T if self.flip else a)
