"""GGUF files and their formats, judged both ways by llama.cpp's own library for Python."""

import pytest
from gguf_library import KIND, gguf, judged, ours, theirs
from hypothesis import given

from gguf_files import check_round_trip, files, mutants, random_blocks
from minipeft.engine.backend import np
from minipeft.io.block_formats import FORMATS, dequantize, quantize
from minipeft.io.gguf import CODES, GGUF, TYPES


def test_the_numbers_of_types_and_formats():
    assert [kind.name.lower().replace("array", "list") for kind in gguf.GGUFValueType] == [
        *TYPES
    ]
    for kind in KIND:
        assert CODES[kind] == kind.name
    for name, form in FORMATS.items():
        assert gguf.GGML_QUANT_SIZES[KIND[name]] == (form.values, form.bytes)


@given(files())
def test_what_we_write_the_library_reads(tmp_path_factory, drawn):
    path = tmp_path_factory.mktemp("a") / "x.gguf"
    check_round_trip(path, *drawn)
    assert repr(theirs(path)) == repr(ours(path))


def library_file(path):
    """A file of the library's."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_bool("flag", True)
    writer.add_int8("small", -7)
    writer.add_uint64("large", 1 << 63)
    writer.add_float32("rate", 0.1)
    writer.add_float64("precise", 0.1)
    writer.add_array("words", ["a", "Ġé", ""])
    writer.add_array("ids", [1, -2])
    writer.add_array("scores", [0.5, -1.0])
    writer.add_array("flags", [True, False])
    w = np.random.default_rng(0).standard_normal((6, 64)).astype("float32")
    writer.add_tensor("floats", w[:, :3].copy())
    writer.add_tensor("halves", w.astype("float16"))
    for name in ("Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "BF16"):
        writer.add_tensor(name, gguf.quantize(w, KIND[name]), raw_dtype=KIND[name])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return w


def test_what_the_library_writes_we_read(tmp_path):
    path = tmp_path / "x.gguf"
    w = library_file(path)
    assert repr(theirs(path)) == repr(ours(path))
    with GGUF(path) as file:
        assert (file.read("floats") == w[:, :3]).all()
        assert abs(file.read("Q5_1") - w).max() < 0.2


@pytest.mark.parametrize("kind", FORMATS)
def test_values_are_the_librarys_bit_for_bit(kind):
    for seed in range(5):
        blocks = random_blocks(kind, 512, seed)
        expected = gguf.dequantize(blocks, KIND[kind])
        assert dequantize(kind, blocks).tobytes() == expected.tobytes()


@pytest.mark.parametrize("kind", FORMATS)
def test_values_of_any_bits_are_the_librarys(kind):
    """Infinite scales, and those that are no number, too; which of such it is may differ."""
    form = FORMATS[kind]
    blocks = np.random.default_rng(0).integers(0, 256, (2048, form.bytes), "uint8")
    with np.errstate(all="ignore"):
        expected = gguf.dequantize(blocks, KIND[kind]).reshape(-1, form.values)
    found = dequantize(kind, blocks)
    same = found.view("uint32") == expected.view("uint32")
    assert (same | (np.isnan(found) & np.isnan(expected))).all()


@pytest.mark.parametrize("kind", ["F32", "F16", "Q8_0"])
@pytest.mark.parametrize("size", [1e-42, 1e-9, 1e-6, 1e-3, 1, 1000])
def test_blocks_are_the_librarys_bit_for_bit(kind, size):
    rng = np.random.default_rng(0)
    w = rng.standard_normal((64, 96)).astype("float32")
    w[:32] = np.rint(10 * w[:32]) / 2  # so that some codes are halves
    w[0], w[:32, 0] = 0, 127
    w *= np.float32(size / 127)
    with np.errstate(all="ignore"):
        expected = gguf.quantize(w, KIND[kind])
    assert quantize(kind, w).tobytes() == expected.tobytes()


def test_mutants_are_refused_or_read_as_the_library_reads_them(tmp_path):
    rng = np.random.default_rng(1)
    refused = [judged(tmp_path / "x", m) for m in mutants(rng, 300, tmp_path / "whole")]
    assert 50 < sum(map(bool, refused)) < 300
