"""Write the generated parts of README.md, or check that they are what the code says.

python tests/tools/readme.py              rewrite what lies between the markers
python tests/tools/readme.py --check      exit 1 if anything would change

A part lies between `<!-- begin NAME -->` and `<!-- end NAME -->`; each is a function here.
"""

import inspect
import json
import re
import sys
from pathlib import Path

import minipeft as mp
from minipeft.lab.comparison_table import groups, mean

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"

READING = [
    ("autograd.py", "the tape: `record`, and why a frozen weight costs nothing"),
    ("ops.py", "primitives, each beside its derivative"),
    ("functional.py", "the fused ones: linear, norms, attention, cross-entropy"),
    ("nn.py", "Parameter, Module, and the Site: a function that may be replaced"),
    ("transformer.py", "GPT-2's shape and Llama's, with a cache of keys and values"),
    ("peft/lora.py", "one method: its equation is its code"),
    ("peft/base.py", "what all methods share: Delta, Method, Adapter"),
    ("peft/attaching.py", "attach, detach, use"),
    ("peft/merging.py", "merge and unmerge"),
    ("train.py", "the only training loop"),
]


def reading():
    """The reading order with line counts."""
    lines = ["| file | lines | what it is |", "|---|--:|---|"]
    for name, text in READING:
        count = len((ROOT / "minipeft" / name).read_text().splitlines())
        lines.append(f"| [`{name}`](minipeft/{name}) | {count} | {text} |")
    return "\n".join(lines)


def methods():
    """Every method with the equation that its docstring starts with."""
    base = mp.load_base()
    lines = ["| name | class | f(x) becomes | trains¹ | merges |", "|---|---|---|--:|---|"]
    for name, method in mp.METHODS.items():
        equation = equation_of(method)
        count = mp.attach(base, method(), name).count
        mp.detach(base, name)
        lines.append(
            f"| `{name}` | `{method.__name__}` | {equation} | {count:,} "
            f"| {'yes' if method.mergeable else 'no'} |"
        )
    return "\n".join(lines)


def equation_of(method):
    """The first indented line of the docstring of a method, or of its file, up to a gap."""
    texts = {8: method.__doc__ or "", 4: inspect.getmodule(method).__doc__}  # by indent
    lines = (re.search(rf"^ {{{n},}}(\S.*)$", text, re.M) for n, text in texts.items())
    line = next(found.group(1) for found in lines if found)
    return re.split(r" {4,}", line)[0].replace("|", "\\|")


def comparison():
    """The long comparison, a line a method: exact match on test words at each budget."""
    rows = figure("compare_full")["rows"]
    grouped = groups(rows)
    tasks = dict.fromkeys(task for task, _ in grouped)
    budgets = sorted({steps for _, steps in grouped})
    heads = ["method", "trainable", *tasks, "old tasks", "file kB", "merges"]
    lines = ["|".join(["", *heads, ""]), "|---|--:" + "|:-:" * (len(tasks) + 1) + "|--:|---|"]
    for method in dict.fromkeys(row["method"] for row in rows):
        own = [row for row in rows if row["method"] == method]
        first = own[0]
        exact = [
            " / ".join(
                f"{mean(grouped[task, steps][method], 'exact'):.2f}" for steps in budgets
            )
            for task in tasks
        ]
        old = " / ".join(
            f"{mean([row for row in own if row['steps'] == steps], 'old'):.2f}"
            for steps in budgets
        )
        merges = "yes" if first["mergeable"] else "no"
        size = f"{first['file_bytes'] / 1e3:.1f}"
        cells = [f"`{method}`", f"{first['trainable']:,}", *exact, old, size, merges]
        lines.append("|".join(["", *cells, ""]))
    return "\n".join(lines)


def mistakes():
    """The planted bugs and the laws that catch them."""
    sys.path.insert(0, str(ROOT / "tests"))
    from planted import table

    return table()


def figure(name):
    """The numbers of a picture."""
    return json.loads((ROOT / "figures" / f"{name}.json").read_text(encoding="utf-8"))


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
    asked = {"size": "L", "method": "lora", "threads": 2}
    hf, ours = (
        next(r["ms"] for r in table if r.items() >= (asked | {"rival": rival}).items())
        for rival in ("hf", "minipeft")
    )
    return (
        f"At L with LoRA a step takes {step:.0f} % of HF PEFT's time: {least:.0f} for products "
        f"of matrices at the best speed seen on\nthis processor, {longer:.0f} more that they "
        f"take in fact, {functions:.0f} for all other functions of arrays, and {rest:.0f} for "
        "Python, copies\nand waiting. Of 70 %, which was the aim, the products leave "
        f"{70 - least - longer:.0f} for all else.\n"
        f"(HF's step took {row['hf']:.0f} ms here and {hf:.0f} in the table, ours "
        f"{row['ms']:.0f} and {ours:.0f}: the rival differs from process to process.)"
    )


def generation():
    """The time for a token against HF's `generate`."""
    told = figure("generation")
    by = {(row["batch"], row["threads"]): row for row in told["rows"]}
    one, eight = (by[rows, 2] for rows in (1, 8))
    return (
        f"Writing {told['new']} tokens with the cache takes {one['ratio']:.2f} of the time of "
        f"HF's `generate` for one prompt and {eight['ratio']:.2f} for eight\n"
        f"({one['minipeft_ms']:.2f} and {eight['minipeft_ms']:.2f} ms a token; "
        "`python tests/benchmarks/generation.py`)."
    )


PARTS = {
    "speed": speed,
    "spent": spent,
    "generation": generation,
    "reading": reading,
    "methods": methods,
    "comparison": comparison,
    "mistakes": mistakes,
}


def written(text):
    """README.md with every part made anew."""
    for name, part in PARTS.items():
        begin, end = f"<!-- begin {name} -->\n", f"<!-- end {name} -->"
        if begin in text:
            head, rest = text.split(begin)
            text = head + begin + part() + "\n" + end + rest.split(end, 1)[1]
    return text


def main():
    """Rewrite or check; returns the exit code."""
    old = README.read_text()
    new = written(old)
    if "--check" in sys.argv:
        if new != old:
            print("README.md is out of date: run python tests/tools/readme.py", file=sys.stderr)
        return int(new != old)
    README.write_text(new)
    return 0


if __name__ == "__main__":
    sys.exit(main())
