"""What llama.cpp's own library for Python reads in a GGUF file, and what we read."""

import pytest

gguf = pytest.importorskip("gguf", reason="compared with the library gguf: pip install gguf")

from gguf_files import judge  # noqa: E402
from minipeft.io.gguf import GGUF, TYPES  # noqa: E402

KIND = gguf.GGMLQuantizationType  # {name: the library's number of a format}


def theirs(path):
    """All that the library reads: metadata, types, and {name: (format, shape, bytes)}."""
    reader = gguf.GGUFReader(path)
    fields = {n: f for n, f in reader.fields.items() if not n.startswith("GGUF.")}
    metadata = {name: field.contents() for name, field in fields.items()}
    types = {name: [TYPES[kind] for kind in field.types] for name, field in fields.items()}
    arrays = {
        t.name: (t.tensor_type.name, tuple(reversed(t.shape.tolist())), t.data.tobytes())
        for t in reader.tensors
    }
    return metadata, types, arrays


def ours(path):
    """The same as we read it; the type of an empty list is not in the library's answer."""
    with GGUF(path) as file:
        types = {
            key: ["list", kind[1:-1]][: 1 + bool(file.metadata[key])]
            if kind[0] == "["
            else [kind]
            for key, kind in file.types.items()
        }
        arrays = {n: (*e, file.blocks(n).tobytes()) for n, e in file.entries.items()}
        return file.metadata, types, arrays


def judged(path, content):
    """Refused, as `judge` of the other tests does, or read as the library reads it."""
    refused = judge(path, content)
    if not refused:
        path.write_bytes(content)
        assert repr(ours(path)) == repr(theirs(path)), "the library reads something else"
    return refused
