"""How long a training step takes, and how much memory: minipeft, HF PEFT, PyTorch by hand.

    python tests/benchmarks/step.py --out figures/step_time.json            about twenty minutes
    python tests/benchmarks/step.py --sizes L --methods lora --rounds 9     one cell

Same weights, same batch, the same number of threads. Each rival is a process of its own that
stays warm; they are asked for steps in turn, so that whatever else the machine does falls on
all alike, and the median counts. Before that three steps must give the same losses, to 10⁻⁴.
Rows are written as they come; a cell that the file has already is not measured again. The
column `sgemm` is the share of the best speed seen at a product of two large matrices.
"""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

from plot_step import picture
from tqdm import tqdm

from cases import METHODS, SIZES, flops
from minipeft.files import read_json, write_json

HERE = Path(__file__).parent
REST = 0.25  # seconds between turns: a rival's threads wait awake for a while after its own
SGEMM = 1024  # the side of the matrices by whose product the machine's peak is measured
TOLERANCE = 1e-4
GOALS = {"full": {"S": 0.80, "M": 0.80, "L": 0.80, "XL": 0.85}}
GOALS |= {m: {"S": 0.70, "M": 0.70, "L": 0.70, "XL": 0.85} for m in METHODS if m != "full"}


class Rival:
    """A process that takes steps when asked."""

    def __init__(self, script, *args, threads):
        names = "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"
        env = os.environ | dict.fromkeys(names, str(threads)) | {"PYTHONWARNINGS": "ignore"}
        env["PYTHONPATH"] = str(HERE.parent / "parity")  # weights are carried over as there
        command = [sys.executable, str(HERE / script), *map(str, args)]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, env=env, stdin=pipe, stdout=pipe, text=True)
        self.losses, self.seconds, self.processor = [], [], []
        self.about = None

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(
                f"{' '.join(self.process.args)} ended with {self.process.wait()}"
            )
        return json.loads(line)

    def ready(self):
        self.about = self.about or self.answer()
        return self

    def steps(self, n, counted=True, rest=REST):
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

    def end(self):
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


def rivals(size, method, threads):
    """{name: Rival} of a cell, each ready before the next begins: some try what is fastest."""
    scripts = {"minipeft": "ours.py", "hf": "hf_peft.py"}
    if method in ("full", "lora") and not size.endswith("llama"):
        scripts["pytorch"] = "handwritten_gpt.py"
        if size in ("S", "M"):
            scripts["autograd"] = "hips.py"
    if not have_autograd():
        scripts.pop("autograd", None)
    cell = (size, method)
    asked = {name: (script, *cell) for name, script in scripts.items()}
    asked["sgemm"] = "sgemm.py", SGEMM
    return {name: Rival(*args, threads=threads).ready() for name, args in asked.items()}


def have_autograd():
    """Whether HIPS autograd is installed."""
    return importlib.util.find_spec("autograd") is not None


def check_losses(cell, name, mine, theirs):
    """The same losses at three steps, or at one where weights could not all be carried."""
    count = 3 if theirs.about["same"] else 1
    for ours, other in zip(mine.losses[:count], theirs.losses[:count], strict=True):
        if abs(ours - other) > TOLERANCE:
            raise SystemExit(
                f"{cell}: the loss of {name} is {other:.6f}, minipeft's {ours:.6f}"
            )


def measure(size, method, threads, rounds):
    """The rows of one cell."""
    found = rivals(size, method, threads)
    try:
        for rival in found.values():
            rival.steps(3, counted=False)
        for name, rival in found.items():
            if name != "sgemm":
                check_losses((size, method, threads), name, found["minipeft"], rival)
        counts = {name: enough(rival) for name, rival in found.items()}
        for _ in range(rounds):
            for name, rival in found.items():
                rival.steps(1, counted=False)  # its data are no longer in the cores' caches
                rival.steps(counts[name], rest=0)
    finally:
        for rival in found.values():
            rival.end()
    cell = {"size": size, "method": method, "threads": threads}
    rows = [cell | {"rival": name} | rival.row() for name, rival in found.items()]
    peak = 2 * SGEMM**3 / min(found["sgemm"].seconds)
    ours = rows[0]
    ours["sgemm_share"] = round(flops(size, method) / (ours["ms"] / 1e3) / peak, 3)
    return rows


def enough(rival):
    """How many steps to ask for at once: about 0.3 s of them."""
    return max(
        1, min(10, round(0.3 / max(1e-4, min(rival.steps(1, counted=False)["seconds"]))))
    )


def cells(options):
    """(size, method, threads) to measure: by default what fits into ten minutes.

    One thread: full and LoRA only. XL, half a minute a rival: full and LoRA only.
    """
    for threads in options.threads or (2, 1):
        for size in options.sizes or SIZES:
            few = options.methods is None and (size == "XL" or threads == 1)
            if options.threads is None and threads == 1 and size in ("XL", "M-llama"):
                continue
            for method in ("full", "lora") if few else options.methods or METHODS:
                yield size, method, threads


def table(rows):
    """The ratios as lines of text."""
    yield (
        "size     method    threads  minipeft ms   /hf  goal  /pytorch  /autograd  sgemm"
        "    MB     hf  pytorch  autograd  MB /hf"
    )
    by = {(r["size"], r["method"], r["threads"], r["rival"]): r for r in rows}
    for (size, method, threads, rival), ours in by.items():
        if rival != "minipeft":
            continue
        others = {o: by.get((size, method, threads, o)) for o in ("hf", "pytorch", "autograd")}
        time = {o: f"{ours['ms'] / r['ms']:.2f}" if r else "–" for o, r in others.items()}
        goal = GOALS[method].get(size.removesuffix("-llama"), 0)
        peaks = {o: str(r["peak"] >> 20) if r else "–" for o, r in others.items()}
        yield (
            f"{size:8} {method:9} {threads:7} {ours['ms']:12.1f} {time['hf']:>5} {goal:5.2f} "
            f"{time['pytorch']:>9} {time['autograd']:>10} {ours['sgemm_share']:6.0%} "
            f"{ours['peak'] >> 20:5} {peaks['hf']:>6} {peaks['pytorch']:>8} "
            f"{peaks['autograd']:>9} {ours['peak'] / others['hf']['peak']:7.2f}"
        )
    for size in SIZES:
        full, lora = (by.get((size, m, 2, "minipeft")) for m in ("full", "lora"))
        if full and lora:
            time, tape = lora["ms"] / full["ms"], lora["tape"] / full["tape"]
            yield f"{size}: LoRA / full: {time:.3f} of the time, {tape:.3f} of the tape"


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    words = lambda text: text.split(",")  # noqa: E731
    parser.add_argument("--sizes", type=words, help=", ".join(SIZES))
    parser.add_argument("--methods", type=words, help=", ".join(METHODS))
    parser.add_argument("--threads", type=lambda text: [int(n) for n in text.split(",")])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, default=Path("figures/step_time.json"))
    options = parser.parse_args()
    rows = read_json(options.out)["rows"] if options.out.is_file() else []
    have = {(r["size"], r["method"], r["threads"]) for r in rows}
    bar = tqdm([cell for cell in cells(options) if cell not in have], disable=None, unit="cell")
    for cell in bar:
        bar.set_description(" ".join(map(str, cell)))
        rows += measure(*cell, options.rounds)
        write_json(options.out, {"rounds": options.rounds, "rows": rows})
    print(*table(rows), sep="\n")
    picture(rows, options.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
