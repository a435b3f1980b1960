"""The rubric: what earns how many points, in levels, and how the exercises are marked.

Its text is rubric.md, in which the sums are fields.
"""

from pathlib import Path

from .plan import REPORT_POINTS

TEXT = Path(__file__).with_name("rubric.md")


def rubric(lessons, questions):
    """The rubric as Markdown, its sums computed from the lessons and the questions."""
    exercises = sum(lesson.points for lesson in lessons)
    return TEXT.read_text(encoding="utf-8").format(
        total=exercises + len(questions) + REPORT_POINTS,
        exercises=exercises,
        questions=len(questions),
        report=REPORT_POINTS,
        predictions=sum(len(lesson.predictions) for lesson in lessons),
        notebook=lessons[-1].path.name,
    )
