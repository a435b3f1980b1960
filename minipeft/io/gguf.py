"""GGUF files: metadata and quantised arrays in one file, as llama.cpp reads them.

    magic, version, number of arrays, number of metadata values
    metadata   key, type, value                       for each
    arrays     name, axes, kind, first byte           for each
    the bytes of the arrays, each beginning at a multiple of 32

An array is stored in blocks of 32 or 256 values, each with a scale of its own:

    Q8_0   w = d q,        q = −128 … 127           Q4_0   w = d (q − 8),  q = 0 … 15
    Q4_1   w = d q + m,    q = 0 … 15               Q5_0, Q5_1: the same with 5 bits
    Q4_K, Q5_K, Q6_K: eight or sixteen scales a block, themselves in 6 or 8 bits

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import math
import os
import struct

from ..engine.backend import np
from .files import opened, write_parts

SCALARS = {  # {code: letter of `struct`}
    0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d",
}  # fmt: skip
STRING, LIST = 8, 9
# {code: (name, values a block, bytes a block)}
KINDS = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 30: ("BF16", 1, 2), 2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22), 7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34),
    12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210),
}  # fmt: skip
CODES = {name: (code, values, size) for code, (name, values, size) in KINDS.items()}
LONGEST = 256_000_000  # bytes of metadata, of which a vocabulary takes a few million


class GGUF:
    """A GGUF file, opened once: with GGUF(path) as file: …

    `metadata` is {key: value}, `types` {key: code of its type, or (LIST, code)}, `entries`
    {name: (kind, shape)} with shapes in NumPy's order. Raises FileNotFoundError if there is no
    file, and ValueError, before any array is read, if it is not whole or of an unknown kind.
    """

    def __init__(self, path):
        self.path, self.file = path, opened(path, "GGUF file")
        self.size = os.fstat(self.file.fileno()).st_size
        try:
            self.read_header()
        except (struct.error, UnicodeDecodeError, OverflowError, MemoryError) as error:
            self.file.close()
            raise self.damage(str(error) or type(error).__name__) from None
        except BaseException:
            self.file.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()

    def damage(self, what):
        """Returns the error that says what is wrong with the file."""
        return ValueError(f"{self.path} is not a whole GGUF file ({what}); download it again")

    def read_header(self):
        """Read metadata and the places of the arrays, and check that the file has them all."""
        cursor = Cursor(self)
        if cursor.take(4) != b"GGUF":
            raise ValueError(f"{self.path} is not a GGUF file: it does not begin with GGUF")
        version, arrays, values = cursor.number("I"), cursor.number("Q"), cursor.number("Q")
        if version not in (2, 3):
            raise ValueError(f"{self.path} is GGUF version {version}; 2 and 3 are known")
        self.metadata, self.types, self.places = {}, {}, {}
        for _ in range(values):
            key = cursor.text()
            if key in self.metadata:
                raise self.damage(f"{key} is there twice")
            code = cursor.number("I")
            self.metadata[key], self.types[key] = cursor.value(code)
        for _ in range(arrays):
            self.read_entry(cursor)
        alignment = self.metadata.get("general.alignment", 32)
        if type(alignment) is not int or not 1 <= alignment <= 65536:
            raise self.damage(f"an alignment of {alignment!r}")
        self.start = -(-cursor.at // alignment) * alignment
        end = 0
        for name, (kind, shape, first) in sorted(self.places.items(), key=lambda p: p[1][2]):
            if first < end:
                raise self.damage(f"{name} begins in the array before it")
            end = first + bytes_of(kind, shape)
        if self.start + end > self.size:
            raise self.damage(f"{self.size} bytes, of {self.start + end}")
        self.entries = {name: place[:2] for name, place in self.places.items()}

    def read_entry(self, cursor):
        """Read where one array is."""
        name, axes = cursor.text(), cursor.number("I")
        if axes > 4 or name in self.places:
            raise self.damage(f"{name!r:.80} has {axes} axes or is there twice")
        shape = tuple(cursor.number("Q") for _ in range(axes))[::-1]
        code, first = cursor.number("I"), cursor.number("Q")
        if code not in KINDS:
            known = ", ".join(CODES)
            raise ValueError(f"{self.path}: {name} is of type {code}; known are {known}")
        kind, values, _ = KINDS[code]
        if not shape or 0 in shape or shape[-1] % values or math.prod(shape) > 8 * self.size:
            raise self.damage(f"{name} is {kind} of shape {shape}")
        self.places[name] = kind, shape, first

    def blocks(self, name):
        """Returns the bytes of an array, (blocks, bytes a block), in memory of their own."""
        kind, shape, first = self.places[name]
        a = np.empty(bytes_of(kind, shape), "uint8")
        self.file.seek(self.start + first)
        if self.file.readinto(a) != a.nbytes:
            raise self.damage(f"it ends in {name}")
        return a.reshape(-1, CODES[kind][2])

    def read(self, name):
        """Returns an array in float32."""
        kind, shape = self.entries[name]
        return dequantize(kind, self.blocks(name)).reshape(shape)


class Cursor:
    """A place in the header of a file, from which values are read one after the other."""

    def __init__(self, gguf):
        self.gguf, self.at, self.data = gguf, 0, b""

    def need(self, count):
        """Make `count` more bytes available. Raises ValueError where the file has ended."""
        if self.at + count > len(self.data):
            if self.at + count > min(self.gguf.size, LONGEST):
                raise self.gguf.damage(f"it ends in its header, at byte {self.at}")
            more = max(1 << 20, self.at + count - len(self.data))
            self.data += self.gguf.file.read(min(more, LONGEST - len(self.data)))

    def take(self, count):
        """Returns the next bytes."""
        self.need(count)
        self.at += count
        return self.data[self.at - count : self.at]

    def number(self, letter):
        """Returns the next number, of a type of `struct`."""
        size = struct.calcsize("<" + letter)
        self.need(size)
        (value,) = struct.unpack_from("<" + letter, self.data, self.at)
        self.at += size
        return value

    def text(self):
        """Returns the next string."""
        return self.take(self.number("Q")).decode("utf-8")

    def value(self, code):
        """Returns (the next metadata value, its type)."""
        if code in SCALARS:
            return self.number(SCALARS[code]), code
        if code == STRING:
            return self.text(), code
        if code != LIST:
            raise self.gguf.damage(f"a value of type {code}")
        inner, count = self.number("I"), self.number("Q")
        if inner == STRING:
            return self.texts(count), (LIST, inner)
        if inner not in SCALARS:
            raise self.gguf.damage(f"a list of type {inner}")
        whole = f"<{count}{SCALARS[inner]}"
        self.need(count * struct.calcsize("<" + SCALARS[inner]))
        values = list(struct.unpack_from(whole, self.data, self.at))
        self.at += struct.calcsize(whole)
        return values, (LIST, inner)

    def texts(self, count):
        """Returns a list of strings: a vocabulary has a hundred thousand."""
        self.need(8 * count)  # each has its length at least
        found, length = [], struct.Struct("<Q").unpack_from
        for _ in range(count):
            self.need(8)
            (size,) = length(self.data, self.at)
            self.need(8 + size)
            self.at += 8 + size
            found.append(self.data[self.at - size : self.at].decode("utf-8"))
        return found


def bytes_of(kind, shape):
    """Returns how many bytes an array takes."""
    _, values, size = CODES[kind]
    return math.prod(shape) // values * size


def write_gguf(path, metadata, types, arrays):
    """Write metadata {key: value} with its types, and arrays, to a GGUF file, atomically.

    arrays: {name: (kind, shape, function that returns the blocks)}; the functions are called
    one after the other, so that no two results are in memory together.
    """
    infos, at = b"", 0
    for name, (kind, shape, _) in arrays.items():
        infos += string(name) + struct.pack("<I", len(shape))
        infos += struct.pack(f"<{len(shape)}Q", *shape[::-1])
        infos += struct.pack("<IQ", CODES[kind][0], at)
        at += -(-bytes_of(kind, shape) // 32) * 32
    head = b"GGUF" + struct.pack("<IQQ", 3, len(arrays), len(metadata))
    head += b"".join(
        string(k) + typed(value, types.get(k, default_type(value)))
        for k, value in metadata.items()
    )
    head += infos

    def parts():
        yield head + bytes(-len(head) % 32)
        for _, _, blocks in arrays.values():
            data = np.ascontiguousarray(blocks()).reshape(-1)
            yield data
            yield bytes(-data.nbytes % 32)

    write_parts(path, parts())


def string(text):
    """Returns a string as a GGUF file has it."""
    encoded = text.encode()
    return struct.pack("<Q", len(encoded)) + encoded


def default_type(value):
    """Returns the type of a metadata value."""
    if isinstance(value, list):
        return LIST, default_type(value[0])
    return {bool: 7, int: 4, float: 6, str: STRING}[type(value)]


def typed(value, code):
    """Returns a metadata value with its type before it."""
    if code == STRING:
        return struct.pack("<I", STRING) + string(value)
    if not isinstance(code, tuple):
        return struct.pack("<I" + SCALARS[code], code, value)
    head, inner = struct.pack("<IIQ", LIST, code[1], len(value)), code[1]
    if inner == STRING:
        return head + b"".join(map(string, value))
    return head + struct.pack(f"<{len(value)}{SCALARS[inner]}", *value)


def quantize(kind, a):
    """Returns the blocks of an array in F32, F16 or Q8_0, (blocks, bytes a block).

    Q8_0: d = max |w| / 127, and q is the nearest whole number to w / d.
    """
    a = np.ascontiguousarray(a, "float32").reshape(-1, CODES[kind][1])
    if kind == "F32":
        return a.view("uint8")
    if kind == "F16":
        with np.errstate(over="ignore"):
            half = a.astype("float16")
        if not np.isfinite(half).all():
            raise ValueError("a weight is too large for float16; use q8_0")
        return half.view("uint8")
    d = np.abs(a).max(axis=1, keepdims=True) / np.float32(127)
    with np.errstate(divide="ignore"):
        inverse = np.where(d == 0, 0, np.float32(1) / d)
    scaled = a * inverse
    q = np.trunc(scaled + np.copysign(np.float32(0.5), scaled)).astype("int8")  # away from 0
    return np.concatenate([d.astype("float16").view("uint8"), q.view("uint8")], axis=1)


def dequantize(kind, blocks):
    """Returns the values of blocks, (blocks, bytes a block) -> (blocks, values), float32."""
    with np.errstate(invalid="ignore", over="ignore"):  # what is not finite is told by its name
        return DEQUANTIZERS[kind](blocks)


def half(blocks, first):
    """Returns the float16 at a place of each block, (blocks, 1), in float32."""
    return np.ascontiguousarray(blocks[:, first : first + 2]).view("float16").astype("float32")


def nibbles(codes):
    """Returns the low 4 bits of each byte, then the high 4 bits, (N, n) -> (N, 2 n)."""
    n = codes.shape[1]
    values = np.empty((len(codes), 2 * n), "float32")
    values[:, :n] = codes & 15
    values[:, n:] = codes >> 4
    return values


def from_q4_0(blocks):
    """Returns w = d (q − 8)."""
    values = nibbles(blocks[:, 2:])
    values -= 8.0
    values *= half(blocks, 0)
    return values


def from_q4_1(blocks):
    """Returns w = d q + m."""
    values = nibbles(blocks[:, 4:])
    values *= half(blocks, 0)
    values += half(blocks, 2)
    return values


def fifth_bits(blocks, first):
    """Returns 16 where the bit of a value is set in the four bytes at a place, else 0."""
    bits = np.unpackbits(blocks[:, first : first + 4], axis=1, bitorder="little")
    return bits.astype("float32") * 16.0


def from_q5_0(blocks):
    """Returns w = d (q − 16), q of 5 bits."""
    values = nibbles(blocks[:, 6:]) + fifth_bits(blocks, 2)
    return (values - 16.0) * half(blocks, 0)


def from_q5_1(blocks):
    """Returns w = d q + m, q of 5 bits."""
    values = nibbles(blocks[:, 8:]) + fifth_bits(blocks, 4)
    return values * half(blocks, 0) + half(blocks, 2)


def from_q8_0(blocks):
    """Returns w = d q."""
    return blocks[:, 2:].view("int8") * half(blocks, 0)


def scales_and_minima(packed):
    """Returns eight scales and eight minima of 6 bits from 12 bytes, (N, 12) -> two (N, 8)."""
    low, middle, high = packed[:, :4], packed[:, 4:8], packed[:, 8:]
    scales = np.concatenate([low & 63, (high & 15) | (low >> 6) << 4], axis=1)
    minima = np.concatenate([middle & 63, (high >> 4) | (middle >> 6) << 4], axis=1)
    return scales.astype("float32"), minima.astype("float32")


def from_k_blocks(blocks, quants):
    """Returns d · scale · q − m · minimum, for q (N, 256) in eight groups of 32."""
    scales, minima = scales_and_minima(blocks[:, 4:16])
    scales, minima = scales * half(blocks, 0), minima * half(blocks, 2)
    values = quants.reshape(-1, 8, 32) * scales[:, :, None] - minima[:, :, None]
    return values.reshape(-1, 256)


def pairs_of_groups(codes):
    """Returns 4-bit codes in groups of 32: the low halves of 32 bytes, then the high halves."""
    codes = codes.reshape(-1, 4, 1, 32)
    return np.concatenate([codes & 15, codes >> 4], axis=2).reshape(-1, 256)


def from_q4_k(blocks):
    """Returns the values of blocks of 256: eight groups of 32, q of 4 bits."""
    return from_k_blocks(blocks, pairs_of_groups(blocks[:, 16:]).astype("float32"))


def from_q5_k(blocks):
    """Returns the values of blocks of 256: eight groups of 32, q of 5 bits."""
    fifth = blocks[:, None, 16:48] >> np.arange(8, dtype="uint8")[:, None] & 1
    quants = pairs_of_groups(blocks[:, 48:]) | fifth.reshape(-1, 256) << 4
    return from_k_blocks(blocks, quants.astype("float32"))


def from_q6_k(blocks):
    """Returns the values of blocks of 256: sixteen groups of 16, w = d scale (q − 32)."""
    low = blocks[:, :128].reshape(-1, 2, 1, 64)
    low = np.concatenate([low & 15, low >> 4], axis=2).reshape(-1, 2, 4, 32)
    high = blocks[:, 128:192].reshape(-1, 2, 1, 32)
    high = high >> np.array([0, 2, 4, 6], "uint8")[:, None] & 3
    quants = (low | high << 4).reshape(-1, 16, 16).astype("float32") - 32.0
    scales = blocks[:, 192:208].view("int8").astype("float32") * half(blocks, 208)
    return (quants * scales[:, :, None]).reshape(-1, 256)


def from_f16(blocks):
    """Returns float16 values in float32."""
    return np.ascontiguousarray(blocks).view("float16").astype("float32")


def from_bf16(blocks):
    """Returns bfloat16 values, the upper halves of float32."""
    return (np.ascontiguousarray(blocks).view("uint16").astype("uint32") << 16).view("float32")


DEQUANTIZERS = {
    "F32": lambda blocks: np.ascontiguousarray(blocks).view("float32"), "F16": from_f16,
    "BF16": from_bf16, "Q4_0": from_q4_0, "Q4_1": from_q4_1, "Q5_0": from_q5_0,
    "Q5_1": from_q5_1, "Q8_0": from_q8_0, "Q4_K": from_q4_k, "Q5_K": from_q5_k,
    "Q6_K": from_q6_k,
}  # fmt: skip
