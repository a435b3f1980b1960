"""Fifty tasks on one backbone: bytes on disk, and the time it takes to change task.

Switching is `use`, which moves no array; the dashed line is what reading a whole model costs.
"""

import statistics
import tempfile
import time
from pathlib import Path

from ...io.checkpoint import load_base, load_model, save_adapter, save_model
from ...peft.attach import attach, use
from ...peft.methods import METHODS as ALL
from ..plots import SMALL, canvas, style, tidy

TASKS = 50
METHODS = ("full", "lora", "adapter", "bitfit", "ia3", "prefix", "prompt")


def measure(fast=False):
    """Bytes of fifty adapters' files with the backbone's, and seconds a switch."""
    tasks = 3 if fast else TASKS
    with tempfile.TemporaryDirectory() as folder:
        model = load_base()
        save_model(model, folder)
        base = (Path(folder) / "model.safetensors").stat().st_size
        reading = statistics.median(timed(load_model, folder) for _ in range(5))
        found = {method: fifty(method, folder, base, tasks) for method in METHODS}
    return {"tasks": tasks, "base bytes": base, "seconds to read a model": reading,
            "methods": found}  # fmt: skip


def timed(f, *args):
    """Seconds that a call takes."""
    began = time.perf_counter()
    f(*args)
    return time.perf_counter() - began


def fifty(method, folder, base, tasks):
    """Bytes and seconds of one method; full fine-tuning keeps a whole model for each task."""
    model = load_base()
    for i in range(tasks):
        attach(model, ALL[method](), str(i), rng=i)
    path = save_adapter(model, "0", Path(folder) / method) / "adapter_model.safetensors"
    each = path.stat().st_size
    switches = [timed(use, model, str(i % tasks)) for i in range(2 * TASKS)]
    whole = 0 if method == "full" else base
    return {"bytes": whole + tasks * each, "seconds": statistics.median(switches)}


def draw(numbers):
    """Two panels of bars, one bar a method."""
    figure, (left, right) = canvas(1, 2, 9.5, 3.6)
    names = METHODS[::-1]
    colours = [style(name)["color"] for name in names]
    for axes, key, unit in ((left, "bytes", 1e6), (right, "seconds", 1e-3)):
        values = [numbers["methods"][name][key] / unit for name in names]
        axes.barh(names, values, color=colours, height=0.65)
        for i, value in enumerate(values):
            axes.annotate(f"{value:.3g}", (value, i), (3, 0), textcoords="offset points",
                          va="center", fontsize=SMALL)  # fmt: skip
        axes.margins(x=0.15)
        tidy(axes)
    count = numbers["tasks"]
    left.set(xlabel="MB on disk", title=f"{count} tasks and their backbone")
    reading = 1e3 * numbers["seconds to read a model"]
    right.axvline(reading, color="grey", ls="--", lw=1)
    right.annotate("reading a model", (reading, 0), (-4, 0), textcoords="offset points",
                   ha="right", va="center", color="grey", fontsize=SMALL)  # fmt: skip
    right.set(xscale="log", xlabel="ms to change task (log scale)",
              title=f"one of {count} attached adapters to another")  # fmt: skip
    return figure
