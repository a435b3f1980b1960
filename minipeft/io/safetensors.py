"""safetensors files: named arrays behind a JSON header, read strictly and written in a stream.

    8 bytes   length n of the header, little-endian
    n bytes   JSON: {name: {"dtype": "F32", "shape": [4, 8], "data_offsets": [0, 128]}, …}
    the rest  the arrays' bytes, one after the other, without gaps

A header may hold strings under "__metadata__". Nothing in such a file can be executed.
"""

import json
import math
import os

from ..engine.backend import np
from .files import json_object, opened, write_parts

# {name of a type in a header: the type that its arrays get here}; NumPy has no bfloat16
DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "float32",
    "I64": "int64", "I32": "int32", "U8": "uint8",
}  # fmt: skip
CODES = {dtype: code for code, dtype in DTYPES.items() if code != "BF16"}
LONGEST = 4_000_000  # bytes of a header, which has about a hundred for each array
CHUNK = 1 << 20  # bfloat16 values that are converted at a time


def write_safetensors(path, arrays, metadata):
    """Write {name: NumPy array} and {name: string} to a file, atomically.

    The widest types come first, so that every element is at a multiple of its size. The bytes
    depend on names, arrays and metadata alone.
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
    data = (np.ascontiguousarray(arrays[name]).reshape(-1).view("uint8") for name in order)
    write_parts(path, (len(text).to_bytes(8, "little"), text, *data))


class Safetensors:
    """A safetensors file, opened once: whatever happens to its name, this stays one file.

    with Safetensors(path) as file: …

    `entries` is {name: (type, shape)}, `metadata` {name: string}. Raises FileNotFoundError if
    there is no file, and ValueError, before any array is read, if it is not whole.
    """

    def __init__(self, path):
        self.path, self.file = path, opened(path, "safetensors file")
        try:
            self.places, self.metadata = self.read_header()
        except BaseException:
            self.file.close()
            raise
        self.entries = {
            name: (DTYPES[code], shape) for name, (code, shape, _) in self.places.items()
        }

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()

    @property
    def count(self):
        """How many elements all arrays have together."""
        return sum(math.prod(shape) for _, shape in self.entries.values())

    def read_header(self):
        """Returns ({name: (type's code, shape, first byte in the file)}, metadata)."""
        size = os.fstat(self.file.fileno()).st_size
        length = int.from_bytes(self.file.read(8), "little")
        if not 2 <= length <= min(size - 8, LONGEST):
            raise self.damage(f"{size} bytes with a header of {length}")
        header = json_object(self.file.read(length), self.path)
        metadata = header.pop("__metadata__", None) or {}
        if type(metadata) is not dict or any(type(v) is not str for v in metadata.values()):
            raise self.damage("its metadata are not strings")
        places, sizes = {}, {}
        for name, entry in header.items():
            code, shape, start, end = self.entry(name, entry)
            places[name], sizes[name] = (code, shape, 8 + length + start), (start, end)
        at = 0
        for name in sorted(sizes, key=lambda name: sizes[name]):
            if sizes[name][0] != at:
                raise self.damage(
                    f"{name} begins at byte {sizes[name][0]} of the data, not {at}"
                )
            at = sizes[name][1]
        if at != size - 8 - length:
            raise self.damage(f"{size - 8 - length} bytes of data, of which it names {at}")
        return places, metadata

    def entry(self, name, entry):
        """Returns (code, shape, start, end) of one array, checked."""
        keys = "dtype", "shape", "data_offsets"
        if type(entry) is not dict or {*entry} != {*keys}:
            raise self.damage(f"{name} needs {', '.join(keys)}")
        code, shape, offsets = (entry[key] for key in keys)
        if code not in DTYPES if type(code) is str else True:
            raise self.damage(f"{name} is of type {code!r}; there are {', '.join(DTYPES)}")
        for numbers in (shape, offsets):
            if type(numbers) is not list or any(type(n) is not int or n < 0 for n in numbers):
                raise self.damage(f"{name} has {numbers!r} where whole numbers belong")
        width = 2 if code == "BF16" else np.dtype(DTYPES[code]).itemsize
        if len(offsets) != 2 or offsets[1] - offsets[0] != width * math.prod(shape):
            raise self.damage(f"{name}, {code} {shape}, does not fit into bytes {offsets}")
        return code, tuple(shape), *offsets

    def damage(self, what):
        """Returns the error that says what is wrong with the file."""
        return ValueError(
            f"{self.path} is not a whole safetensors file ({what}); save it again"
        )

    def read(self, name):
        """Returns one array, in memory of its own; bfloat16 becomes float32, exactly."""
        code, shape, start = self.places[name]
        a = np.empty(math.prod(shape), DTYPES[code])
        self.file.seek(start)
        if code != "BF16":
            self.fill(a, name)
            return a.reshape(shape)
        for i in range(0, a.size, CHUNK):
            half = np.empty(min(CHUNK, a.size - i), "uint16")  # the upper half of each float32
            self.fill(half, name)
            a[i : i + len(half)] = (half.astype("uint32") << 16).view("float32")
        return a.reshape(shape)

    def fill(self, a, name):
        """Read the next bytes of the file into an array."""
        if self.file.readinto(a.view("uint8")) != a.nbytes:
            raise self.damage(f"it ends in {name}")
