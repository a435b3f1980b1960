"""Fifty tasks on one backbone: bytes on disk, and the time it takes to change task.

What is timed is one call of `use`, which moves no array; its time grows with the number of
layers that the method changes. The dashed line is what reading a whole model from disk takes.
"""

import tempfile
import time
from pathlib import Path

from ...io.checkpoint import load_base, load_model, save_adapter, save_model
from ...peft.attach import attach, use
from ...peft.methods import METHODS as ALL
from ...peft.methods import LoRA
from ..plots import SMALL, canvas, style, tidy

TASKS, EVERYWHERE = 50, "lora, all layers"
METHODS = ("full", "lora", EVERYWHERE, "adapter", "bitfit", "ia3", "prefix", "prompt")


def measure(fast=False):
    """Bytes of fifty adapters' files with the backbone's, and seconds a switch."""
    tasks = 3 if fast else TASKS
    with tempfile.TemporaryDirectory() as folder:
        model = load_base()
        save_model(model, folder)
        base = (Path(folder) / "model.safetensors").stat().st_size
        reading = min(timed(load_model, folder) for _ in range(2 * TASKS))
        found = {method: fifty(method, folder, base, tasks) for method in METHODS}
    return {"tasks": tasks, "base bytes": base, "seconds to read a model": reading,
            "methods": found}  # fmt: skip


def timed(f, *args):
    """Seconds that a call takes."""
    began = time.perf_counter()
    f(*args)
    return time.perf_counter() - began


def fifty(name, folder, base, tasks):
    """Bytes and seconds of one method; full fine-tuning keeps a whole model for each task.

    Of many switches the fastest counts: the others waited for something else.
    """
    model = load_base()
    method = LoRA(r=8, target_modules="all-linear") if name == EVERYWHERE else ALL[name]()
    for i in range(tasks):
        attach(model, method, str(i), rng=i)
    path = save_adapter(model, "0", Path(folder) / name) / "adapter_model.safetensors"
    each = path.stat().st_size
    switches = [timed(use, model, str(i % tasks)) for i in range(4 * TASKS)]
    whole = 0 if name == "full" else base
    return {"bytes": whole + tasks * each, "seconds": min(switches)}


def draw(numbers):
    """Bars of bytes, and points of milliseconds, one a method."""
    figure, (left, right) = canvas(1, 2, 10, 4)
    names = METHODS[::-1]
    looks = [style(name.partition(",")[0]) | {"markersize": 9} for name in names]
    count, reading = numbers["tasks"], 1e3 * numbers["seconds to read a model"]
    for axes, key, unit in ((left, "bytes", 1e6), (right, "seconds", 1e-3)):
        values = [numbers["methods"][name][key] / unit for name in names]
        for i, (value, look) in enumerate(zip(values, looks, strict=True)):
            if axes is left:
                axes.barh(i, value, color=look["color"], height=0.65)
            else:
                axes.plot(value, i, **look)
            axes.annotate(f"{value:.2g}", (value, i), (9, 0), textcoords="offset points",
                          va="center", fontsize=SMALL)  # fmt: skip
        axes.set_yticks(range(len(names)), names)
        axes.margins(x=0.15)
        tidy(axes)
    left.set(
        xlabel=f"MB on disk of {count} adapters and their backbone", title=message(numbers)
    )
    right.axvline(reading, color="grey", ls="--", lw=1)
    right.text(reading, 0.5, f"reading a \nmodel: {reading:.2g} ", ha="right", va="center",
               color="#555555", fontsize=SMALL)  # fmt: skip
    right.set(xscale="log", title=message_of_time(numbers),
              xlabel="ms for use(model, name) (log scale)")  # fmt: skip
    return figure


def message(numbers):
    """Returns what part of as many models fifty adapters of LoRA take, in words."""
    bytes_of = {name: found["bytes"] for name, found in numbers["methods"].items()}
    share = 100 * bytes_of["lora"] / bytes_of["full"]
    count = numbers["tasks"]
    return f"{count} LoRAs and one backbone take\n{share:.0f} % of the bytes of {count} models"


def message_of_time(numbers):
    """Returns how much faster it is to change the adapter than to read a model, in words."""
    slowest = max(found["seconds"] for found in numbers["methods"].values())
    times = numbers["seconds to read a model"] / slowest
    return f"Changing the adapter is at least {times:.0f} times\nas fast as reading a model"
