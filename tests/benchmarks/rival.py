"""A rival: one side of a benchmark, in a process that takes steps when it is asked."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

HERE = Path(__file__).parent
REST = 0.25  # seconds between turns: a rival's threads wait awake for a while after its own


class Rival:
    """A process that takes steps when asked, until the block that it is used in ends."""

    def __init__(self, script, *args, threads, **environment):
        names = "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"
        env = os.environ | dict.fromkeys(names, str(threads)) | {"PYTHONWARNINGS": "ignore"}
        paths = [str(HERE.parent / "parity"), os.environ.get("PYTHONPATH", "")]
        env |= {"PYTHONPATH": os.pathsep.join(paths)} | environment  # weights as in parity
        command = [sys.executable, str(HERE / script), *map(str, args)]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, env=env, stdin=pipe, stdout=pipe, text=True)
        self.losses, self.seconds, self.processor = [], [], []
        self.about = None

    def answer(self):
        """What it said next."""
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(
                f"{' '.join(self.process.args)} ended with {self.process.wait()}"
            )
        return json.loads(line)

    def ready(self):
        """Wait until it has begun."""
        self.about = self.about or self.answer()
        return self

    def steps(self, n, counted=True, rest=REST):
        """Let it take n steps, after a rest in seconds; what it answers, noted if it counts."""
        self.ready()
        time.sleep(rest)
        print(n, file=self.process.stdin, flush=True)
        answer = self.answer()
        self.losses += answer["losses"]
        if counted:
            self.seconds += answer["seconds"]
            self.processor += answer["processor"]
        self.peak = answer["peak"]
        return answer

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()

    def row(self):
        """What was measured, of the steps that count."""
        ordered = sorted(self.seconds)
        times = {"ms": median(ordered), "low": ordered[0], "high": ordered[-1]}
        times["processor_ms"] = median(self.processor)
        times = {key: round(1e3 * t, 3) for key, t in times.items()}
        return {**times, "steps": len(ordered), "peak": self.peak, **self.about}


def enough(rival):
    """How many steps to ask for at once: about 0.3 s of them."""
    return max(
        1, min(10, round(0.3 / max(1e-4, min(rival.steps(1, counted=False)["seconds"]))))
    )
