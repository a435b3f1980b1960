"""Files: written atomically, read once, and locked while somebody goes on writing them.

A file is written under a temporary name and then renamed, so that at any time there is either
the old file or the new one, never half of one. What is read has been checked: a safetensors
file carries a checksum of all its content, and the configuration that belongs to its arrays.
"""

import contextlib
import glob
import json
import os
import secrets
import stat
import tempfile
import time
from collections import Counter
from pathlib import Path

from ..errors import Refusal

try:
    import fcntl
except ImportError:  # on Windows, where nothing is locked
    fcntl = None

STALE = 3600  # seconds after which a temporary file belongs to a process that was killed
LONGEST = 16_000_000  # bytes of a JSON file


def write_bytes(path, content):
    """Write a file atomically: afterwards it has all of the new content, or the old one.

    Raises OSError, which names the file, if it cannot be written.
    """
    write_parts(path, [content])


def write_parts(path, parts):
    """Write the parts of a file, bytes or arrays, one after the other, as `write_bytes` does.

    The file keeps its permissions, and a link stays a link. Temporary files that killed
    processes left, older than an hour, are removed.
    """
    path = Path(os.path.realpath(as_path(path)))
    with writing(path):
        remove_stale(path)
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
        only_new = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)
        number = os.open(temporary, only_new | getattr(os, "O_BINARY", 0), 0o666)
        try:
            with open(number, "wb") as file:
                if path.exists() and hasattr(os, "fchmod"):
                    os.fchmod(number, stat.S_IMODE(path.stat().st_mode))
                for part in parts:
                    file.write(part)
                file.flush()
                os.fsync(number)
            os.replace(temporary, path)
            sync(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def remove_stale(path):
    """Remove old temporary files of a file."""
    for old in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        with contextlib.suppress(OSError):  # another process removed it first
            if time.time() - old.lstat().st_mtime > STALE:
                old.unlink()


def sync(folder):
    """Make sure that the names in a folder are on the disk; not every system can."""
    with contextlib.suppress(OSError):
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


@contextlib.contextmanager
def named(path):
    """Inside the block, an OSError names the file to be written, and says what to do."""
    try:
        yield
    except OSError as error:
        text = f"{path} cannot be written ({error}); make room, or give another place"
        raise type(error)(text) from None


@contextlib.contextmanager
def writing(path):
    """Create the file's folder; inside the block, errors are `named`.

    After an error, no folder stays that was created for the file and is empty.
    """
    with named(path):
        new = [folder for folder in path.parents if not folder.exists()]  # innermost first
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            yield
        except BaseException:
            for folder in new:
                with contextlib.suppress(OSError):
                    folder.rmdir()
            raise


def as_path(path):
    """Returns a Path, with ~ for the home folder."""
    return Path(os.path.expanduser(path))


def check_writable(*paths):
    """Raises OSError if any of the files could not be written: to know before a long run.

    Nothing is created: where its folder is missing, the nearest one above is tried.
    """
    for path in map(as_path, paths):
        with named(path):
            there = next(folder for folder in path.parents if folder.exists())
            tempfile.TemporaryFile(dir=there).close()
            if path.is_dir():
                raise IsADirectoryError("a folder of that name is there")


@contextlib.contextmanager
def locked(path):
    """Inside the block nobody else can lock this path: for what is read, then written again.

    The lock is a file beside it, and ends with the process at the latest. Raises OSError, with
    who holds it, if somebody does. Without file locks (on Windows) it does nothing.
    """
    path = Path(os.path.realpath(as_path(path)))
    lock = path.with_name(f".{path.name}.lock")
    if not fcntl:
        yield
        return
    with writing(path):
        file = lock.open("a+")
    with file:
        claim(file, lock, path)
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)
            fcntl.flock(file, fcntl.LOCK_UN)


def claim(file, lock, path):
    """Lock a lock file and write into it who holds it; raises OSError if somebody does."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not lock.exists() or not os.path.samestat(os.fstat(file.fileno()), lock.stat()):
            raise BlockingIOError  # its holder has just given it up, and removed it
    except BlockingIOError:
        file.seek(0)
        holder = file.read().strip() or "another process"
        raise OSError(
            f"{path} is being written by {holder}; wait for it, or give another place"
        ) from None
    file.truncate(0)
    file.write(f"process {os.getpid()} on {os.uname().nodename}")
    file.flush()


def opened(path, kind):
    """Returns a file, opened for reading bytes; FileNotFoundError says what was expected."""
    path = as_path(path)
    if not path.is_file():  # a pipe would block
        raise FileNotFoundError(f"there is no file {path}; expected a {kind}")
    return path.open("rb")


def write_json(path, values):
    """Write a JSON object atomically, with sorted keys and indented."""
    write_bytes(path, json_text(values))


def json_text(values):
    """Returns the bytes of a JSON file."""
    return (json.dumps(values, indent=2, sort_keys=True) + "\n").encode()


def read_json(path):
    """Returns the JSON object in a file.

    Raises ValueError if it holds anything else, and FileNotFoundError if there is none.
    """
    return json_object(read_text(path), path)


def read_text(path, longest=LONGEST):
    """Returns the bytes of a JSON file; raises ValueError for one that is too long."""
    with opened(path, "JSON object in it") as file:
        size = os.fstat(file.fileno()).st_size
        if size > longest:
            raise ValueError(f"{path} has {size:,} bytes; expected a JSON object, far shorter")
        return file.read(size)


def json_object(text, path):
    """Returns the JSON object in a text; raises ValueError, with the path, for anything else.

    A key that is there twice is an error too: Python would silently take the second.
    """

    def unique(pairs):
        values = dict(pairs)
        if len(values) < len(pairs):
            twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
            raise ValueError(f"{twice!r} is there twice")
        return values

    try:
        values = json.loads(text, object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON ({error}); save it again") from None
    if not isinstance(values, dict):
        raise ValueError(
            f"{path} holds no JSON object but a {type(values).__name__}; save it again"
        )
    return values


@contextlib.contextmanager
def error_context(path):
    """Inside the block, an error about a file's content becomes a ValueError that names it.

    It says to save the file again, except for a Refusal, which says itself what to do.
    """
    try:
        yield
    except Refusal as error:
        raise Refusal(f"{path}: {error}") from None
    except (ValueError, TypeError, AttributeError, KeyError, OverflowError) as error:
        text = f"{path}: {error}; save it again, or give the folder of another"
        raise ValueError(text) from None
