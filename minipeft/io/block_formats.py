"""The formats in which GGUF files hold numbers: floats, and blocks of small whole numbers.

A block holds 32 or 256 codes of 4 to 8 bits, and for each group of them what they are scaled
by, and in some formats what is then added:

    value = scale · code + offset

                  bits   values   groups   scales, offsets
    Q4_0, Q5_0    4, 5       32        1   float16; 8 or 16 is taken off the codes
    Q4_1, Q5_1    4, 5       32        1   float16, and an offset in float16
    Q8_0             8       32        1   float16; codes have a sign
    Q4_K, Q5_K    4, 5      256        8   6 bits, times a float16 of the block; offsets alike
    Q6_K             6      256       16   8 bits, times a float16; 32 is taken off the codes

A value is rounded to float32 once at most, as every step before the last is exact; so it is the
same on every machine. The layouts are those of ggml, *ggml-quants.c*.
"""

import math
from collections import namedtuple

from ..engine.backend import chunks, np
from ..errors import check_known

with np.errstate(invalid="ignore"):  # {bits of a float16: its value}: faster than converting
    HALF = np.arange(1 << 16, dtype="uint16").view("float16").astype("float32")


def half(blocks, at):
    """Returns the float16 at a byte of every block, as float32 (blocks, 1)."""
    return HALF.take(blocks.view("<u2")[:, at // 2])[:, None]


def nibbles(packed):
    """Returns the 4-bit codes in (n, b) bytes as (n, 2 b): low halves first, then high ones."""
    words = packed.view("<u8")
    width = words.shape[1]
    codes = np.empty((len(words), 2 * width), "<u8")
    for i in range(width):  # over all blocks at a time: a loop over one is too short to be fast
        codes[:, i] = words[:, i]
        np.right_shift(codes[:, i], 4, out=codes[:, width + i])
    codes &= 0x0F0F0F0F0F0F0F0F
    return codes.view("uint8")


def fifth_bits(packed):
    """Returns the bits in (n, b) bytes, a byte's lowest first, as (n, 8 b) zeros and 16s."""
    return np.unpackbits(packed, axis=1, bitorder="little") << 4


def f32(blocks):
    """Floats of 32 bits."""
    return blocks.view("<f4"), None, None


def f16(blocks):
    """Floats of 16 bits."""
    return half(blocks, 0), None, None


def bf16(blocks):
    """Floats of 16 bits that are the upper halves of float32."""
    return (blocks.view("<u2").astype("uint32") << 16).view("float32"), None, None


def q4_0(blocks):
    """2 bytes scale, 16 bytes codes."""
    return nibbles(blocks[:, 2:]).view("int8") - 8, half(blocks, 0), None


def q4_1(blocks):
    """2 bytes scale, 2 bytes offset, 16 bytes codes."""
    return nibbles(blocks[:, 4:]), half(blocks, 0), half(blocks, 2)


def q5_0(blocks):
    """2 bytes scale, 4 bytes fifth bits, 16 bytes codes."""
    codes = nibbles(blocks[:, 6:]) | fifth_bits(blocks[:, 2:6])
    return codes.view("int8") - 16, half(blocks, 0), None


def q5_1(blocks):
    """2 bytes scale, 2 bytes offset, 4 bytes fifth bits, 16 bytes codes."""
    codes = nibbles(blocks[:, 8:]) | fifth_bits(blocks[:, 4:8])
    return codes, half(blocks, 0), half(blocks, 2)


def q8_0(blocks):
    """2 bytes scale, 32 bytes codes."""
    return blocks[:, 2:].view("int8"), half(blocks, 0), None


def q4_k(blocks):
    """2 bytes scale, 2 bytes offset, 12 bytes for those of 8 groups, 128 bytes codes."""
    return nibbles(blocks[:, 16:].reshape(-1, 32)), *scales_of_groups(blocks)


def q5_k(blocks):
    """The same with 32 bytes before the codes: bit g of byte j belongs to group g's code j."""
    fifth = fifth_bits(blocks[:, 16:48]).reshape(-1, 32, 8).swapaxes(1, 2)
    codes = nibbles(blocks[:, 48:].reshape(-1, 32)).reshape(-1, 8, 32)
    return codes | fifth, *scales_of_groups(blocks)


def scales_of_groups(blocks):
    """Returns scales and offsets (blocks, 8): numbers of 6 bits, times a float16 of the block.

    The first four scales are the lower 6 bits of bytes 4 to 7. The last four have their lower 4
    bits in the lower halves of bytes 12 to 15, and their upper 2 bits above the first four. So
    do the offsets, in bytes 8 to 11 and the upper halves of bytes 12 to 15.
    """
    scale, offset, both = (blocks[:, at : at + 4] for at in (4, 8, 12))
    scales = np.concatenate([scale & 63, both & 15 | scale >> 6 << 4], axis=1)
    offsets = np.concatenate([offset & 63, both >> 4 | offset >> 6 << 4], axis=1)
    return half(blocks, 0) * scales, -half(blocks, 2) * offsets


def q6_k(blocks):
    """128 bytes lower 4 bits, 64 bytes upper 2 bits, 16 bytes scales, 2 bytes their scale."""
    low = nibbles(blocks[:, :128].reshape(-1, 64)).reshape(-1, 4, 32)
    high = blocks[:, 128:192].reshape(-1, 1, 32) >> np.array([[0], [2], [4], [6]], "uint8") & 3
    codes = (low | high << 4).view("int8") - 32
    return codes, half(blocks, 208) * blocks[:, 192:208].view("int8"), None


Format = namedtuple("Format", "values bytes unpack")
# {name: values and bytes a block; a function of blocks to codes, scales and offsets}
FORMATS = {
    "F32": Format(1, 4, f32), "F16": Format(1, 2, f16), "BF16": Format(1, 2, bf16),
    "Q4_0": Format(32, 18, q4_0), "Q4_1": Format(32, 20, q4_1), "Q5_0": Format(32, 22, q5_0),
    "Q5_1": Format(32, 24, q5_1), "Q8_0": Format(32, 34, q8_0), "Q4_K": Format(256, 144, q4_k),
    "Q5_K": Format(256, 176, q5_k), "Q6_K": Format(256, 210, q6_k),
}  # fmt: skip


def count(kind, shape):
    """Returns how many blocks an array of a shape has; each row has whole ones.

    Raises ValueError for a format that is not one of FORMATS, and for rows of other lengths.
    """
    check_known("format", [kind], FORMATS)
    values = FORMATS[kind].values
    if values > 1 and (not shape or shape[-1] % values):
        raise ValueError(f"{kind} needs rows of a multiple of {values} numbers, got {shape}")
    return math.prod(shape) // values


def dequantize(kind, blocks):
    """Returns the values of uint8 blocks (n, bytes a block), float32 (n, values a block)."""
    check_known("format", [kind], FORMATS)
    form = FORMATS[kind]
    if blocks.dtype != "uint8" or blocks.shape[1:] != (form.bytes,):
        got = f"{blocks.dtype} {blocks.shape}"
        raise ValueError(f"blocks of {kind} are uint8 (blocks, {form.bytes}), got {got}")
    blocks = np.ascontiguousarray(blocks)
    values = np.empty((len(blocks), form.values), "float32")
    with np.errstate(invalid="ignore"):  # an infinite scale times the code 0 is no number
        for rows in chunks(values):
            codes, scales, offsets = form.unpack(blocks[rows])
            groups = 1 if scales is None else scales.shape[1]
            out = values[rows].reshape(-1, groups, form.values // groups)
            out[...] = codes.reshape(out.shape)
            if scales is not None:
                out *= scales[:, :, None]
            if offsets is not None:
                out += offsets[:, :, None]
    return values


def quantize(kind, array):
    """Returns the blocks (n, bytes a block), uint8, of an array in F32, F16 or Q8_0.

    In Q8_0 a block's scale is its largest |w| / 127, and a code is w / scale, rounded to the
    nearest, of two to the one further from zero. Then the scale is itself rounded to float16.

    Raises ValueError for other formats, for rows that are not whole blocks, and in F16 and Q8_0
    for numbers that are not finite, or would no longer be.
    """
    if kind not in ("F32", "F16", "Q8_0"):
        raise ValueError(f"numbers can be written as F32, F16 or Q8_0, not {kind}")
    form, blocks = FORMATS[kind], count(kind, array.shape)
    values = np.ascontiguousarray(array).reshape(blocks, form.values)
    if kind == "F32":
        return values.astype("<f4").view("uint8")
    packed = np.empty((blocks, form.bytes), "uint8")
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        for rows in chunks(values):
            w = values[rows].astype("float32")
            scale = abs(w).max(axis=1, keepdims=True) / 127 if kind == "Q8_0" else w
            packed[rows, :2] = scale.astype("<f2").view("uint8")
            if not np.isfinite(half(packed[rows], 0)).all():
                raise ValueError(f"a number is not finite or too large for {kind}; use F32")
            if kind == "Q8_0":
                packed[rows, 2:] = codes_of(w, scale).view("uint8")
    return packed


def codes_of(w, scale):
    """Returns w / scale, rounded half away from zero, as int8; 0 where the scale is 0."""
    inverse = 1 / scale
    x = w * np.where(np.isfinite(inverse), inverse, 0)
    whole = np.trunc(x)
    return (whole + np.trunc(2 * (x - whole))).astype("int8")
