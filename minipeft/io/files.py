"""Arrays and JSON in files: safetensors, written atomically, and checked when read.

A file is written under a temporary name and then renamed, so that after a crash there is either
the old file or the new one, never half of one. A safetensors file carries a checksum of all its
content. No file can execute code when it is read: there is no pickle.
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

STALE = 3600  # seconds after which a temporary file belongs to a process that was killed
DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "U8": "uint8"}
CODES = {dtype: code for code, dtype in DTYPES.items()}
DAMAGED = (safetensors.SafetensorError, OSError, MemoryError)  # raised for a damaged file


def write_bytes(path, content):
    """Write a file atomically: afterwards it has all of the new content, or the old one.

    Temporary files that killed processes left, older than an hour, are removed. Raises OSError,
    which names the file, if it cannot be written.
    """
    path = Path(path)
    with writing(path):
        for old in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
            with contextlib.suppress(OSError):  # another process removed it first
                if time.time() - old.lstat().st_mtime > STALE:
                    old.unlink()
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def writing(path):
    """Create the file's folder; inside the block, an OSError names the file and what to do."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        text = f"{path} cannot be written ({error}); make room, or give another place"
        raise type(error)(text) from None


def check_writable(*paths):
    """Raises OSError if any of the files could not be written: to know before a long run."""
    for path in map(Path, paths):
        with writing(path):
            tempfile.TemporaryFile(dir=path.parent).close()
            if path.is_dir():
                raise IsADirectoryError("a folder of that name is there")


def write_json(path, values):
    """Write a JSON object atomically, with sorted keys and indented."""
    write_bytes(path, (json.dumps(values, indent=2, sort_keys=True) + "\n").encode())


def write_arrays(path, arrays, metadata=None):
    """Write {name: array} and metadata {name: string} as safetensors, with a checksum."""
    arrays = {name: np.ascontiguousarray(to_numpy(a)) for name, a in arrays.items()}
    metadata = {"format": "pt", **(metadata or {})}
    metadata["sha256"] = checksum(arrays, metadata)
    write_bytes(path, b"".join(safetensors_parts(arrays, metadata)))


def safetensors_parts(arrays, metadata):
    """Returns the parts of a safetensors file: length of the header (8 bytes), header, data.

    The header is JSON: {name: type, shape and place of its bytes in the data}. The widest types
    come first in the data, so that every element is at a multiple of its size. It is written
    here because the library does not promise the same bytes for the same arrays.
    """
    order = sorted(arrays, key=lambda name: (-arrays[name].itemsize, name))
    header, end = {"__metadata__": metadata}, 0
    for name in order:
        a, start = arrays[name], end
        end += a.nbytes
        code = CODES[str(a.dtype)]
        header[name] = {"dtype": code, "shape": a.shape, "data_offsets": [start, end]}
    text = json.dumps(header, sort_keys=True).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little"), text, *(arrays[name].tobytes() for name in order)


def checksum(arrays, metadata):
    """Returns the SHA-256 of metadata, names, shapes, types and bytes, in hexadecimal."""
    digest = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].shape} {arrays[name].dtype}".encode())
        digest.update(np.ascontiguousarray(arrays[name]))
    return digest.hexdigest()


def read_arrays(path, like):
    """Returns ({name: array}, metadata) of a safetensors file.

    like: {name: array} with the names, shapes and types that the file must have, which is
    checked in the header before any data are read. Raises ValueError if the file has others, or
    is damaged, and FileNotFoundError if there is none.
    """
    entries, metadata = header(path)
    check_header(path, entries, like)
    with safetensors.safe_open(path, framework="numpy") as file:
        arrays = {name: file.get_tensor(name) for name in like}
    if metadata.pop("sha256", None) not in (None, checksum(arrays, metadata)):
        raise ValueError(f"{path} is damaged: its checksum does not fit; save it again")
    return arrays, metadata


def header(path):
    """Returns ({name: (type, shape)}, metadata) of a safetensors file.

    Raises ValueError if the file is damaged, and FileNotFoundError if there is none.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}; expected a safetensors file")
    try:
        with safetensors.safe_open(path, framework="numpy"), path.open("rb") as file:
            # opening it has checked lengths, types and offsets
            text = file.read(int.from_bytes(file.read(8), "little"))
    except DAMAGED as error:
        text = f"{path} is not a whole safetensors file ({error}); save it again"
        raise ValueError(text) from None
    entries = json_object(text, path)
    metadata = entries.pop("__metadata__", None) or {}
    return {
        name: (DTYPES.get(entry["dtype"], entry["dtype"]), tuple(entry["shape"]))
        for name, entry in entries.items()
    }, metadata


def check_header(path, entries, like):
    """Raises ValueError if {name: (type, shape)} of a file differs from that of `like`."""
    missing, extra = sorted(like.keys() - entries.keys()), sorted(entries.keys() - like.keys())
    if missing or extra:
        raise ValueError(
            f"{path} does not fit: {len(missing)} arrays are missing (such as {missing[:3]}) "
            f"and {len(extra)} are unknown (such as {extra[:3]}); "
            "it was saved for another model or method"
        )
    for name, expected in like.items():
        dtype, shape = entries[name]
        if shape != expected.shape or dtype != str(expected.dtype):
            raise ValueError(
                f"{path} does not fit: {name} is {dtype} {shape}, expected {expected.dtype} "
                f"{expected.shape}; it was saved for another model or method"
            )


def read_json(path):
    """Returns the JSON object in a file.

    Raises ValueError if it holds anything else, and FileNotFoundError if there is none.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}; expected a JSON object in it")
    return json_object(path.read_bytes(), path)


def json_object(text, path):
    """Returns the JSON object in a text; raises ValueError, with the path, for anything else.

    A key that is there twice is an error too: Python would silently take the second.
    """

    def unique(pairs):
        values = dict(pairs)
        if len(values) < len(pairs):
            twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
            raise ValueError(f"{twice!r} is there twice")
        return values

    try:
        values = json.loads(text, object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON ({error}); save it again") from None
    if not isinstance(values, dict):
        raise ValueError(
            f"{path} holds no JSON object but a {type(values).__name__}; save it again"
        )
    return values


def read_config(path, json_path):
    """Returns the configuration that a safetensors file carries, else the one in a JSON file.

    Of a pair of files, one is written after the other. If a crash in between left them from two
    saves, this warns, and takes the configuration that belongs to the arrays.
    """
    separate, (_, metadata) = read_json(json_path), header(path)
    if "config" not in metadata:
        return separate
    embedded = json_object(metadata["config"], path)
    if embedded != separate:
        text = f"{json_path} is from another save than {path}; using what the latter carries"
        warnings.warn(text, stacklevel=3)
    return embedded


@contextlib.contextmanager
def error_context(path):
    """Inside the block, an error about a file's content becomes a ValueError that names it."""
    try:
        yield
    except (ValueError, TypeError, AttributeError, KeyError, OverflowError) as error:
        text = f"{path}: {error}; save it again, or give the folder of another"
        raise ValueError(text) from None


def count_elements(path):
    """Returns how many elements the arrays of a safetensors file have, by its header."""
    return sum(math.prod(shape) for _, shape in header(path)[0].values())
