"""Start workers beside a thread that multiplies, and kill the parents of workers.

    python tests/tools/kills.py [--starts 200] [--kills 40]

A start that takes longer than 30 seconds is a freeze; a process that lives 5 seconds after its
parent is an orphan. Prints how many there were; exit 1 if there was one.
"""

import argparse
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
FIT = """
import sys; sys.path.insert(0, "tests")
import numpy as np, threading, minipeft as mp
net = mp.load_base(); mp.attach(net, mp.LoRA(r=2))
data = mp.Task("gerund")
"""
BESIDE = (
    FIT
    + """
stop = threading.Event()
def multiply():
    a = np.ones((700, 700), "float32")
    while not stop.is_set():
        a @ a
thread = threading.Thread(target=multiply); thread.start()
for _ in range({starts}):
    mp.fit(net, data, steps=1, batch_size=4, workers=2, label=None)
    print("started", flush=True)
stop.set(); thread.join()
"""
)
LONG = (
    FIT
    + """
print("ready", flush=True)
mp.fit(net, data, steps=10**6, batch_size=16, workers=3, label=None)
"""
)


def freezes(starts):
    """Returns how many of so many starts of workers beside a busy thread took too long."""
    found, left = 0, starts
    while left:
        code = BESIDE.format(starts=min(20, left))
        process = subprocess.Popen(
            [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE
        )
        try:
            out, _ = process.communicate(timeout=30 + 3 * min(20, left))
            done = out.count(b"started")
        except subprocess.TimeoutExpired:
            process.kill()
            done, found = max(1, process.communicate()[0].count(b"started")), found + 1
        left -= max(1, done)
    return found


def family(pid):
    """Returns the processes that a process started, and those that they started."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [*map(int, children), *(p for child in children for p in family(child))]


def alive(pid):
    """Returns whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def orphans(command, how, work):
    """Returns how many processes outlive a parent that gets a signal, by 5 seconds."""
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    while process.poll() is None and len(found := family(process.pid)) < work:
        time.sleep(0.05)
    time.sleep(0.5)
    found = family(process.pid)
    process.send_signal(how)
    process.wait()
    end = time.monotonic() + 5
    while any(map(alive, found)) and time.monotonic() < end:
        time.sleep(0.05)
    left = [pid for pid in found if alive(pid)]
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    return len(left)


def main():
    """Runs both campaigns and prints what was found."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--starts", type=int, default=200)
    parser.add_argument("--kills", type=int, default=40)
    options, left = parser.parse_args(), 0
    frozen = freezes(options.starts)
    print(
        f"{options.starts} starts beside a thread that multiplies: {frozen} froze", flush=True
    )
    out = f"/tmp/minipeft-kills-{os.getpid()}"
    compare = [sys.executable, "-m", "minipeft", "compare", "--steps", "100000", "--jobs", "2"]
    fit = [sys.executable, "-c", LONG]
    signals = (signal.SIGKILL, signal.SIGTERM, signal.SIGHUP)
    for i in range(options.kills):
        command, work = (fit, 2) if i % 2 else ([*compare, "--out", f"{out}/{i}"], 3)
        left += orphans(command, signals[i // 2 % 3], work)
    print(f"{options.kills} parents killed: {left} processes outlived them by 5 seconds")
    sys.exit(bool(frozen or left))


if __name__ == "__main__":
    main()
