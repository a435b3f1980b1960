"""Runs on a real Dask cluster of two worker processes, one of which is killed on the way."""

import json
import os
import signal
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from minipeft.__main__ import main
from minipeft.lab.executor import dask, run_all

distributed = pytest.importorskip("distributed", reason="Dask: pip install 'minipeft[dask]'")


@dataclass(frozen=True)
class Wait:
    """A run that takes a while and says which process had it."""

    n: int
    trace: str


def waited(run):
    """Work for `run_all`: leaves its process's number, and waits, so that it can be killed."""
    Path(run.trace, f"{run.n}-{os.getpid()}").touch()
    time.sleep(0.2)
    return run.n**2


@pytest.fixture(scope="module")
def cluster():
    """A scheduler and two workers, each a process of its own that imports from this folder."""
    environment = {"PYTHONPATH": os.pathsep.join([os.path.dirname(__file__), os.getcwd()])}
    with distributed.LocalCluster(
        2, threads_per_worker=1, processes=True, dashboard_address=None, env=environment
    ) as two:
        yield two


def kill_one_at_work(trace):
    """Kill the process that took up the third run, as soon as it did."""
    while not (found := list(trace.glob("3-*"))):
        time.sleep(0.01)
    os.kill(int(found[0].name.split("-")[1]), signal.SIGKILL)


def test_nothing_is_lost_when_a_worker_is_killed(cluster, tmp_path):
    trace = tmp_path / "trace"
    trace.mkdir()
    series = [Wait(n, str(trace)) for n in range(12)]
    killer = threading.Thread(target=kill_one_at_work, args=(trace,))
    killer.start()
    found = run_all(
        waited, series, dask(cluster.scheduler_address), tmp_path / "p.json", {"version": 1}
    )
    killer.join()
    assert found == [n**2 for n in range(12)]
    assert len(list(trace.glob("3-*"))) == 2  # begun once by the one that died, once again


def refused(run):
    """Work for `run_all` that fails."""
    raise ValueError(f"no {run.n}")


def test_a_run_that_fails_says_so(cluster, tmp_path):
    with pytest.raises(ValueError, match="no 7"):
        run_all(
            refused,
            [Wait(7, "")],
            dask(cluster.scheduler_address),
            tmp_path / "p",
            {"version": 1},
        )


def test_compare_on_a_cluster(cluster, tmp_path, capsys):
    rest = f"--fast --steps 2 --methods lora,prompt --out {tmp_path}"
    assert main(f"compare --dask {cluster.scheduler_address} {rest}".split()) == 0
    assert "wrote" in capsys.readouterr().out
    rows = json.loads((tmp_path / "compare.json").read_text())["rows"]
    assert [row["method"] for row in rows] == ["lora", "prompt"]


def test_no_scheduler_is_a_clear_error(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("minipeft.lab.executor.CONNECT_SECONDS", 0.5)
    line = f"compare --fast --dask tcp://127.0.0.1:9 --out {tmp_path}"
    assert main(line.split()) == 2
    assert "no Dask scheduler answers at tcp://127.0.0.1:9" in capsys.readouterr().err
