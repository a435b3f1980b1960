"""Our reader and writer of safetensors, judged both ways by the library of that name."""

import json
import struct
import tracemalloc

import pytest
import safetensors
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load, save

from minipeft.engine.backend import np
from minipeft.io.safetensors import Safetensors, write_safetensors

TYPES = ("float64", "float32", "float16", "int64", "int32", "uint8")


@st.composite
def named_arrays(draw):
    """{name: array} of any type, shape and bits, and metadata."""
    names = draw(st.lists(st.text(min_size=1, max_size=6), max_size=4, unique=True))
    shapes = st.lists(st.integers(0, 4), max_size=3)
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    arrays = {}
    for name in names:
        if name == "__metadata__":
            continue
        shape, kind = tuple(draw(shapes)), np.dtype(draw(st.sampled_from(TYPES)))
        raw = rng.integers(0, 256, int(np.prod(shape)) * kind.itemsize, "uint8")
        arrays[name] = raw.view(kind).reshape(shape)
    return arrays, draw(st.dictionaries(st.text(max_size=4), st.text(max_size=4), max_size=2))


def read(path):
    """All arrays of a file, by our reader."""
    with Safetensors(path) as file:
        return {name: file.read(name) for name in file.entries}, file.metadata


def equal(a, b):
    return a.keys() == b.keys() and all(
        a[n].dtype == b[n].dtype
        and a[n].shape == b[n].shape
        and a[n].tobytes() == b[n].tobytes()
        for n in a
    )


@given(named_arrays())
def test_what_we_write_the_library_reads_and_the_other_way_round(tmp_path_factory, drawn):
    arrays, metadata = drawn
    path = tmp_path_factory.mktemp("a") / "x.safetensors"
    write_safetensors(path, arrays, metadata)
    assert equal(load(path.read_bytes()), arrays)
    with safetensors.safe_open(path, framework="numpy") as file:
        assert (file.metadata() or {}) == metadata
    path.write_bytes(save(arrays, metadata or None))  # of {} it writes what is no JSON
    ours, found = read(path)
    assert equal(ours, arrays) and found == metadata


def mutants(rng, n):
    """Yields n damaged files: a bit, a byte of the header, a piece or the length changed."""
    arrays = {"a": np.arange(6, dtype="float32").reshape(2, 3), "b": np.ones(5, "uint8")}
    whole = save(arrays, {"k": "v"})
    head = 8 + struct.unpack("<Q", whole[:8])[0]
    for _ in range(n):
        content, kind = bytearray(whole), rng.integers(6)
        at = int(rng.integers(head if kind < 3 else len(whole)))
        if kind == 0:
            content[at] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            content[at] = int(rng.choice(list(b'0123456789[]{},:" FU')))
        elif kind == 2:
            content[:8] = struct.pack("<Q", int(rng.integers(2 * head)))
        elif kind == 3:
            del content[at : at + int(rng.integers(1, 9))]
        elif kind == 4:
            content[at:at] = bytes(rng.integers(0, 256, int(rng.integers(1, 9)), "uint8"))
        else:
            content[at:at] = content[at : at + 20]
        yield bytes(content)


def judge(path, content):
    """Read one mutant: refused, or read as the library does; returns whether refused."""
    path.write_bytes(content)
    tracemalloc.start()
    try:
        ours, _ = read(path)
    except ValueError as error:
        assert str(path) in str(error), error
        return True
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 100_000 + 2 * len(content), f"took {peak} bytes"
    assert equal(ours, load(content)), "the library reads something else"
    return False


def test_mutants_are_refused_or_read_as_the_library_reads_them(tmp_path):
    refused = [
        judge(tmp_path / "x", content) for content in mutants(np.random.default_rng(0), 400)
    ]
    assert 50 < sum(refused) < 400


def crafted(header, data=b"", length=None):
    """A file of such a header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(shape, start, end, code="U8"):
    return {"dtype": code, "shape": shape, "data_offsets": [start, end]}


HOSTILE = {
    "a gap": crafted({"a": entry([1], 1, 2)}, b"ab"),
    "an overlap": crafted({"a": entry([2], 0, 2), "b": entry([2], 1, 3)}, b"abc"),
    "more data than named": crafted({"a": entry([1], 0, 1)}, b"ab"),
    "less data than named": crafted({"a": entry([3], 0, 3)}, b"ab"),
    "a header of 2⁶³ bytes": crafted({}, length=2**63),
    "a header that is longer than the file": crafted({}, length=100),
    "an array twice": crafted(
        b'{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},' * 2 + b"}"
    ),
    "a shape of 10⁴⁰": crafted({"a": entry([10**20, 10**20], 0, 1)}, b"a"),
    "a negative shape": crafted({"a": entry([-1], 0, 1)}, b"a"),
    "a shape that is true": crafted({"a": entry([True], 0, 1)}, b"a"),
    "an unknown type": crafted({"a": entry([1], 0, 1, "Q4")}, b"a"),
    "metadata of numbers": crafted({"__metadata__": {"a": 1}}),
    "no object": crafted(b"[1, 2]"),
    "deep": crafted(b"[" * 100_000),
    "an entry too many": crafted({"a": entry([1], 0, 1) | {"x": 1}}, b"a"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_files_are_refused(what, tmp_path):
    assert judge(tmp_path / "x", HOSTILE[what])


def test_bfloat16_becomes_float32_exactly(tmp_path):
    bits = np.arange(1 << 16, dtype="uint16")
    path = tmp_path / "x"
    path.write_bytes(
        crafted({"a": entry([1 << 8, 1 << 8], 0, 2 << 16, "BF16")}, bits.tobytes())
    )
    found = read(path)[0]["a"]
    assert found.dtype == "float32" and found.shape == (256, 256)
    assert (found.reshape(-1).view("uint32") == bits.astype("uint32") << 16).all()


def test_a_file_is_one_file_even_if_its_name_gets_another(tmp_path):
    path = tmp_path / "x"
    write_safetensors(path, {"a": np.zeros(3)}, {"save": "1"})
    with Safetensors(path) as file:
        write_safetensors(path, {"a": np.ones(3)}, {"save": "2"})
        assert file.metadata == {"save": "1"} and (file.read("a") == 0).all()
    assert read(path)[1] == {"save": "2"}
