"""Random cases of all sizes on which a law is tried, and the search for the smallest failure.

The search is by hypothesis if it is installed, and else through a hundred seeded cases.
"""

import math

from ..engine.backend import np

CASES = 60  # that hypothesis tries
FURTHER = 40  # seeded cases after the first failure, in which a smaller one may come


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


def smallest_failure(failure_of, seed=None):
    """Returns `failure_of(case)`, a text or None, for the smallest case in which it is a text.

    Returns None if it is None in all cases that are tried. Without a seed these are always the
    same, so that a notebook prints the same every time; a marker takes a seed that no answer
    can have foreseen.
    """
    try:
        import hypothesis
        from hypothesis import HealthCheck, Phase
        from hypothesis import strategies as st
    except ImportError:
        return smallest_seeded_failure(failure_of, seed)
    failures = []

    @hypothesis.settings(max_examples=CASES, deadline=None, database=None,
                         derandomize=seed is None, suppress_health_check=list(HealthCheck),
                         phases=(Phase.generate, Phase.shrink))  # fmt: skip
    @hypothesis.given(st.data())
    def run(data):
        failure = failure_of(Case(lambda low, high: data.draw(st.integers(low, high))))
        if failure:
            failures.append(failure)
        assert failure is None

    try:
        (run if seed is None else hypothesis.seed(seed)(run))()
    except AssertionError:
        return failures[-1]  # hypothesis runs the smallest case last
    except hypothesis.errors.Flaky:  # it did not go the same way every time
        return failures[-1] if failures else "your function is not the same every time"
    return failures[-1] if failures else None


def smallest_seeded_failure(failure_of, seed=None):
    """Returns the same without hypothesis: of a hundred seeded cases, from small to large."""
    smallest, complexity, last = None, math.inf, 100
    for number in range(100):
        if number > last:
            break
        rng, reach = np.random.default_rng([seed or 0, number]), 2 ** (number // 6)

        def random_integer(low, high, rng=rng, reach=reach):
            return rng.integers(low, min(high, low + reach - 1), endpoint=True)

        case = Case(random_integer)
        failure = failure_of(case)
        if failure and case.complexity < complexity:
            smallest, complexity = failure, case.complexity
            last = min(last, number + FURTHER)
    return smallest
