"""Checks a learner's answer: a law that it has to keep, tried on random cases of all sizes.

    @check("a low-rank change is scaled by α / r", stars=1)
    def change(case, answer):
        \"\"\"answer(B, A, α, r) -> the change of the weight, (3, 2).\"\"\"
        r, alpha = case.size("r"), case.number("alpha")
        B, A = case.array("B", 3, r), case.array("A", r, 2)
        expect(answer(B, A, alpha, r), alpha / r * B @ A)

A check is called with the learner's function and returns a Result, which is true if the answer
passed. It prints ✓ and the law if the answer keeps it, and ○ and what is asked, the first
paragraph of the docstring, while the answer is open: None, or a function that returns None.
Otherwise it raises CheckFailed with the law and the smallest case that breaks it. A law asks
for the answer first and computes what is right afterwards, so that an answer cannot find it in
the frames of its callers.
"""

import functools
import inspect
import os
from dataclasses import dataclass

from ..engine.backend import np
from .answers import Answer, asking
from .cases import as_text, smallest_failure
from .plain import CheckFailed, alike

PASSED, OPEN, WRONG = "passed", "open", "wrong"
STRICT = "MINIPEFT_STRICT"  # a variable of the environment; if it is 1, an open answer raises
COMPARED = 60  # calls, of all of them, in which an answer is compared with a likely slip


class StillOpen(CheckFailed):
    """An answer is open where MINIPEFT_STRICT=1 demands one."""


@dataclass(frozen=True)
class Result:
    """What came of one check of one answer; it is true if the answer passed."""

    name: str  # of the check: "lora.merged"
    status: str  # "passed", "open" or "wrong"
    law: str
    message: str  # what is asked of an open answer, what is wrong with a wrong one
    possible: int  # points, one a star

    @property
    def points(self):
        """All points of the exercise, or none."""
        return self.possible if self.status == PASSED else 0

    def __bool__(self):
        return self.status == PASSED

    def __str__(self):
        if self.status == PASSED:
            return f"✓ {self.law}"
        if self.status == OPEN:
            return f"○ {self.name} is still open: {self.message}"
        return f"{self.law}.\n  {self.message}"

    def _ipython_display_(self):
        """Shows nothing at the end of a cell: the check has printed it."""


class Check:
    """One law of a lesson, to be called with a learner's function.

    law: what a right answer keeps.  test: the function (case, answer) that raises CheckFailed.
    """

    def __init__(self, law, test, *, stars, answer, uses, slips, seen):
        functools.update_wrapper(self, test)
        self.law, self.test, self.stars, self.uses, self.slips = law, test, stars, uses, slips
        self.seen = seen
        self.answer_name = answer or test.__name__
        self.name = f"{test.__module__.rpartition('.')[2]}.{test.__name__}"

    @property
    def asks(self):
        """What is asked, without how: 'merged(W, A, B, α) -> the merged weight (out, in)'."""
        text = (inspect.getdoc(self.test) or "").partition("\n\n")[0]
        return " ".join(text.replace("answer(", f"{self.answer_name}(", 1).split())

    def __call__(self, answer):
        result = self.result(answer)
        if result.status == WRONG:
            raise CheckFailed(str(result))
        if result.status == OPEN and os.environ.get(STRICT) == "1":
            raise StillOpen(str(result))
        print(result)
        return result

    def result(self, answer):
        """Returns the Result of a function, called in this process; prints nothing."""
        if answer is None or answer is Ellipsis:
            return self.outcome(OPEN, self.asks)
        if not callable(answer):
            return self.outcome(WRONG, f"expected a function, got {as_text(answer)}")
        return self.judge(asking(answer, self.uses))

    def judge(self, ask, seed=None):
        """Returns the Result of an answer that is called through `ask`; see Answer."""
        answer = Answer(ask)
        failure = smallest_failure(lambda case: failure_in(case, self.test, answer), seed)
        if answer.ended:
            return self.outcome(WRONG, answer.ended)
        if answer.is_open:
            return self.outcome(OPEN, self.asks)
        if not failure:
            return self.outcome(PASSED, "")
        slip = self.likely_slip(answer.calls[:: len(answer.calls) // COMPARED + 1])
        return self.outcome(WRONG, f"{failure}\n  It looks as if {slip}." if slip else failure)

    def outcome(self, status, message):
        """Returns the Result of this check with a status and a message."""
        return Result(self.name, status, self.law, message, self.stars)

    def likely_slip(self, calls):
        """Returns the first slip that gives what the answer gave in all calls, or ""."""
        for text, wrong in self.slips.items():
            ask = asking(wrong)
            if calls and all(same_outcome(ask, call, self.seen) for call in calls):
                return text
        return ""


def check(law, *, stars=0, answer=None, uses=(), slips=None, seen=lambda result: result):
    """Makes a Check of a function (case, answer) that raises CheckFailed for a broken law.

    stars: the points of the exercise; 0 for what the lesson itself implements.
    answer: the name of the learner's function, if it is not that of the check.
    uses: what the answer may call of minipeft, such as 'engine.tensor.record'.
    slips: {"the root was forgotten": a function that makes this slip}.
    seen: what of a result is compared with that of a slip, where many results are right.
    """

    def decorate(test):
        return Check(
            law, test, stars=stars, answer=answer, uses=uses, slips=slips or {}, seen=seen
        )

    return decorate


def failure_in(case, test, answer):
    """Returns the case and what is wrong with an answer in it, as text; None if nothing is."""
    try:
        test(case, answer)
        return None
    except CheckFailed as error:
        problem = str(error)
    except Exception as error:  # of the law itself, on a result that it cannot read
        problem = f"the result does not fit: {type(error).__name__}: {error}"
    values = f"Smallest failing example: {case}\n  " if case.values else ""
    return values + problem


def same_outcome(ask, call, seen):
    """Returns whether a call (arguments, probe, result) ends through `ask` as it did before."""
    arguments, probe, result = call
    try:
        outcome = ask(arguments, probe, None)
    except CheckFailed as failed:
        outcome = failed
    if isinstance(outcome, CheckFailed) or isinstance(result, CheckFailed):
        return type(outcome) is type(result)
    try:
        return alike(seen(outcome), seen(result))
    except Exception:  # a result of another kind
        return False


def expect(result, expected, label="", tolerance=1e-6):
    """Raises CheckFailed unless two numbers or arrays agree in shape and in every value.

    tolerance: largest difference allowed, relative to the largest |expected|, at least 1.
    """
    label = f"{label}: " if label else ""
    try:
        numbers, expected = np.asarray(result), np.asarray(expected, dtype=float)
        require(numbers.dtype.kind in "biuf", "")
    except (ValueError, OverflowError, CheckFailed):  # lists of uneven lengths, strings, …
        raise CheckFailed(f"{label}expected numbers, got {result!r}") from None
    result = numbers.astype(float)
    if result.shape != expected.shape:
        raise CheckFailed(f"{label}expected shape {expected.shape}, got {result.shape}")
    scale = max(1.0, float(np.abs(expected).max(initial=0.0)))
    if not np.abs(result - expected).max(initial=0.0) <= tolerance * scale:  # NaN fails too
        wrong = f"expected {as_text(expected[()])}, got {as_text(result[()])}"
        raise CheckFailed(label + wrong)


def require(condition, message):
    """Raises CheckFailed with the message unless the condition is true."""
    if not condition:
        raise CheckFailed(message)


def pair(result, names):
    """Returns a result that is a pair; raises CheckFailed, with the names, for any other."""
    is_pair = isinstance(result, (tuple, list)) and len(result) == 2
    require(is_pair, f"return the pair ({names}), got {as_text(result)}")
    return result


def matrices(result, names):
    """Returns a pair of arrays of numbers with two axes each; CheckFailed for any other."""
    both = [np.asarray(part) for part in pair(result, names)]
    fine = all(part.ndim == 2 and part.dtype.kind in "biuf" for part in both)
    require(fine, f"return the pair ({names}) of matrices, got {as_text(result)}")
    return both
