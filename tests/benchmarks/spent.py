"""Where the time of a step goes, and with it how fast a step could be.

    python tests/benchmarks/spent.py --out figures/step_spent.json      about two minutes

Functions of NumPy that this process calls for its half of a batch are timed by arrays that
look at the clock: products of matrices, and all others. What is left of the step is Python,
indexing and copies of arrays, and waiting for the other process. The steps are minipeft's by
two workers, and in turn with them HF PEFT's by two threads and one product of two large
matrices, whose speed is the least time that the step's products could take.
"""

import argparse
import time
from pathlib import Path
from statistics import median

import matplotlib.pyplot as plt
from rival import REST, Rival
from step import GOALS, SGEMM
from tqdm import tqdm

from cases import SIZES, Stepper, clock, flops, model
from minipeft.engine.backend import np
from minipeft.io.files import write_json
from minipeft.lab.plots import save

CELLS = [(size, method) for method in ("lora", "full") for size in ("S", "M", "L")]
WORKERS = 2
PARTS = {  # of a step, as they are stacked, with a hatch for those who see no colours
    "least": ("products, at the peak's speed", "#0072B2", ""),
    "products": ("products, what they take longer", "#56B4E9", "///"),
    "functions": ("all other functions of arrays", "#E69F00", "..."),
    "rest": ("Python, copies, waiting", "#BBBBBB", ""),
}
spent = {"products": 0.0, "functions": 0.0}  # seconds so far


def timed(name):
    """A method of arrays that adds its seconds to `spent`."""

    def method(self, *args, **options):
        began = time.perf_counter()
        y = getattr(np.ndarray, name)(self, *args, **options)
        spent["functions"] += time.perf_counter() - began
        return y

    return method


class Timed(np.ndarray):
    """An array whose functions add their seconds to `spent`; results are Timed too."""

    argmax = timed("argmax")
    __array_function__ = timed("__array_function__")  # take_along_axis, concatenate, …

    def __array_ufunc__(self, ufunc, method, *inputs, out=None, **options):
        if out is not None:
            options["out"] = tuple(plain(a) for a in out)
        inputs = [plain(a) for a in inputs]
        began = time.perf_counter()
        y = getattr(ufunc, method)(*inputs, **options)
        kind = "products" if ufunc is np.matmul else "functions"
        spent[kind] += time.perf_counter() - began
        if out is not None:
            return out[0]
        return y if y is None else np.asarray(y).view(Timed)


def plain(a):
    """The same array, not Timed."""
    return a.view(np.ndarray) if isinstance(a, Timed) else a


def measure(size, method, rounds):
    """One row: milliseconds of each part of a step, and of HF PEFT's step."""
    with (
        Rival("hf_peft.py", size, method, threads=WORKERS) as hf,
        Rival("sgemm.py", SGEMM, threads=WORKERS) as sgemm,
    ):
        return row_of(size, method, rounds, hf, sgemm)


def row_of(size, method, rounds, hf, sgemm):
    """The same, given the two rivals."""
    net, _ = model(size, method)
    *_, T, B = SIZES[size]
    step = Stepper(net, B, T, WORKERS)
    n = {"S": 10, "M": 3, "L": 1}[size]
    ours, timed = [], []
    with step.run.workers() as each:
        arrays = {p: p.data for p in net.parameters()}
        for _ in range(rounds):
            for rival in (hf, sgemm):
                rival.steps(1, counted=False)
                rival.steps(n, rest=0)
            time.sleep(REST)
            step(each)
            ours += clock(lambda: step(each), n)
            for p, a in arrays.items():
                p.data = a.view(Timed)
            spent.update(products=0.0, functions=0.0)
            clock(lambda: step(each), n)
            timed.append({kind: total / n for kind, total in spent.items()})
            for p, a in arrays.items():
                p.data = a
    found = {kind: median(row[kind] for row in timed) for kind in spent}
    least = flops(size, method) / (2 * SGEMM**3 / min(sgemm.seconds))
    row = {"ms": median(ours), "hf": median(hf.seconds), "least": least}
    row["products"] = found["products"] - least
    row["functions"] = found["functions"]
    row["rest"] = row["ms"] - found["products"] - found["functions"]
    row = {key: round(1e3 * seconds, 3) for key, seconds in row.items()}
    return {"size": size, "method": method} | row


def table(rows):
    """The parts as lines of text, in percent of HF PEFT's step."""
    yield "size  method  " + "  ".join(f"{key:>9}" for key in (*PARTS, "step", "goal"))
    for row in rows:
        cells = [row[key] / row["hf"] for key in (*PARTS, "ms")] + [
            GOALS[row["method"]][row["size"]]
        ]
        cells = "  ".join(f"{100 * x:8.0f}%" for x in cells)
        yield f"{row['size']:4}  {row['method']:6}  {cells}"


def message(rows):
    """What part of HF PEFT's time a step takes, in words."""
    parts = []
    for method in dict.fromkeys(row["method"] for row in rows):
        shares = [100 * row["ms"] / row["hf"] for row in rows if row["method"] == method]
        parts.append(f"with {method} {min(shares):.0f} to {max(shares):.0f} %")
    return f"Of HF PEFT's time a step takes, {', '.join(parts)}"


def picture(rows, path):
    """Stacked bars in percent of HF PEFT's step, and the goal."""
    figure, axes = plt.subplots(figsize=(8.2, 3.2), layout="constrained")
    for y, row in enumerate(rows):
        left = 0.0
        for key, (label, colour, hatch) in PARTS.items():
            width = 100 * row[key] / row["hf"]
            look = {"color": colour, "hatch": hatch, "edgecolor": "white", "linewidth": 0}
            axes.barh(-y, width, left=left, label=None if y else label, **look)
            left += width
        goal = 100 * GOALS[row["method"]][row["size"]]
        mark = dict(color="black", lw=2, label=None if y else "goal")
        axes.plot([goal, goal], [-y - 0.45, -y + 0.45], **mark)
    axes.axvline(100, color="black", lw=1, ls=":")
    names = [f"{row['size']} · {row['method']}" for row in rows]
    axes.set_yticks([-y for y in range(len(rows))], names)
    axes.set(xlabel="% of HF PEFT's time for a step", title=message(rows))
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", ncols=3, fontsize=8, frameon=False)
    save(figure, path)
    plt.close(figure)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, default=Path("figures/step_spent.json"))
    options = parser.parse_args()
    bar = tqdm(CELLS, disable=None, unit="cell")
    rows = [measure(*cell, options.rounds) for cell in bar]
    write_json(options.out, {"rounds": options.rounds, "rows": rows})
    print(*table(rows), sep="\n")
    picture(rows, options.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
