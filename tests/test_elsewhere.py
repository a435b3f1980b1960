"""A fresh process loads what this one saved, and computes and learns bit for bit alike."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

import minipeft as mp
from laws.case import Case
from laws.several import what_follows
from minipeft.engine.backend import np

SIZES = dict(vocab=11, context=40, width=32, layers=1, heads=4, kv_heads=2, ffn=24)
CONFIG = mp.Config.gpt2(**SIZES)
METHODS = [
    name for name in mp.METHODS if mp.METHODS[name]().export_form() == mp.METHODS[name]()
]


def digests(net, case):
    """A hash of the logits, of each gradient, and of each weight after a step."""
    found = what_follows(net, case)
    return {name: hashlib.sha256(a.tobytes()).hexdigest() for name, a in found.items()}


def loaded(folder, name):
    """What a model from files gives, in this process."""
    net = mp.load_model(f"{folder}/base")
    mp.load_adapter(net, f"{folder}/{name}", "a")
    return digests(net, Case(CONFIG, mp.METHODS[name]()))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """(folder, {method: digests here}, {method: digests in a fresh process})."""
    folder, here = tmp_path_factory.mktemp("saved"), {}
    mp.save_model(Case(CONFIG, mp.LoRA()).base(), folder / "base")
    for name in METHODS:
        case = Case(CONFIG, mp.METHODS[name]())
        net, _ = case.attached()
        mp.save_adapter(net, "a", folder / name)
        here[name] = digests(net, case)
    code = (
        "import json, sys; from test_elsewhere import METHODS, loaded; "
        f"print(json.dumps({{name: loaded({str(folder)!r}, name) for name in METHODS}}))"
    )
    there = Path(__file__).parent
    command = [sys.executable, "-c", code]
    paths = {"PYTHONPATH": f"{there}:{there.parent}"}
    out = subprocess.run(command, cwd=there, capture_output=True, text=True, env=paths)
    assert out.returncode == 0, out.stderr
    return here, json.loads(out.stdout)


@pytest.mark.parametrize("method", METHODS)
def test_a_fresh_process_goes_on_bit_for_bit(method, saved):
    here, there = saved
    assert len(here[method]) > 3 and here[method] == there[method]


def test_the_first_gradients_do_not_depend_on_how_much_was_made_before(saved):
    """The tape of this process is already long; that of the other began with the model."""
    case = Case(CONFIG, mp.LoRA())
    for _ in range(3):
        mp.Transformer(CONFIG, np.random.default_rng(0))
    assert digests(case.attached()[0], case) == saved[1]["lora"]
