"""The guide: its table chooses by what was measured, and the failing runs fail as it says."""

import json
from pathlib import Path

import pytest

import minipeft as mp
from tools import guide

ROOT = Path(__file__).parents[1]


def comparison(**exact):
    """A comparison of some methods: exact match after 300 and after 1,200 steps."""
    usual = {"task": "cipher", "trainable": 10, "file_bytes": 40, "old": 0.5}
    others = {name: usual | {"old": 0.9, "trainable": 5} for name in ("ia3", "prompt")}
    return guide.Comparison([
        usual | others.get(name, {}) | {"method": name, "steps": steps, "exact": value}
        for name, values in exact.items()
        for steps, value in zip((300, 1200), values, strict=True)
    ])  # fmt: skip


def test_the_best_come_first_at_each_budget():
    rows = comparison(full=(0.2, 0.9), lora=(0.5, 0.8), ia3=(0.4, 1.0), prompt=(0.0, 0.1))
    (_, last, _), (_, soon, _) = guide.by_quality(rows)
    assert last == "`ia3`, `full`, `lora`" and soon == "`lora`, `ia3`, `full`"


def test_only_what_ends_near_full_fine_tuning_is_small_enough():
    rows = comparison(full=(0.2, 0.9), lora=(0.5, 0.86), ia3=(0.4, 0.84), prompt=(0.0, 0.1))
    assert rows.near() == ["lora"]
    (_, kept, because), _ = guide.by_old_tasks(rows)
    assert kept == "`lora`" and "0.50; full fine-tuning 0.50" in because


def test_what_cannot_learn_something_new_is_named():
    rows = comparison(full=(0.9, 0.9), prompt=(0.1, 0.4))
    ((_, names, because),) = guide.by_novelty(rows)
    assert names.startswith("`full`") and because.endswith("even after 1200: `prompt`")


def test_every_method_has_its_defaults():
    lines = guide.defaults().splitlines()[2:]
    assert [line.split("`")[1] for line in lines] == [*mp.METHODS]


@pytest.fixture(scope="module")
def runs():
    """The losses behind figures/failures.png: of training, and on new words."""
    return json.loads((ROOT / "figures" / "failures.json").read_text())


def test_the_runs_fail_as_the_guide_says(runs):
    training = {name: run["training"] for name, run in runs.items() if name != "task"}
    first, last = ({name: some[at] for name, some in training.items()} for at in (0, -1))
    assert last["well"] < 0.05 < 0.5 < min(last[name] for name in guide_names(training))
    assert last["rate too high"] > 0.8 * training["rate too high"][5]
    assert last["rate too low"] < 0.5 * training["rate too low"][9]
    assert last["dead"] > 0.9 * first["dead"]
    assert last["few examples"] < 1e-3 < 1 < runs["few examples"]["new"][-1]
    assert runs["few examples"]["new"][-1] > runs["few examples"]["new"][0]


def guide_names(training):
    """The runs that fail and whose training loss stays high."""
    return training.keys() - {"well", "few examples"}
