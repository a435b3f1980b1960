"""Shows what was measured beside what a learner predicted."""

from .cases import as_text


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
