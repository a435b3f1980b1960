"""Compares methods of fine-tuning: the same backbone, data and steps, side by side.

minipeft compare                     four tasks, five methods, two seeds: a table and a picture
minipeft compare --tasks cipher --methods lora-family,adapter --seeds 3 --steps 300,1200
minipeft compare --full              all methods, three seeds, two budgets of steps
minipeft compare --model smollm2 --data support.jsonl --heldout questions.jsonl

Each method has its own learning rate, which was chosen on validation words from one grid
(--tune). If a comparison is interrupted, the same command goes on where it stopped.
"""

import itertools
import sys
from dataclasses import asdict
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

from ..errors import unknown
from ..io.checkpoint import load_base
from ..io.files import check_writable, locked, read_json, write_json
from ..io.identity import base_identity
from ..peft.methods import METHODS as ALL
from ..text.words import DOWNSTREAM
from .comparison_plot import comparison
from .comparison_table import COMPARED, table
from .executor import Processes, cores, dask, forget, run_all
from .experiment import Experiment, measure, tune
from .memory import check_room_to_read, where_memory_allows
from .model_comparison import (
    ModelExperiment,
    default_rate,
    identity,
    measure_model,
    on_targets,
)
from .plots import save
from .tune import BITS, add_data_options, chat_of, data_options, read_data

METHODS = ("full", "lora", "adapter", "prefix", "prompt")
FAMILIES = {f"{method.family}-family": method.family for method in ALL.values()}
RATES_IN_ORDER = tuple(float(f"{m}e{e}") for e in range(-6, 4) for m in (1, 3))  # to 3,000
GRID = RATES_IN_ORDER[6:12]  # 1e-3, 3e-3, … 0.3: what is tried at first
# options that go with --model
OF_MODELS = "data heldout answers skip_long targets batch quantize system".split()
TUNED, RATES = "tune.partial.json", "learning_rates.json"


def compare(experiments, out="figures", executor=None, name="compare"):
    """Measures all experiments, writes NAME.json and NAME.png to a folder, returns the rows.

    executor: any concurrent.futures Executor (default: one process beside this one).
    """
    about = provenance()
    return write_comparison(measure, experiments, about, out, executor, name)


def write_comparison(work, experiments, about, out, executor=None, name="compare"):
    """Measures experiments by `work`, writes the table's numbers and the picture; see above."""
    results, picture, partial = (
        Path(out) / f"{name}.{end}" for end in ("json", "png", "partial.json")
    )
    check_writable(results, picture)
    executor = executor or Processes(1)
    with locked(partial):
        rows = run_all(work, experiments, executor, partial, about, "compare")
        write_json(results, about | {"rows": rows})
        save(comparison(rows), picture)
        forget(partial, experiments, work, about)
    return rows


def compare_models(options, methods, budgets, seeds):
    """Runs `minipeft compare --model`: the methods on a pretrained language model."""
    if options.data is None:
        raise ValueError("--model needs --data, a file of conversations, one a line")
    if options.tasks or options.tune or options.dask:
        raise ValueError("--tasks, --tune and --dask are of the comparison on words")
    paths = [options.model, options.data, *([options.heldout] if options.heldout else [])]
    targets, batch = options.targets or "all-linear", options.batch or 8
    chosen = {name: on_targets(name, targets) for name in methods}
    chat, how = chat_of(options.model, options.system), data_options(options, *chosen.values())
    conversations, heldout = read_data(options.data, options.heldout)
    check_room_to_read(chat.path, options.quantize)
    train, *_ = chat.data(conversations, heldout, options.seed, **how)
    tokens, jobs = int(train.lengths.max()), options.jobs or 1
    fit = where_memory_allows(chosen, chat.config, batch, tokens, options.quantize, jobs)
    experiments = [
        ModelExperiment(
            options.model, options.data, options.heldout, method, steps,
            options.lr or default_rate(method), seed, batch, options.quantize, options.system,
            how["answers"], how["truncate"], targets, how["virtual_tokens"],
        )
        for steps, method, seed in itertools.product(budgets, fit, seeds)
    ]  # fmt: skip
    about = {"files": {path: identity(path) for path in paths}, "versions": versions()}
    name = "compare_model"
    executor = Processes(jobs, threads=max(1, cores() // jobs))
    print(
        table(write_comparison(measure_model, experiments, about, options.out, executor, name))
    )
    print(f"wrote {Path(options.out, name)}.json and {Path(options.out, name)}.png")


def provenance():
    """Returns what the results depend on besides the experiments, as a JSON object."""
    base = base_identity(load_base())
    about = {"backbone": base["fingerprint"], "config": base["config"]}
    return about | {"versions": versions()}


def versions():
    """Returns the versions of this package, NumPy and Python."""
    python = ".".join(map(str, sys.version_info[:3]))
    return {name: version(name) for name in ("minipeft", "numpy")} | {"python": python}


def choose_rates(tasks, methods, steps, out, executor=None, **options):
    """Tries a grid on validation words, writes learning_rates.json, returns its contents.

    The best exact match wins, then the lowest loss: {"rates": {method: {task: lr}}, …}. Where
    the best rate is the lowest or the highest that was tried, the next one is tried as well.
    executor: a function that returns a new Executor, for each round of trials. The scores stay
    in tune.partial.json, so that an interrupted comparison need not try again.
    """
    about, partial, chosen = provenance(), Path(out) / TUNED, Path(out) / RATES
    check_writable(chosen)
    grids, wider = {}, {pair: GRID for pair in itertools.product(tasks, methods)}
    with locked(partial):
        while wider != grids:
            grids = wider
            experiments = trials(grids, steps, **options)
            maker = executor or (lambda: Processes(1))
            scores = run_all(tune, experiments, maker(), partial, about, "tune")
            rows = [
                [e.task, e.method, e.lr, score["exact"], score["loss"]]
                for e, score in zip(experiments, scores, strict=True)
            ]
            wider = {pair: widened(grid, best(rows, *pair)) for pair, grid in grids.items()}
    rates = {method: {task: best(rows, task, method) for task in tasks} for method in methods}
    first = asdict(experiments[0])
    contents = about | {"grid": GRID, "trial": first, "scores": rows, "rates": rates}
    write_json(chosen, contents)
    return contents


def trials(grids, steps, **options):
    """Returns the Experiments that choose the rates, of {(task, method): rates to try}."""
    return [
        Experiment(task, method, steps, lr, split="valid", **options)
        for (task, method), grid in grids.items()
        for lr in grid
    ]


def widened(grid, winner):
    """Returns a grid with the next rate beyond that edge which has won, if there is one."""
    low, high = (RATES_IN_ORDER.index(grid[end]) for end in (0, -1))
    if winner == grid[0]:
        low = max(0, low - 1)
    if winner == grid[-1]:
        high = min(len(RATES_IN_ORDER) - 1, high + 1)
    return RATES_IN_ORDER[low : high + 1]


def best(rows, task, method):
    """Returns the learning rate with the best exact match, then the lowest loss."""
    scores = [row for row in rows if row[:2] == [task, method]]
    return max(scores, key=lambda row: (row[3], -row[4]))[2]


def shipped_rates():
    """Returns the learning rates that ship with the package, with the scores behind them."""
    return read_json(files(__package__) / RATES)


def rate(rates, method, task):
    """Returns the learning rate chosen for a method on a task, or else the method's default.

    QLoRA is LoRA, and learns at LoRA's rates if it has none of its own.
    """
    known = rates.get(method) or rates.get("lora" if method == "qlora" else method, {})
    return known.get(task) or getattr(COMPARED[method], "learning_rate", 3e-3)


def arguments(parser):
    """Adds the options of `minipeft compare`."""
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--fast", action="store_true", help="30 steps on one task, as a trial")
    size.add_argument("--full", action="store_true", help="all methods, 3 seeds, two budgets")
    text = f"comma-separated, of {', '.join(DOWNSTREAM)} and the pretraining tasks"
    parser.add_argument("--tasks", help=text)
    text = f"comma-separated, of {', '.join(COMPARED)}, {', '.join(FAMILIES)}"
    parser.add_argument("--methods", help=f"{text} (default: {','.join(METHODS)})")
    parser.add_argument("--steps", help="comma-separated budgets (default: 300)")
    text = "how many seeds (default: 2; 1 with --fast, 3 with --full)"
    parser.add_argument("--seeds", type=whole, help=text)
    parser.add_argument("--seed", type=int, default=0, help="the first of them (default: 0)")
    rates = parser.add_mutually_exclusive_group()
    text = "one learning rate for all methods (default: the rates that --tune chose)"
    rates.add_argument("--lr", type=float, help=text)
    rates.add_argument("--tune", action="store_true", help="choose the learning rates first")
    parser.add_argument("--jobs", type=whole, help="processes (default: one a core)")
    parser.add_argument("--dask", metavar="ADDRESS", help="run on a Dask cluster instead")
    parser.add_argument(
        "--out", default="figures", help="folder to write to (default: figures)"
    )
    model = parser.add_argument_group("on a pretrained language model")
    model.add_argument("--model", help="a folder, a GGUF file, or smollm2")
    text = "conversations, one a line: the task instead of --tasks"
    model.add_argument("--data", metavar="FILE", help=text)
    add_data_options(model)
    text = "target modules of LoRA and its relatives (default: all-linear)"
    model.add_argument("--targets", metavar="NAMES", help=text)
    model.add_argument("--batch", type=whole, help="conversations a step (default: 8)")
    model.add_argument("--quantize", choices=BITS, help="hold the base in few bits")
    model.add_argument("--system", help="a system message before each conversation")


def main(options):
    """Runs `minipeft compare`."""
    tasks, methods, budgets, seeds = selection(options)
    if options.model is not None:
        return compare_models(options, methods, budgets, seeds)
    for name in OF_MODELS:
        if getattr(options, name) is not None:
            option = f"--{name.replace('_', '-')}"
            raise ValueError(f"{option} is of the comparison on a language model; give --model")
    plan = list(itertools.product(tasks, budgets, methods, seeds))
    given = 1.0 if options.lr is None else options.lr
    for task, steps, method, seed in plan:  # complain before anything is computed
        Experiment(task, method, steps, given, seed)

    def executor():
        return dask(options.dask) if options.dask else Processes(options.jobs or cores())

    words = {"words": 40} if options.fast else {}
    rates = shipped_rates()["rates"]
    if options.tune:
        tuned = choose_rates(tasks, methods, budgets[0], options.out, executor, **words)
        rates = tuned["rates"]
    experiments = [
        Experiment(task, method, steps, options.lr or rate(rates, method, task), seed, **words)
        for task, steps, method, seed in plan
    ]
    name = "compare_full" if options.full else "compare"
    print(table(compare(experiments, options.out, executor(), name)))
    if options.tune:
        tried = {}
        for task, method, lr, *_ in tuned["scores"]:
            tried.setdefault((task, method), []).append(lr)
        with locked(partial := Path(options.out) / TUNED):
            forget(partial, trials(tried, budgets[0], **words), tune, provenance())
    names = [f"{name}.json", f"{name}.png", *([RATES] if options.tune else [])]
    print("wrote", " and ".join(str(Path(options.out, name)) for name in names))


def selection(options):
    """Returns (tasks, methods, budgets of steps, seeds) that the options select."""
    full, fast = options.full, options.fast
    tasks = listed(options.tasks, ["gerund"] if fast else DOWNSTREAM)
    methods = []
    for name in listed(options.methods, ALL if full else METHODS):
        if name not in COMPARED and name not in FAMILIES:
            raise ValueError(unknown("method", name, [*COMPARED, *FAMILIES]))
        members = [m for m, method in ALL.items() if method.family == FAMILIES.get(name)]
        methods += members or [name]
    usual = ["100"] if options.model is not None else ["300", "1200"] if full else ["300"]
    budgets = listed(options.steps, ["30"] if fast else usual)
    for steps in budgets:
        if not steps.isdecimal():
            raise ValueError(f"--steps takes whole numbers such as 300,1200, got {steps!r}")
    usual = 1 if fast or options.model is not None else 3 if full else 2
    first, count = options.seed, options.seeds or usual
    return (
        tasks,
        list(dict.fromkeys(methods)),
        list(map(int, budgets)),
        range(first, first + count),
    )


def listed(text, default):
    """Returns a comma-separated option as a list without repeats."""
    names = default if text is None else [name.strip() for name in text.split(",")]
    return list(dict.fromkeys(names))


def whole(text):
    """Returns a whole number ≥ 1, for argparse."""
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(text)
    return int(text)


whole.__name__ = "whole number ≥ 1"  # what argparse calls it in its complaint
