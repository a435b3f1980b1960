"""Workers: the same answers in order, one copy of the weights, and nothing left behind."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from threadpoolctl import threadpool_info

import minipeft as mp
from minipeft.engine.backend import np, to_numpy, xp
from minipeft.model.layers import Parameter
from minipeft.train.batch_gradient import accumulate
from minipeft.train.data_parallel import (
    CAN_FORK,
    may_fork,
    parallel_map,
    process_map,
    thread_map,
    to_shared_memory,
)

KINDS = [process_map, thread_map] if CAN_FORK else [thread_map]
forking = pytest.mark.skipif(
    not CAN_FORK, reason="processes are copied on Linux and NumPy only"
)


def weights():
    """Two parameters, (2, 3) and without axes."""
    return [Parameter(np.arange(6.0).reshape(2, 3)), Parameter(np.array(2.0))]


def times(trained):
    """A reader of parts (factor,): the loss is factor · Σ of all weights."""

    def read(part):
        found = {p.node: p.data * 0 + part[0] for p in trained}
        return sum((part[0] * p.data).sum() for p in trained), found

    return read


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_results_come_in_order_of_the_parts(workers):
    trained = weights()
    with parallel_map(times(trained), trained, workers) as each:
        seen = [
            (float(loss), *(float(g.sum()) for g in found.values()))
            for loss, found in each([(i,) for i in range(7)])
        ]
    assert seen == [(17.0 * i, 6.0 * i, 1.0 * i) for i in range(7)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_change_in_place_is_seen_by_all_and_stays(kind):
    trained = weights()
    arrays = [p.data for p in trained]
    with kind(times(trained), trained, 2) as each:
        for step in range(3):
            losses = [float(loss) for loss, _ in each([(1,), (1,)])]
            assert losses == [17.0 + 7 * step] * 2
            for p in trained:
                p.data[...] += 1.0
    assert all(p.data is a for p, a in zip(trained, arrays, strict=True))
    assert float(arrays[0].sum() + arrays[1]) == 17 + 21


@pytest.mark.parametrize("kind", KINDS)
def test_a_sum_may_begin_with_any_part(kind):
    trained = weights()

    def read(part):  # only some of the parts reach a gradient
        found = {p.node: p.data * 0 + part[0] for p in trained} if part[0] > 1 else {}
        return np.zeros(()), found

    sums = {}
    with kind(read, trained, 2) as each:
        for _, found in each([(n,) for n in (0, 10, 1, 100)]):
            accumulate(found, sums)
    assert [float(sums[p.node].max()) for p in trained] == [110.0] * 2


def test_of_two_threads_the_second_waits_and_blas_is_left_as_it_was():
    before, seen = threadpool_info(), []

    def train():
        trained = weights()
        with parallel_map(times(trained), trained, 2) as each:
            seen.append("begin")
            assert sum(float(loss) for loss, _ in each([(1,), (1,)])) == 34
            seen.append("end")

    pair = [threading.Thread(target=train) for _ in range(2)]
    for thread in pair:
        thread.start()
    for thread in pair:
        thread.join()
    assert seen == ["begin", "end"] * 2
    assert threadpool_info() == before


@forking
def test_parameters_are_back_whatever_fails(monkeypatch):
    trained, made = weights(), []
    arrays = [p.data for p in trained]

    def fail(a):
        made.append(a)
        if len(made) > 1:
            raise MemoryError("no room")
        return to_shared_memory(a)

    monkeypatch.setattr("minipeft.train.data_parallel.to_shared_memory", fail)
    with pytest.raises(MemoryError), process_map(times(trained), trained, 2):
        pass
    assert all(p.data is a for p, a in zip(trained, arrays, strict=True))


def test_arrays_and_json_values_arrive_as_they_were():
    ids, trained = np.arange(6).reshape(2, 3).T, weights()

    def read(part):
        a, b, seed = part
        same = (a == ids).all() and b.shape == (0, 2) and tuple(seed or (4, [5])) == (4, [5])
        return xp.asarray(float(same)), {}

    with parallel_map(read, trained, 2) as each:
        parts = [(ids, ids[:0, :2], (4, [5])), (ids, ids[:0, :2], None)]
        assert [float(loss) for loss, found in each([*parts, *parts])] == [1.0] * 4


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("where", [0, 1])
@pytest.mark.parametrize("error", [ValueError, MemoryError, RuntimeError])
def test_a_failing_part_is_heard(kind, where, error):
    def fail(part):
        if part[0] == where:
            raise error(f"part {where}")
        return np.array(float(part[0])), {}

    trained = weights()
    with kind(fail, trained, 2) as each:
        with pytest.raises(error, match=f"part {where}"):
            list(each([(0,), (1,)]))
        assert [float(loss) for loss, _ in each([(2,), (3,)])] == [2.0, 3.0]
    assert float(trained[0].data.sum()) == 15


@forking
def test_a_worker_that_is_killed_is_reported():
    def die(part):
        if part[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        return np.zeros(()), {}

    with process_map(die, weights(), 2) as each:
        for _ in range(2):  # while it reads, and before it is sent another part
            with pytest.raises(ChildProcessError, match="code -9"):
                list(each([(0,), (1,)]))


def test_a_bad_id_is_the_same_error_for_any_worker():
    class Bad:
        def __len__(self):
            return 4

        def batch(self, step, size, seed):
            ids = np.zeros((4, 3), int)
            ids[3, 2] = 99
            return ids, ids % 5

    for workers in (1, 2):
        net = mp.Transformer(mp.Config.gpt2(vocab=5, context=4, width=4, layers=1, heads=1), 0)
        before = to_numpy(net.wte.weight.data).copy()
        with pytest.raises(ValueError, match="99"):
            mp.fit(net, Bad(), steps=1, workers=workers)
        assert (to_numpy(net.wte.weight.data) == before).all()


def endless(folder):
    """What a child does: it writes down its worker, and waits to be killed."""

    def read(part):
        if part[0]:
            Path(folder, "worker").write_text(str(os.getpid()), encoding="ascii")
        return np.zeros(()), {}

    with process_map(read, weights(), 3) as each:
        list(each([(0,), (0,), (1,)]))
        print("begun", flush=True)
        time.sleep(60)


@forking
def test_no_worker_outlives_a_killed_process(tmp_path):
    how = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    child = subprocess.Popen([sys.executable, __file__, str(tmp_path)], **how)
    assert child.stdout.readline() == "begun\n"
    worker = Path(f"/proc/{(tmp_path / 'worker').read_text(encoding='ascii')}")
    assert worker.is_dir()
    child.kill()
    child.wait()
    child.stdout.close()
    deadline = time.monotonic() + 20
    while worker.is_dir() and "Z" not in (worker / "stat").read_text().split()[2]:
        assert time.monotonic() < deadline, "the worker is still there"
        time.sleep(0.05)
    assert child.stderr.read() == ""  # and it says nothing
    child.stderr.close()


if __name__ == "__main__":
    endless(sys.argv[1])


def test_no_copy_is_made_beside_a_thread_that_may_multiply():
    """To copy itself BLAS would wait for that thread, and that thread for the copy."""
    done = threading.Event()
    busy = threading.Thread(target=done.wait)
    alone = may_fork()
    busy.start()
    try:
        assert not may_fork()
        trained = weights()
        with parallel_map(times(trained), trained, 2) as each:
            assert [float(loss) for loss, _ in each([(i,) for i in range(3)])] == [0, 17, 34]
    finally:
        done.set()
        busy.join()
    assert may_fork() == alone


class FromJupyter(threading.Thread):
    """A thread such as Jupyter has many of, all of which only wait."""


FromJupyter.__module__ = "ipykernel.iostream"


@forking
def test_threads_that_only_wait_do_not_matter():
    done, alone = threading.Event(), may_fork()
    waiting = FromJupyter(target=done.wait)
    waiting.start()
    assert may_fork() == alone
    done.set()
    waiting.join()


ENDLESS = """
import minipeft as mp
net = mp.load_base()
mp.attach(net, mp.LoRA(r=1))
print("ready", flush=True)
mp.fit(net, mp.Task("gerund"), steps=10**6, batch_size=4, workers=2, label=None)
"""


@forking
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_workers_end_with_a_killed_parent(how):
    parent = subprocess.Popen([sys.executable, "-c", ENDLESS], stdout=subprocess.PIPE)
    parent.stdout.readline()
    children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children")
    while not (started := children.read_text().split()):
        assert parent.poll() is None
    parent.send_signal(how)
    parent.communicate()
    end = time.monotonic() + 5
    while any(Path(f"/proc/{pid}").exists() for pid in started) and time.monotonic() < end:
        time.sleep(0.02)
    assert not any(Path(f"/proc/{pid}").exists() for pid in started)
