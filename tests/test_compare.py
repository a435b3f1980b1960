"""The main job: experiments, the comparison's files, table and picture, and what resumes."""

import itertools
import json
import os
import signal
import statistics
import time
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

import minipeft as mp
from minipeft.engine.backend import np
from minipeft.io.files import fcntl, locked
from minipeft.lab import compare, comparison_plot, executor, experiment, plots
from minipeft.lab.compare import choose_rates, rate, shipped_rates
from minipeft.lab.comparison_table import (
    COMPARED,
    groups,
    is_coin_toss,
    message,
    spread,
    table,
)
from minipeft.lab.executor import Processes, run_all
from minipeft.lab.experiment import Experiment, measure
from minipeft.text.words import DOWNSTREAM, PRETRAINING

FIGURES = Path(__file__).parents[1] / "figures"
SMALL = dict(steps=2, lr=0.003, words=8, batch_size=4)


@pytest.fixture(scope="module")
def rows():
    return [measure(Experiment("elicit", method, **SMALL)) for method in compare.METHODS]


def test_an_experiment_tells_the_truth_about_its_method(rows):
    base = mp.load_base()
    for row in rows:
        method = mp.METHODS[row["method"]]()
        assert row["trainable"] == method.count(base.config)
        assert row["percent"] == pytest.approx(100 * row["trainable"] / 237_520)
        assert row["detached_is_base"] and row["old_detached"] == row["old_before"]
        assert row["mergeable"] == method.mergeable == (row["merge_difference"] is not None)
        assert row["merge_difference"] is None or row["merge_difference"] < 1e-4
        assert row["file_bytes"] > 4 * row["trainable"]
        assert row["file_bytes"] < 4 * row["trainable"] + 20_000  # names and settings
        assert len(row["examples"]) == 3 and len(row["curve"]) == -(-row["steps"] // 10)


def test_the_tape_of_a_frozen_base_is_smaller(rows):
    tape = {row["method"]: row["tape_bytes"] for row in rows}
    assert tape["lora"] < 0.8 * tape["full"]


def test_qlora_is_lora_on_a_backbone_of_4_bits(rows):
    lora = next(row for row in rows if row["method"] == "lora")
    packed = measure(Experiment("elicit", "qlora", **SMALL))
    assert packed["trainable"] == lora["trainable"] and packed["detached_is_base"]
    assert lora["base_bytes"] - packed["base_bytes"] == 921_600 - 118_968  # as `quantize` says
    assert packed["loss_before"] != lora["loss_before"] and packed["old_before"] > 0.9
    assert packed["mergeable"] and packed["merge_difference"] < 1e-4
    assert rate({"lora": {"past": 0.01}}, "qlora", "past") == 0.01
    assert rate({"lora": {"past": 0.01}, "qlora": {"past": 0.1}}, "qlora", "past") == 0.1


def test_a_task_that_was_not_tuned_has_the_default_rate_of_the_method(monkeypatch):
    monkeypatch.setattr(mp.LoRA, "learning_rate", 0.02, raising=False)
    assert rate({"lora": {"past": 0.01}}, "lora", "third") == 0.02
    assert rate({}, "qlora", "third") == 0.02
    monkeypatch.delattr(mp.LoRA, "learning_rate")
    assert rate({}, "lora", "third") == 3e-3


def test_an_experiment_is_a_function_of_its_arguments(rows):
    again = measure(Experiment("elicit", "lora", **SMALL))
    first = dict(next(row for row in rows if row["method"] == "lora"))
    del again["seconds_per_step"], first["seconds_per_step"]
    assert again == first


def test_other_seeds_give_other_runs(rows):
    other = measure(Experiment("elicit", "lora", seed=1, **SMALL))
    assert other["curve"] != next(row for row in rows if row["method"] == "lora")["curve"]


def full_disk(*_):
    """In place of `os.replace`."""
    raise OSError(28, "No space left on device")


def test_table_and_figure_have_every_method(rows, tmp_path, monkeypatch):
    text = table(rows)
    figure = comparison_plot.comparison(rows)
    shown = [label.get_text() for axes in figure.axes for label in axes.texts]
    for row in rows:
        assert f"\n{row['method']:<16}{row['trainable']:>10,}" in text
        assert row["method"] in shown
    plots.save(figure, tmp_path / "c.png")
    picture = (tmp_path / "c.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="'jpag' is not supported"):
        plots.save(figure, tmp_path / "c.jpag")
    with monkeypatch.context() as patch, pytest.raises(OSError, match=r"c\.png cannot be"):
        patch.setattr("os.replace", full_disk)
        plots.save(figure, tmp_path / "c.png")
    assert (tmp_path / "c.png").read_bytes() == picture
    assert [path.name for path in tmp_path.iterdir()] == ["c.png"]


def scores(**methods):
    """Made-up rows of one task: {method: the exact match of each seed}."""
    return [
        dict(task="cipher", steps=300, method=method, seed=seed, exact=exact,
             trainable=100 * (i + 1), percent=i + 1, exact_before=0.0)
        for i, (method, seeds) in enumerate(methods.items())
        for seed, exact in enumerate(seeds)
    ]  # fmt: skip


def test_seeds_that_differ_widely_are_called_a_coin_toss():
    rows = scores(prompt=[0, 0.02], lora=[0.004, 0.98], adapter=[0.96, 0.97], full=[1, 1])
    toss = "On cipher, 300 steps are a coin toss: lora 0.00–0.98 over 2 seeds."
    near = "With 3 % of the parameters, adapter is within 0.05 of full fine-tuning on cipher."
    assert message(rows) == f"{near}\n{toss}"
    figure = comparison_plot.comparison(rows)
    assert figure.get_suptitle().split() == message(rows).split()
    names = [label.get_text() for label in figure.axes[0].texts]
    assert "lora 0.00–0.98" in names and "adapter" in names
    whiskers = [line.get_ydata() for line in figure.axes[0].lines if line.get_marker() == "_"]
    assert [0.004, 0.98] in [list(ends) for ends in whiskers]
    assert "2 seeds, marker: the mean, whisker: the worst" in figure.get_supxlabel()


def test_of_many_methods_the_title_counts_the_coin_tosses():
    rows = scores(full=[1, 1], lora=[0.0, 0.9], ia3=[0.1, 0.7], prompt=[0.1, 0.2])
    text = comparison_plot.in_short(rows)
    assert "On cipher, 300 steps are a coin toss for 2 of 4 methods" in text
    assert comparison_plot.in_short(scores(full=[1, 1], lora=[1, 1])).count("\n") == 0


def test_the_message_does_not_claim_what_was_not_measured():
    none = "After 300 steps no method is within 0.05 of full fine-tuning."
    assert message(scores(lora=[0.9], full=[1.0])) == none
    assert message(scores(lora=[0.0], full=[0.0])) == ""  # nothing was learnt
    assert message(scores(lora=[0.9])) == message(scores(full=[1.0])) == ""
    figure = comparison_plot.comparison(scores(lora=[0.9], full=[1.0]))
    assert "1 seed, so the spread is not known" in figure.get_supxlabel()


def test_the_shipped_comparison_shows_what_the_long_one_does():
    """The mean of each method on each task is one that the long comparison's seeds span.

    Where those seeds make it a coin toss, the shorter comparison must show that, too. If this
    fails, measure both anew, at the same learning rates.
    """
    quick, long = (
        groups(json.loads((FIGURES / name).read_text(encoding="utf-8"))["rows"])
        for name in ("compare.json", "compare_full.json")
    )
    assert {task for task, _ in quick} == {*DOWNSTREAM}
    for (task, steps), methods in quick.items():
        assert [*methods] == [*compare.METHODS]
        for method, seeds in methods.items():
            middle, low, high = spread(seeds, "exact")
            _, lowest, highest = spread(long[task, steps][method], "exact")
            where = f"{method} on {task}: {low:.2f}–{high:.2f}, long {lowest:.2f}–{highest:.2f}"
            assert lowest - WORDS <= middle <= highest + WORDS, where
            assert is_coin_toss(seeds) or not is_coin_toss(long[task, steps][method]), where


WORDS = 3 / 300  # other processors round differently, which may change a word or three


def test_labels_of_points_that_meet_do_not_overlap(rows):
    crowd = [
        row | {"exact": 0.5 + 0.01 * i, "trainable": 1000 + i} for i, row in enumerate(rows)
    ]
    figure = comparison_plot.comparison(crowd)
    figure.canvas.draw()
    boxes = [t.get_window_extent() for t in figure.axes[0].texts if t.get_text()]
    for i, one in enumerate(boxes):
        assert not any(one.overlaps(two) for two in boxes[i + 1 :])


def test_every_method_has_a_look_of_its_own():
    looks = {tuple(plots.style(method).items()) for method in COMPARED}
    assert len(looks) == len(COMPARED) == len(mp.METHODS) + 1
    hues = {plots.tint(method) for method in mp.METHODS}
    families = {method.family: name for name, method in reversed(mp.METHODS.items())}
    assert len(hues) == len(families)
    firsts = {plots.style(name)["marker"] for name in families.values()}
    assert len(firsts) == len(families)  # told apart in grey too
    assert {plots.style(name)["marker"] for name in families.values()} == {
        plots.first_marker(family) for family in families
    }


def test_lines_of_a_family_differ_in_dash_marker_and_shade():
    looks = {method: plots.line_style(method) for method in COMPARED}
    for one, two in itertools.combinations(COMPARED, 2):
        if COMPARED[one].family == COMPARED[two].family:
            assert looks[one]["color"] != looks[two]["color"]
            near = abs(plots.place_in_family(one) - plots.place_in_family(two)) < 5
            assert not near or looks[one]["linestyle"] != looks[two]["linestyle"]
            assert not near or looks[one]["marker"] != looks[two]["marker"]
    assert "linestyle" not in plots.style("lora")
    assert all(plots.contrast(look["color"]) >= plots.FAINTEST for look in looks.values())


@dataclass(frozen=True)
class Crowd:
    """One of many made-up methods."""

    family: str


@pytest.mark.parametrize("family", [*plots.HUES, "a family that nobody has named"])
def test_any_number_of_methods_can_be_told_apart(family, monkeypatch):
    names = [f"{family} {i}" for i in range(60)]
    before = {method: plots.style(method) for method in COMPARED}
    monkeypatch.setattr(plots, "COMPARED", COMPARED | dict.fromkeys(names, Crowd(family)))
    looks = [plots.style(name) for name in [*COMPARED, *names]]
    assert len({tuple(look.items()) for look in looks}) == len(looks)
    assert {method: plots.style(method) for method in COMPARED} == before
    for marker in plots.MARKERS:  # methods with the same marker differ in grey too
        same = [look["color"] for look in looks[len(COMPARED) :] if look["marker"] == marker]
        assert len({round(plots.contrast(color), 3) for color in same}) == len(same)


def test_names_are_dark_enough_to_read_on_white():
    hues = [*plots.HUES.values(), *plots.OTHER_HUES]
    assert all(plots.contrast(plots.readable(hue)) >= 4.5 for hue in hues)
    assert plots.contrast("#ffffff") == pytest.approx(1) and plots.contrast("black") == 21
    assert plots.readable("black") == "#000000"


def many(row):
    """Rows of every method on two tasks, after two budgets, from two seeds."""
    for task, steps, (i, method), seed in itertools.product(
        ("cipher", "gerund"), (300, 1200), enumerate(reversed(mp.METHODS)), (0, 1)
    ):
        exact = 0.02 * i + steps / 4000 + 0.01 * seed
        yield row | dict(task=task, steps=steps, method=method, seed=seed, exact=exact)


def test_many_methods_get_a_line_each(rows):
    figure = comparison_plot.comparison(list(many(rows[0])))
    figure.canvas.draw()
    first, *panels = figure.axes
    assert [axes.get_title() for axes in panels] == ["cipher", "gerund"]
    labels = first.get_yticklabels()
    names = [label.get_text() for label in labels]
    assert {*names} == {*mp.METHODS, *compare.FAMILIES}
    for family, kind in compare.FAMILIES.items():  # each below the name of its family
        own = [name for name in mp.METHODS if mp.METHODS[name].family == kind]
        assert names[names.index(family) + 1 :][: len(own)] == own
    boxes = [label.get_window_extent() for label in labels]
    assert not any(one.overlaps(two) for one, two in itertools.combinations(boxes, 2))
    for axes in panels:
        for i, method in enumerate(reversed(mp.METHODS)):
            line = -names.index(method)
            found = [a for a in axes.lines if list(a.get_ydata()) == [line]]
            found = [a for a in found if a.get_marker() in f"*{plots.MARKERS}"]
            hollow, filled = sorted((a.get_xdata()[0], a.get_markerfacecolor()) for a in found)
            assert hollow == (pytest.approx(0.02 * i + 0.08), "white")
            assert filled == (pytest.approx(0.02 * i + 0.305), plots.style(method)["color"])


def test_a_mean_that_is_rounded_lies_between_its_numbers():
    shares = [i / 300 for i in range(301)]
    assert any(statistics.fmean([x] * 3) != x for x in shares)
    for x in shares:
        middle, low, high = spread([{"exact": x}] * 3, "exact")
        assert low <= middle <= high


def test_a_table_of_many_goes_family_by_family(rows):
    text = table(list(many(rows[0]))).split("\n\n")[0].splitlines()
    heads = [line for line in text if line.endswith("-family")]
    all_families = [method.family for method in mp.METHODS.values()]
    families = list(dict.fromkeys(all_families))
    assert heads == [f"{name}-family" for name in families if all_families.count(name) > 1]
    wanted = sorted(mp.METHODS, key=lambda name: families.index(mp.METHODS[name].family))
    assert [line.split()[0] for line in text[2:] if line not in heads] == wanted


@dataclass(frozen=True)
class Square:
    """A run whose work leaves a trace, and fails at one number."""

    n: int
    bad: int
    trace: str


def squared(run):
    """Work for `run_all`."""
    with open(run.trace, "a") as file:
        file.write(f"{run.n}\n")
    if run.n == run.bad:
        raise RuntimeError("stopped on purpose")
    return run.n**2


def test_an_interrupted_series_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(executor, "key", lambda run: str(run.n))
    partial, trace = tmp_path / "p.json", tmp_path / "trace"
    series = [Square(n, 2, str(trace)) for n in range(4)]
    with pytest.raises(RuntimeError, match="on purpose"):
        run_all(squared, series, Processes(1), partial, {"version": 1})
    assert json.loads(partial.read_text())["1"] == 1
    series = [replace(run, bad=-1) for run in series]
    assert run_all(squared, series, Processes(1), partial, {"version": 1}) == [0, 1, 4, 9]
    done = trace.read_text().split()
    assert done.count("0") == done.count("1") == 1  # not done again


def first_fails(run):
    """Work for `run_all`: one run fails, the others would take an hour."""
    Path(run.trace, str(run.n)).touch()
    if run.n:
        time.sleep(3600)
    while not Path(run.trace, "1").exists():
        time.sleep(0.01)
    raise RuntimeError("stopped on purpose")


def test_what_has_begun_ends_with_a_series_that_fails(tmp_path):
    series = [Square(n, 0, str(tmp_path)) for n in range(5)]
    with pytest.raises(RuntimeError, match="on purpose"):
        run_all(first_fails, series, Processes(2), tmp_path / "p.json", {"version": 1})
    assert (tmp_path / "1").exists()


def test_results_of_another_backbone_are_neither_used_nor_lost(tmp_path):
    partial, series = tmp_path / "p.json", [Square(3, -1, str(tmp_path / "trace"))]
    run_all(squared, series, Processes(1), partial, {"backbone": "old"})
    content = partial.read_bytes()
    with pytest.raises(
        ValueError, match="backbone is 'old' there and 'new' here; give another"
    ):
        run_all(squared, series, Processes(1), partial, {"backbone": "new"})
    assert partial.read_bytes() == content


def test_a_smaller_series_leaves_the_results_of_a_larger_one(tmp_path):
    partial, of = tmp_path / "p.json", {"version": 1}
    series = [Square(n, 2, str(tmp_path / "trace")) for n in range(4)]
    with pytest.raises(RuntimeError, match="on purpose"):
        run_all(squared, series, Processes(1), partial, of)
    run_all(squared, series[:1], Processes(1), partial, of)
    executor.forget(partial, series[:1], squared, of)
    kept = json.loads(partial.read_text()).keys() - {"of", "sha256"}
    assert kept == {executor.key(series[1])}
    executor.forget(partial, series, squared, of)
    assert not partial.exists()


def test_every_bit_of_finished_results_counts(tmp_path):
    partial, of = tmp_path / "p.json", {"version": 1}
    series = [Square(n, -1, str(tmp_path / "trace")) for n in range(2)]
    run_all(squared, series, Processes(1), partial, of)
    whole, good = partial.read_bytes(), json.loads(partial.read_text())
    for at in range(len(whole)):
        turned = whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :]
        partial.write_bytes(turned)
        try:
            found = executor.read_results(partial, {"work": "squared", **of})
        except ValueError as error:
            assert "p.json" in str(error)
        else:
            assert found.items() <= good.items(), f"byte {at}"


@pytest.mark.skipif(fcntl is None, reason="no file locks here")
def test_two_comparisons_do_not_share_a_folder(tmp_path):
    with (
        locked(tmp_path / "compare.partial.json"),
        pytest.raises(OSError, match="is being written by process"),
    ):
        compare.compare([Experiment("gerund", "lora", 1, 0.01)], tmp_path)
    assert not (tmp_path / "compare.json").exists()


def is_killed(run):
    """Work for `run_all`: one process is killed, as by a system out of memory."""
    if run.n == run.bad:
        while not executor.as_path(run.trace).exists():  # until another has finished
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGKILL)
    return run.n


def test_a_killed_process_is_one_sentence_and_loses_nothing(tmp_path):
    partial = tmp_path / "p.json"
    series = [Square(n, 1, str(partial)) for n in range(2)]
    with pytest.raises(ChildProcessError, match="was killed, perhaps because memory ran out"):
        run_all(is_killed, series, Processes(2), partial, {"version": 1})
    assert json.loads(partial.read_text())[executor.key(series[0])] == 0


@pytest.mark.parametrize(
    ("right", "tried"), [(0.01, [0.001, 0.3]), (1.0, [0.001, 3.0]), (1e-4, [3e-5, 0.3])]
)
def test_choosing_a_rate(right, tried, tmp_path, monkeypatch):
    """The grid grows until its best rate has a worse one on both sides."""

    def pretend(work, experiments, executor, *_):
        executor.shutdown()
        distance = [abs(np.log(e.lr / right)) for e in experiments]
        return [{"exact": float(d < 1e-9), "loss": d} for d in distance]

    monkeypatch.setattr(compare, "run_all", pretend)
    found = choose_rates(["gerund"], ["lora"], 5, tmp_path)
    assert found["rates"] == {"lora": {"gerund": right}}
    written = json.loads((tmp_path / "learning_rates.json").read_text())
    assert written["trial"]["split"] == "valid" and written["trial"]["steps"] == 5
    rates = [row[2] for row in written["scores"]]
    assert [min(rates), max(rates)] == tried and {*compare.GRID} <= {*rates}


def test_shipped_rates_are_the_best_of_their_scores_and_no_edge_wins():
    found = shipped_rates()
    rows = found["scores"]
    assert found["rates"].keys() == mp.METHODS.keys()
    for method, task in itertools.product(mp.METHODS, DOWNSTREAM):
        tried = [row for row in rows if row[:2] == [task, method]]
        won = max(tried, key=lambda row: (row[3], -row[4]))[2]
        rates = [row[2] for row in tried]
        assert {*found["grid"]} <= {*rates} <= {*compare.RATES_IN_ORDER}
        assert min(rates) < won < max(rates)
        assert rate(found["rates"], method, task) == won


def test_a_rate_that_diverges_is_a_bad_rate(monkeypatch):
    def explode(*_, **__):
        raise FloatingPointError

    monkeypatch.setattr(experiment, "fit", explode)
    assert experiment.tune(Experiment("gerund", "lora", **SMALL))["exact"] == 0.0


def test_the_shipped_backbone_is_as_good_as_its_metrics_say():
    metrics = json.loads((Path(mp.__file__).parent / "base/metrics.json").read_text())
    assert sum(metrics["test"][task]["exact"] >= 0.94 for task in PRETRAINING) >= 8
    assert all(metrics["test"][task]["exact"] <= 0.01 for task in DOWNSTREAM)
    examples = mp.Task("past").examples("test")
    assert mp.evaluate(mp.load_base(), examples).exact == pytest.approx(
        metrics["test"]["past"]["exact"], abs=0.005
    )
