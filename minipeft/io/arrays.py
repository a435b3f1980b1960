"""Arrays in files, checked: the checksum, what the file must hold, and finite numbers."""

import hashlib
import json
import warnings

from ..engine.backend import np, to_numpy
from .files import json_object, read_json, read_text
from .safetensors import Safetensors, write_safetensors

SEAL = "config_sha256"  # in the metadata of a file: that it and a JSON file are a pair


def write_arrays(path, arrays, metadata=None):
    """Write {name: array} and metadata {name: string} as safetensors, with a checksum."""
    arrays = {name: np.ascontiguousarray(to_numpy(a)) for name, a in arrays.items()}
    metadata = {"format": "pt", **(metadata or {})}
    metadata["sha256"] = checksum(arrays, metadata)
    write_safetensors(path, arrays, metadata)


def checksum(arrays, metadata):
    """Returns the SHA-256 of metadata, names, shapes, types and bytes, in hexadecimal."""
    digest = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].shape} {arrays[name].dtype}".encode())
        digest.update(np.ascontiguousarray(arrays[name]))
    return digest.hexdigest()


def read_arrays(file, like):
    """Returns {name: array} of a Safetensors file.

    like: {name: array} with the names, shapes and types that it must have, which is checked
    before any data are read. Raises ValueError if the file has others, if its checksum does not
    fit or is missing from a file of this package, or if a number is infinite or NaN.
    """
    check_entries(file, like)
    arrays = {name: file.read(name) for name in like}
    metadata = dict(file.metadata)
    theirs = metadata.pop("sha256", None)
    ours = {"config", "run"} & metadata.keys()  # which only this package writes
    if (theirs or ours) and theirs != checksum(arrays, metadata):
        raise ValueError(f"{file.path} is damaged: its checksum does not fit; save it again")
    for name, a in arrays.items():
        if a.dtype.kind == "f" and not np.isfinite(a).all():
            raise ValueError(
                f"{file.path} holds infinite numbers or NaN in {name}; it is of a run that "
                "failed, so use an earlier one"
            )
    return arrays


def check_entries(file, like):
    """Raises ValueError if the names, types or shapes in a file differ from those of `like`."""
    entries = file.entries
    missing, extra = sorted(like.keys() - entries.keys()), sorted(entries.keys() - like.keys())
    if missing or extra:
        raise ValueError(
            f"{file.path} does not fit: {len(missing)} arrays are missing (such as "
            f"{missing[:3]}) and {len(extra)} are unknown (such as {extra[:3]}); "
            "it was saved for another model or method"
        )
    for name, expected in like.items():
        dtype, shape = entries[name]
        if shape != expected.shape or dtype != str(expected.dtype):
            raise ValueError(
                f"{file.path} does not fit: {name} is {dtype} {shape}, expected "
                f"{expected.dtype} {expected.shape}; it was saved for another model or method"
            )


def read_config(file, json_path):
    """Returns the configuration that a Safetensors file carries, else the one in a JSON file.

    Of a pair of files, one is written after the other. If a crash in between left them from two
    saves, this warns, and takes the configuration that belongs to the arrays.
    """
    separate = read_json(json_path)
    if "config" not in file.metadata:
        return separate
    embedded = json_object(file.metadata["config"], file.path)
    if embedded != separate:
        text = (
            f"{json_path} is from another save than {file.path}; using what the latter carries"
        )
        warnings.warn(text, stacklevel=4)
    return embedded


def sealed_config(file, path):
    """Returns the configuration beside a Safetensors file.

    Raises ValueError if this package wrote the two in different calls.
    """
    text = read_text(path)
    if file.metadata.get(SEAL) not in (None, hashlib.sha256(text).hexdigest()):
        raise ValueError(
            f"{path} is not the one that {file.path} was written with; write both again"
        )
    return json_object(text, path)


def header(path):
    """Returns ({name: (type, shape)}, metadata) of a safetensors file.

    Raises ValueError if the file is damaged, and FileNotFoundError if there is none.
    """
    with Safetensors(path) as file:
        return file.entries, file.metadata


def count_elements(path):
    """Returns how many elements the arrays of a safetensors file have, by its header."""
    with Safetensors(path) as file:
        return file.count
