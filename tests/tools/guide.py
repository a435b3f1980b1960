"""The parts of lessons/guide.md that are computed: which method when, and default values.

Everything comes from figures/compare_full.json, figures/data.json, figures/storage.json and
`minipeft.ledger`; tests/tools/readme.py writes it into the page.
"""

import json
import statistics
from dataclasses import MISSING, fields
from pathlib import Path

import minipeft as mp
from minipeft.lab.comparison_table import CLOSE
from minipeft.lab.presets import config

FIGURES = Path(__file__).parents[2] / "figures"
SEVEN = "llama-2-7b"


def figure(name):
    """The numbers of a picture."""
    return json.loads((FIGURES / f"{name}.json").read_text(encoding="utf-8"))


class Comparison:
    """The long comparison, asked for means over seeds."""

    def __init__(self, rows):
        self.rows = rows
        self.few, self.many = (f({row["steps"] for row in rows}) for f in (min, max))
        self.names = [name for name in mp.METHODS if any(row["method"] == name for row in rows)]

    def mean(self, name, column="exact", steps=None, task=None):
        """The mean of a column for a method, after the most steps and over all tasks."""
        return statistics.fmean(
            row[column]
            for row in self.rows
            if row["method"] == name
            and row["steps"] == (steps or self.many)
            and task in (None, row["task"])
        )

    def near(self):
        """The methods that end within 0.05 of full fine-tuning, the fewest parameters first."""
        goal = self.mean("full") - CLOSE
        found = [name for name in self.names if name != "full" and self.mean(name) >= goal]
        return sorted(found, key=lambda name: self.mean(name, "trainable"))


def listed(names):
    """Names of methods as text."""
    return ", ".join(f"`{name}`" for name in names)


def numbers(values, form="{:.2f}"):
    """Numbers as text."""
    return ", ".join(form.format(value) for value in values)


def best(names, key, n=3):
    """The n names with the largest key, and those keys."""
    chosen = sorted(names, key=key, reverse=True)[:n]
    return chosen, [key(name) for name in chosen]


def by_quality(c):
    """The best after many steps, and after few."""
    for need, steps in (("the best result", c.many), ("a good result soon", c.few)):
        names, exact = best(c.names, lambda name, steps=steps: c.mean(name, steps=steps))
        full = c.mean("full", steps=steps)
        because = (
            f"exact match after {steps} steps: {numbers(exact)}; full fine-tuning {full:.2f}"
        )
        yield need, listed(names), because


def by_examples(c):
    """Few examples."""
    found = figure("data")["exact"]
    for n in ("16", "256"):
        exact = {name: statistics.fmean(found[name][n]) for name in found}
        names, values = best(exact, exact.get)
        because = f"exact match {numbers(values)}; full fine-tuning {exact['full']:.2f}"
        yield f"to learn from {n} examples", listed(names), because


def by_size(c):
    """Many tasks on one backbone; and no cost at inference."""
    names, sizes = best(c.near(), lambda name: -c.mean(name, "file_bytes"))
    whole = c.mean("full", "file_bytes") / 1e3
    because = (
        f"{numbers([-size / 1e3 for size in sizes], '{:.1f}')} kB; a whole model {whole:.0f}"
    )
    yield "many tasks on one backbone, small files", listed(names), because
    names = [name for name in c.near() if mp.METHODS[name].mergeable][:3]
    counts = [c.mean(name, "trainable") for name in names]
    because = f"they merge, and train {numbers(counts, '{:,.0f}')} parameters"
    yield "no cost at inference", listed(names), because


def by_switching(c):
    """Tasks that alternate, or meet in one batch."""
    found = figure("storage")
    times = [one["seconds"] for name, one in found["methods"].items() if name != "full"]
    because = (
        f"`use` takes at most {1e6 * max(times):.0f} µs; reading a whole model takes "
        f"{1e3 * found['seconds to read a model']:.0f} ms"
    )
    yield "tasks that alternate, or meet in one batch", "any method, not merged", because


def by_old_tasks(c):
    """Old skills that must stay."""
    names, old = best(c.near(), lambda name: c.mean(name, "old"))
    full = c.mean("full", "old")
    because = f"exact match on the old tasks {numbers(old)}; full fine-tuning {full:.2f}"
    yield "old skills kept while it is in use", listed(names), because
    yield "old skills back afterwards", "any method, detached", "the base returns, bit for bit"


def by_novelty(c):
    """A mapping that the model has never seen."""
    names, exact = best(c.names, lambda name: c.mean(name, steps=c.few, task="cipher"))
    weak = [name for name in c.names if c.mean(name, task="cipher") < 0.5]
    because = f"cipher: {numbers(exact)} after {c.few} steps"
    because += f"; below 0.5 even after {c.many}: {listed(weak)}" if weak else ""
    yield "something new to the model", listed(names), because


def by_memory(c):
    """One GPU, and a base of seven billion parameters."""

    def gigabytes(name, bits=None):
        method = mp.METHODS[name]()
        found = mp.ledger(config(SEVEN), method, batch=1, policy="bf16", base_bits=bits)
        return found.total / 1e9

    sizes = {name: gigabytes(name) for name in ("full", "lora", "adapter", "prefix", "ia3")}
    fit = [name for name, size in sizes.items() if size < 24]
    because = f"Llama-2-7B in bfloat16, 512 tokens: {max(map(sizes.get, fit)):.0f} GB or less; "
    because += f"full fine-tuning {sizes['full']:.0f} GB"
    yield "7 billion parameters on one GPU of 24 GB", listed(fit), because
    because = f"{gigabytes('lora', 4):.0f} GB, as the base is held in 4 bits"
    yield "the same on a GPU of 12 GB", "`lora` on an nf4 base (QLoRA)", because


CHOICES = by_quality, by_examples, by_size, by_switching, by_old_tasks, by_novelty, by_memory


def choices():
    """Which method when: a table of what was measured."""
    comparison = Comparison(figure("compare_full")["rows"])
    lines = ["| you need | take | because |", "|---|---|---|"]
    for choice in CHOICES:
        lines += ["| " + " | ".join(cells) + " |" for cells in choice(comparison)]
    return "\n".join(lines)


def defaults():
    """The default options of every method, and its learning rate."""
    lines = ["| method | options | learning rate |", "|---|---|--:|"]
    for name, method in mp.METHODS.items():
        options = {f.name: f.default for f in fields(method) if f.default is not MISSING}
        shown = [f"{k}={said(v)}" for k, v in options.items() if v not in (None, 0, False, ())]
        lines.append(f"| `{name}` | {', '.join(shown)} | {method.learning_rate:g} |")
    return "\n".join(lines)


def said(value):
    """A default value as the command line takes it."""
    if isinstance(value, tuple):
        return "+".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else value
