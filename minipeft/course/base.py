"""How a learner's own answer is checked: as a law over drawn sizes, never against one example.

    @check("a low-rank change is scaled by α / r")
    def change(draw, answer):
        r, alpha = draw.size("r"), draw.number("alpha")
        B, A = draw.array("B", 3, r), draw.array("A", r, 2)
        expect(answer(B, A, alpha, r), alpha / r * B @ A)

Called with the learner's function, or value, it prints ✓ and the law; it prints ○ while the
answer is open (None, or a function that returns None); and it raises CheckFailed with the law
and the smallest example that breaks it. With hypothesis installed this example is shrunk;
without it, the smallest of a hundred seeded ones is taken.
"""

import functools
import math

from ..engine.backend import np

EXAMPLES = 60


class CheckFailed(AssertionError):
    """An answer breaks a law; the message says which, and on which smallest example."""

    def _render_traceback_(self):  # what a notebook shows instead of a traceback
        return [f"CheckFailed: {self}"]


class Open(Exception):
    """The learner has not answered yet."""


class Draw:
    """Draws the example that a law is tried on, and remembers it for the message.

    `integer` is a function (low, high) -> a whole number between them, both included.
    """

    def __init__(self, integer):
        self.integer, self.drawn, self.total = integer, {}, 0

    def size(self, name, low=1, high=6):
        """A whole number, shrunk towards `low`."""
        self.drawn[name] = n = int(self.integer(low, high))
        self.total += n - low
        return n

    def choice(self, name, options):
        """One of the options, shrunk towards the first."""
        place = int(self.integer(0, len(options) - 1))
        self.total += place
        self.drawn[name] = options[place]
        return options[place]

    def number(self, name, low=1, high=8):
        """A float that is a multiple of ½, shrunk towards `low`."""
        self.drawn[name] = x = float(low) + 0.5 * self.integer(0, int(2 * (high - low)))
        self.total += x - low
        return x

    def rng(self):
        """A NumPy Generator, for laws that need random numbers of their own."""
        return np.random.default_rng(self.integer(0, 2**16))

    def array(self, name, *shape):
        """Random float64 numbers with one decimal, none of them 0, shown if they are few."""
        rng = self.rng()
        values = rng.integers(1, 20, shape) * rng.choice([-0.1, 0.1], shape)
        self.drawn[name] = values
        return values

    def __str__(self):
        return ", ".join(f"{name} = {shown(value)}" for name, value in self.drawn.items())


def shown(value):
    """A number or array as text, a long array by its shape."""
    if isinstance(value, np.ndarray) and value.size > 6:
        return f"an array {value.shape}"
    if isinstance(value, (float, np.floating)):
        return f"{value:.6g}"
    if isinstance(value, np.ndarray):
        return np.array2string(value, precision=4, separator=", ").replace("\n", "")
    return f"{value:,}" if type(value) is int else str(value)


def expect(got, wanted, why="", tolerance=1e-6):
    """Raise CheckFailed unless two numbers or arrays agree, in shape too.

    tolerance: relative to the largest number wanted.
    """
    why = f"{why}: " if why else ""
    try:
        got, wanted = np.asarray(got, dtype=float), np.asarray(wanted, dtype=float)
    except (TypeError, ValueError):
        raise CheckFailed(f"{why}expected numbers, got {got!r}") from None
    if got.shape != wanted.shape:
        raise CheckFailed(f"{why}expected shape {wanted.shape}, got {got.shape}")
    scale = max(1.0, float(np.abs(wanted).max(initial=0.0)))
    if not np.abs(got - wanted).max(initial=0.0) <= tolerance * scale:  # NaN fails too
        raise CheckFailed(f"{why}expected {shown(wanted[()])}, got {shown(got[()])}")


def require(truth, sentence):
    """Raise CheckFailed with the sentence unless it is true."""
    if not truth:
        raise CheckFailed(sentence)


def check(law):
    """Make a check of a function (draw, answer) that raises CheckFailed for a broken law."""

    def decorate(test):
        @functools.wraps(test)
        def run(answer):
            name = f"{test.__module__.rpartition('.')[2]}.{test.__name__}"
            try:
                failure = smallest_failure(lambda draw: tried(test, draw, answer))
            except Open:
                print(f"○ {name} is still open: {law}")
                return
            if failure:
                raise CheckFailed(f"{law}.\n  {failure}") from None
            print(f"✓ {law}")

        run.law = law
        return run

    return decorate


def tried(test, draw, answer):
    """What is wrong with an answer on one example, as text, or None."""
    try:
        test(draw, watched(answer))
        return None
    except CheckFailed as failed:
        problem = str(failed)
    except Open:
        raise
    except Exception as error:
        problem = f"your answer raised {type(error).__name__}: {error}"
    example = f"Smallest failing example: {draw}\n  " if draw.drawn else ""
    return example + problem


def watched(answer):
    """The answer; Open if it is None or …, now or, for a function, when it returns that."""
    if answer is None or answer is Ellipsis:
        raise Open
    if not callable(answer) or isinstance(answer, type):
        return answer

    @functools.wraps(answer)
    def call(*args, **options):
        result = answer(*args, **options)
        if result is None or result is Ellipsis:
            raise Open
        return result

    return call


def smallest_failure(attempt):
    """The text of the smallest failure of `attempt(draw)`, or None if there is none."""
    try:
        from hypothesis import HealthCheck, Phase, given, settings
        from hypothesis import strategies as st
    except ImportError:
        return smallest_of_seeded(attempt)
    last = []

    @settings(max_examples=EXAMPLES, deadline=None, database=None, derandomize=True,
              suppress_health_check=list(HealthCheck),
              phases=(Phase.generate, Phase.shrink))  # fmt: skip
    @given(st.data())
    def run(data):
        last[:] = [attempt(Draw(lambda low, high: data.draw(st.integers(low, high))))]
        assert last[0] is None

    try:
        run()
    except AssertionError:
        return last[0]  # hypothesis runs the smallest example last
    return None


def smallest_of_seeded(attempt):
    """The same without hypothesis: a hundred seeded examples, from small ones to large."""
    found = (math.inf, None)
    for seed in range(100):
        rng, reach = np.random.default_rng(seed), 2 ** (seed // 6)

        def integer(low, high, rng=rng, reach=reach):
            return rng.integers(low, min(high, low + reach - 1), endpoint=True)

        draw = Draw(integer)
        failure = attempt(draw)
        if failure and draw.total < found[0]:
            found = (draw.total, failure)
    return found[1]


def reveal(prediction, measured, unit=""):
    """Print what was measured beside what the learner predicted; nothing is graded.

    >>> reveal(50, 3.46, "%")
    You said 50 %; it is 3.46 %: 14 times less.
    >>> reveal(None, 3.46, "%")
    It is 3.46 %. (You predicted nothing: a guess, however wrong, makes it stick.)
    """
    fact = f"{shown(measured)} {unit}".strip()
    if prediction is None or prediction is Ellipsis:
        print(f"It is {fact}. (You predicted nothing: a guess, however wrong, makes it stick.)")
        return
    said = f"You said {shown(prediction)} {unit}".strip()
    if isinstance(prediction, str) or not (prediction > 0 and measured > 0):
        print(f"{said}; it is {fact}.")
        return
    ratio = measured / prediction
    if 0.9 <= ratio <= 1.1:
        print(f"{said}; it is {fact}: well guessed.")
    else:
        times, more = (ratio, "more") if ratio > 1 else (1 / ratio, "less")
        print(f"{said}; it is {fact}: {times:.2g} times {more}.")
