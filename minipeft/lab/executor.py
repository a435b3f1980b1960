"""Runs independent experiments side by side, in processes of this machine or on a Dask cluster.

An experiment is a dataclass of plain values, and one function turns it into its result, a JSON
object. Each result is written to a file at once, so an interrupted series goes on where it
stopped.
"""

import json
import os
import signal
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import astuple
from multiprocessing import get_context
from pathlib import Path
from threading import RLock

from threadpoolctl import threadpool_limits
from tqdm import tqdm

from ..io.files import check_writable, read_json, write_json


def run_all(work, experiments, executor, partial, of, label="experiments"):
    """Returns [work(experiment) for each experiment], computed by an Executor, with progress.

    partial: the file of finished results. The caller removes it once they are safe.
    of: a string that says what else the results depend on, such as the backbone. A partial file
    that was written for another `of` is replaced.
    """
    partial, start = Path(partial), {"of": f"{work.__name__} {of}"}
    check_writable(partial)
    done = read_json(partial) if partial.is_file() else start
    done = done if done.get("of") == start["of"] else start
    todo = [experiment for experiment in experiments if key(experiment) not in done]
    bar = tqdm(desc=label, total=len(experiments), unit="run", disable=None)
    bar.update(len(experiments) - len(todo))
    with bar, executor:
        try:
            futures = {executor.submit(work, experiment): experiment for experiment in todo}
            for future in as_completed(futures):
                done[key(futures[future])] = future.result()
                write_json(partial, done)
                bar.update()
        except BaseException:
            executor.shutdown(wait=False, cancel_futures=True)
            raise
    return [done[key(experiment)] for experiment in experiments]


def key(experiment):
    """Returns the name of an experiment in the partial file."""
    return json.dumps(astuple(experiment))


class Processes(ProcessPoolExecutor):
    """An Executor of `jobs` processes on this machine, each with one BLAS thread."""

    def __init__(self, jobs):
        super().__init__(jobs, get_context("spawn"), initializer=begin_process)

    def shutdown(self, wait=True, *, cancel_futures=False):
        """Shuts down as any Executor does; to cancel also ends the experiments under way."""
        processes = list((self._processes or {}).values()) if cancel_futures else []
        super().shutdown(wait, cancel_futures=cancel_futures)
        for process in processes:
            process.terminate()


def begin_process():
    """Limits this process to one BLAS thread, and leaves Ctrl-C to its parent."""
    threadpool_limits(1)
    tqdm.set_lock(RLock())  # its default lock is shared by processes, and would be left behind
    signal.signal(signal.SIGINT, signal.SIG_IGN)


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
        client = Client(address, timeout="10s", set_as_default=False)
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
