"""Runs independent experiments side by side, in processes of this machine or on a Dask cluster.

An experiment is a dataclass of plain values, and one function turns it into its result, a JSON
object. Each result is written to a file at once, so an interrupted series goes on where it
stopped. The file is kept until its results are safe, and locked meanwhile.
"""

import hashlib
import json
import os
import signal
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor, as_completed
from dataclasses import astuple
from multiprocessing import get_context
from threading import RLock

from threadpoolctl import threadpool_limits
from tqdm import tqdm

from ..io.files import as_path, check_writable, read_json, write_json
from ..io.identity import difference
from ..train.data_parallel import end_with_parent

CONNECT_SECONDS = 10  # how long a Dask scheduler may take to answer


def run_all(work, experiments, executor, partial, of, label="experiments"):
    """Returns [work(experiment) for each experiment], computed by an Executor, with progress.

    partial: the file of finished results; `forget` takes them out once they are safe.
    of: a JSON object that says what else the results depend on, such as the backbone.
    Raises ValueError for a partial file that is damaged or was written for another `of`, and
    ChildProcessError if a process was killed. What had finished is in the file.
    """
    done = read_results(partial, {"work": work.__name__, **of})
    check_writable(partial)
    todo = [experiment for experiment in experiments if key(experiment) not in done]
    bar = tqdm(desc=label, total=len(experiments), unit="run", disable=None)
    bar.update(len(experiments) - len(todo))
    with bar, executor:
        try:
            futures = {executor.submit(work, experiment): experiment for experiment in todo}
            for future in as_completed(futures):
                done[key(futures[future])] = future.result()
                write_results(partial, done)
                bar.update()
        except BrokenExecutor:
            executor.shutdown(wait=False, cancel_futures=True)
            raise ChildProcessError(
                "a process was killed, perhaps because memory ran out; what had finished is "
                "kept, and the same command continues from it; fewer --jobs need less memory"
            ) from None
        except BaseException:
            executor.shutdown(wait=False, cancel_futures=True)
            raise
    return [done[key(experiment)] for experiment in experiments]


def read_results(path, of):
    """Returns {"of": of, name of an experiment: its result}, from a partial file if it exists.

    Raises ValueError if it is damaged, or if its results are of something else.
    """
    path = as_path(path)
    if not path.is_file():
        return {"of": of}
    done = read_json(path)
    if done.pop("sha256", None) != seal(done):
        raise ValueError(f"{path} is damaged: its checksum does not fit; remove it")
    if differs := difference(done["of"], json.loads(json.dumps(of))):
        raise ValueError(
            f"{path} holds finished experiments of another kind: {differs}; give another "
            "--out, or remove it"
        )
    return done


def write_results(path, done):
    """Write a partial file, with a checksum."""
    write_json(path, done | {"sha256": seal(done)})


def seal(done):
    """Returns the SHA-256 of a JSON object."""
    return hashlib.sha256(json.dumps(done, sort_keys=True).encode()).hexdigest()


def forget(partial, experiments, work, of):
    """Take the results of some experiments out of a partial file; remove it if none is left."""
    done = read_results(partial, {"work": work.__name__, **of})
    for experiment in experiments:
        done.pop(key(experiment), None)
    if done.keys() == {"of"}:
        as_path(partial).unlink(missing_ok=True)
    else:
        write_results(partial, done)


def key(experiment):
    """Returns the name of an experiment in the partial file."""
    return json.dumps(astuple(experiment))


class Processes(ProcessPoolExecutor):
    """An Executor of `jobs` processes on this machine, each with so many BLAS threads."""

    def __init__(self, jobs, threads=1):
        spawn = get_context("spawn")
        super().__init__(jobs, spawn, initializer=begin_process, initargs=(threads,))

    def shutdown(self, wait=True, *, cancel_futures=False):
        """Shuts down as any Executor does; to cancel also ends the experiments under way."""
        processes = list((self._processes or {}).values()) if cancel_futures else []
        super().shutdown(wait, cancel_futures=cancel_futures)
        for process in processes:
            process.terminate()


def begin_process(threads):
    """Limits the BLAS threads of this process, and leaves Ctrl-C and its end to its parent."""
    threadpool_limits(threads)
    tqdm.set_lock(RLock())  # its default lock is shared by processes, and would be left behind
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()


def dask(address):
    """Returns an Executor over the workers of a Dask cluster, its scheduler at tcp://host:port.

    An experiment whose worker dies goes to another worker. Raises ValueError if Dask is not
    installed or no scheduler answers at the address.
    """
    try:
        from distributed import Client
    except ImportError:
        raise ValueError("--dask needs Dask: pip install 'minipeft[dask]'") from None
    try:
        client = Client(address, timeout=CONNECT_SECONDS, set_as_default=False)
    except (OSError, ValueError) as error:
        raise ValueError(f"no Dask scheduler answers at {address} ({error})") from None
    executor = client.get_executor(pure=False)
    shutdown = executor.shutdown

    def close(wait=True, *, cancel_futures=False):
        shutdown(wait and not cancel_futures)
        client.close()

    executor.shutdown = close  # Dask's own leaves the client open and takes no second argument
    return executor


def cores():
    """Returns how many processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
