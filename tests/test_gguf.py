"""GGUF files: what is written is read again, and what is damaged is refused."""

import struct
import tracemalloc
from functools import partial

import pytest
from hypothesis import given

from gguf_files import check_round_trip, copy, files, judge, mutants, random_blocks, small
from minipeft.engine.backend import np
from minipeft.io.gguf import CODES, GGUF, TYPES, write_gguf
from planted import planted


@given(files())
def test_what_is_written_is_read(tmp_path_factory, drawn):
    check_round_trip(tmp_path_factory.mktemp("a") / "x.gguf", *drawn)


def test_usual_types_and_the_places_of_arrays(tmp_path):
    path = tmp_path / "x.gguf"
    metadata = small(path)
    with GGUF(path) as file:
        assert file.metadata == metadata
        assert [*file.types.values()] == [
            "string", "bool", "uint32", "float32", "[uint16]", "[string]", "[int32]", "[bool]",
            "uint32",
        ]  # fmt: skip
        assert all(place % 64 == 0 for place in file.places.values())
        assert (file.read("v") == [0, 1, 2]).all() and (file.read("u") == 127).all()
    content = path.read_bytes()
    assert content[:8] == b"GGUF\3\0\0\0" and len(content) % 64 == 0


def test_version_2_and_a_last_array_without_padding_are_read(tmp_path):
    path = tmp_path / "x.gguf"
    small(path)
    content = path.read_bytes()
    path.write_bytes(b"GGUF\2" + content[5 : len(content) - 64 + 68 % 64])  # 68 bytes of u
    with GGUF(path) as file:
        assert (file.read("u") == 127).all()


def test_one_array_is_in_memory_at_a_time(tmp_path):
    path, made = tmp_path / "x.gguf", []
    arrays = {
        str(i): ("F32", (1 << 18,), lambda i=i: made.append(i) or np.full(1 << 18, i, "f4"))
        for i in range(8)
    }
    tracemalloc.start()
    try:
        write_gguf(path, {}, arrays)
        assert tracemalloc.get_traced_memory()[1] < 2.5 * (1 << 20)
    finally:
        tracemalloc.stop()
    assert made == [*range(8)]


def test_a_file_is_one_file_even_while_it_is_written_anew(tmp_path):
    path = tmp_path / "x.gguf"
    small(path)
    content = path.read_bytes()
    with GGUF(path) as file:
        copy(path, path)
        assert path.read_bytes() == content
        write_gguf(path, {}, {})
        assert (file.read("v") == [0, 1, 2]).all()


def broken():
    raise ValueError("no luck")


ONES = np.ones((2, 32), "float32")
UNWRITABLE = {  # {what: (metadata, arrays, types, what the error says)}
    "an array that cannot be made": ({}, {"a": ("F32", (2,), broken)}, {}, "'a': no luck"),
    "an array of another shape": ({}, {"a": ("F32", (64,), ONES)}, {}, r"\(64,\), got"),
    "blocks of another format": (
        {}, {"a": ("Q4_0", (2, 32), random_blocks("Q4_1", 2))}, {}, "'a': blocks",
    ),
    "rows that are no whole blocks": ({}, {"a": ("Q8_0", (4, 16), ONES)}, {}, "multiple of 32"),
    "an unknown format": ({}, {"a": ("Q2_K", (256,), ONES)}, {}, "'a': unknown format 'Q2_K'"),
    "five axes": ({}, {"a": ("F32", (1, 1, 1, 2, 32), ONES)}, {}, "'a': .* 4 axes"),
    "an empty array": ({}, {"a": ("F32", (0,), ONES[:0, 0])}, {}, "or an empty one"),
    "a number too large": ({"k": 1 << 32}, {}, {}, "'k'"),
    "a number below zero": ({"k": -1}, {}, {}, "'k'"),
    "a float too large": ({"k": 1e300}, {}, {}, "'k'"),
    "a fraction as a whole number": ({"k": 0.5}, {}, {"k": "int8"}, "'k'"),
    "a truth value as a number": ({"k": True}, {}, {"k": "int8"}, "'k': True is not of the"),
    "a number as a string": ({"k": 1}, {}, {"k": "string"}, "'k': 1 is not of the type"),
    "a list as a number": ({"k": [1]}, {}, {"k": "int8"}, "is not of the type int8"),
    "a number as a list": ({"k": 1}, {}, {"k": "[int8]"}, "is not of the type"),
    "a list of several types": ({"k": [1, "a"]}, {}, {}, "no usual type"),
    "an empty list of no type": ({"k": []}, {}, {}, "no usual type"),
    "a list of lists": ({"k": [[1]]}, {}, {}, "no usual type"),
    "too much": ({"k": "a" * 32_000_000}, {}, {}, "at most 32,000,000"),
    "nothing": ({"k": None}, {}, {}, "no usual type"),
    "a type that is none": ({"k": 1}, {}, {"k": "int9"}, "'k': unknown type 'int9'"),
    "half a character": ({"k": "\ud800"}, {}, {}, "'k'"),
    "an alignment that is no power of two": ({"general.alignment": 48}, {}, {}, "48"),
    "an alignment that is a string": ({"general.alignment": "32"}, {}, {}, "no uint32"),
}  # fmt: skip


@pytest.mark.parametrize("what", UNWRITABLE)
def test_what_cannot_be_written_leaves_the_file_as_it_was(what, tmp_path):
    metadata, arrays, types, text = UNWRITABLE[what]
    path = tmp_path / "x.gguf"
    path.write_bytes(b"old")
    with pytest.raises(ValueError, match=text):
        write_gguf(path, metadata, arrays, types)
    assert [p.name for p in tmp_path.iterdir()] == ["x.gguf"] and path.read_bytes() == b"old"


# Damaged files


def string(text):
    text = text if isinstance(text, bytes) else text.encode()
    return struct.pack("<Q", len(text)) + text


def key(name, kind, content):
    return string(name) + struct.pack("<I", TYPES.index(kind)) + content


def values(kind, n, content=b""):
    """A list's bytes."""
    return struct.pack("<IQ", TYPES.index(kind), n) + content


def entry(name="a", shape=(8,), code="F32", start=0):
    """An array's entry; its shape is in the file's order."""
    code = CODES.index(code) if code in CODES else code
    axes = struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
    return string(name) + axes + struct.pack("<IQ", code, start)


def crafted(keys=(), entries=(), data=0, version=3, counts=None, magic=b"GGUF"):
    """A file of such keys and entries and so many bytes of data."""
    counts = counts or (len(entries), len(keys))
    head = magic + struct.pack("<IQQ", version, *counts) + b"".join([*keys, *entries])
    return head + bytes(-len(head) % 32 if entries else 0) + bytes(data)


ALIGNED = partial(key, "general.alignment", "uint32")
HOSTILE = {  # {what: (file, what the error says)}
    "nothing": (b"", "ends in its header"),
    "another kind of file": (crafted(magic=b"GGML"), "GGML"),
    "half a start": (crafted()[:20], "ends in its header"),
    "version 1": (crafted(version=1), "version is 1"),
    "version 4": (crafted(version=4), "version is 4"),
    "big-endian numbers": (crafted(version=3 << 24), "big-endian"),
    "2⁶³ keys": (crafted(counts=(0, 1 << 63)), "ends in its header"),
    "2⁶³ arrays": (crafted(counts=(1 << 63, 0)), "ends in its header"),
    "a string of 2⁶⁴ − 1 bytes": (
        crafted([key("k", "string", b"\xff" * 8 + b"abc")]), "ends in its header",
    ),
    "a list of 2⁶² numbers": (
        crafted([key("k", "list", values("uint64", 1 << 62))]), "ends in its header",
    ),
    "a list of 2⁶² strings": (
        crafted([key("k", "list", values("string", 1 << 62))]), "ends in its header",
    ),
    "a list of lists": (
        crafted([key("k", "list", values("list", 1, values("int8", 0)))]), "list of lists",
    ),
    "a type that is none": (crafted([string("k") + struct.pack("<IB", 13, 0)]), "type 13"),
    "a list of a type that is none": (
        crafted([key("k", "list", struct.pack("<IQB", 13, 1, 0))]), "type 13",
    ),
    "a truth value of 2": (crafted([key("k", "bool", b"\2")]), "neither 0 nor 1"),
    "a list with one of 2": (
        crafted([key("k", "list", values("bool", 3, b"\0\1\2"))]), "neither 0 nor 1",
    ),
    "a string that is not UTF-8": (crafted([key("k", "string", string(b"\xff"))]), "utf-8"),
    "a key that is not UTF-8": (crafted([key(b"\xff", "int8", b"\0")]), "utf-8"),
    "a key twice": (crafted([key("k", "int8", b"\0")] * 2), "'k' is there twice"),
    "an alignment of 0": (crafted([ALIGNED(struct.pack("<I", 0))]), "no power of two"),
    "an alignment of 48": (crafted([ALIGNED(struct.pack("<I", 48))]), "no power of two"),
    "an alignment of another type": (
        crafted([key("general.alignment", "uint64", struct.pack("<Q", 32))]), "no uint32",
    ),
    "a key of 10,000 bytes twice": (
        crafted([key("k" * 10**4, "int8", b"\0")] * 2), "is there twice",
    ),
    "an array twice": (crafted([], [entry(), entry(start=32)], 64), "'a' is there twice"),
    "2³² − 1 axes": (
        crafted([], [string("a") + b"\xff" * 4 + bytes(64)]), "ends in its header",
    ),
    "five axes": (crafted([], [entry(shape=(1,) * 5)], 4), "more than 4 axes"),
    "a thousand axes": (crafted([], [entry(shape=(1,) * 1000)], 4), "more than 4 axes"),
    "an empty axis": (crafted([], [entry(shape=(1 << 63, 0))], 32), "or an empty one"),
    "a size of 2¹²⁶": (crafted([], [entry(shape=(1 << 63, 1 << 63))], 32), "should have"),
    "a size of 2⁶⁴ + 8": (
        crafted([], [entry(shape=((1 << 62) + 8, 4))], 128), "should have",
    ),
    "a format of another kind": (
        crafted([], [entry(code="IQ2_XXS", shape=(256,))], 96), "'a': unknown format 'IQ2_XXS'",
    ),
    "a format that is none": (crafted([], [entry(code=99)], 32), "unknown format '99'"),
    "rows that are no whole blocks": (
        crafted([], [entry(code="Q8_0", shape=(16, 2))], 64), "'a': Q8_0 needs rows",
    ),
    "blocks without an axis": (crafted([], [entry(code="Q8_0", shape=())], 64), "needs rows"),
    "an overlap": (crafted([], [entry(), entry("b")], 64), "'b' begins at byte 0"),
    "a gap": (crafted([], [entry(), entry("b", start=64)], 96), "begins at byte 64"),
    "a gap at first": (crafted([], [entry(start=32)], 64), "begins at byte 32"),
    "a place that is not aligned": (
        crafted([], [entry(shape=(2,)), entry("b", start=8)], 64), "begins at byte 8",
    ),
    "a place of 2⁶⁴ − 32": (crafted([], [entry(start=(1 << 64) - 32)], 64), "begins at byte"),
    "an array that ends after the file": (crafted([], [entry()], 31), "should have"),
    "an array that begins after the file": (crafted([], [entry()], 0), "should have"),
    "more after the last array": (crafted([], [entry()], 33), "should have"),
    "more after the header": (crafted() + bytes(9), "should have"),
}  # fmt: skip


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_files_are_refused(what, tmp_path):
    content, text = HOSTILE[what]
    assert text in (judge(tmp_path / "x", content) or "not refused")


def test_what_is_crafted_for_these_tests_is_else_read(tmp_path):
    arrays = [entry(), entry("b", (32, 2), "Q8_0", 32), entry("c", (), "F32", 128)]
    assert not judge(tmp_path / "x", crafted([key("k", "int8", b"\0")], arrays, 132))
    assert not judge(tmp_path / "x", crafted())


def test_mutants_are_refused_or_read_as_they_are(tmp_path):
    rng = np.random.default_rng(0)
    refused = [judge(tmp_path / "x", m) for m in mutants(rng, 200, tmp_path / "whole")]
    assert 50 < sum(map(bool, refused)) < 200


def test_a_file_that_shrinks_while_it_is_open(tmp_path):
    path = tmp_path / "x"
    small(path)
    with GGUF(path) as file:
        with path.open("r+b") as other:
            other.truncate(path.stat().st_size - 64)
        with pytest.raises(ValueError, match="it ends in 'u'"):
            file.read("u")


def test_there_is_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="expected a GGUF file"):
        GGUF(tmp_path / "x")


# Wrong versions of the code, and what catches each


def check_places(path):
    """Arrays of odd sizes are where the file says."""
    arrays = {str(i): ("F16", (i,), random_blocks("F16", i)) for i in range(1, 9)}
    key = "general.alignment"
    check_round_trip(path, {key: 8}, arrays, {key: "uint32"})


def check_refused(path):
    """All hostile files are refused for what is wrong with them."""
    for content, text in HOSTILE.values():
        assert text in (judge(path, content) or "not refused")


WRONG = [  # (right, wrong, what catches it)
    ("at += padded(size, alignment)", "at += size", check_places),
    ("bytes(padded(size, alignment) - size)", "b''", check_places),
    ("self.at > len(self.content)", "False", check_refused),
    ("starts[name] != (free := padded(at, alignment))", "False", check_refused),
    ("end <= size <= padded(end, alignment)", "end <= size", check_refused),
    ("alignment < 1 or alignment & alignment - 1", "alignment < 1", check_refused),
]


@pytest.mark.parametrize("right, wrong, caught_by", WRONG)
def test_a_wrong_version_is_caught(right, wrong, caught_by, tmp_path):
    with planted("io.gguf", right, wrong):
        with pytest.raises((AssertionError, ValueError, struct.error)):
            caught_by(tmp_path / "x")
