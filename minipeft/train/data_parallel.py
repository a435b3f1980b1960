"""Processes that read the parts of a batch side by side: data parallelism in a page.

    this process   part 0 ──────── its gradients ──────┬── their sum, one update of the weights
    a worker       part 1 ── its gradients, in shared ─┘   (shared: the worker sees it at once)
                             memory

NumPy computes elementwise on one core. Two threads would use two, but each op of either has to
take Python's lock in turn. A process has a lock of its own. It starts as a copy of this one
(`fork`), so the model need not be sent; then a part goes to it as bytes, and its answer is the
loss: no pickle either way.
"""

import contextlib
import json
import mmap
import signal
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from multiprocessing import current_process, get_context

from threadpoolctl import threadpool_limits

from ..engine.backend import np, xp

KNOWN = {kind.__name__: kind for kind in (ValueError, TypeError, IndexError, MemoryError)}
FORKS = sys.platform == "linux" and xp is np  # elsewhere BLAS or a GPU may not survive it
ONE_BLAS_THREAD = threading.RLock()  # BLAS's threads are counted for the whole process


@contextlib.contextmanager
def side_by_side(read, trained, workers):
    """A `map` of parts by `read`, on so many processes with one BLAS thread each.

    `read` gives (loss, {leaf: gradient}) of a part; `trained` are the parameters that change
    meanwhile, and only in place. Results come in the order of the parts; what `read` raises, on
    whichever process, is raised here. Where a process cannot be copied, on macOS, Windows or a
    GPU, or in a process that may have no children, threads do the same.
    Of threads that come here, the second waits until the first is done.
    """
    if workers == 1:
        yield partial(map, read)
        return
    crew = processes if FORKS and not current_process().daemon else threads
    with ONE_BLAS_THREAD, threadpool_limits(1, "blas"), crew(read, trained, workers) as each:
        yield each


@contextlib.contextmanager
def threads(read, trained, workers):
    """A `map` by `read` on threads."""
    with ThreadPoolExecutor(workers) as pool:

        def each(parts):
            contexts = [copy_context() for _ in parts]  # the dtype, and whether to record
            return pool.map(lambda context, part: context.run(read, part), contexts, parts)

        yield each


@contextlib.contextmanager
def processes(read, trained, workers):
    """A `map` by `read` on this process and workers - 1 others.

    Meanwhile the parameters are in shared memory; afterwards they are back in their own.
    """
    own, crew = [p.data for p in trained], []
    try:
        for p in trained:
            p.data = shared(p.data)
        for _ in range(1, workers):
            crew.append(Worker(read, trained))
        yield partial(read_in_turns, read, crew)
    finally:
        for p, a in zip(trained, own, strict=True):
            if p.data is not a:
                a[...] = p.data
                p.data = a
        for worker in crew:
            worker.process.kill()
        for worker in crew:
            worker.end()


def read_in_turns(read, crew, parts):
    """The results of parts in their order: of each few, the first by this process."""
    seen, few = set(), 1 + len(crew)
    for start in range(0, len(parts), few):
        mine, *others = parts[start : start + few]
        busy = crew[: len(others)]
        for worker, part in zip(busy, others, strict=True):
            worker.send(part)
        try:
            loss, found = read(mine)
        finally:  # whatever happens, no answer is left for the next part that is sent
            answers = [worker.receive() for worker in busy]
        seen.update(found)
        yield loss, found
        for worker, answer in zip(busy, answers, strict=True):
            loss, found = worker.result(answer)
            # a sum that begins with a worker's gradient must outlive the worker's next part
            found = {node: g if node in seen else g.copy() for node, g in found.items()}
            seen.update(found)
            yield loss, found


def shared(a):
    """The same numbers in memory that a copy of this process shares."""
    room = np.frombuffer(mmap.mmap(-1, max(1, a.nbytes)), a.dtype, a.size).reshape(a.shape)
    room[...] = a
    return room


class Worker:
    """Another process, which reads one part at a time.

    It has copies of this process's nodes and shares the memory of the gradients, both in the
    order of `trained`; so an answer need only say which of them a part has reached.
    """

    def __init__(self, read, trained):
        self.nodes = [p.node for p in trained]
        self.gradients = [shared(np.zeros_like(p.data)) for p in trained]
        fork = get_context("fork")
        self.pipe, its_end = fork.Pipe()
        given = read, self.nodes, self.gradients, self.pipe, its_end
        self.process = fork.Process(target=serve, args=given, daemon=True)
        with warnings.catch_warnings():  # of other threads: a worker needs none of them
            warnings.simplefilter("ignore", DeprecationWarning)
            self.process.start()
        its_end.close()

    def send(self, part):
        """Let it begin with a part: arrays of whole numbers, or JSON values."""
        with contextlib.suppress(BrokenPipeError):  # if it has ended, `receive` says so
            send_part(self.pipe, part)

    def receive(self):
        """Its answer to the part that was sent; None if it has ended."""
        try:
            return json.loads(self.pipe.recv_bytes())
        except (EOFError, ConnectionResetError):
            return None

    def result(self, answer):
        """(loss, {leaf: gradient}) by an answer, or raise what reading the part raised.

        The gradients are good until the worker is sent another part.
        """
        if answer is None:
            self.process.join()
            text = f"a worker ended with exit code {self.process.exitcode}"
            raise RuntimeError(f"{text}; if memory ran out, use fewer workers")
        if "error" in answer:
            kind, text = answer["error"]
            raise KNOWN.get(kind, RuntimeError)(text)
        found = zip(self.nodes, self.gradients, answer["has"], strict=True)
        loss = np.asarray(answer["loss"], answer["dtype"])
        return loss, {node: g for node, g, has in found if has}

    def end(self):
        """Close the pipe to it and wait until it is gone."""
        self.pipe.close()
        self.process.join()


def serve(read, nodes, gradients, other_end, pipe):
    """What a worker does until the pipe is closed: read a part, leave its gradients, answer."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the first process's to handle
    other_end.close()  # or else the pipe would never be closed, by the end of the first process
    with contextlib.suppress(EOFError, ConnectionError):
        while True:
            answer = answer_to(receive_part(pipe), read, nodes, gradients)
            pipe.send_bytes(json.dumps(answer).encode())


def answer_to(part, read, nodes, gradients):
    """What to say of a part, as JSON values, having left its gradients in their places."""
    try:
        loss, found = read(part)
        for node, room in zip(nodes, gradients, strict=True):
            if node in found:
                room[...] = found[node]
        has = [node in found for node in nodes]
        return {"loss": float(loss), "dtype": loss.dtype.name, "has": has}
    except Exception as error:
        return {"error": [type(error).__name__, str(error)]}


def send_part(pipe, part):
    """Send a tuple of arrays of whole numbers and of JSON values.

    First, as JSON, the shape of each array and the other values; then the arrays' bytes.
    """
    is_array = [isinstance(x, np.ndarray) for x in part]
    told = [x.shape if a else x for a, x in zip(is_array, part, strict=True)]
    pipe.send_bytes(json.dumps([is_array, told]).encode())
    for x in part:
        if isinstance(x, np.ndarray):
            pipe.send_bytes(np.asarray(x, np.int64).tobytes())


def receive_part(pipe):
    """The tuple that `send_part` sent."""
    is_array, told = json.loads(pipe.recv_bytes())

    def value(array, x):
        return np.frombuffer(pipe.recv_bytes(), np.int64).reshape(x) if array else x

    return tuple(value(a, x) for a, x in zip(is_array, told, strict=True))
