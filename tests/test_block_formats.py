"""The formats of blocks: each by its definition, one value at a time in Python's numbers."""

import struct

import pytest

from gguf_files import random_blocks
from minipeft.engine.backend import np
from minipeft.io.block_formats import FORMATS, dequantize, quantize
from planted import planted


def float16(b, at):
    return struct.unpack_from("<e", b, at)[0]


def bit(b, i):
    return b[i // 8] >> i % 8 & 1


def nibble(b, i, half):
    """The 4-bit code i of bytes in which code i and code i + half share one."""
    group, j = divmod(i, 2 * half)
    byte = b[group * half + j % half]
    return byte & 15 if j < half else byte >> 4


def scale_and_offset(b, group):
    """The 6-bit scale and offset of one of eight groups."""
    s = b[4:16]
    if group < 4:
        return s[group] & 63, s[group + 4] & 63
    low, high = s[group + 4] & 15, s[group + 4] >> 4
    return low | (s[group - 4] >> 6) << 4, high | (s[group] >> 6) << 4


def k_value(b, i, code):
    scale, offset = scale_and_offset(b, i // 32)
    return float16(b, 0) * scale * code - float16(b, 2) * offset


def q6_code(b, i):
    half, j = divmod(i, 128)
    return nibble(b, i, 64) | (b[128 + 32 * half + j % 32] >> j // 32 * 2 & 3) << 4


def signed(byte):
    return byte - 256 if byte > 127 else byte


VALUE = {
    "F32": lambda b, i: struct.unpack("<f", b)[0],
    "F16": lambda b, i: float16(b, 0),
    "BF16": lambda b, i: struct.unpack("<f", b"\0\0" + b)[0],
    "Q4_0": lambda b, i: float16(b, 0) * (nibble(b[2:], i, 16) - 8),
    "Q4_1": lambda b, i: float16(b, 0) * nibble(b[4:], i, 16) + float16(b, 2),
    "Q5_0": lambda b, i: float16(b, 0) * (nibble(b[6:], i, 16) + 16 * bit(b[2:], i) - 16),
    "Q5_1": lambda b, i: (
        float16(b, 0) * (nibble(b[8:], i, 16) + 16 * bit(b[4:], i)) + float16(b, 2)
    ),
    "Q8_0": lambda b, i: float16(b, 0) * signed(b[2 + i]),
    "Q4_K": lambda b, i: k_value(b, i, nibble(b[16:], i, 32)),
    "Q5_K": lambda b, i: k_value(
        b, i, nibble(b[48:], i, 32) + 16 * bit(b[16:], i % 32 * 8 + i // 32)
    ),
    "Q6_K": lambda b, i: float16(b, 208) * signed(b[192 + i // 16]) * (q6_code(b, i) - 32),
}


def check_values(kind, seed=0):
    """The values of random blocks are those of the definition, bit for bit."""
    blocks = random_blocks(kind, 5, seed)
    expected = [[VALUE[kind](bytes(b), i) for i in range(FORMATS[kind].values)] for b in blocks]
    found = dequantize(kind, blocks)
    assert found.dtype == "float32"
    expected = np.array(expected).astype("float32")
    assert found.tobytes() == expected.tobytes(), kind


@pytest.mark.parametrize("kind", FORMATS)
def test_values_are_those_of_the_definition(kind):
    for seed in range(3):
        check_values(kind, seed)


def check_q8_0(seed=0):
    """A code is the nearest to w / scale, and of two the one further from zero."""
    rng = np.random.default_rng(seed)
    w = rng.standard_normal((6, 32)).astype("float32")
    w[0] = np.arange(32) - 15.5  # halves
    w[0, 0] = 127
    w[1] = 0
    w[2] *= np.float32(1e-42)  # whose scale has no inverse
    blocks = quantize("Q8_0", w)
    scale = np.abs(w).max(1) / np.float32(127)
    assert blocks[:, :2].tobytes() == scale.astype("float16").tobytes()
    codes = blocks[:, 2:].view("int8")
    assert codes[0, 1:].tolist() == [*range(-15, 0), *range(1, 17)]
    assert not codes[1:3].any()
    assert (np.abs(w[3:] / scale[3:, None] - codes[3:]) < 0.5001).all()


def test_q8_0_rounds_to_the_nearest_code():
    check_q8_0()


def test_floats_are_written_exactly_or_rounded_once():
    w = np.random.default_rng(0).standard_normal((300, 400)).astype("float32")
    assert dequantize("F32", quantize("F32", w)).tobytes() == w.tobytes()
    half = dequantize("F16", quantize("F16", w)).reshape(w.shape)
    assert (half == w.astype("float16").astype("float32")).all()


@pytest.mark.parametrize("kind, value", [("F16", 1e5), ("F16", np.nan), ("Q8_0", 1e7)])
def test_what_would_become_infinite_is_refused(kind, value):
    with pytest.raises(ValueError, match="not finite or too large"):
        quantize(kind, np.full((1, 32), value))


def test_formats_and_blocks_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="multiple of 32"):
        quantize("Q8_0", np.zeros((32, 31)))
    with pytest.raises(ValueError, match="F32, F16 or Q8_0, not Q4_0"):
        quantize("Q4_0", np.zeros((1, 32)))
    with pytest.raises(ValueError, match=r"uint8 \(blocks, 20\)"):
        dequantize("Q4_1", np.zeros((1, 18), "uint8"))
    with pytest.raises(ValueError, match="unknown format 'Q2_K'"):
        dequantize("Q2_K", np.zeros((1, 84), "uint8"))


FIFTH = "fifth_bits(blocks[:, 16:48]).reshape(-1, 32, 8).swapaxes(1, 2)"
BITS = "np.unpackbits(packed, axis=1, bitorder='little')"
WRONG = [  # (right, wrong)
    ("codes[:, width + i]", "codes[:, i]"),
    ("nibbles(blocks[:, 2:]).view('int8') - 8", "nibbles(blocks[:, 2:])"),
    (BITS, BITS.replace("little", "big")),
    ("-half(blocks, 2)", "half(blocks, 2)"),
    ("offset & 63", "offset & 31"),
    ("both >> 4 | offset >> 6 << 4", "both >> 4 | scale >> 6 << 4"),
    (FIFTH, "fifth_bits(blocks[:, 16:48]).reshape(-1, 8, 32)"),
    ("[[0], [2], [4], [6]]", "[[0], [4], [2], [6]]"),
    ("whole + np.trunc(2 * (x - whole))", "np.rint(x)"),
]


@pytest.mark.parametrize("right, wrong", WRONG)
def test_a_wrong_version_is_caught(right, wrong):
    with planted("io.block_formats", right, wrong):
        with pytest.raises(AssertionError):
            check_q8_0()
            for kind in FORMATS:
                check_values(kind)
