"""How long a training step takes, and how much memory: minipeft, HF PEFT, PyTorch by hand.

    python tests/benchmarks/step.py --out figures/step_time.json     about twenty minutes
    python tests/benchmarks/step.py --sizes L --methods lora --threads 2 --out l.json

Same weights, same batch, the same number of threads. Each rival is a process of its own that
stays warm; they are asked for steps in turn, so that whatever else the machine does falls on
all alike, and the median counts. Before that the losses must be the same, to 10⁻⁴: at three
steps, or at the first alone where HF PEFT trains other numbers (see `hf_peft.py`).
Rows are written as they come; with --resume a cell that the file has is not measured again.
The column `sgemm` is the share of the best speed seen at a product of two large matrices.
"""

import argparse
import contextlib
import importlib.util
import os
import platform
from importlib.metadata import version
from pathlib import Path

from plot_step import picture
from rival import Rival, enough
from tqdm import tqdm

from cases import METHODS, SIZES, flops
from minipeft.io.files import read_json, write_json

SGEMM = 1024  # the side of the matrices by whose product the machine's peak is measured
TOLERANCE = 1e-4
PACKAGES = ("numpy", "torch", "transformers", "peft")
GOALS = {"full": {"S": 0.80, "M": 0.80, "L": 0.80, "XL": 0.85}}
GOALS |= {m: {"S": 0.70, "M": 0.70, "L": 0.70, "XL": 0.85} for m in METHODS if m != "full"}


def scripts_of(size, method):
    """{name: the script and its arguments} of the rivals in a cell."""
    scripts = {"minipeft": "ours.py", "hf": "hf_peft.py"}
    if method in ("full", "lora") and not size.endswith("llama"):
        scripts["pytorch"] = "handwritten_gpt.py"
        if size in ("S", "M"):
            scripts["autograd"] = "hips.py"
    if not have_autograd():
        scripts.pop("autograd", None)
    cell = (size, method)
    asked = {name: (script, *cell) for name, script in scripts.items()}
    return asked | {"sgemm": ("sgemm.py", SGEMM)}


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
    with contextlib.ExitStack() as until:
        found = {}
        for name, asked in scripts_of(size, method).items():
            rival = found[name] = until.enter_context(Rival(*asked, threads=threads))
            rival.steps(3, counted=False)  # before the next begins: some try what is fastest
        for name, rival in found.items():
            if name != "sgemm":
                check_losses((size, method, threads), name, found["minipeft"], rival)
        counts = {name: enough(rival) for name, rival in found.items()}
        for _ in range(rounds):
            for name, rival in found.items():
                rival.steps(1, counted=False)  # its data are no longer in the cores' caches
                rival.steps(counts[name], rest=0)
    cell = {"size": size, "method": method, "threads": threads}
    rows = [cell | {"rival": name} | rival.row() for name, rival in found.items()]
    peak = 2 * SGEMM**3 / min(found["sgemm"].seconds)
    ours = rows[0]
    ours["sgemm_share"] = round(flops(size, method) / (ours["ms"] / 1e3) / peak, 3)
    return rows


def cells(options):
    """(size, method, threads) to measure, by default what fits into twenty minutes.

    One thread: full and LoRA only. XL, half a minute a rival: full and LoRA only.
    """
    for threads in options.threads or (2, 1):
        for size in options.sizes or SIZES:
            few = options.methods is None and (size == "XL" or threads == 1)
            if options.threads is None and threads == 1 and size in ("XL", "M-llama"):
                continue
            for method in ("full", "lora") if few else options.methods or METHODS:
                yield size, method, threads


def machine():
    """The processor, and the versions of what is measured."""
    info = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    name = info.partition("model name")[2].partition(":")[2].partition("\n")[0].strip()
    versions = {package: version(package) for package in PACKAGES}
    return {"processor": name or platform.machine(), "cores": os.cpu_count(), **versions}


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
    parser.add_argument("--resume", action="store_true", help="keep the cells that it has")
    options = parser.parse_args()
    resumed = options.resume and options.out.is_file()
    rows = read_json(options.out)["rows"] if resumed else []
    have = {(r["size"], r["method"], r["threads"]) for r in rows}
    bar = tqdm([cell for cell in cells(options) if cell not in have], disable=None, unit="cell")
    for cell in bar:
        bar.set_description(" ".join(map(str, cell)))
        rows += measure(*cell, options.rounds)
        write_json(options.out, {"rounds": options.rounds, "on": machine(), "rows": rows})
    print(*table(rows), sep="\n")
    picture(rows, options.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
