"""Arrays and JSON in files: safetensors, written whole or not at all, and checked when read.

A file is written beside its place and renamed, so a crash leaves the old one whole. Arrays
carry a checksum. Nothing here can execute code: no pickle.
"""

import hashlib
import json
import math
import os
import warnings
from pathlib import Path

import safetensors
from safetensors.numpy import save

from .backend import np, to_numpy

KINDS = {"F64": "float64", "F32": "float32", "U8": "uint8"}
DAMAGED = (  # what safetensors raises for files that are none
    safetensors.SafetensorError,
    TypeError,
    AttributeError,
    OverflowError,
    MemoryError,
)


def write_bytes(path, content):
    """Replace a file by new content, or leave it as it was."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with beside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def write_json(path, values):
    """Write a JSON object, sorted and indented, whole or not at all."""
    write_bytes(path, (json.dumps(values, indent=2, sort_keys=True) + "\n").encode())


def write_arrays(path, arrays, metadata=None):
    """Write {name: array} and string metadata as safetensors, with a checksum."""
    arrays = {name: np.ascontiguousarray(to_numpy(a)) for name, a in arrays.items()}
    about = {"format": "pt", **(metadata or {}), "sha256": checksum(arrays)}
    write_bytes(path, save(arrays, metadata=about))


def checksum(arrays):
    """SHA-256 over names, shapes, types and bytes."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].shape} {arrays[name].dtype}".encode())
        digest.update(np.ascontiguousarray(arrays[name]))
    return digest.hexdigest()


def read_arrays(path, like):
    """Read ({name: array}, metadata) from a safetensors file of arrays exactly `like` these.

    Raises ValueError if the file is damaged, or if names, shapes or types are not as expected,
    which is checked in the header before any number is read.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}; expected a safetensors file")
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            check_header(path, {name: file.get_slice(name) for name in file.keys()}, like)
            arrays = {name: file.get_tensor(name) for name in like}
    except DAMAGED as error:
        raise broken(path, error) from None
    if "sha256" in metadata and metadata["sha256"] != checksum(arrays):
        raise ValueError(f"{path} is damaged: its checksum does not fit; save it again")
    return arrays, metadata


def broken(path, error):
    """The ValueError for a file that cannot be read."""
    return ValueError(f"{path} is not a whole safetensors file ({error}); save it again")


def check_header(path, slices, like):
    """Compare names, shapes and types in a file with those expected."""
    missing, extra = sorted(like.keys() - slices.keys()), sorted(slices.keys() - like.keys())
    if missing or extra:
        raise ValueError(
            f"{path} does not fit: {len(missing)} arrays are missing (such as {missing[:3]}) "
            f"and {len(extra)} are unknown (such as {extra[:3]}); "
            "it was saved for another model or method"
        )
    for name, wanted in like.items():
        shape, kind = tuple(slices[name].get_shape()), slices[name].get_dtype()
        kind = KINDS.get(kind, kind)
        if shape != wanted.shape or kind != str(wanted.dtype):
            raise ValueError(
                f"{path} does not fit: {name} is {kind} {shape}, "
                f"expected {wanted.dtype} {wanted.shape}"
            )


def read_json(path):
    """Read a JSON object; anything else is a ValueError that names the file."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON ({error})") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold a JSON object, not a {type(values).__name__}")
    return values


def own_config(path, beside, key):
    """The configuration stored with the numbers, else the JSON beside them.

    The two are renamed into place one after the other: after a crash in between, the numbers'
    own one counts.
    """
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
        own = json.loads(metadata[key]) if key in metadata else beside
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no {path}; expected a safetensors file") from None
    except (safetensors.SafetensorError, OSError, ValueError, RecursionError) as error:
        raise broken(path, error) from None
    if own != beside:
        text = f"the JSON beside {path} is from another save; using the file's own"
        warnings.warn(text, stacklevel=3)
    if not isinstance(own, dict):
        raise ValueError(f"{path} carries no configuration but a {type(own).__name__}")
    return own


def numbers_in(path):
    """How many numbers a safetensors file holds, by its header."""
    with safetensors.safe_open(path, framework="numpy") as file:
        return sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())
