"""Every check accepts a right answer, refuses wrong ones by its law, leaves open ones be."""

import dataclasses
import importlib
import os
import subprocess
import sys

import pytest

from answers import ANSWERS
from minipeft import course as checks
from minipeft.course import base, cases
from minipeft.course.answers import asking
from minipeft.engine.backend import np

ALL = {
    check.name: check
    for lesson in checks.LESSONS
    for check in vars(importlib.import_module(f"minipeft.course.{lesson}")).values()
    if isinstance(check, base.Check)
}
EXERCISES = [name for name, check in ALL.items() if check.stars]
SLIPS = [(name, text) for name, check in ALL.items() for text in check.slips]


@pytest.fixture(autouse=True)
def few(monkeypatch):
    """Fewer cases than a learner's answer is tried on, so that the tests are quick."""
    monkeypatch.setattr(cases, "CASES", 15)
    monkeypatch.setattr(cases, "FURTHER", 20)


@pytest.fixture
def seeded(monkeypatch):
    """The loop that stands in for hypothesis."""
    monkeypatch.setattr(base, "smallest_failure", cases.smallest_seeded_failure)


def test_every_check_has_answers():
    assert ANSWERS.keys() == ALL.keys()
    assert all(len(wrong) >= 2 for _, *wrong in ANSWERS.values())


@pytest.mark.parametrize("name", ALL)
def test_the_right_answer_passes(name, capsys):
    result = ALL[name](ANSWERS[name][0])
    assert capsys.readouterr().out == f"✓ {ALL[name].law}\n"
    assert result and result.name == name and result.points == result.possible


@pytest.mark.parametrize("name", ALL)
def test_the_right_answer_passes_without_hypothesis(name, seeded):
    assert ALL[name].judge(asking(ANSWERS[name][0], ALL[name].uses), seed=7)


@pytest.mark.parametrize("name", EXERCISES[::3])
def test_a_wrong_answer_fails_with_the_law(name):
    with pytest.raises(checks.CheckFailed) as caught:
        ALL[name](ANSWERS[name][1])
    assert ALL[name].law in str(caught.value)


@pytest.mark.parametrize(
    ("name", "place"), [(name, i) for name, (_, *w) in ANSWERS.items() for i in range(len(w))]
)
def test_wrong_answers_are_refused(name, place, seeded):
    result = ALL[name].result(ANSWERS[name][1 + place])
    assert result.status == base.WRONG and not result and result.points == 0


@pytest.mark.parametrize(("name", "text"), SLIPS)
def test_a_slip_is_named(name, text, seeded):
    result = ALL[name].judge(asking(ALL[name].slips[text]))
    assert result.status == base.WRONG
    assert f"It looks as if {text}." in result.message


def test_no_slip_is_named_where_none_fits(seeded, monkeypatch):
    monkeypatch.setattr(cases, "FURTHER", 100)  # the first case is refused already
    for name, (right, *_) in ANSWERS.items():
        law = base.Check(
            "never", refuses(ALL[name].test), stars=0, answer=None, uses=None,
            slips=ALL[name].slips, seen=ALL[name].seen,
        )  # fmt: skip
        assert "looks as if" not in law.result(right).message


def refuses(test):
    """A law that no answer keeps, tried on the cases of another."""

    def law(case, answer):
        test(case, answer)
        base.require(False, "refused")

    law.__module__ = test.__module__
    return law


@pytest.mark.parametrize("name", ALL)
def test_an_open_answer_is_told_what_is_asked_and_not_how(name, capsys):
    check = ALL[name]
    for answer in (None, ..., lambda *args: None, lambda *args: ...):
        result = check(answer)
        assert result.status == base.OPEN and not result and result.points == 0
        out = capsys.readouterr().out
        assert out == f"○ {name} is still open: {check.asks}\n"
        assert check.law not in out
    assert check.asks.startswith(f"{check.answer_name}(") and "->" in check.asks


def test_exercises_have_one_to_three_stars():
    stars = [[ALL[n].stars for n in EXERCISES if n.split(".")[0] == m] for m in checks.LESSONS]
    assert stars == [[1, 2, 3]] * len(checks.LESSONS)


def test_a_result_cannot_be_changed(seeded):
    result = ALL["lora.merged"].result(None)
    with pytest.raises(dataclasses.FrozenInstanceError):
        result.status = base.PASSED


def test_in_strict_mode_an_open_answer_raises_too(monkeypatch):
    monkeypatch.setenv("MINIPEFT_STRICT", "1")
    with pytest.raises(checks.CheckFailed, match=r"lora\.merged is still open"):
        ALL["lora.merged"](lambda *args: None)
    assert ALL["lora.merged"](ANSWERS["lora.merged"][0])
    monkeypatch.setenv("MINIPEFT_STRICT", "0")
    assert not ALL["lora.merged"](None)


def test_an_answer_cannot_find_what_is_right_in_the_frames_above():
    """A law computes it after the answer has returned; here an honest answer looks around."""
    for name in EXERCISES:
        found, calls, honest = [], [], ANSWERS[name][0]

        def spying(*args, honest=honest, found=found, calls=calls):
            result, frame = honest(*args), sys._getframe(1)
            calls.append(result)
            if len(calls) % 2 == 0:  # called again: above stands its own first result
                return result
            given = arrays(list(args))
            numbers = [a for a in arrays(result) if a.size > 1 and a.any()]
            numbers = [a for a in numbers if not any(np.array_equal(a, x) for x in given)]
            while frame is not None and "minipeft" in frame.f_code.co_filename:
                held = [a for x in frame.f_locals.values() for a in arrays(x)]
                found += [a for a in held for b in numbers if np.array_equal(a, b)]
                frame = frame.f_back
            return result

        assert ALL[name].judge(asking(spying))
        assert not found, name


def arrays(value):
    """The arrays in a value."""
    if isinstance(value, (list, tuple)):
        return [a for item in value for a in arrays(item)]
    return [value] if isinstance(value, np.ndarray) else []


@base.check("a sum is no difference")
def added(case, answer):
    """answer(a, b) -> something of a and b."""
    n = case.size("n", 1, 50)
    a, b = case.array("a", n), case.array("b", n)
    base.expect(answer(a, b), a + b)


def test_the_smallest_example_is_named():
    with pytest.raises(checks.CheckFailed, match="a sum is no difference") as caught:
        added(lambda a, b: a - b)
    assert "Smallest failing example: n = 1, a = [" in str(caught.value)
    with pytest.raises(checks.CheckFailed, match=r"expected shape \(1,\), got \(\)"):
        added(lambda a, b: 0.0)
    with pytest.raises(checks.CheckFailed, match="expected numbers"):
        added(lambda a, b: ["1.5"] * len(a))
    with pytest.raises(checks.CheckFailed, match="raised ZeroDivisionError"):
        added(lambda a, b: 1 / 0)
    with pytest.raises(checks.CheckFailed, match="nan"):
        added(lambda a, b: (a + b) * float("nan"))
    with pytest.raises(checks.CheckFailed, match="expected a function, got 3"):
        added(3)


def test_a_write_into_an_argument_is_named_and_spoils_nothing():
    def in_place(left, right):
        left += right
        return left

    with pytest.raises(checks.CheckFailed, match="wrote into left; make a new array"):
        added(in_place)

    @base.check("the largest comes last")
    def sorted_list(case, answer):
        """answer(numbers) -> the same numbers, in order."""
        numbers = [case.size("first"), case.size("second")]
        base.expect(answer(numbers), sorted(numbers))

    def in_its_list(numbers):
        numbers.sort()  # of a copy: nobody else's
        return numbers

    assert sorted_list(in_its_list)


def test_none_after_an_answer_is_wrong_not_open():
    with pytest.raises(checks.CheckFailed, match="your function returned None"):
        added(lambda a, b: a + b if len(a) == 1 else None)


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
    run = subprocess.run(
        [sys.executable, "-c", WITHOUT], capture_output=True, text=True, env=os.environ.copy()
    )
    passed, law, example, _ = run.stdout.splitlines()
    assert passed == "✓ LoRA trains r (in + out) parameters on each matrix"
    assert law == passed[2:] + "."
    assert example == "  Smallest failing example: r = 1, matrices = 1, out 0 = 1, in 0 = 1"
