"""The main job: every method on the same backbone, data and steps, side by side.

minipeft compare                     four tasks, five methods: one table, one figure
minipeft compare --tasks cipher --methods lora-family,adapter --seeds 3 --steps 300,1200
minipeft compare --full              all methods, 3 seeds, two budgets: compare_full.json, .png

Each method learns at its own rate, chosen on validation words from one grid (--tune).
An interrupted comparison goes on where it stopped when the same command is given again.
"""

import itertools
import statistics
import sys
from dataclasses import asdict
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

from ..errors import unknown
from ..io.checkpoint import fingerprint, load_base
from ..io.files import check_places, read_json, write_json
from ..peft.methods import METHODS as ALL
from ..text.words import DOWNSTREAM
from .comparison_plot import comparison
from .comparison_table import COMPARED, table
from .executor import Processes, cores, dask, run_all
from .experiment import Trial, measure, tune
from .plots import save

METHODS = ("full", "lora", "adapter", "prefix", "prompt")
FAMILIES = {f"{method.family}-family": method.family for method in ALL.values()}
GRID = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1)
TUNED, RATES = "tune.partial.json", "learning_rates.json"


def compare(trials, out="figures", executor=None, name="compare"):
    """Measure all trials; write NAME.json and NAME.png to a folder; return the rows.

    executor: any concurrent.futures Executor (default: one process beside this one).
    """
    about = provenance()
    numbers, picture, partial = (
        Path(out) / f"{name}.{end}" for end in ("json", "png", "partial.json")
    )
    check_places(numbers, picture)
    rows = run_all(measure, trials, executor or Processes(1), partial, str(about), "compare")
    write_json(numbers, about | {"rows": rows})
    save(comparison(rows), picture)
    partial.unlink(missing_ok=True)
    return rows


def provenance():
    """What the numbers of a comparison depend on beside the trials, as a JSON object."""
    versions = {name: version(name) for name in ("minipeft", "numpy")}
    python = ".".join(map(str, sys.version_info[:3]))
    return {"backbone": fingerprint(load_base()), "versions": versions | {"python": python}}


def choose_rates(tasks, methods, steps, out, executor=None, **options):
    """Try the grid on validation words and write learning_rates.json; return it.

    The best exact match wins, then the lowest loss: {"rates": {method: {task: lr}}, …}. The
    scores stay in tune.partial.json, for a comparison that is interrupted later to go on from.
    """
    trials = [
        Trial(task, method, steps, lr, split="valid", **options)
        for task, method, lr in itertools.product(tasks, methods, GRID)
    ]
    about, partial, chosen = provenance(), Path(out) / TUNED, Path(out) / RATES
    check_places(chosen)
    scores = run_all(tune, trials, executor or Processes(1), partial, str(about), "tune")
    rows = [
        [trial.task, trial.method, trial.lr, score["exact"], score["loss"]]
        for trial, score in zip(trials, scores, strict=True)
    ]
    rates = {method: {task: best(rows, task, method) for task in tasks} for method in methods}
    found = about | {"grid": GRID, "trial": asdict(trials[0]), "scores": rows, "rates": rates}
    write_json(chosen, found)
    return found


def best(rows, task, method):
    """The learning rate with the best exact match, then the lowest loss, in rows of scores."""
    tried = [row for row in rows if row[:2] == [task, method]]
    return max(tried, key=lambda row: (row[3], -row[4]))[2]


def shipped_rates():
    """The learning rates that ship with the package, with the scores that chose them."""
    return read_json(files(__package__) / RATES)


def rate(rates, method, task):
    """A method's learning rate on a task: its own, else the median of its others, else 3e-3.

    QLoRA is LoRA, and learns at its rate unless tuned apart.
    """
    known = rates.get(method) or rates.get("lora" if method == "qlora" else method, {})
    return known.get(task) or (statistics.median_low(known.values()) if known else 3e-3)


def arguments(parser):
    """What `minipeft compare` understands."""
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--fast", action="store_true", help="a short trial on one task")
    size.add_argument("--full", action="store_true", help="all methods, 3 seeds, two budgets")
    text = f"comma-separated, of {', '.join(DOWNSTREAM)} and the pretraining tasks"
    parser.add_argument("--tasks", help=text)
    text = f"comma-separated, of {', '.join(COMPARED)}, {', '.join(FAMILIES)}"
    parser.add_argument("--methods", help=f"{text} (default: {','.join(METHODS)})")
    parser.add_argument("--steps", help="comma-separated budgets (default: 300)")
    parser.add_argument("--seeds", type=whole, help="how many seeds (default: 1)")
    parser.add_argument("--seed", type=int, default=0, help="the first of them (default: 0)")
    rates = parser.add_mutually_exclusive_group()
    rates.add_argument("--lr", type=float, help="one learning rate for all (default: tuned)")
    rates.add_argument("--tune", action="store_true", help="choose the learning rates first")
    parser.add_argument("--jobs", type=whole, help="processes (default: one a core)")
    parser.add_argument("--dask", metavar="ADDRESS", help="run on a Dask cluster instead")
    parser.add_argument(
        "--out", default="figures", help="folder to write to (default: figures)"
    )


def main(options):
    """Run `minipeft compare`."""
    tasks, methods, budgets, seeds = chosen(options)
    plan = list(itertools.product(tasks, budgets, methods, seeds))
    given = 1.0 if options.lr is None else options.lr
    for task, steps, method, seed in plan:  # complain before anything is computed
        Trial(task, method, steps, given, seed)

    def executor():
        return dask(options.dask) if options.dask else Processes(options.jobs or cores())

    words = {"words": 40} if options.fast else {}
    rates = shipped_rates()["rates"]
    if options.tune:
        found = choose_rates(tasks, methods, budgets[0], options.out, executor(), **words)
        rates = found["rates"]
    trials = [
        Trial(task, method, steps, options.lr or rate(rates, method, task), seed, **words)
        for task, steps, method, seed in plan
    ]
    name = "compare_full" if options.full else "compare"
    print(table(compare(trials, options.out, executor(), name)))
    (Path(options.out) / TUNED).unlink(missing_ok=True)
    names = [f"{name}.json", f"{name}.png", *([RATES] if options.tune else [])]
    print("wrote", " and ".join(str(Path(options.out, name)) for name in names))


def chosen(options):
    """(tasks, methods, budgets of steps, seeds) that the options ask for."""
    full, fast = options.full, options.fast
    tasks = listed(options.tasks, ["gerund"] if fast else DOWNSTREAM)
    methods = []
    for name in listed(options.methods, ALL if full else METHODS):
        if name not in COMPARED and name not in FAMILIES:
            raise ValueError(unknown("method", name, [*COMPARED, *FAMILIES]))
        members = [m for m, method in ALL.items() if method.family == FAMILIES.get(name)]
        methods += members or [name]
    budgets = listed(options.steps, ["30"] if fast else ["300", "1200"] if full else ["300"])
    for steps in budgets:
        if not steps.isdecimal():
            raise ValueError(f"--steps takes whole numbers such as 300,1200, got {steps!r}")
    seeds = options.seeds or (3 if full else 1)
    first = options.seed
    return (
        tasks,
        list(dict.fromkeys(methods)),
        list(map(int, budgets)),
        range(first, first + seeds),
    )


def listed(text, default):
    """A comma-separated option as a list without repeats."""
    names = default if text is None else [name.strip() for name in text.split(",")]
    return list(dict.fromkeys(names))


def whole(text):
    """A whole number ≥ 1, for argparse."""
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(text)
    return int(text)


whole.__name__ = "whole number ≥ 1"  # what argparse calls it in its complaint
