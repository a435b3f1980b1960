"""Checks a learner's answer: a law that it has to keep, tried on random cases of all sizes.

    @check("a low-rank change is scaled by α / r")
    def change(case, answer):
        r, alpha = case.size("r"), case.number("alpha")
        B, A = case.array("B", 3, r), case.array("A", r, 2)
        expect(answer(B, A, alpha, r), alpha / r * B @ A)

A check is called with the learner's function, or value. It prints ✓ and the law if the answer
keeps it, and ○ while the answer is open: None, or a function that returns None. Otherwise it
raises CheckFailed with the law and the smallest case that breaks it. That case is found by
hypothesis if it is installed, and else is the smallest of a hundred seeded ones.
"""

import functools
import math

from ..engine.backend import np

CASES = 60  # that hypothesis tries


class CheckFailed(AssertionError):
    """An answer breaks a law; the message has the law and the smallest case that breaks it."""

    def _render_traceback_(self):  # what a notebook shows instead of a traceback
        return [f"CheckFailed: {self}"]


class Unanswered(Exception):
    """The learner has not answered yet."""


class Case:
    """One random case that a law is tried on, and its values by name for the error message.

    random_integer: a function (low, high) -> whole number between them, both included.
    """

    def __init__(self, random_integer):
        self.random_integer = random_integer
        self.values = {}  # {name: what an error message shows of it}
        self.complexity = 0  # sum of how far the values are from the simplest ones

    def size(self, name, low=1, high=6):
        """Returns a whole number; the simplest is `low`."""
        self.values[name] = n = int(self.random_integer(low, high))
        self.complexity += n - low
        return n

    def choice(self, name, options):
        """Returns one of the options; the simplest is the first."""
        i = int(self.random_integer(0, len(options) - 1))
        self.complexity += i
        self.values[name] = options[i]
        return options[i]

    def number(self, name, low=1, high=8):
        """Returns a float that is a multiple of ½; the simplest is `low`."""
        self.values[name] = x = float(low) + 0.5 * self.random_integer(0, int(2 * (high - low)))
        self.complexity += x - low
        return x

    def rng(self):
        """Returns a NumPy Generator, for a law that needs more random values."""
        return np.random.default_rng(self.random_integer(0, 2**16))

    def array(self, name, *shape):
        """Returns float64 values between −1.9 and 1.9 with one decimal, none of them 0."""
        rng = self.rng()
        values = rng.integers(1, 20, shape) * rng.choice([-0.1, 0.1], shape)
        self.values[name] = values
        return values

    def __str__(self):
        return ", ".join(f"{name} = {as_text(value)}" for name, value in self.values.items())


def as_text(value):
    """Returns a value as text, an array of more than six elements by its shape."""
    if isinstance(value, np.ndarray) and value.size > 6:
        return f"an array {value.shape}"
    if isinstance(value, (float, np.floating)):
        return f"{value:.6g}"
    if isinstance(value, np.ndarray):
        return np.array2string(value, precision=4, separator=", ").replace("\n", "")
    return f"{value:,}" if type(value) is int else str(value)


def expect(result, expected, label="", tolerance=1e-6):
    """Raises CheckFailed unless two numbers or arrays agree in shape and in every value.

    tolerance: largest difference allowed, relative to the largest |expected|, at least 1.
    """
    label = f"{label}: " if label else ""
    try:
        result, expected = np.asarray(result, dtype=float), np.asarray(expected, dtype=float)
    except (TypeError, ValueError):
        raise CheckFailed(f"{label}expected numbers, got {result!r}") from None
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


def call(answer, /, **arguments):
    """Returns what an answer returns for these arguments, passed by position.

    Raises CheckFailed if it writes into an array: `W += …` would destroy the base.
    """
    copies = {k: v.copy() if isinstance(v, np.ndarray) else v for k, v in arguments.items()}
    result = answer(*copies.values())
    for name, value in arguments.items():
        unchanged = not isinstance(value, np.ndarray) or np.array_equal(copies[name], value)
        require(unchanged, f"your function wrote into {name}; make a new array instead")
    return result


def pair(result, names):
    """Returns a result that is a pair; raises CheckFailed, with the names, for any other."""
    is_pair = isinstance(result, (tuple, list)) and len(result) == 2
    require(is_pair, f"return the pair ({names}), got {as_text(result)}")
    return result


def check(law):
    """Makes a check of a function (case, answer) that raises CheckFailed for a broken law."""

    def decorate(test):
        @functools.wraps(test)
        def run(answer):
            name = f"{test.__module__.rpartition('.')[2]}.{test.__name__}"
            try:
                failure = smallest_failure(lambda case: failure_in(case, test, answer))
            except Unanswered:
                print(f"○ {name} is still open: {law}")
                return
            if failure:
                raise CheckFailed(f"{law}.\n  {failure}") from None
            print(f"✓ {law}")

        run.law = law
        return run

    return decorate


def failure_in(case, test, answer):
    """Returns the case and what is wrong with an answer in it, as text; None if nothing is."""
    try:
        test(case, unless_open(answer))
        return None
    except CheckFailed as error:
        problem = str(error)
    except Unanswered:
        raise
    except Exception as error:
        problem = f"your answer raised {type(error).__name__}: {error}"
    values = f"Smallest failing example: {case}\n  " if case.values else ""
    return values + problem


def unless_open(answer):
    """Returns the answer; raises Unanswered if it is None or ….

    A function is returned wrapped, so that calling it raises Unanswered if it returns those.
    """
    if answer is None or answer is Ellipsis:
        raise Unanswered
    if not callable(answer) or isinstance(answer, type):
        return answer

    @functools.wraps(answer)
    def call_answer(*args, **options):
        result = answer(*args, **options)
        if result is None or result is Ellipsis:
            raise Unanswered
        return result

    return call_answer


def smallest_failure(failure_of):
    """Returns `failure_of(case)`, a text or None, for the smallest case in which it is a text.

    Returns None if it is None in all cases that are tried.
    """
    try:
        from hypothesis import HealthCheck, Phase, given, settings
        from hypothesis import strategies as st
    except ImportError:
        return smallest_seeded_failure(failure_of)
    last = []

    @settings(max_examples=CASES, deadline=None, database=None, derandomize=True,
              suppress_health_check=list(HealthCheck),
              phases=(Phase.generate, Phase.shrink))  # fmt: skip
    @given(st.data())
    def run(data):
        last[:] = [failure_of(Case(lambda low, high: data.draw(st.integers(low, high))))]
        assert last[0] is None

    try:
        run()
    except AssertionError:
        return last[0]  # hypothesis runs the smallest case last
    return None


def smallest_seeded_failure(failure_of):
    """Returns the same without hypothesis: of a hundred seeded cases, from small to large."""
    smallest, complexity = None, math.inf
    for seed in range(100):
        rng, reach = np.random.default_rng(seed), 2 ** (seed // 6)

        def random_integer(low, high, rng=rng, reach=reach):
            return rng.integers(low, min(high, low + reach - 1), endpoint=True)

        case = Case(random_integer)
        failure = failure_of(case)
        if failure and case.complexity < complexity:
            smallest, complexity = failure, case.complexity
    return smallest


def reveal(prediction, measured, unit=""):
    """Prints what was measured beside what the learner predicted; nothing is graded.

    >>> reveal(50, 3.46, "%")
    You said 50 %; it is 3.46 %: 14 times less.
    >>> reveal(None, 3.46, "%")
    It is 3.46 %. (You predicted nothing: a guess, however wrong, makes it stick.)
    """
    fact = f"{as_text(measured)} {unit}".strip()
    if prediction is None or prediction is Ellipsis:
        print(f"It is {fact}. (You predicted nothing: a guess, however wrong, makes it stick.)")
        return
    guess = f"You said {as_text(prediction)} {unit}".strip()
    if isinstance(prediction, str) or not (prediction > 0 and measured > 0):
        print(f"{guess}; it is {fact}.")
        return
    ratio = measured / prediction
    if 0.9 <= ratio <= 1.1:
        print(f"{guess}; it is {fact}: well guessed.")
    else:
        times, more = (ratio, "more") if ratio > 1 else (1 / ratio, "less")
        print(f"{guess}; it is {fact}: {times:.2g} times {more}.")
