"""Whether a model has room in memory: told before it is read, by the ledger's numbers."""

import os
import sys

from ..engine.backend import np, xp
from ..io.pretrained import bytes_of
from .ledger import ledger

try:
    import resource
except ImportError:  # on Windows, which has no such limits
    resource = None

BITS = {"int8": 8, "int4": 4, "nf4": 4, "file": 4}  # of the base, for the ledger


def memory_of_machine():
    """Returns the bytes that this process may have, or None where that cannot be known.

    That is the machine's memory, or less where `ulimit -v` sets a limit.
    """
    try:
        page = os.sysconf("SC_PAGE_SIZE")
        found = page * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
    limit = resource.getrlimit(resource.RLIMIT_AS)[0] if resource else -1
    if resource and limit != resource.RLIM_INFINITY:
        found = min(found, max(0, limit - page * pages_in_use()))
    return found


def pages_in_use():
    """Returns how many pages of addresses this process has, 0 where that cannot be known."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[0])
    except (OSError, ValueError, IndexError):
        return 0


def bytes_to_train(config, method, rows, tokens, bits=None, recompute=False):
    """Returns the ledger's bytes of a step of rows × tokens, with what `fit` keeps beside."""
    how = dict(batch=rows, seq=tokens, base_bits=BITS.get(bits), recompute=recompute)
    step = ledger(config, method, **how)
    return step.total + sum(step.beside.values())


def free_memory():
    """Returns `memory_of_machine`, or None on a GPU, which has memory of another kind."""
    return memory_of_machine() if xp is np else None


def check_room(needed, what, advice):
    """Raises ValueError if something needs more bytes than there are."""
    there = free_memory()
    if there is not None and needed > there:
        raise ValueError(
            f"{what} needs about {gigabytes(needed)}, and there are {gigabytes(there)} of "
            f"memory; {advice}"
        )


def check_room_to_read(path, bits=None):
    """Raises ValueError if a model is larger than memory; bits: as in `load_chat`."""
    advice = "take a smaller model, or one in a GGUF file of Q4_0 or Q4_1 with --quantize file"
    check_room(bytes_of(path, bits == "file"), f"the model {path}", advice)


def check_room_to_train(config, method, rows, tokens, bits=None, recompute=False):
    """Raises ValueError, with options that help, if a training step is larger than memory."""
    there, asked = free_memory(), dict(rows=rows, tokens=tokens, bits=bits, recompute=recompute)

    def fits(**changed):
        return bytes_to_train(config, method, **asked | changed) <= there

    if there is None or fits():
        return
    halves = (rows >> n for n in range(1, rows.bit_length()))
    batch = next((n for n in halves if fits(rows=n)), None)
    ways = ["--recompute"] if fits(recompute=True) else []
    ways += ["--quantize nf4"] if fits(bits="nf4") else []
    ways += [f"--batch {batch}"] if batch else []
    if not ways and fits(rows=1, recompute=True):
        ways = ["--recompute with --batch 1"]
    advice = f"give {' or '.join(ways)}" if ways else "take a smaller model or shorter lines"
    what = f"a step of {method.name} on {rows} conversations of {tokens:,} tokens"
    check_room(bytes_to_train(config, method, **asked), what, advice)


def where_memory_allows(methods, config, rows, tokens, bits=None, jobs=1):
    """Returns the {name: method} that the machine has enough memory for, side by side.

    It says on standard error which it leaves out. Raises ValueError if that is all of them.
    """
    there = free_memory()
    if there is None:
        return methods
    needed = {
        name: jobs * bytes_to_train(config, method, rows, tokens, bits)
        for name, method in methods.items()
    }
    large = [name for name in methods if needed[name] > there]
    if len(large) == len(methods):
        least = min(needed, key=needed.get)
        check_room(needed[least], f"{least}, which needs least,", "give a smaller --batch")
    for name in large:
        print(
            f"left out: {name} needs about {gigabytes(needed[name])}, and there are "
            f"{gigabytes(there)} of memory",
            file=sys.stderr,
        )
    return {name: method for name, method in methods.items() if name not in large}


def gigabytes(n):
    """Returns a number of bytes as text, with as many digits as are of use."""
    return f"{n / 1e9:.1f} GB" if n >= 1e8 else f"{n / 1e6:.1f} MB"
