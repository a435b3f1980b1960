"""Arrays and JSON in files: safetensors, written whole or not at all, and checked when read.

A file is written beside its place and renamed, so a crash leaves the old one whole. It carries
a checksum of all that it says. Nothing here can execute code: no pickle.
"""

import contextlib
import glob
import hashlib
import json
import math
import os
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path

import safetensors

from ..engine.backend import np, to_numpy

LEFT_BEHIND = 3600  # seconds after which nobody is still writing a temporary file
KINDS = {"F64": "float64", "F32": "float32", "F16": "float16", "U8": "uint8"}
NAMES = {name: kind for kind, name in KINDS.items()}
DAMAGED = (safetensors.SafetensorError, OSError, MemoryError)  # raised for files that are none


def write_bytes(path, content):
    """Replace a file by new content, or leave it as it was.

    What a process that was killed left beside it is removed by a save an hour later.
    """
    path = Path(path)
    with placing(path):
        for old in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
            with contextlib.suppress(OSError):  # somebody else was faster
                if time.time() - old.lstat().st_mtime > LEFT_BEHIND:
                    old.unlink()
        beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            with beside.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, path)
        finally:
            beside.unlink(missing_ok=True)


@contextlib.contextmanager
def placing(path):
    """Inside the block the file's folder exists, and an OSError names the file."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        text = f"{path} cannot be written ({error}); make room, or give another place"
        raise type(error)(text) from None


def check_places(*paths):
    """Raise OSError now, before the work, if any of the files could not be written after it."""
    for path in map(Path, paths):
        with placing(path):
            tempfile.TemporaryFile(dir=path.parent).close()
            if path.is_dir():
                raise IsADirectoryError("a folder of that name is there")


def write_json(path, values):
    """Write a JSON object, sorted and indented, whole or not at all."""
    write_bytes(path, (json.dumps(values, indent=2, sort_keys=True) + "\n").encode())


def write_arrays(path, arrays, metadata=None):
    """Write {name: array} and string metadata as safetensors, with a checksum."""
    arrays = {name: np.ascontiguousarray(to_numpy(a)) for name, a in arrays.items()}
    said = {"format": "pt", **(metadata or {})}
    said["sha256"] = checksum(arrays, said)
    write_bytes(path, b"".join(as_safetensors(arrays, said)))


def as_safetensors(arrays, metadata):
    """The parts of a safetensors file: header's length (8 bytes), header, data.

    The widest types come first, so that every number lies at a multiple of its size. The same
    arrays give the same bytes, which the library does not promise.
    """
    order = sorted(arrays, key=lambda name: (-arrays[name].itemsize, name))
    header, end = {"__metadata__": metadata}, 0
    for name in order:
        a, start = arrays[name], end
        end += a.nbytes
        about = {"dtype": NAMES[str(a.dtype)], "shape": a.shape, "data_offsets": [start, end]}
        header[name] = about
    text = json.dumps(header, sort_keys=True).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little"), text, *(arrays[name].tobytes() for name in order)


def checksum(arrays, metadata):
    """SHA-256 over metadata, names, shapes, types and bytes."""
    digest = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].shape} {arrays[name].dtype}".encode())
        digest.update(np.ascontiguousarray(arrays[name]))
    return digest.hexdigest()


def read_arrays(path, like):
    """Read ({name: array}, metadata) from a safetensors file of arrays exactly `like` these.

    Raises ValueError if the file is damaged, or if names, shapes or types are not as expected,
    which is checked in the header before any number is read.
    """
    names, metadata = header(path)
    check_header(path, names, like)
    with safetensors.safe_open(path, framework="numpy") as file:
        arrays = {name: file.get_tensor(name) for name in like}
    if metadata.pop("sha256", None) not in (None, checksum(arrays, metadata)):
        raise ValueError(f"{path} is damaged: its checksum does not fit; save it again")
    return arrays, metadata


def header(path):
    """({name: (type, shape)}, metadata) of a safetensors file; ValueError if it is damaged."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}; expected a safetensors file")
    try:
        with safetensors.safe_open(path, framework="numpy"), path.open("rb") as file:
            # lengths, types and offsets have been checked
            text = file.read(int.from_bytes(file.read(8), "little"))
    except DAMAGED as error:
        text = f"{path} is not a whole safetensors file ({error}); save it again"
        raise ValueError(text) from None
    told = json_object(text, path)
    metadata = told.pop("__metadata__", None) or {}
    kinds = {name: KINDS.get(about["dtype"], about["dtype"]) for name, about in told.items()}
    return {name: (kinds[name], tuple(told[name]["shape"])) for name in told}, metadata


def check_header(path, names, like):
    """Compare names, types and shapes in a file with those expected."""
    missing, extra = sorted(like.keys() - names.keys()), sorted(names.keys() - like.keys())
    if missing or extra:
        raise ValueError(
            f"{path} does not fit: {len(missing)} arrays are missing (such as {missing[:3]}) "
            f"and {len(extra)} are unknown (such as {extra[:3]}); "
            "it was saved for another model or method"
        )
    for name, wanted in like.items():
        kind, shape = names[name]
        if shape != wanted.shape or kind != str(wanted.dtype):
            raise ValueError(
                f"{path} does not fit: {name} is {kind} {shape}, expected {wanted.dtype} "
                f"{wanted.shape}; it was saved for another model or method"
            )


def read_json(path):
    """Read a JSON object; anything else is a ValueError that names the file."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}; expected a JSON object in it")
    return json_object(path.read_bytes(), path)


def json_object(text, path):
    """The JSON object that a text from a file is; ValueError if it is none, naming the file."""

    def once(pairs):
        values = dict(pairs)
        if len(values) < len(pairs):
            twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
            raise ValueError(f"{twice!r} is there twice")
        return values

    try:
        values = json.loads(text, object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON ({error}); save it again") from None
    if not isinstance(values, dict):
        raise ValueError(
            f"{path} holds no JSON object but a {type(values).__name__}; save it again"
        )
    return values


def own_config(path, beside, key):
    """The configuration stored with the numbers, else the JSON beside them.

    The two are renamed into place one after the other: after a crash in between, the numbers'
    own one counts.
    """
    _, metadata = header(path)
    own = json_object(metadata[key], path) if key in metadata else beside
    if own != beside:
        text = f"the JSON beside {path} is from another save; using the file's own"
        warnings.warn(text, stacklevel=3)
    return own


@contextlib.contextmanager
def blaming(path):
    """Inside the block what a configuration from a file complains of names the file."""
    try:
        yield
    except (ValueError, TypeError, AttributeError, KeyError, OverflowError) as error:
        text = f"{path}: {error}; save it again, or give the folder of another"
        raise ValueError(text) from None


def numbers_in(path):
    """How many numbers a safetensors file holds, by its header."""
    return sum(math.prod(shape) for _, shape in header(path)[0].values())
