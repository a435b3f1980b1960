"""A question of the quiz: a function that computes its numbers, and the text around them.

    @question(4, "A LoRA of rank 2 on a 3 × 5 matrix trains how many numbers?",
              answer="{count}", wrong=("15", "30"), why="r (in + out).")
    def small_lora():
        return {"count": 2 * (3 + 5)}

No number of an answer is written down: it is a field, and the function beneath returns its
value from the package, or asserts what the words claim. So an answer cannot be out of date.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

QUESTIONS = []  # all of them, in the order in which they are read


@dataclass(frozen=True)
class Question:
    """A question with its answer; `wrong` are the other choices, none for a short answer.

    lesson: the number of the lesson it belongs to. numbers: a function -> {field: value}, which
    raises AssertionError if what the answer says is not so.
    """

    lesson: int
    ask: str
    answer: str
    why: str
    wrong: tuple
    numbers: Callable

    @property
    def name(self):
        """The name of the function below the question."""
        return self.numbers.__name__

    def filled(self):
        """The same question with its numbers in their places; computes them."""
        values = self.numbers()

        def fill(text):
            return re.sub(r"(\d)%", "\\1\N{NO-BREAK SPACE}%", text.format(**values))

        ask, answer, why = map(fill, (self.ask, self.answer, self.why))
        return Question(self.lesson, ask, answer, why, (*map(fill, self.wrong),), self.numbers)


def question(lesson, ask, answer, why, wrong=()):
    """Makes a function that returns numbers into a question of the quiz."""

    def add(numbers):
        QUESTIONS.append(Question(lesson, ask, answer, why, tuple(wrong), numbers))
        return numbers

    return add
