"""GGUF files: metadata and llama.cpp's blocks of numbers, read strictly, written in a stream.

    4 bytes     "GGUF"
    4 bytes     version, 2 or 3; all numbers are little-endian
    8, 8        how many arrays and how many keys there are
    each key    string; type; value
    each array  string; number of axes (4 bytes); their lengths, the last axis first (8 bytes
                each); format (4 bytes); first byte of its data, counted from the first array's
    the rest    the arrays' data, each at a multiple of the alignment

A string is its length in 8 bytes and so many bytes of UTF-8. A type is a number of 4 bytes, a
place in TYPES. A list is the type of its values, how many there are (8 bytes), and the values.
The alignment is 32 bytes, or what the key "general.alignment" says.
"""

import contextlib
import os
import struct

from ..engine.backend import np
from ..errors import check_known
from .block_formats import FORMATS, count, dequantize, quantize
from .files import opened, write_parts

# Each is written as its place here. Lists of lists are not read, as in llama.cpp.
TYPES = (
    "uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "bool", "string", "list",
    "uint64", "int64", "float64",
)  # fmt: skip
CODES = (
    "F32 F16 Q4_0 Q4_1 4 5 Q5_0 Q5_1 Q8_0 Q8_1 Q2_K Q3_K Q4_K Q5_K Q6_K Q8_K IQ2_XXS IQ2_XS "
    "IQ3_XXS IQ1_S IQ4_NL IQ3_S IQ2_S IQ4_XS I8 I16 I32 I64 F64 IQ1_M BF16 31 32 33 TQ1_0 "
    "TQ2_0 36 37 38 MXFP4 NVFP4 Q1_0"
).split()
LETTERS = {  # {type of a number: its letter, in NumPy and in the module struct}
    "uint8": "B", "int8": "b", "uint16": "H", "int16": "h", "uint32": "I", "int32": "i",
    "uint64": "Q", "int64": "q", "float32": "f", "float64": "d", "bool": "?",
}  # fmt: skip
USUAL = {bool: "bool", int: "uint32", float: "float32", str: "string"}
LONGEST = 32_000_000  # bytes of a header; 500,000 words and their merges take about 20 million
MOST_AXES = 4  # as in llama.cpp


class GGUF:
    """A GGUF file, opened once: whatever happens to its name, this stays one file.

    with GGUF(path) as file: …

    `metadata` is {key: bool, int, float, str, or a list of such}; `types` is {key: its type in
    the file, such as "uint32", or "[string]" for a list}; `entries` is {name: (format, shape)}.
    Raises FileNotFoundError if there is no file, and ValueError, before any array is read, if
    it is not whole, or if an array's format is not one of FORMATS.
    """

    def __init__(self, path):
        self.path, self.file = path, opened(path, "GGUF file")
        try:
            size = os.fstat(self.file.fileno()).st_size
            header = Header(self.file.read(min(size, LONGEST)))
            arrays, keys = header.start()
            self.metadata, self.types = header.metadata(keys)
            alignment = alignment_of(self.metadata, self.types)
            self.entries, starts = header.entries(arrays)
            self.places = places(self.entries, starts, header.at, alignment, size)
        except BaseException as error:
            self.file.close()
            if isinstance(error, ValueError):
                raise self.damage(error) from None
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()

    def damage(self, what):
        """Returns the error that says what is wrong with the file."""
        return ValueError(
            f"{self.path} cannot be read as a GGUF file ({what}); fetch it again, or another"
        )

    def blocks(self, name):
        """Returns one array's blocks as they are in the file, uint8 (blocks, bytes a block)."""
        kind, shape = self.entries[name]
        a = np.empty((count(kind, shape), FORMATS[kind].bytes), "uint8")
        self.file.seek(self.places[name])
        if self.file.readinto(a.reshape(-1)) != a.nbytes:
            raise self.damage(f"it ends in {name!r}")
        return a

    def read(self, name):
        """Returns one array, dequantised to float32, in new memory."""
        kind, shape = self.entries[name]
        return dequantize(kind, self.blocks(name)).reshape(shape)


class Header:
    """The bytes of a header, read from the front; raises ValueError where they are wrong."""

    def __init__(self, content):
        self.content, self.at = content, 0

    def skip(self, size):
        """Go on by so many bytes, which must be there; returns the place before."""
        start, self.at = self.at, self.at + size
        if self.at > len(self.content):
            raise ValueError(f"it ends in its header, or that has over {LONGEST:,} bytes")
        return start

    def numbers(self, kind, n):
        """Returns a list of n numbers of a type."""
        letter = LETTERS[kind]
        start = self.skip(n * struct.calcsize(letter))
        if kind == "bool" and self.content[start : self.at].strip(b"\0\1"):
            raise ValueError("a truth value is neither 0 nor 1")
        return np.frombuffer(self.content, f"<{letter}", n, start).tolist()

    def number(self, kind):
        """Returns one number of a type."""
        return self.numbers(kind, 1)[0]

    def strings(self, n):
        """Returns a list of n strings, in a short loop: a vocabulary has 100,000 of them."""
        content, at, length = self.content, self.at, struct.Struct("<Q").unpack_from
        last, found = len(content) - 8, []
        for _ in range(n):
            if at > last:
                break
            start = at + 8
            at = start + length(content, at)[0]
            found.append(content[start:at].decode())
        self.at = at
        self.skip(8 * (n - len(found)))  # which are not there
        return found

    def string(self):
        """Returns one string."""
        return self.strings(1)[0]

    def type(self):
        """Returns the name of a type."""
        place = self.number("uint32")
        if place >= len(TYPES):
            raise ValueError(f"a value has the type {place}, which is none")
        return TYPES[place]

    def start(self):
        """Returns how many arrays and how many keys there are."""
        if (magic := self.content[self.skip(4) : self.at]) != b"GGUF":
            raise ValueError(f"it begins with {magic!r}, not b'GGUF'")
        if (version := self.number("uint32")) not in (2, 3):
            raise ValueError(f"its version is {version}, not 2 or 3, or its numbers big-endian")
        return self.numbers("uint64", 2)

    def metadata(self, keys):
        """Returns ({key: value}, {key: type})."""
        values, types = {}, {}
        for _ in range(keys):
            key, kind = self.string(), self.type()
            if key in values:
                raise ValueError(f"the key {key!r:.60} is there twice")
            inner, n = (self.type(), self.number("uint64")) if kind == "list" else (kind, 1)
            if inner == "list":
                raise ValueError(f"{key!r:.60} is a list of lists")
            found = self.strings(n) if inner == "string" else self.numbers(inner, n)
            values[key] = found if kind == "list" else found[0]
            types[key] = f"[{inner}]" if kind == "list" else kind
        return values, types

    def entries(self, arrays):
        """Returns ({name: (format, shape)}, {name: first byte of the data})."""
        entries, starts = {}, {}
        for _ in range(arrays):
            name, axes = self.string(), self.number("uint32")
            if name in entries:
                raise ValueError(f"the array {name!r:.60} is there twice")
            shape = tuple(reversed(self.numbers("uint64", axes)))
            code, starts[name] = self.number("uint32"), self.number("uint64")
            entries[name] = CODES[code] if code < len(CODES) else str(code), shape
        return entries, starts


def alignment_of(metadata, types):
    """Returns the alignment that metadata ask for; raises ValueError for no power of two."""
    key = "general.alignment"
    alignment = metadata.get(key, 32)
    if types.get(key, "uint32") != "uint32" or type(alignment) is not int:
        raise ValueError(f"{key} is no uint32")
    if alignment < 1 or alignment & alignment - 1:
        raise ValueError(f"{key} is {alignment}, which is no power of two")
    return alignment


def padded(size, alignment):
    """Returns the smallest multiple of the alignment that is not below a size."""
    return size + -size % alignment


def places(entries, starts, end, alignment, size):
    """Returns {name: first byte of its data in the file}; ValueError for overlaps and gaps.

    end: where the header ends. size: the file's, which may have padding after the last array.
    """
    first, found, at = padded(end, alignment), {}, 0
    sizes = {name: bytes_of(name, *entry) for name, entry in entries.items()}
    for name in sorted(sizes, key=starts.get):
        if starts[name] != (free := padded(at, alignment)):
            place = f"byte {starts[name]} of the data, not {free}"
            raise ValueError(f"{name!r:.60} begins at {place}")
        found[name], at = first + starts[name], starts[name] + sizes[name]
    end = first + at if entries else end
    if not end <= size <= padded(end, alignment):
        raise ValueError(f"it has {size} bytes, and should have {end}")
    return found


def bytes_of(name, kind, shape):
    """Returns how many bytes an array's blocks have; ValueError if there is no such array."""
    with naming(name):
        if len(shape) > MOST_AXES or any(n < 1 for n in shape):
            raise ValueError(f"{shape!r:.60} has more than {MOST_AXES} axes, or an empty one")
        return count(kind, shape) * FORMATS[kind].bytes


@contextlib.contextmanager
def naming(what):
    """Inside the block, an error about a value or an array becomes a ValueError naming it."""
    try:
        yield
    except (ValueError, TypeError, OverflowError, struct.error) as error:
        raise ValueError(f"{what!r:.60}: {error}") from None


def write_gguf(path, metadata, arrays, types=None):
    """Write metadata, {key: value}, and arrays, {name: (format, shape, data)}, atomically.

    data: floats of that shape, which are quantised to the format; or its blocks, uint8 (blocks,
    bytes a block), written as they are; or a function that returns either, called when its
    turn comes, so that one array is in memory at a time. types: {key: type}, as `GGUF.types`
    has them; otherwise whole numbers are uint32, in lists int32, and others float32.

    Raises ValueError for what cannot be written, OSError if the file cannot; it is then as it
    was before.
    """
    types = types or {}
    alignment = alignment_of(metadata, types)
    parts = [b"GGUF", struct.pack("<IQQ", 3, len(arrays), len(metadata))]
    for key, value in metadata.items():
        with naming(key):
            parts += packed_string(key), packed_value(value, types.get(key) or type_of(value))
    at = 0
    for name, (kind, shape, _) in arrays.items():
        size = bytes_of(name, kind, shape)
        axes = struct.pack(f"<I{len(shape)}Q", len(shape), *reversed(shape))
        parts += packed_string(name), axes, struct.pack("<IQ", CODES.index(kind), at)
        at += padded(size, alignment)
    header = b"".join(parts)
    if len(header) > LONGEST:
        raise ValueError(f"{len(header):,} bytes of metadata; a header has at most {LONGEST:,}")
    write_parts(path, padded_parts(header, arrays, alignment))


def padded_parts(header, arrays, alignment):
    """Yields the bytes of a file; no array is kept while the next one is made."""
    yield header.ljust(padded(len(header), alignment), b"\0")
    for name, (kind, shape, data) in arrays.items():
        with naming(name):
            yield blocks_of(kind, shape, data)
        size = bytes_of(name, kind, shape)
        yield bytes(padded(size, alignment) - size)


def blocks_of(kind, shape, data):
    """Returns the bytes of an array's blocks, as one row."""
    a = np.asarray(data() if callable(data) else data)
    if a.dtype != "uint8":
        if a.shape != tuple(shape):
            raise ValueError(f"expected the shape {tuple(shape)}, got {a.shape}")
        a = quantize(kind, a)
    if a.shape != (count(kind, shape), FORMATS[kind].bytes):
        raise ValueError(f"blocks {a.shape} do not belong to {kind} {tuple(shape)}")
    return np.ascontiguousarray(a).reshape(-1)


def type_of(value):
    """Returns the type as which a value is usually written."""
    if type(value) is not list:
        kind = USUAL.get(type(value))
    else:
        kinds = {USUAL.get(type(v)) for v in value}
        kind = kinds.pop() if len(kinds) == 1 else None
        kind = kind and f"[{'int32' if kind == 'uint32' else kind}]"
    if kind is None:
        raise ValueError(f"{value!r:.60} has no usual type; name one in `types`")
    return kind


def packed_value(value, kind):
    """Returns the bytes of a type and a value of that type."""
    is_list = kind[:1] == "["
    inner = kind[1:-1] if is_list else kind
    check_known("type", [inner], [*LETTERS, "string"])
    values = value if is_list else [value]
    fitting = {"string": {str}, "bool": {bool}}.get(inner, {int, float})
    if type(values) is not list or {*map(type, values)} - fitting:
        raise ValueError(f"{value!r:.60} is not of the type {kind}")
    start = [TYPES.index("list"), TYPES.index(inner)] if is_list else [TYPES.index(inner)]
    start = struct.pack(f"<{len(start)}I", *start)
    if is_list:
        start += struct.pack("<Q", len(values))
    if inner == "string":
        return start + b"".join(map(packed_string, values))
    return start + struct.pack(f"<{len(values)}{LETTERS[inner]}", *values)


def packed_string(text):
    """Returns the bytes of a string."""
    content = text.encode()
    return len(content).to_bytes(8, "little") + content
