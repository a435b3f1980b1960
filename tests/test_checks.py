"""Every check accepts a right answer, refuses wrong ones by its law, leaves open ones be."""

import importlib
import pkgutil
import subprocess
import sys

import pytest

from answers import ANSWERS
from minipeft import course as checks
from minipeft.course import base

MODULES = [m.name for m in pkgutil.iter_modules(checks.__path__) if m.name != "base"]
ALL = {
    f"{name}.{key}": value
    for name in MODULES
    for key, value in vars(importlib.import_module(f"minipeft.course.{name}")).items()
    if hasattr(value, "law") and value.__module__.endswith(f".{name}")
}


@pytest.fixture(params=["hypothesis", "seeded"], autouse=True)
def engine(request, monkeypatch):
    """With hypothesis, and by the loop that stands in for it."""
    if request.param == "seeded":
        monkeypatch.setattr(base, "smallest_failure", base.smallest_seeded_failure)


def test_every_check_has_answers():
    assert ANSWERS.keys() == ALL.keys()
    assert all(len(wrong) >= 2 for _, *wrong in ANSWERS.values())


@pytest.mark.parametrize("name", ALL)
def test_the_right_answer_passes(name, capsys):
    ALL[name](ANSWERS[name][0])
    assert capsys.readouterr().out == f"✓ {ALL[name].law}\n"


@pytest.mark.parametrize(
    ("name", "place"), [(name, i) for name, (_, *w) in ANSWERS.items() for i in range(len(w))]
)
def test_wrong_answers_fail_with_the_law(name, place):
    with pytest.raises(checks.CheckFailed) as caught:
        ALL[name](ANSWERS[name][1 + place])
    assert ALL[name].law in str(caught.value)


@pytest.mark.parametrize("name", ALL)
def test_an_open_answer_is_no_failure(name, capsys):
    for answer in (None, ..., lambda *args, **options: None):
        try:
            ALL[name](answer)
        except checks.CheckFailed:  # a value was asked for, not a function
            assert callable(answer) and not callable(ANSWERS[name][0])
        else:
            assert "○" in capsys.readouterr().out


def test_the_smallest_example_is_named():
    @base.check("a sum is no difference")
    def added(case, answer):
        n = case.size("n", 1, 50)
        a, b = case.array("a", n), case.array("b", n)
        base.expect(answer(a, b), a + b)

    with pytest.raises(checks.CheckFailed, match="a sum is no difference") as caught:
        added(lambda a, b: a - b)
    assert "Smallest failing example: n = 1, a = [" in str(caught.value)
    with pytest.raises(checks.CheckFailed, match=r"expected shape \(1,\), got \(\)"):
        added(lambda a, b: 0.0)
    with pytest.raises(checks.CheckFailed, match="expected numbers"):
        added(lambda a, b: "ten")
    with pytest.raises(checks.CheckFailed, match="raised ZeroDivisionError"):
        added(lambda a, b: 1 / 0)
    with pytest.raises(checks.CheckFailed, match="nan"):
        added(lambda a, b: (a + b) * float("nan"))


WITHOUT = """
import sys
sys.modules["hypothesis"] = None  # importing it raises ImportError
from minipeft.course import CheckFailed, tour
tour.lora_count(lambda r, shapes: sum(r * sum(shape) for shape in shapes))
try:
    tour.lora_count(lambda r, shapes: 0)
except CheckFailed as failed:
    print(failed)
"""


def test_hypothesis_need_not_be_installed():
    run = subprocess.run([sys.executable, "-c", WITHOUT], capture_output=True, text=True)
    passed, law, example, _ = run.stdout.splitlines()
    assert passed == "✓ LoRA trains r (in + out) parameters on each matrix"
    assert law == passed[2:] + "."
    assert example == "  Smallest failing example: r = 1, matrices = 1, out 0 = 1, in 0 = 1"
