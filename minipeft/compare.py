"""The main job: every method on the same backbone, the same data and the same steps, side by side.

minipeft compare                                     four tasks, five methods, one table and one figure
minipeft compare --tasks cipher --methods lora,adapter --seeds 3 --steps 300,1200

Each method learns at its own learning rate, chosen on validation words from one grid (`--tune`).
"""

import itertools
import json
import os
import statistics
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, astuple
from importlib.resources import files
from multiprocessing import get_context
from pathlib import Path

from threadpoolctl import threadpool_limits
from tqdm import tqdm

from . import plots
from .checkpoint import fingerprint, load_base
from .data import DOWNSTREAM
from .files import read_json, write_json
from .peft import METHODS as ALL
from .table import table
from .trial import Trial, measure, tune

METHODS = ("full", "lora", "adapter", "prefix", "prompt")
GRID = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1)
PARTIAL = "compare.partial.json"


def compare(trials, out="figures", jobs=1):
    """Measure all trials, write compare.json and compare.png to a folder; returns the rows.

    jobs: processes side by side, each with one BLAS thread.  Goes on where an interrupted comparison
    of the same trials on the same backbone stopped.
    """
    rows = run(measure, trials, jobs, "compare", Path(out) / PARTIAL)
    write_json(Path(out) / "compare.json", {"rows": rows})
    plots.save(plots.comparison(rows), Path(out) / "compare.png")
    return rows


def run(work, trials, jobs, label, partial):
    """[work(trial) for each trial], in processes, with progress; finished ones are kept in a file."""
    about = {"of": f"{work.__name__} {fingerprint(load_base())}"}
    done = read_json(partial) if partial.is_file() else about
    if done.get("of") != about["of"]:
        done = about
    todo = [trial for trial in trials if key(trial) not in done]
    bar = tqdm(total=len(trials), initial=len(trials) - len(todo), desc=label, unit="run", disable=None)
    with bar, pool(min(jobs, len(todo))) as executor:
        futures = {executor.submit(work, trial): trial for trial in todo}
        try:
            for future in as_completed(futures):
                done[key(futures[future])] = future.result()
                write_json(partial, done)
                bar.update()
        except BaseException:
            executor.shutdown(wait=False, cancel_futures=True)
            raise
    partial.unlink(missing_ok=True)
    return [done[key(trial)] for trial in trials]


def key(trial):
    """A trial as a name in a JSON object."""
    return json.dumps(astuple(trial))


def pool(jobs):
    """Processes that each compute with one BLAS thread."""
    return ProcessPoolExecutor(
        max(1, jobs), get_context("spawn"), initializer=threadpool_limits, initargs=(1,)
    )


def rates():
    """The learning rates that ship with the package, {method: {task: rate}}, and how they were found."""
    return read_json(files(__package__) / "learning_rates.json")


def rate(found, method, task):
    """A method's learning rate on a task: the tuned one, else the median of its others, else 3e-3."""
    known = found.get(method, {})
    return known.get(task) or (statistics.median_low(known.values()) if known else 3e-3)


def choose_rates(tasks, methods, steps, jobs, out, **options):
    """Try the grid on validation words and write learning_rates.json; returns it.

    The best exact match wins, then the lowest loss: {"rates": {method: {task: lr}}, "scores": …}.
    """
    trials = [
        Trial(task, method, steps, lr, split="valid", **options)
        for task, method, lr in itertools.product(tasks, methods, GRID)
    ]
    scores = run(tune, trials, jobs, "tune", Path(out) / "tune.partial.json")
    found = {"grid": GRID, "trial": asdict(trials[0]), "rates": {}, "scores": []}
    for trial, score in zip(trials, scores, strict=True):
        found["scores"].append([trial.task, trial.method, trial.lr, score["exact"], score["loss"]])
    for task, method in itertools.product(tasks, methods):
        tried = [row for row in found["scores"] if row[:2] == [task, method]]
        best = max(tried, key=lambda row: (row[3], -row[4]))
        found["rates"].setdefault(method, {})[task] = best[2]
    write_json(Path(out) / "learning_rates.json", found)
    return found


def arguments(parser):
    """What `minipeft compare` understands."""
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--fast", action="store_true", help="a short trial of one task")
    size.add_argument(
        "--full", action="store_true", help="every method and task, three seeds, two step budgets"
    )
    parser.add_argument("--tasks", help=f"of {', '.join(DOWNSTREAM)} and the pretraining tasks")
    parser.add_argument("--methods", help=f"of {', '.join(ALL)}; default: {','.join(METHODS)}")
    parser.add_argument("--steps", help="one or more numbers of steps; default: 300")
    parser.add_argument("--seeds", type=positive, help="how many seeds; default: 1")
    parser.add_argument("--seed", type=int, default=0, help="the first seed (default: 0)")
    parser.add_argument("--lr", type=float, help="one learning rate for all; default: the tuned ones")
    parser.add_argument(
        "--tune", action="store_true", help="choose learning rates on validation words first"
    )
    parser.add_argument("--jobs", type=positive, default=cores(), help="processes (default: cores)")
    parser.add_argument("--out", default="figures", help="folder to write to (default: figures)")


def main(options):
    """Run `minipeft compare`."""
    full, fast = options.full, options.fast
    tasks = listed(options.tasks, ("gerund",) if fast else DOWNSTREAM)
    methods = listed(options.methods, ALL if full else METHODS)
    steps = [int(n) for n in listed(options.steps, (30,) if fast else (300, 1200) if full else (300,))]
    seeds = range(options.seed, options.seed + (options.seeds or (3 if full else 1)))
    words = {"words": 40} if fast else {}
    plan = list(itertools.product(tasks, steps, methods, seeds))
    for task, n, method, seed in plan:  # complain before anything is computed
        Trial(task, method, n, options.lr or 1.0, seed)
    if options.tune:
        found = choose_rates(tasks, methods, steps[0], options.jobs, options.out, **words)["rates"]
    else:
        found = rates()["rates"]
    trials = [
        Trial(task, method, n, options.lr or rate(found, method, task), seed, **words)
        for task, n, method, seed in plan
    ]
    print(table(compare(trials, options.out, options.jobs)))
    print(f"wrote {options.out}/compare.json and {options.out}/compare.png")


def listed(text, default):
    """A comma-separated option as a list."""
    return [name.strip() for name in text.split(",")] if text else list(default)


def positive(text):
    """A whole number ≥ 1, for argparse."""
    if not text.isdigit() or int(text) < 1:
        raise ValueError(text)
    return int(text)


def cores():
    """How many processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
