"""Every method has a spec, and every spec says all that there is to say."""

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import minipeft as mp
from laws import equations
from laws.case import Case
from laws.contract import LAWS
from methods import EVERY, ROWS, SPECS, spec_of
from minipeft.engine.backend import np
from spec import GPT2, Row, complaints

LORA = SPECS["lora"]


class Novel(mp.LoRA):
    """A method that nobody has written a spec for."""


def test_every_method_has_a_whole_spec():
    found = list(complaints(mp.METHODS, EVERY, LAWS))
    assert not found, "\n" + "\n".join(found)
    assert list(SPECS) == list(mp.METHODS)


def with_lora(**changed):
    """All specs, LoRA's changed."""
    return [replace(spec, **changed) if spec is LORA else spec for spec in EVERY]


@pytest.mark.parametrize(
    ("methods", "specs", "message"),
    [
        (mp.METHODS | {"novel": Novel}, EVERY, r"novel has 0 specs; write .*test_specs\.py"),
        (mp.METHODS, [*EVERY, replace(LORA, rows={}, no_rows="another")], "lora has 2 specs"),
        (mp.METHODS, [*EVERY, replace(LORA, method=Novel, rows={}, no_rows="it is new")],
         "Novel has a spec, but METHODS has no Novel"),
        *((mp.METHODS, with_lora(**{part: None}), f"the spec of LoRA has no {part}")
          for part in ("draw", "small", "equation", "bugs", "counts", "saved")),
        (mp.METHODS, with_lora(rows={}), "LoRA has no parity rows, and no reason"),
        (mp.METHODS, with_lora(exempt={5: "it is so"}), "LoRA is exempt from law 5"),
        (mp.METHODS, with_lora(exempt={99: "there is no such law, though"}), "from law 99"),
        (mp.METHODS, with_lora(rows={"dora": LORA.rows["lora"]}), "two .* are called 'dora'"),
    ],
)  # fmt: skip
def test_what_is_left_out_is_named(methods, specs, message):
    (complaint,) = complaints(methods, specs, LAWS)
    assert re.search(message, complaint)


def test_a_reason_stands_for_rows():
    specs = with_lora(rows={}, no_rows="nobody else has it")
    assert not list(complaints(mp.METHODS, specs, LAWS))


def test_a_method_without_a_spec_has_no_law():
    with pytest.raises(LookupError, match="Novel has no spec"):
        spec_of(Novel())


def test_specs_need_neither_pytorch_nor_hf_peft():
    code = "import methods, sys; print(*sys.modules)"
    path = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
    run = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": path},
    )
    loaded = set(run.stdout.split())
    assert "methods.lora" in loaded, run.stderr
    assert not loaded & {"torch", "transformers", "peft"}


@pytest.mark.parametrize("name", SPECS)
def test_all_that_a_spec_names_is_its_own_method(name):
    spec = SPECS[name]
    named = [spec.small, *(method for method, *_ in (*spec.counts, *spec.saved))]
    named += [row.ours for row in spec.rows.values()] + [bug.method for bug in spec.bugs]
    assert {type(method) for method in named} == {spec.method}
    assert all(isinstance(row, Row) for row in spec.rows.values())


class Moved(equations.Arrays):
    """The arrays of a change, each of them another; places in arrays stay."""

    def __init__(self, path, delta):
        super().__init__(path, delta)
        for name, array in vars(self).items():
            if getattr(array, "dtype", np.dtype(int)).kind == "f":
                setattr(self, name, 1.3 * array + 0.1)


@pytest.mark.parametrize("name", SPECS)
def test_an_equation_of_other_arrays_does_not_hold(name, monkeypatch):
    """What an equation says depends on all that was trained, or on which copies train."""
    spec = SPECS[name]
    case = Case(GPT2, spec.small)
    spec.equation.check(case, *case.attached())
    wrong = spec.equation
    if isinstance(wrong, equations.Copies):
        wrong = replace(wrong, paths=lambda *args: spec.equation.paths(*args)[1:])
    monkeypatch.setattr(equations, "Arrays", Moved)
    with pytest.raises(AssertionError):
        wrong.check(case, *case.attached())


def test_rows_are_those_of_all_specs():
    assert len(ROWS) == sum(len(spec.rows) for spec in SPECS.values())
