"""Laws of two adapters, of what comes after an operation, and of one that fails."""

import contextlib
import contextvars
import copy
import sys
import tempfile
from pathlib import Path

import minipeft as mp
from failing_memory import failing_memory
from laws.case import bits, close, logits, same, shake, sites
from minipeft.engine.backend import np, to_numpy
from minipeft.peft.base import adapters, in_use

PACKAGE = str(Path(mp.__file__).parent)


def law_18_two_adapters_leave_each_other_right(case):
    """Merging, unmerging, detaching, disabling or choosing rows changes no other adapter.

    What would is refused, and then changes nothing. The second method is drawn by the seed.
    """
    others = list(mp.METHODS)
    check_pair(case, mp.METHODS[others[case.seed % len(others)]]())


def check_pair(case, other):
    """Law 18 for the method of a case, 'a', below another, 'b'."""
    try:
        net, ids = pair(case, other)
    except ValueError:  # the second does not fit so small a model, or not beside the first
        return
    attached, before = logits(net, ids), state(net)
    with mp.disabled(net):
        same(logits(net, ids), logits(case.base(), ids), "logits of the base, disabled")
    assert state(net) == before, "disabling changed something"
    for name in "ab":
        merged_beside_another(net, name, ids, attached)
    rows_of_two(net, ids)
    for name, left in ("ab", "ba"):
        one = copy.deepcopy(net)
        mp.detach(one, name)
        for either in (one, net):
            mp.use(either, left)
        same(logits(one, ids), logits(net, ids), f"logits of {left!r} after detaching")


def pair(case, other):
    """(model, ids): two methods in use, the first innermost, all they train made random."""
    net, _ = case.attached("a")
    shake(mp.attach(net, other, "b", rng=case.seed + 1), case.seed + 1)
    with contextlib.suppress(ValueError):  # those that replace the same parameters
        mp.use(net, ["a", "b"])
    return net, case.batch()[0]


def merged_beside_another(net, name, ids, attached):
    """Merge one of two: the logits stay, or it is refused. Unmerge it: every bit is back."""
    before, (other,) = state(net), {*"ab"} - {name}
    used = [n for n in in_use(net) if n != name]
    wanted = attached
    if name not in in_use(net):  # then merging adds it, below the others
        with_it = copy.deepcopy(net)
        try:
            mp.use(with_it, [name, *used])
        except ValueError:
            return
        wanted = logits(with_it, ids)
    try:
        receipt = mp.merge(net, name)
    except ValueError:
        assert state(net) == before, "a refused merge changed something"
        return
    close(logits(net, ids), wanted, 1e-11, f"logits after merging {name!r}")
    mp.use(net, other)
    with tempfile.TemporaryDirectory() as folder:
        mp.save_adapter(net, other, folder)
        fresh = copy.deepcopy(net)
        mp.detach(fresh, other)
        mp.load_adapter(fresh, folder, other)
        same(logits(fresh, ids), logits(net, ids), f"{other!r} reloaded after a merge")
    mp.use(net, used)
    mp.unmerge(receipt)
    assert state(net) == before, "unmerging did not restore every bit"


def rows_of_two(net, ids):
    """Each row gets what it gets alone; merging an adapter of some rows is refused."""
    alone = {}
    for name in ("a", "b", None):
        mp.use(net, name)
        alone[name] = logits(net, ids)
    rows = ["a", None, "b"][: len(ids)]
    try:
        mp.use(net, rows=rows)
    except ValueError:
        return
    for i, name in enumerate(rows):
        close(logits(net, ids)[i], alone[name][i], 1e-11, f"row {i}, which uses {name!r}")
    before = state(net)
    for name in in_use(net):
        try:
            mp.merge(net, name)
        except ValueError:
            assert state(net) == before, "a refused merge changed something"
        else:
            raise AssertionError("an adapter of some rows was merged into all")


def state(net):
    """All that a model is: its bits, adapters, what is in use where, and what trains."""
    return {
        "base": bits(net),
        "adapters": {
            name: {path: to_numpy(p.data).tobytes() for path, p in a.named_parameters()}
            for name, a in adapters(net).items()
        },
        "used": list(in_use(net)),
        "rows": [None if rows is None else list(rows) for rows in in_use(net).values()],
        "trains": {path for path, p in net.named_parameters() if p.requires_grad},
        "sites": [
            (sorted(s.deltas), [named(s, delta) for delta, _ in s.active]) for s in sites(net)
        ],
        "tied": net.config.tied,
    }


def named(site, delta):
    """The name under which a change is at its site."""
    return next(name for name, each in site.deltas.items() if each is delta)


def law_21_what_fails_changes_nothing(case):
    """Ctrl-C at any line of an operation leaves the model as it was, and it can be done again.

    The lines are drawn by the seed.
    """
    for operation in OPERATIONS:
        start = operation(case)
        if start is None:
            continue
        work, net = start()
        lines = count_lines(work)
        after = state(net)
        for line in np.random.default_rng(case.seed).integers(1, lines + 1, 1):
            fails_cleanly(start, int(line), after)


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


OPERATIONS = (
    attaching,
    detaching,
    switching_off_and_on,
    switching_over,
    merging,
    unmerging,
    copying,
    loading,
)
