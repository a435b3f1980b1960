"""Write the generated parts of the pages below, or check that they are what the code says.

python tests/tools/readme.py              rewrite what lies between the markers
python tests/tools/readme.py --check      exit 1 if anything would change

A part lies between `<!-- begin NAME -->` and `<!-- end NAME -->`; each is a function here, and
each stands on one page. What lies outside the markers is written by hand.
"""

import ast
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import minipeft as mp
from minipeft.lab.claims import measured, said
from minipeft.lab.comparison_table import groups, mean
from minipeft.lab.figures import FIGURES

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from tools.guide import choices, defaults  # noqa: E402

PAGES = ("README.md", "lessons/methods.md", "figures/README.md", "tests/README.md",
         "lessons/guide.md")  # fmt: skip
FILES = ROOT / "minipeft" / "peft" / "methods"

READING = (
    "peft/methods/lora.py", "peft/base.py", "peft/attach.py", "peft/merge.py",
    "model/layers.py", "model/transformer.py", "train/fit.py", "engine/functional.py",
    "engine/ops.py", "engine/tensor.py",
)  # fmt: skip
TREE = {
    "engine": "minipeft/engine", "model": "minipeft/model", "peft": "minipeft/peft",
    "  methods": "minipeft/peft/methods", "io": "minipeft/io", "train": "minipeft/train",
    "text": "minipeft/text", "lab": "minipeft/lab", "course": "minipeft/course",
}  # fmt: skip
SIX = ("full", "lora", "ia3", "adapter", "prefix", "prompt")


# README.md


def sentence():
    """What this is, with the number of methods and the usual length of a method's file."""
    files = [path for path in FILES.glob("*.py") if path.name != "__init__.py"]
    usual = round(statistics.median(map(lines_of, files)), -1)
    return (
        f"{len(mp.METHODS)} methods of parameter-efficient fine-tuning, from scratch in NumPy: "
        f"about {usual:.0f} lines each, tested against HF PEFT."
    )


def facts():
    """A line of facts where other projects have badges, and the picture of all methods."""
    about = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    python = re.search(r'requires-python = ">=([\d.]+)"', about)[1]
    licence = re.search(r'license = \{ text = "(\w+)" \}', about)[1]
    lessons = len(list((ROOT / "lessons").glob("[0-9][0-9]_*.ipynb")))
    return " · ".join([
        f"`Python ≥ {python}`", f"`{licence} licence`", f"`{len(mp.METHODS)} methods`",
        f"`{lessons} lessons`", f"`more than {number_of_tests() // 500 * 500:,} tests`",
    ]) + f"\n\n![{FIGURES['hero'].in_words(figure('hero'))}](figures/hero.png)"  # fmt: skip


def number_of_tests():
    """How many tests `python -m pytest` runs."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return sum(map(int, re.findall(r"^\S+\.py: (\d+)$", run.stdout, re.M)))


def output():
    """What the example prints, in a block: as it stands on the page if that is still so."""
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    before = re.search(r"<!-- begin output -->\n```text\n(.*?)```", page, re.S)[1]
    now = example_output(page)
    return f"```text\n{before if same_output(before, now) else now}```"


def example_code(page):
    """The code of the README's example."""
    return re.search(r"<!-- example -->\n```python\n(.*?)```", page, re.S)[1]


def example_output(page):
    """What the README's example prints."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", example_code(page)]
    with tempfile.TemporaryDirectory() as folder:
        run = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, check=True
        )
    return run.stdout


def same_output(before, now):
    """Whether two outputs agree: percentages to 2 points, as processors round differently."""
    percent = r"([\d.]+)%"
    words, others = re.split(percent, before), re.split(percent, now)
    return words[::2] == others[::2] and all(
        abs(float(one) - float(two)) <= 2
        for one, two in zip(words[1::2], others[1::2], strict=True)
    )


def reading():
    """The files to read, in order, with their lengths."""
    steps = []
    for name in READING:
        path = ROOT / "minipeft" / name
        steps.append(f"[`{path.stem}`](minipeft/{name}) {lines_of(path)}")
    return textwrap.fill(" → ".join(steps), 160, break_on_hyphens=False)


def tree():
    """The rooms of the package, in the order in which they may import."""
    rows = [f"{'minipeft/':<14}{lines_of_folder(ROOT / 'minipeft'):>6,} lines of Python"]
    for name, folder in TREE.items():
        files = (ROOT / folder).glob("*.py")
        count, text = sum(map(lines_of, files)), first_sentence(ROOT / folder / "__init__.py")
        rows.append(f"  {name + '/':<12}{count:>6,}  {text}")
    return "\n".join(["```text", *rows, "```"])


def lines_of(path):
    """The number of lines of a file."""
    return len(path.read_text(encoding="utf-8").splitlines())


def lines_of_folder(folder):
    """The number of lines of all Python files in a folder."""
    return sum(map(lines_of, folder.rglob("*.py")))


def first_sentence(path):
    """The first line of a module's docstring."""
    return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))).splitlines()[0]


def results():
    """Six rows of the long comparison."""
    return comparison_of(SIX, ("trainable", "old tasks"))


# lessons/methods.md


def methods():
    """Every method: its equation, how much it trains of the shipped backbone, its paper."""
    base, table = mp.load_base(), []
    family = None
    for name, method in mp.METHODS.items():
        if method.family != family:
            family = method.family
            table += ["", f"### The {family.replace('lora', 'LoRA')} family", "",
                      "| name | what it changes | where | f(x) becomes | trains | merges "
                      "| HF PEFT | paper |", "|---|---|---|---|--:|---|---|---|"]  # fmt: skip
        count = mp.attach(base, method(), name).count
        mp.detach(base, name)
        file = method.__module__.replace(".", "/") + ".py"
        equation = method.equation.replace("|", "\\|")  # a bare bar would end the cell
        table.append(
            f"| [`{name}`](../{file}) | {method.idea} | {method.place} | {equation} "
            f"| {count:,} "
            f"| {'yes' if method.mergeable else 'no'} | {theirs_of(method)} "
            f"| {paper_of(method)} |"
        )
    return "\n".join(table[1:])


def theirs_of(method):
    """What a method is in HF PEFT, or a dash."""
    if not method.hf_config:
        return "–"
    return f"`{method.hf_config}`" + (f", `{method.hf_flag}`" if method.hf_flag else "")


def claims():
    """What the paper of each method says that it buys, and what the long comparison shows."""
    rows = figure("compare_full")["rows"]
    lines = ["| name | said to give | measured here | borne out? |", "|---|---|---|---|"]
    for name, method in mp.METHODS.items():
        if method.claim:
            cells = f"`{name}`", said(method), *measured(method, rows)
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def paper_of(method):
    """The paper of a method, as a link."""
    parts = re.fullmatch(r"(.*), arXiv:(\d{4}\.\d{4,5})", method.paper)
    return f"[{parts[1]}](https://arxiv.org/abs/{parts[2]})" if parts else method.paper or "–"


# figures/README.md


def figure(name):
    """The numbers of a picture."""
    return json.loads((ROOT / "figures" / f"{name}.json").read_text(encoding="utf-8"))


def comparison():
    """The long comparison, a line a method."""
    names = dict.fromkeys(row["method"] for row in figure("compare_full")["rows"])
    order = [name for name in mp.METHODS if name in names]
    return comparison_of(order, ("trainable", "old tasks", "file kB", "merges"))


def comparison_of(names, columns):
    """A table: exact match of some methods on test words, at each budget of steps."""
    rows = figure("compare_full")["rows"]
    grouped = groups(rows)
    tasks = dict.fromkeys(task for task, _ in grouped)
    budgets = sorted({steps for _, steps in grouped})
    whole = next(row["trainable"] for row in rows if row["method"] == "full")
    table = []
    for name in names:
        runs = [row for row in rows if row["method"] == name]
        first = runs[0]
        cells = {"method": f"`{name}`", "trainable": f"{first['trainable']:,}"}
        cells["% of model"] = f"{100 * first['trainable'] / whole:.3g}"
        for task in tasks:
            seeds = [grouped[task, steps][name] for steps in budgets]
            cells[task] = " / ".join(f"{mean(some, 'exact'):.2f}" for some in seeds)
        seeds = [[row for row in runs if row["steps"] == steps] for steps in budgets]
        cells["old tasks"] = " / ".join(f"{mean(some, 'old'):.2f}" for some in seeds)
        cells["file kB"] = f"{first['file_bytes'] / 1e3:.1f}"
        cells["merges"] = "yes" if first["mergeable"] else "no"
        table.append(cells)
    shown = ["method", *(name for name in table[0] if name in {*columns, "% of model", *tasks})]
    numbers = {"trainable", "% of model", "file kB"}
    ruler = ["---" if name in ("method", "merges") else "--:" if name in numbers else ":-:"
             for name in shown]  # fmt: skip
    lines = [shown, ruler, *([cells[name] for name in shown] for cells in table)]
    return "\n".join("|".join(["", *line, ""]) for line in lines)


def pictures():
    """Every picture that `minipeft figures` makes, two in a row."""
    cells = [
        f"![{name}]({name}.png)<br>`{name}`: {module.__doc__.splitlines()[0]}"
        for name, module in FIGURES.items()
        if name != "hero"
    ]
    cells += [""] * (len(cells) % 2)
    rows = [f"| {one} | {two} |" for one, two in zip(cells[::2], cells[1::2], strict=True)]
    return "\n".join(["| | |", "|---|---|", *rows])


def speed():
    """Times and memory of a training step against the rivals', two threads each."""
    rows = figure("step_time")["rows"]
    by = {(r["size"], r["method"], r["rival"]): r for r in rows if r["threads"] == 2}
    rivals = {"hf": "HF PEFT", "pytorch": "PyTorch by hand", "autograd": "HIPS autograd"}
    heads = ["size", "method", "workers", "ms a step"]
    heads += [*(f"of {name}" for name in rivals.values()), "memory of HF PEFT"]
    lines = ["|".join(["", *heads, ""]), "|---|---|" + "--:|" * (len(heads) - 2)]
    sizes = ["S", "M", "M-llama", "L", "XL"]
    for size, method, rival in sorted(by, key=lambda cell: sizes.index(cell[0])):
        if rival != "minipeft":
            continue
        ours = by[size, method, rival]
        others = [by.get((size, method, other)) for other in rivals]
        times = [f"{ours['ms'] / other['ms']:.2f}" if other else "–" for other in others]
        memory = f"{ours['peak'] / others[0]['peak']:.2f}"
        workers = str(ours["workers"])
        cells = [size, f"`{method}`", workers, f"{ours['ms']:.0f}", *times, memory]
        lines.append("|".join(["", *cells, ""]))
    return "\n".join(lines)


def spent():
    """What a step with LoRA at L is made of, in percent of HF PEFT's."""
    rows = figure("step_spent")["rows"]
    row = next(row for row in rows if (row["size"], row["method"]) == ("L", "lora"))
    names = "least", "products", "functions", "rest", "ms"
    least, longer, functions, rest, step = (100 * row[name] / row["hf"] for name in names)
    table = figure("step_time")["rows"]
    cell = {"size": "L", "method": "lora", "threads": 2}
    hf, ours = (
        next(r["ms"] for r in table if r.items() >= (cell | {"rival": rival}).items())
        for rival in ("hf", "minipeft")
    )
    return (
        f"At L with LoRA a step takes {step:.0f} % of the time of HF PEFT's step: {least:.0f} "
        f"for matrix products at the best\nspeed seen on this processor, {longer:.0f} more "
        f"because they run slower inside a step, {functions:.0f} for all other functions\n"
        f"of arrays, and {rest:.0f} for Python, copies and waiting. (HF's step took "
        f"{row['hf']:.0f} ms here and {hf:.0f} ms in the table\nabove, ours {row['ms']:.0f} "
        f"and {ours:.0f}: HF's time differs from process to process.)"
    )


def generation():
    """The time for a token against HF's `generate`."""
    numbers = figure("generation")
    by = {(row["batch"], row["threads"]): row for row in numbers["rows"]}
    one, eight = (by[rows, 2] for rows in (1, 8))
    return (
        f"Writing {numbers['new']} tokens with the KV cache takes {one['ratio']:.2f} of the "
        f"time of HF's `generate` for one prompt and\n{eight['ratio']:.2f} for eight "
        f"({one['minipeft_ms']:.2f} and {eight['minipeft_ms']:.2f} ms a token; "
        "`python tests/benchmarks/generation.py`)."
    )


# tests/README.md


def laws():
    """The laws that every method keeps."""
    from laws.contract import LAWS

    rows = [f"| {number} | {law.__doc__.splitlines()[0]} |" for number, law in LAWS.items()]
    return "\n".join(["| law | what it says |", "|--:|---|", *rows])


def mistakes():
    """The planted bugs and the laws that catch them."""
    from planted import table

    return table()


PARTS = {
    part.__name__: part
    for part in (
        sentence, facts, output, reading, tree, results, methods, claims, comparison, pictures,
        speed, spent, generation, laws, mistakes, choices, defaults,
    )
}  # fmt: skip


def written(text, parts=None):
    """A page's text with every part made anew."""
    for name, part in (PARTS if parts is None else parts).items():
        begin, end = f"<!-- begin {name} -->\n", f"<!-- end {name} -->"
        if begin in text:
            head, rest = text.split(begin)
            text = head + begin + part() + "\n" + end + rest.split(end, 1)[1]
    return text


def main():
    """Rewrite or check; returns the exit code."""
    stale = []
    for page in PAGES:
        old = (ROOT / page).read_text(encoding="utf-8")
        new = written(old)
        if new != old:
            stale.append(page)
        if "--check" not in sys.argv:
            (ROOT / page).write_text(new, encoding="utf-8")
    if "--check" not in sys.argv or not stale:
        return 0
    names = ", ".join(stale)
    print(f"out of date: {names}; run python tests/tools/readme.py", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
