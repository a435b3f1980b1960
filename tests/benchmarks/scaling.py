"""How time and memory of a step grow: width, depth, sequence, batch and rank, one at a time.

    python tests/benchmarks/scaling.py --out figures/scaling.json           under a minute

LoRA on all Linear layers (r = 8) and full fine-tuning of a small GPT. Dots are measured: time
by the clock, memory as the most that the process allocated, from the model on. Lines are
predicted by the ledger: all its bytes, with what stands beside a step; FLOPs at the speed of
the middle dot. Where dots and line part, the time goes elsewhere than into products of
matrices: narrow layers wait for Python, wide ones multiply faster than the middle one. Memory
lies above its line by what lives only inside an op, and below where all trains and the tape
has shrunk before the last gradient is there.
"""

import argparse
import tracemalloc
from pathlib import Path

import matplotlib.pyplot as plt
from threadpoolctl import threadpool_limits
from tqdm import tqdm

import minipeft as mp
from cases import Stepper, clock
from minipeft.io.files import write_json
from minipeft.lab.ledger import ledger
from minipeft.lab.plots import save

BASE = {"width": 128, "layers": 4, "tokens": 64, "batch": 8, "r": 8}
VALUES = {
    "width": (32, 64, 128, 256, 512),
    "layers": (1, 2, 4, 8, 16),
    "tokens": (16, 32, 64, 128, 256),
    "batch": (2, 4, 8, 16, 32),
    "r": (1, 4, 8, 32, 128),
}
COLOURS = {"full": "#000000", "lora": "#0072B2"}
MARKERS, DASHES = {"full": "*", "lora": "o"}, {"full": "-", "lora": "--"}
NEAR = 0.2  # a measured number is near a predicted one if they differ by less than this share
KINDS = (("seconds", 1e3, "ms a step"), ("bytes", 1e-6, "MB held"))
NAMES = {"full": "full", "lora": "LoRA, all Linear layers"}
VOCAB = 256


def built(method, width, layers, tokens, batch, r):
    """(Config, method) of a point."""
    sizes = dict(vocab=VOCAB, context=tokens, width=width, layers=layers, heads=4)
    lora = mp.LoRA(r=r, target_modules="all-linear")
    return mp.Config.gpt2(**sizes), mp.Full() if method == "full" else lora


def measure(method, point, rounds):
    """Seconds and bytes of a step, measured and predicted."""
    config, how = built(method, **point)
    seconds = min(clock(stepper(config, how, point), rounds))
    said = ledger(config, how, batch=point["batch"], seq=point["tokens"])
    values = {"seconds": seconds, "flops": sum(said.flops.values())}
    values["bytes"] = most_held(config, how, point)
    values["predicted"] = said.total + sum(said.beside.values())
    return {"method": method, **point, **values}


def stepper(config, how, point):
    """What takes a step of a point."""
    net = mp.Transformer(config, rng=0)
    mp.attach(net, how, rng=1)
    return Stepper(net, point["batch"], point["tokens"])


def most_held(config, how, point):
    """The most bytes allocated at once in a step, with all that a run holds between steps."""
    tracemalloc.start()
    try:
        step = stepper(config, how, point)
        step()
        tracemalloc.reset_peak()
        step()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def pairs(rows, method, grown, measured):
    """[(what grew, measured, predicted)] of a method; "seconds" or "bytes"."""
    own = [r for r in rows if r["method"] == method and r["grown"] == grown]
    if measured == "bytes" or not own:
        return [(r[grown], r["bytes"], r["predicted"]) for r in own]
    middle = next(r for r in own if r[grown] == BASE[grown])
    each = middle["seconds"] / middle["flops"]
    return [(r[grown], r["seconds"], r["flops"] * each) for r in own]


def message(rows, measured):
    """How many points lie near what is predicted, in words."""
    ratios = [
        found / said
        for method in COLOURS
        for grown in VALUES
        for _, found, said in pairs(rows, method, grown, measured)
    ]
    near = sum(abs(ratio - 1) < NEAR for ratio in ratios)
    what = {"seconds": "times of a step lie within {} % of what the FLOPs predict",
            "bytes": "peaks of memory lie within {} % of what the ledger predicts"}  # fmt: skip
    return f"{near} of {len(ratios)} {what[measured].format(round(100 * NEAR))}"


def picture(rows, path):
    """Two lines of panels, time and memory, a column what grows."""
    figure, panels = plt.subplots(2, 5, figsize=(12, 5.2), sharex="col", sharey="row",
                                  layout="constrained")  # fmt: skip
    for line, (measured, unit, label) in zip(panels, KINDS, strict=True):
        for axes, grown in zip(line, VALUES, strict=True):
            for method, colour in COLOURS.items():
                points = pairs(rows, method, grown, measured)
                if not points:
                    continue
                x, found, said = zip(*points, strict=True)
                axes.plot(x, [unit * y for y in said], DASHES[method], color=colour, lw=1)
                axes.plot(x, [unit * y for y in found], MARKERS[method], color=colour, ms=6)
            axes.set(xscale="log", yscale="log")
            axes.set_xticks(VALUES[grown], map(str, VALUES[grown]), fontsize=8)
            axes.minorticks_off()
            axes.grid(alpha=0.25, lw=0.5)
            axes.spines[["top", "right"]].set_visible(False)
        line[0].set_ylabel(f"{label} (log scale)")
        line[2].set_title(message(rows, measured))
    for axes, grown in zip(panels[1], VALUES, strict=True):
        axes.set_xlabel("rank r" if grown == "r" else grown)
    marks = [
        plt.Line2D([], [], color=colour, marker=MARKERS[method], ls=DASHES[method], lw=1)
        for method, colour in COLOURS.items()
    ]
    marks += [plt.Line2D([], [], color="none")]
    said = "line: predicted by the ledger, FLOPs at the speed of the middle point, and bytes"
    names = [*NAMES.values(), said]
    figure.legend(marks, names, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    save(figure, path)
    plt.close(figure)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path, default=Path("figures/scaling.json"))
    options = parser.parse_args()
    points = [
        (method, grown, BASE | {grown: value})
        for grown, values in VALUES.items()
        for method in COLOURS
        for value in values
        if method == "lora" or grown != "r"
    ]
    rows = []
    with threadpool_limits(1, "blas"):
        for method, grown, point in tqdm(points, disable=None, unit="point"):
            rows.append({"grown": grown, **measure(method, point, options.rounds)})
            write_json(options.out, {"base": BASE, "rows": rows})
    for grown in VALUES:
        for method in COLOURS:
            own = [r for r in rows if r["method"] == method and r["grown"] == grown]
            for r in own:
                print(
                    f"{grown:7} {r[grown]:4} {method:5} {1e3 * r['seconds']:8.2f} ms "
                    f"{r['bytes'] / 1e6:8.2f} MB held, {r['predicted'] / 1e6:8.2f} predicted"
                )
    picture(rows, options.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
