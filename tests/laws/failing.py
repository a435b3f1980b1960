"""The law of operations that fail, and the operations that it interrupts."""

import contextvars
import sys
import tempfile
from pathlib import Path

import minipeft as mp
from failing_memory import failing_memory
from laws.several import state
from minipeft.engine.backend import np
from minipeft.model.gradient_checkpointing import recomputing

PACKAGE = str(Path(mp.__file__).parent)


def law_21_what_fails_changes_nothing(case):
    """Ctrl-C at any line of an operation leaves the model as it was, and it can be done again.

    The lines are drawn by the seed.
    """
    for _, start, lines, after in beginnings(case):
        for line in np.random.default_rng(case.seed).integers(1, lines + 1, 1):
            fails_cleanly(start, int(line), after)


def beginnings(case):
    """Yields (operation, function that begins it, its lines, the state after it)."""
    for operation in OPERATIONS:
        start = operation(case)
        if start is None:
            continue
        work, net = start()
        lines = count_lines(work)
        yield operation, start, lines, state(net)


def fails_cleanly(start, number, after, kind="line"):
    """Let one operation fail: all is as before; done again, all is as it should be."""
    work, net = start()
    before = state(net)
    if (interrupted if kind == "line" else starved)(work, number):
        found = state(net)
        changed = [key for key in before if found[key] != before[key]]
        assert not changed, f"failed at {kind} {number}, it has changed {changed}"
        work()
    assert state(net) == after, f"done again after {kind} {number}, it gave something else"


def starved(work, number):
    """Whether a work got MemoryError when its so many-th array was refused memory."""
    memory = failing_memory()
    memory.fail_at(number)
    try:
        work()
    except MemoryError:
        return True
    finally:
        memory.count()
    return False


def allocations(start):
    """How many arrays an operation makes; 0 where that cannot be counted."""
    memory = failing_memory()
    if memory is None:
        return 0
    work, _ = start()
    memory.fail_at(0)
    work()
    return memory.count()


def interrupted(work, line):
    """Whether KeyboardInterrupt could be raised at so many lines of the package into a work."""
    seen = 0

    def trace(frame, event, _):
        nonlocal seen
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        seen += event == "line"
        if event == "line" and seen == line:
            raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        contextvars.copy_context().run(work)  # for `dtype` may be cut short as well
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)
        interrupted.seen = seen
    return False


def count_lines(work):
    """How many lines of the package a work runs."""
    interrupted(work, 0)
    return interrupted.seen


# Each of these takes a Case and returns None, or a function that sets up the same model again
# and returns (what to do with it, the model).


def attaching(case):
    def start():
        net = case.base()
        return lambda: mp.attach(net, case.method, "a", rng=1), net

    return start


def detaching(case):
    def start():
        net, _ = case.attached()
        return lambda: mp.detach(net, "a"), net

    return start


def switching_off_and_on(case):
    def start():
        net, _ = case.attached()

        def work():
            with mp.disabled(net):
                pass

        return work, net

    return start


def switching_over(case):
    def start():
        net, _ = case.attached()
        mp.attach(net, case.method, "b")
        return lambda: mp.use(net, "a"), net

    return start


def merging(case):
    def start():
        net, _ = case.attached()
        return lambda: mp.merge(net, "a"), net

    return start if case.method.mergeable else None


def unmerging(case):
    def start():
        net, _ = case.attached()
        receipt = mp.merge(net, "a")
        return lambda: mp.unmerge(receipt), net

    return start if case.method.mergeable else None


def copying(case):
    def start():
        net, _ = case.attached()
        return lambda: mp.combine(net, ["a"], [1.0], name="b"), net

    return start


def loading(case):
    folder = tempfile.TemporaryDirectory()
    mp.save_adapter(case.attached()[0], "a", folder.name)

    def start(folder=folder):
        net = case.base()
        return lambda: mp.load_adapter(net, folder.name, "a"), net

    return start


def quantizing(case):
    def start():
        net = case.base()
        return lambda: mp.quantize(net, block=4), net

    return start if case.method.name == "lora" else None


def dequantizing(case):
    def start():
        net = case.base()
        mp.quantize(net, block=4)
        return lambda: mp.dequantize(net), net

    return start if case.method.name == "lora" else None


def correcting(case):
    def start():
        net = case.base()
        return lambda: mp.loftq(net, mp.LoRA(1), block=4), net

    return start if case.method.name == "lora" else None


def importing(case):
    folder = tempfile.TemporaryDirectory()
    try:
        mp.export_adapter(case.attached()[0], "a", folder.name)
    except ValueError:  # HF PEFT does not have it
        return None

    def start(folder=folder):
        net = case.base()
        return lambda: mp.import_adapter(net, folder.name, "a"), net

    return start


def checkpointing(case):
    def start():
        net, _ = case.attached()

        def work():
            with recomputing(net):
                pass

        return work, net

    return start if case.method.name == "lora" else None


OPERATIONS = (
    attaching,
    detaching,
    switching_off_and_on,
    switching_over,
    merging,
    unmerging,
    copying,
    loading,
    quantizing,
    dequantizing,
    correcting,
    importing,
    checkpointing,
)
