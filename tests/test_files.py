"""Whatever bytes a file holds, reading it gives what was saved or a clear error, and no harm.

The three readers of files are fed bytes at random and files that were changed by one thing. An
error must name the file and say what to do; the model must be as it was; no more memory may be
taken than a small model needs.
"""

import ast
import json
import os
import pickle
import struct
import tempfile
import tracemalloc
import warnings
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minipeft as mp
from minipeft.engine.backend import np, to_numpy
from minipeft.io.arrays import read_arrays, write_arrays
from minipeft.io.files import check_writable, write_bytes, write_json, write_parts
from minipeft.io.safetensors import Safetensors
from minipeft.peft.base import adapters, in_use
from strategies import batch, model

CONFIG = mp.Config.llama(vocab=7, context=8, width=4, layers=1, heads=2, kv_heads=1, ffn=3)
EXAMPLES = mp.Examples(*batch(CONFIG, B=4, T=5))
MEMORY = 4 << 20  # bytes: a thousand times the model
swift = settings(deadline=timedelta(seconds=5))


def tuned():
    """A small model, the same each time, with an adapter in use."""
    net = model(CONFIG, precision="float32")
    mp.attach(net, mp.LoRA(r=2), "mine")
    return net


class Model:
    """`load_model` and what it reads."""

    files = "model.safetensors", "config.json"

    def save(self, folder):
        """Write what it reads."""
        mp.save_model(tuned(), folder)

    def load(self, net, folder):
        """Read it; returns the arrays that came out."""
        return dict(mp.load_model(folder).named_parameters())


class Adapter:
    """`load_adapter` and what it reads."""

    files = "adapter_model.safetensors", "adapter_config.json"

    def save(self, folder):
        """Write what it reads."""
        net = tuned()
        mp.attach(net, mp.IA3(), "theirs")
        mp.save_adapter(net, "theirs", folder)

    def load(self, net, folder):
        """Read it; returns the arrays that came out."""
        return dict(mp.load_adapter(net, folder, "theirs").named_parameters())


class Checkpoint:
    """`fit`, resuming, and what it reads."""

    files = ("run.safetensors",)

    def save(self, folder):
        """Write what it reads."""
        self.load(tuned(), folder, until=1)

    def load(self, net, folder, until=1):
        """Read it; returns the arrays that came out."""
        path = Path(folder) / self.files[0]
        mp.fit(net, EXAMPLES, 2, 2, 0.01, checkpoint=path, until=until)
        return dict(adapters(net)["mine"].named_parameters())


READERS = {kind.__name__: kind() for kind in (Model, Adapter, Checkpoint)}


def saved(reader):
    """{file's name: bytes} as they should be."""
    with tempfile.TemporaryDirectory() as folder:
        reader.save(folder)
        return {name: (Path(folder) / name).read_bytes() for name in reader.files}


WHOLE = {name: saved(reader) for name, reader in READERS.items()}


def state(net):
    """All that a failed reading must leave as it was."""
    named = net.named_parameters()
    bits = {path: (to_numpy(p.data).tobytes(), p.requires_grad) for path, p in named}
    return bits, list(adapters(net)), list(in_use(net)), repr(net)


def read(name, contents):
    """Read files of such contents: the arrays, {path: bytes}, or None if they were refused."""
    net, reader = tuned(), READERS[name]
    before = state(net)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "the JSON beside it is from another save"
        for file, content in contents.items():
            (Path(folder) / file).write_bytes(content)
        tracemalloc.start()
        try:
            found = reader.load(net, folder)
        except (ValueError, FileNotFoundError) as error:
            assert folder in str(error), f"names no file: {error}"
            assert ";" in str(error), f"does not say what to do: {error}"
            found = None
        finally:
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        assert peak < MEMORY, f"took {peak:,} bytes"
        if found is None:
            assert state(net) == before, "a failed reading changed the model"
            return None
        return {path: to_numpy(p.data).tobytes() for path, p in found.items()}


GOOD = {name: read(name, WHOLE[name]) for name in WHOLE}
every_reader = pytest.mark.parametrize("name", READERS)


def checked(name, file, content):
    """Read with one file changed: what was saved comes out, or nothing; whether it did."""
    found = read(name, WHOLE[name] | {file: content})
    assert found in (None, GOOD[name]), "something else was read"
    return found is not None


@every_reader
def test_whole_files_are_read(name):
    assert GOOD[name]


@every_reader
@swift
@given(st.data())
def test_bytes_at_random(name, data):
    file = data.draw(st.sampled_from(READERS[name].files))
    assert not checked(name, file, data.draw(st.binary(max_size=200)))


@st.composite
def damage(draw, content):
    """Bytes with one bit turned, a piece cut out, doubled, or put in."""
    a, b = sorted(draw(st.tuples(*[st.integers(0, len(content))] * 2)))
    kind = draw(st.sampled_from(["bit", "cut", "short", "twice", "more"]))
    if kind == "bit":
        at, bit = min(a, len(content) - 1), draw(st.integers(0, 7))
        return content[:at] + bytes([content[at] ^ 1 << bit]) + content[at + 1 :]
    middle = {"cut": b"", "twice": 2 * content[a:b], "more": draw(st.binary(min_size=1))}
    return content[:a] if kind == "short" else content[:a] + middle[kind] + content[b:]


@every_reader
@swift
@given(st.data())
def test_damaged_bytes(name, data):
    file = READERS[name].files[0]
    content = data.draw(damage(WHOLE[name][file]))
    checked(name, file, content)


@every_reader
def test_every_bit_of_the_data_counts(name):
    file = READERS[name].files[0]
    whole = WHOLE[name][file]
    start = 8 + struct.unpack("<Q", whole[:8])[0]
    for at in range(start, len(whole), max(1, (len(whole) - start) // 40)):
        turned = whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :]
        assert not checked(name, file, turned), f"byte {at}"


@every_reader
@pytest.mark.parametrize("length", [0, 1, 7, 10**8, 2**31, 2**63 - 1, 2**63, 2**64 - 1])
def test_wrong_lengths_of_the_header(name, length):
    file = READERS[name].files[0]
    assert not checked(name, file, struct.pack("<Q", length) + WHOLE[name][file][8:])


def with_header(content, header):
    """A safetensors file with another header before the same data."""
    length = struct.unpack("<Q", content[:8])[0]
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + content[8 + length :]


def header_of(content):
    """The header of a safetensors file."""
    return json.loads(content[8 : 8 + struct.unpack("<Q", content[:8])[0]])


numbers = st.one_of(
    st.sampled_from([0, 1, 2, 3, 4, -1, 2**31, 2**62, 2**63, 2**64 - 1, 2**64, 10**30, 0.5]),
    st.integers(0, 300),
)
json_values = st.recursive(
    st.none() | st.booleans() | numbers | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)
FIELDS = {
    "dtype": st.sampled_from(["F64", "F16", "BF16", "I64", "U8", "BOOL", "F8_E4M3", "f32"]),
    "shape": st.lists(numbers, max_size=4),
    "data_offsets": st.lists(numbers, min_size=2, max_size=2),
}


@every_reader
@swift
@given(st.data())
def test_wrong_headers(name, data):
    file = READERS[name].files[0]
    header = header_of(WHOLE[name][file])
    arrays = sorted(header.keys() - {"__metadata__"})
    one = data.draw(st.sampled_from(arrays))
    kind = data.draw(st.sampled_from(["field", "swap", "rename", "drop", "more", "overlap"]))
    if kind == "field":
        field = data.draw(st.sampled_from(list(FIELDS)))
        header[one][field] = data.draw(st.one_of(FIELDS[field], json_values))
    elif kind == "swap":
        other = data.draw(st.sampled_from(arrays))
        header[one], header[other] = header[other], header[one]
    elif kind == "rename":
        header[data.draw(st.text(max_size=8))] = header.pop(one)
    elif kind == "drop":
        del header[one]
    elif kind == "more":
        header[data.draw(st.text(max_size=8))] = data.draw(json_values)
    else:
        header[one]["data_offsets"] = header[data.draw(st.sampled_from(arrays))]["data_offsets"]
    checked(name, file, with_header(WHOLE[name][file], header))


@every_reader
def test_a_name_that_is_there_twice(name):
    file = READERS[name].files[0]
    header = header_of(WHOLE[name][file])
    one = next(key for key in header if key != "__metadata__")
    text = json.dumps(header)
    twice = f"{{{json.dumps(one)}: {json.dumps(header[one])}, {text[1:]}".encode()
    assert not checked(name, file, with_header(WHOLE[name][file], twice))


@every_reader
def test_missing_and_additional_arrays_wrong_types_and_shapes(name):
    file = READERS[name].files[0]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / file
        path.write_bytes(WHOLE[name][file])
        like = {
            key: np.empty(about["shape"], {"F32": "float32"}[about["dtype"]])
            for key, about in header_of(WHOLE[name][file]).items()
            if key != "__metadata__"
        }
        with Safetensors(path) as whole:
            arrays, metadata = read_arrays(whole, like), whole.metadata
        metadata.pop("sha256")
        first, *others = arrays
        for wrong in (
            {},
            {key: arrays[key] for key in others},
            arrays | {"another": np.zeros(2, "float32")},
            arrays | {first: arrays[first].astype("float64")},
            arrays | {first: arrays[first].astype("float16")},
            arrays | {first: arrays[first][None]},
            arrays | {first: np.concatenate([arrays[first], arrays[first]])},
            {key.upper(): a for key, a in arrays.items()},
        ):
            write_arrays(path, wrong, metadata)
            assert not checked(name, file, path.read_bytes())


@every_reader
@swift
@given(st.data())
def test_configurations_of_wrong_types(name, data):
    """With a checksum that is right: somebody wrote it so."""
    key = {"Checkpoint": "run"}.get(name, "config")
    file, whole = READERS[name].files[0], WHOLE[name]
    header = header_of(whole[file])
    config = json.loads(header["__metadata__"][key])
    kind = data.draw(st.sampled_from(["replace", "inside", "drop", "more", "another", "text"]))
    some = data.draw(st.sampled_from(sorted(config)))
    if kind == "inside" and isinstance(config[some], dict) and config[some]:
        config[some][data.draw(st.sampled_from(sorted(config[some])))] = data.draw(json_values)
    elif kind in ("replace", "inside"):
        config[some] = data.draw(json_values)
    elif kind == "drop":
        del config[some]
    elif kind == "more":
        config[data.draw(st.text(max_size=8))] = data.draw(json_values)
    text = json.dumps(data.draw(json_values) if kind == "another" else config)
    header["__metadata__"][key] = data.draw(st.text()) if kind == "text" else text
    del header["__metadata__"]["sha256"]
    contents = {file: with_header(whole[file], header)}
    if name != "Checkpoint":
        contents[READERS[name].files[1]] = text.encode()
    read(name, contents)  # it may be a configuration that makes sense


@pytest.mark.parametrize("name", ["Model", "Adapter"])
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"nonsense",
        b"\xff\xfe\x00",
        b"[1, 2]",
        b"null",
        b"NaN",
        b"[" * 100_000,
        b'{"a": ' * 100_000,
        b"1" * 10_000,
        b'{"vocab": 7, "vocab": 7}',
        b'{"r": 1',
    ],
)
def test_a_config_that_is_no_json_object(name, content):
    assert not checked(name, READERS[name].files[1], content)


@every_reader
def test_what_the_file_says_itself_goes_before_the_json_beside_it(name):
    for file in READERS[name].files[1:]:
        assert checked(name, file, b"{}")


@every_reader
def test_pickles_are_never_opened(name, tmp_path):
    class Bomb:
        def __reduce__(self):
            return Path.touch, (tmp_path / "exploded",)

    bombs = [pickle.dumps(Bomb(), protocol) for protocol in range(6)]
    for file in READERS[name].files:
        for bomb in bombs:
            assert not checked(name, file, bomb)
    assert not (tmp_path / "exploded").exists()
    pickle.loads(bombs[0])
    assert (tmp_path / "exploded").exists()  # so they were live


def test_nothing_in_the_package_can_run_what_it_reads():
    calls = {"eval", "exec", "compile", "__import__", "loads", "load", "fromfile", "memmap"}
    allowed = {("files", "loads"), ("quantize", "compile"), ("__main__", "import_module")}
    # `minipeft mark` runs submissions, in a process of their own
    allowed |= {("worker", "compile"), ("worker", "exec")}
    for path in Path(mp.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                called = getattr(node.func, "attr", getattr(node.func, "id", ""))
                owner = getattr(getattr(node.func, "value", None), "id", "")
                if called in calls and owner not in ("json", "re"):
                    assert (path.stem, called) in allowed, f"{path.name}:{node.lineno} {called}"
            if isinstance(node, ast.keyword):
                assert node.arg != "allow_pickle", path.name


@every_reader
def test_empty_files_and_folders_and_nothing_in_place_of_files(name, tmp_path):
    reader = READERS[name]
    for file in reader.files:
        assert not checked(name, file, b"")
        for place in ("folder", "nothing"):
            there = tmp_path / f"{file}-{place}"
            reader.save(there)
            (there / file).unlink()
            if place == "folder":
                (there / file).mkdir()
            elif name == "Checkpoint":
                continue  # a new run begins
            net = tuned()
            before = state(net)
            with pytest.raises((ValueError, OSError), match=file):
                reader.load(net, there)
            assert state(net) == before


@pytest.mark.parametrize("what", ["write", "fsync", "replace", "open"])
def test_a_write_that_fails_leaves_the_file_whole_and_nothing_beside(
    what, tmp_path, monkeypatch
):
    path = tmp_path / "some.json"
    write_json(path, {"old": 1})

    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    if what in ("fsync", "replace"):
        monkeypatch.setattr(f"os.{what}", fail)
    elif what == "open":
        monkeypatch.setattr("os.open", fail)
    with pytest.raises((OSError, TypeError)):
        write_bytes(path, object() if what == "write" else b"new")
    monkeypatch.undo()
    assert json.loads(path.read_text()) == {"old": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["some.json"]


def full(real, name, flags, mode=0o666):
    """`os.open`, except that what is written goes to a device that is always full."""
    number = real(name, flags, mode)
    if flags & os.O_CREAT:
        os.dup2(real("/dev/full", os.O_WRONLY), number)
    return number


def test_a_full_disk(tmp_path, monkeypatch):
    """Writing to a device that is always full, in place of a file beside."""
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    path = tmp_path / "some.json"
    write_json(path, {"old": 1})
    real = os.open
    monkeypatch.setattr("os.open", lambda name, *how: full(real, name, *how))
    with pytest.raises(OSError, match="space"):
        write_bytes(path, b"new" * 100_000)
    monkeypatch.undo()
    assert json.loads(path.read_text()) == {"old": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["some.json"]


def test_what_a_killed_process_left_is_ignored_and_removed_an_hour_later(tmp_path):
    mp.save_model(tuned(), tmp_path)
    path = tmp_path / "model.safetensors"
    old, fresh, other = (
        tmp_path / f".{name}.1.tmp"
        for name in (path.name, "model.safetensors.2", "config.json")
    )
    for left in (old, fresh, other):
        left.write_bytes(b"half")
    hour_ago = os.stat(path).st_mtime - 4000
    os.utime(old, (hour_ago, hour_ago))
    mp.load_model(tmp_path)
    write_bytes(path, path.read_bytes())
    assert not old.exists() and fresh.exists() and other.exists()


def test_a_refused_write_leaves_no_folder(tmp_path):
    def parts():
        yield b"half"
        raise ValueError("no luck")

    with pytest.raises(ValueError, match="no luck"):
        write_parts(tmp_path / "a" / "b" / "x", parts())
    assert not list(tmp_path.iterdir())
    (tmp_path / "a").mkdir()  # which somebody else made stays
    with pytest.raises(ValueError, match="no luck"):
        write_parts(tmp_path / "a" / "b" / "x", parts())
    assert [p.name for p in tmp_path.rglob("*")] == ["a"]


def test_to_check_a_place_creates_nothing(tmp_path):
    check_writable(tmp_path / "a" / "b" / "x", tmp_path / "y")
    assert not list(tmp_path.iterdir())
    (tmp_path / "y").write_bytes(b"")
    for bad in (tmp_path, tmp_path / "y" / "b" / "x"):
        with pytest.raises(OSError, match="cannot be written"):
            check_writable(bad)
    assert [p.name for p in tmp_path.iterdir()] == ["y"]
