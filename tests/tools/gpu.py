"""minipeft on a GPU: the tests that need one, and its step beside HF PEFT's, in one JSON.

    python tests/tools/gpu.py [--out gpu.json]

Runs from a clone with nothing installed but NumPy, CuPy, PyTorch, pytest and hypothesis, and
ends within six minutes: what there was no time for is listed under "left_out". HF PEFT is the
rival where transformers and peft are installed, else a GPT written by hand in PyTorch. Both
sides have a process of their own with the same weights and batch in float32, and take turns;
their losses must agree. Times are medians.

Without a GPU it says so and ends with status 2. With --stand-in it tries itself out on the CPU:
CuPy is then the stand-in of the tests, and only the smallest size is measured.
"""

import argparse
import contextlib
import importlib.util
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BENCHMARKS = ROOT / "tests" / "benchmarks"
METHODS = ("lora", "full", "prefix")
ROUNDS, TOLERANCE = 3, 1e-3
PACKAGES = ("numpy", "cupy-cuda12x", "cupy-cuda13x", "torch", "transformers", "peft")
MISSING = {  # what the package asks for beside NumPy, and needs in no computation
    "tqdm": "class tqdm:\n"
    "    def __init__(self, items=(), *_, **__): self.items = items\n"
    "    def __iter__(self): return iter(self.items)\n"
    "    def __enter__(self): return self\n"
    "    def __exit__(self, *_): pass\n"
    "    def __getattr__(self, name): return lambda *_, **__: None\n",
    "threadpoolctl": "import contextlib\n"
    "def threadpool_limits(*_, **__): return contextlib.nullcontext()\n",
}


class Clock:
    """How much of the time is left."""

    def __init__(self, seconds):
        self.end = time.monotonic() + seconds

    @property
    def left(self):
        return self.end - time.monotonic()


def have(package):
    """Whether a package can be imported."""
    return importlib.util.find_spec(package) is not None


def search_path(folder, stand_in):
    """PYTHONPATH of the processes: this clone, and what takes the place of what is missing."""
    for name, source in MISSING.items():
        if not have(name):
            (folder / f"{name}.py").write_text(source, encoding="utf-8")
    paths = [ROOT, ROOT / "tests", folder]
    paths = [ROOT / "tests" / "fakecupy", *paths] if stand_in else paths
    return os.pathsep.join(map(str, paths))


def about():
    """The GPU and the versions of what is measured."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    query = [
        "nvidia-smi",
        "--query-gpu=name,driver_version,memory.total",
        "--format=csv,noheader",
    ]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        found["gpu"] = subprocess.check_output(query, text=True, timeout=20).strip()
    return found


def run_tests(clock, stand_in):
    """Runs the tests marked gpu; returns how they ended."""
    chosen = "a_part_of_the_suite" if stand_in else ""
    line = ["-m", "pytest", "-q", "-o", "addopts=", "-p", "no:cacheprovider", "--profile", "ci"]
    line += ["tests/test_cupy.py", *(["-k", chosen] if stand_in else ["-m", "gpu"])]
    began = time.monotonic()
    try:
        done = subprocess.run(
            [sys.executable, *line], cwd=ROOT, text=True, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, timeout=max(1, clock.left / 2),
        )  # fmt: skip
        status, said = done.returncode, done.stdout
    except subprocess.TimeoutExpired as error:
        status, said = "out of time", str(error.output or "")
    lines = said.strip().splitlines()
    print("tests:", lines[-1] if lines else status, flush=True)
    seconds = round(time.monotonic() - began, 1)
    return {"status": status, "seconds": seconds, "said": lines[-30:]}


def measure(size, method, stand_in):
    """Returns the row of a cell: steps a second of both sides, and the bytes that they take."""
    from rival import Rival, enough

    gpt2 = size != "SmolLM2"
    by_hand = not (have("transformers") and have("peft"))
    if by_hand and not (gpt2 and method in ("full", "lora")):
        return {"size": size, "method": method, "error": "needs transformers and peft"}
    script = "handwritten_gpt.py" if by_hand else "hf_peft.py"
    where = "cpu" if stand_in else "cuda"
    with (
        Rival("ours.py", size, method, 1, threads=4, MINIPEFT_BACKEND="cupy") as ours,
        Rival(script, size, method, threads=4, MINIPEFT_DEVICE=where) as theirs,
    ):
        sides = {"minipeft": ours, "pytorch" if by_hand else "hf": theirs}
        for side in sides.values():
            side.steps(3, counted=False)
        same = ours.losses[:3] if theirs.about["same"] else ours.losses[:1]
        worst = max(abs(a - b) for a, b in zip(same, theirs.losses, strict=False))
        counts = {name: enough(side) for name, side in sides.items()}
        for _ in range(ROUNDS):
            for name, side in sides.items():
                side.steps(counts[name], rest=0)
        row = {"size": size, "method": method, "loss_difference": worst}
        for name, side in sides.items():
            found = side.row()
            row[name] = {"steps_per_second": 1e3 / found["ms"], "bytes": found["peak"]}
    mine, other = row["minipeft"], row["pytorch" if by_hand else "hf"]
    row["speed_ratio"] = round(mine["steps_per_second"] / other["steps_per_second"], 3)
    row["memory_ratio"] = round(mine["bytes"] / other["bytes"], 3)
    row["same_loss"] = worst <= TOLERANCE
    return row


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("gpu.json"))
    parser.add_argument("--seconds", type=float, default=345, help="default: %(default)s")
    parser.add_argument("--stand-in", action="store_true", help="try the script on the CPU")
    options = parser.parse_args()
    clock, found = Clock(options.seconds), {"about": about(), "rows": [], "left_out": []}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["PYTHONPATH"] = search_path(Path(folder), options.stand_in)
        sys.path[:0] = [str(BENCHMARKS), *os.environ["PYTHONPATH"].split(os.pathsep)]
        if not options.stand_in:
            import cupy

            if not cupy.is_available():
                print("CuPy finds no GPU on this machine", file=sys.stderr)
                return 2
        found["tests"] = run_tests(clock, options.stand_in)
        from cases import ON_GPU

        sizes = ("S",) if options.stand_in else ON_GPU
        for method in METHODS:
            for size in sizes:
                cell = f"{size} {method}"
                if clock.left < 25:
                    found["left_out"].append(cell)
                    continue
                try:
                    row = measure(size, method, options.stand_in)
                except (RuntimeError, OSError, ValueError) as error:
                    row = {"size": size, "method": method, "error": str(error)}
                found["rows"].append(row)
                print(cell, row.get("speed_ratio", row.get("error")), flush=True)
                options.out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    options.out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    failed = found["tests"]["status"] or [r for r in found["rows"] if not r.get("same_loss")]
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
