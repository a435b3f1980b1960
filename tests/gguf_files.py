"""GGUF files for tests: drawn, small, damaged, and read again."""

import struct
import tracemalloc
from functools import partial

from hypothesis import strategies as st

from minipeft.engine.backend import np
from minipeft.io.block_formats import FORMATS, dequantize
from minipeft.io.gguf import GGUF, write_gguf

OFFSETS = ("Q4_1", "Q5_1", "Q4_K", "Q5_K")  # formats that have a second float16


def random_blocks(kind, n, seed=0):
    """n blocks of a format with any codes; the float16 numbers in them are finite."""
    blocks = np.random.default_rng(seed).integers(0, 256, (n, FORMATS[kind].bytes), "uint8")
    for at in {"F32": [2], "Q6_K": [208]}.get(kind, [0, 2] if kind in OFFSETS else [0]):
        blocks[:, at + 1] &= 0xBF  # the upper bit of the exponent
    return blocks


def small(path):
    """Write a small file with something of everything; returns what was written."""
    metadata = {
        "name": "a tiny one", "flag": True, "n": 7, "rate": 0.5, "none": [],
        "words": ["a", "é"], "ids": [1, -2, 3], "flags": [True, False], "general.alignment": 64,
    }  # fmt: skip
    types = {"none": "[uint16]"}
    arrays = {
        "w": ("Q4_1", (2, 32), random_blocks("Q4_1", 2)),
        "v": ("F32", (3,), np.arange(3)),
        "u": ("Q8_0", (1, 2, 32), np.full((1, 2, 32), 127)),
    }
    write_gguf(path, metadata, arrays, types)
    return metadata


def copy(old, new):
    """Read a file and write it again, block by block."""
    with GGUF(old) as file:
        arrays = {
            name: (*entry, partial(file.blocks, name)) for name, entry in file.entries.items()
        }
        write_gguf(new, file.metadata, arrays, file.types)


SCALARS = {f"uint{n}": st.integers(0, 2**n - 1) for n in (8, 16, 32, 64)}
SCALARS |= {f"int{n}": st.integers(-(2 ** (n - 1)), 2 ** (n - 1) - 1) for n in (8, 16, 32, 64)}
SCALARS |= {
    "float32": st.floats(width=32, allow_nan=False),
    "float64": st.floats(allow_nan=False),
    "bool": st.booleans(),
    "string": st.text(max_size=5),
}


@st.composite
def files(draw):
    """Metadata of all types, those types, and arrays of all formats."""
    kinds = st.sampled_from([*SCALARS, *(f"[{kind}]" for kind in SCALARS)])
    types = draw(st.dictionaries(st.text(max_size=5), kinds, max_size=4))
    metadata = {
        key: draw(
            st.lists(SCALARS[kind[1:-1]], max_size=3) if kind[0] == "[" else SCALARS[kind]
        )
        for key, kind in types.items()
    }
    if draw(st.booleans()):
        types["general.alignment"] = "uint32"
        metadata["general.alignment"] = draw(st.sampled_from([1, 8, 64]))
    arrays = {}
    for name in draw(st.lists(st.text(max_size=5), max_size=4, unique=True)):
        kind = draw(st.sampled_from([*FORMATS]))
        *rows, last = draw(st.lists(st.integers(1, 3), max_size=4)) or [1]
        form, shape = FORMATS[kind], (*rows, last * FORMATS[kind].values)
        blocks = random_blocks(
            kind, int(np.prod(shape)) // form.values, draw(st.integers(0, 9))
        )
        arrays[name] = kind, shape, blocks
    return metadata, arrays, types


def check_round_trip(path, metadata, arrays, types):
    """What was written is read, and written again it has the same bytes."""
    write_gguf(path, metadata, arrays, types)
    with GGUF(path) as file:
        assert repr(file.metadata) == repr(metadata) and file.types == types
        assert file.entries == {name: entry[:2] for name, entry in arrays.items()}
        for name, (kind, shape, blocks) in arrays.items():
            assert file.blocks(name).tobytes() == blocks.tobytes()
            assert file.read(name).tobytes() == dequantize(kind, blocks).tobytes()
            assert file.read(name).shape == shape
    copy(path, path.with_name("again"))
    assert path.with_name("again").read_bytes() == path.read_bytes()


def read(path):
    """All that is in a file."""
    with GGUF(path) as file:
        return file.metadata, file.types, {n: file.read(n).tobytes() for n in file.entries}


def judge(path, content):
    """Read one file; it is refused, and this the error, or read as it is written again."""
    path.write_bytes(content)
    tracemalloc.start()
    try:
        found = read(path)
    except ValueError as error:
        assert str(path) in str(error) and "\n" not in str(error), error
        assert len(str(error)) < len(str(path)) + 200, error
        return str(error)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 100_000 + 2 * len(content), f"took {peak} bytes"
    copy(path, path)
    assert repr(read(path)) == repr(found), "written again, it is another"
    return None


def mutants(rng, n, path):
    """Yields n damaged files: a bit, a number, a piece or the length changed."""
    small(path)
    whole = path.read_bytes()
    with GGUF(path) as file:
        head = min(file.places.values())
    for _ in range(n):
        content, kind = bytearray(whole), rng.integers(5)
        at = int(rng.integers(len(whole) if rng.integers(4) == 0 else head))
        if kind == 0:
            content[at] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            content[at : at + 8] = struct.pack("<Q", 1 << int(rng.integers(64)))
        elif kind == 2:
            del content[at : at + int(rng.integers(1, 9))]
        elif kind == 3:
            content[at:at] = bytes(rng.integers(0, 256, int(rng.integers(1, 9)), "uint8"))
        else:
            content[at:at] = content[at : at + 20]
        yield bytes(content)
