"""Data parallelism: the micro-batches of a batch on several processes that share the weights.

    this process   micro-batch 0 ── gradients ───────────┬── sum, one update of the weights
    a worker       micro-batch 1 ── gradients in shared ─┘   (the weights are in shared memory,
                                    memory                    so the worker sees the update)

NumPy uses one core for elementwise operations. Threads could use more, but each of their
operations has to wait for Python's global interpreter lock; a process has a lock of its own.
A worker starts as a copy of this process (`fork`), so the model need not be sent to it. Then a
micro-batch is sent as bytes, and the loss comes back as JSON: no pickle.
"""

import contextlib
import json
import mmap
import os
import signal
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from multiprocessing import current_process, get_context, parent_process

from threadpoolctl import threadpool_limits

from ..engine.backend import np, xp

ERRORS = {kind.__name__: kind for kind in (ValueError, TypeError, IndexError, MemoryError)}
CAN_FORK = sys.platform == "linux" and xp is np  # elsewhere BLAS or the GPU may not survive it
IDLE = ["ipykernel", "IPython", "tqdm"]  # packages whose threads do not compute
ONE_BLAS_THREAD = threading.RLock()  # held while BLAS, of the whole process, has one thread


@contextlib.contextmanager
def parallel_map(f, parameters, workers):
    """Yields a `map` of f over micro-batches that runs on as many processes as `workers`.

    f(micro_batch) returns (loss, {leaf: gradient}). `parameters` are those that are updated
    inside the block, and only in place. Results come in the order of the micro-batches. An
    error that f raises on any process is raised here.

    Each process has one BLAS thread. Where this process cannot be copied, threads take the
    place of processes: see `may_fork`. Two threads that call this take turns.
    """
    if workers == 1:
        yield partial(map, f)
        return
    with ONE_BLAS_THREAD, threadpool_limits(1, "blas"):
        kind = process_map if may_fork() else thread_map
        with kind(f, parameters, workers) as map_f:
            yield map_f


def may_fork():
    """Returns whether this process can be copied safely.

    It cannot on macOS, Windows or a GPU, nor as a daemon, which may have no children. And it
    cannot while another thread may multiply: to copy itself, BLAS waits for that thread, which
    waits for the interpreter's lock, for ever. The threads of Jupyter and tqdm never multiply.
    """
    here = threading.current_thread()
    others = [thread for thread in threading.enumerate() if thread is not here]
    return CAN_FORK and not current_process().daemon and all(map(is_idle, others))


def is_idle(thread):
    """Returns whether a thread belongs to a library whose threads do not compute."""
    run = getattr(thread, "_target", None)
    made_by = {getattr(part, "__module__", None) or "" for part in (type(thread), run)}
    return any(module.split(".")[0] in IDLE for module in made_by)


@contextlib.contextmanager
def thread_map(f, parameters, workers):
    """Yields a `map` of f on as many threads as `workers`."""
    with ThreadPoolExecutor(workers) as pool:

        def map_f(micro_batches):
            contexts = [copy_context() for _ in micro_batches]  # dtype, no_grad, …
            return pool.map(lambda context, x: context.run(f, x), contexts, micro_batches)

        yield map_f


@contextlib.contextmanager
def process_map(f, parameters, workers):
    """Yields a `map` of f on this process and workers − 1 others.

    Inside the block the parameters are in shared memory; afterwards the updated values are in
    their original arrays.
    """
    originals, others = [p.data for p in parameters], []
    try:
        for p in parameters:
            p.data = to_shared_memory(p.data)
        for _ in range(1, workers):
            others.append(Worker(f, parameters))
        yield partial(map_on_processes, f, others)
    finally:
        for p, original in zip(parameters, originals, strict=True):
            if p.data is not original:
                original[...] = p.data
                p.data = original
        for worker in others:
            worker.process.kill()
        for worker in others:
            worker.close()


def map_on_processes(f, workers, micro_batches):
    """Yields f of each micro-batch, in order: in rounds of one here and one on every worker."""
    seen, processes = set(), 1 + len(workers)
    for start in range(0, len(micro_batches), processes):
        mine, *others = micro_batches[start : start + processes]
        busy = workers[: len(others)]
        for worker, micro_batch in zip(busy, others, strict=True):
            worker.send(micro_batch)
        try:
            loss, leaf_gradients = f(mine)
        finally:  # also after an error, so that no reply is left for the next round
            replies = [worker.receive() for worker in busy]
        seen.update(leaf_gradients)
        yield loss, leaf_gradients
        for worker, reply in zip(busy, replies, strict=True):
            loss, leaf_gradients = worker.result(reply)
            # a sum may begin with this array, which the worker will overwrite: then copy it
            leaf_gradients = {
                n: g if n in seen else g.copy() for n, g in leaf_gradients.items()
            }
            seen.update(leaf_gradients)
            yield loss, leaf_gradients


def to_shared_memory(a):
    """Returns a copy of an array in memory that this process shares with its later forks."""
    buffer = mmap.mmap(-1, max(1, a.nbytes))
    copy = np.frombuffer(buffer, a.dtype, a.size).reshape(a.shape)
    copy[...] = a
    return copy


class Worker:
    """Another process, which computes f of one micro-batch at a time.

    It writes gradients into arrays in shared memory, one per parameter. Both processes have
    these arrays, and the nodes of the parameters, in the same order. So a reply need only say
    which parameters got a gradient.
    """

    def __init__(self, f, parameters):
        self.nodes = [p.node for p in parameters]
        self.gradients = [to_shared_memory(np.zeros_like(p.data)) for p in parameters]
        fork = get_context("fork")
        self.pipe, worker_pipe = fork.Pipe()
        args = f, self.nodes, self.gradients, self.pipe, worker_pipe
        self.process = fork.Process(target=worker_loop, args=args, daemon=True)
        with warnings.catch_warnings():  # that other threads are not copied: none is needed
            warnings.simplefilter("ignore", DeprecationWarning)
            self.process.start()
        worker_pipe.close()

    def send(self, micro_batch):
        """Send it a micro-batch, a tuple of arrays of whole numbers and JSON values."""
        with contextlib.suppress(BrokenPipeError):  # if it has ended, `receive` returns None
            send_micro_batch(self.pipe, micro_batch)

    def receive(self):
        """Returns its reply to the micro-batch, or None if the process has ended."""
        try:
            return json.loads(self.pipe.recv_bytes())
        except (EOFError, ConnectionResetError):
            return None

    def result(self, reply):
        """Returns the (loss, {leaf: gradient}) of a reply, or raises the error that f raised.

        The gradients are overwritten when the worker gets another micro-batch. Raises
        ChildProcessError if the process has ended.
        """
        if reply is None:
            self.process.join()
            text = f"a worker ended with exit code {self.process.exitcode}"
            raise ChildProcessError(f"{text}; if memory ran out, use fewer workers")
        if "error" in reply:
            kind, text = reply["error"]
            raise ERRORS.get(kind, RuntimeError)(text)
        loss = np.asarray(reply["loss"], reply["dtype"])
        leaves = zip(self.nodes, self.gradients, reply["has_gradient"], strict=True)
        return loss, {node: g for node, g, has_gradient in leaves if has_gradient}

    def close(self):
        """Close the pipe to the process and wait until it has ended."""
        self.pipe.close()
        self.process.join()


def end_with_parent():
    """End this process as soon as the one that started it has ended, even if it was killed."""

    def watch():
        parent_process().join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def worker_loop(f, nodes, gradients, parent_pipe, pipe):
    """Reply to each micro-batch that comes through the pipe, until the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process handles Ctrl-C
    end_with_parent()
    parent_pipe.close()  # this copy would keep the pipe open when the first process ends
    with contextlib.suppress(EOFError, ConnectionError):
        while True:
            reply = reply_to(receive_micro_batch(pipe), f, nodes, gradients)
            pipe.send_bytes(json.dumps(reply).encode())


def reply_to(micro_batch, f, nodes, gradients):
    """Write the gradients of a micro-batch into shared memory. Returns the reply, for JSON."""
    try:
        loss, leaf_gradients = f(micro_batch)
        for node, shared in zip(nodes, gradients, strict=True):
            if node in leaf_gradients:
                shared[...] = leaf_gradients[node]
        has_gradient = [node in leaf_gradients for node in nodes]
        return {"loss": float(loss), "dtype": loss.dtype.name, "has_gradient": has_gradient}
    except Exception as error:
        return {"error": [type(error).__name__, str(error)]}


def send_micro_batch(pipe, micro_batch):
    """Send a tuple of arrays of whole numbers and of JSON values.

    First, as JSON, which of them are arrays, the shapes of those, and the other values; then
    the bytes of each array.
    """
    is_array = [isinstance(x, np.ndarray) for x in micro_batch]
    values = [x.shape if a else x for a, x in zip(is_array, micro_batch, strict=True)]
    pipe.send_bytes(json.dumps([is_array, values]).encode())
    for x in micro_batch:
        if isinstance(x, np.ndarray):
            pipe.send_bytes(np.asarray(x, np.int64).tobytes())


def receive_micro_batch(pipe):
    """Returns the tuple that `send_micro_batch` sent."""
    is_array, values = json.loads(pipe.recv_bytes())

    def restored(array, x):
        return np.frombuffer(pipe.recv_bytes(), np.int64).reshape(x) if array else x

    return tuple(restored(a, x) for a, x in zip(is_array, values, strict=True))
