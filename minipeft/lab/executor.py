"""Independent runs, side by side: over processes of this machine or a Dask cluster, resumable.

Each run is a plain value handed to one function; its result, a JSON object, is kept in a file
as soon as it is there: an interrupted series goes on where it stopped.
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

from ..io.files import check_places, read_json, write_json


def run_all(work, trials, executor, partial, of, label="runs"):
    """[work(trial) for each trial, a dataclass], computed by an Executor, with progress.

    partial: the file of finished results, for the caller to remove once they are safe.  of: a
    string that says on what the results depend beside the trial; a file of results of something
    else is replaced.
    """
    partial, start = Path(partial), {"of": f"{work.__name__} {of}"}
    check_places(partial)
    done = read_json(partial) if partial.is_file() else start
    done = done if done.get("of") == start["of"] else start
    todo = [trial for trial in trials if key(trial) not in done]
    bar = tqdm(desc=label, total=len(trials), unit="run", disable=None)
    bar.update(len(trials) - len(todo))
    with bar, executor:
        try:
            futures = {executor.submit(work, trial): trial for trial in todo}
            for future in as_completed(futures):
                done[key(futures[future])] = future.result()
                write_json(partial, done)
                bar.update()
        except BaseException:
            executor.shutdown(wait=False, cancel_futures=True)
            raise
    return [done[key(trial)] for trial in trials]


def key(trial):
    """A trial as a name in a JSON object."""
    return json.dumps(astuple(trial))


class Processes(ProcessPoolExecutor):
    """An Executor of so many processes of this machine, each with one BLAS thread."""

    def __init__(self, jobs):
        super().__init__(jobs, get_context("spawn"), initializer=alone)

    def shutdown(self, wait=True, *, cancel_futures=False):
        """As any Executor's, but to cancel ends the runs that have begun, too."""
        begun = list((self._processes or {}).values()) if cancel_futures else []
        super().shutdown(wait, cancel_futures=cancel_futures)
        for process in begun:
            process.terminate()


def alone():
    """What a process does first: take one BLAS thread, and leave Ctrl-C to its parent."""
    threadpool_limits(1)
    tqdm.set_lock(RLock())  # instead of one for many processes, which had to be cleared away
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def dask(address):
    """An Executor over the workers of a Dask cluster with its scheduler at tcp://host:port.

    A run whose worker dies is given to another. Raises ValueError if the package is missing or
    no scheduler answers there.
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
    """How many processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
