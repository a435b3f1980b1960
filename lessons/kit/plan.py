"""Two plans of the course, of two weeks and of six: hours, deadlines and points.

The lessons stay in their order and are cut into days, or weeks, of about the same length.
"""

from dataclasses import dataclass
from pathlib import Path

EXERCISE_MINUTES = {1: 10, 2: 20, 3: 40}  # by stars
TALK_MINUTES = 15  # on the predictions and on what surprised, with the class, per lesson
QUESTION_MINUTES = 2  # of the quiz
REPORT_MINUTES = 240  # the report on the capstone
REPORT_POINTS = 20
TEXT = Path(__file__).with_name("plan.md")  # with a field for each number and table
RULE = ("---", "---", "--:", "--:", "---")  # under the head of a table
DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri")


@dataclass(frozen=True)
class Slot:
    """A day or a week of a plan: its name, its lessons, and when their exercises are due."""

    name: str
    lessons: tuple
    due: str

    @property
    def minutes(self):
        """Minutes of work for a student."""
        return sum(map(minutes, self.lessons))

    @property
    def points(self):
        """What the exercises earn."""
        return sum(lesson.points for lesson in self.lessons)


def minutes(lesson):
    """Minutes that a lesson takes: to read, to run, to talk about, and for its exercises."""
    exercises = sum(EXERCISE_MINUTES[exercise.stars] for exercise in lesson.exercises)
    return lesson.minutes + lesson.seconds / 60 + TALK_MINUTES + exercises


def cut(lessons, parts):
    """The lessons in their order as `parts` groups of lengths as equal as can be.

    That is: the sum of their squared minutes is the smallest.

    ValueError if there are fewer lessons than groups.
    """
    if parts > len(lessons):
        raise ValueError(f"{len(lessons)} lessons cannot fill {parts} days or weeks")
    best = {(0, 0): (0.0, [])}  # {(lessons so far, groups so far): (squares, groups)}
    for group in range(1, parts + 1):
        for end in range(group, len(lessons) + 1):
            ways = []
            for start in range(group - 1, end):
                if (start, group - 1) in best:
                    squares, groups = best[start, group - 1]
                    length = sum(map(minutes, lessons[start:end]))
                    ways.append((squares + length**2, [*groups, tuple(lessons[start:end])]))
            best[end, group] = min(ways, key=lambda way: way[0])
    return best[len(lessons), parts][1]


def two_weeks(lessons):
    """Slots of an intensive course: nine days of lessons, and a tenth for report and quiz."""
    names = [f"Week {week}, {day}" for week in (1, 2) for day in DAYS]
    dues = [f"{name}, 9:00" for name in names[1:]]
    groups = cut(lessons, len(names) - 1)
    return [Slot(*slot) for slot in zip(names, groups, dues, strict=False)]


def six_weeks(lessons):
    """Slots of a course beside others: six weeks, the exercises due at the end of each."""
    groups = cut(lessons, 6)
    return [
        Slot(f"Week {week}", group, f"Week {week}, Sun 23:59")
        for week, group in enumerate(groups, 1)
    ]


def complaints(slots):
    """What is wrong with a plan, as lines: a lesson before one that it needs, or twice."""
    order = [lesson for slot in slots for lesson in slot.lessons]
    numbers = [lesson.number for lesson in order]
    if len(set(numbers)) < len(numbers):
        yield "a lesson stands in the plan twice"
    for place, lesson in enumerate(order):
        for needed in sorted(lesson.before - set(numbers[:place])):
            yield f"lesson {lesson.number} needs lesson {needed}, which does not come before it"


def plan(lessons, questions):
    """Both plans as Markdown; ValueError if a lesson would come before one that it needs."""
    exercises = sum(lesson.points for lesson in lessons)
    return TEXT.read_text(encoding="utf-8").format(
        talk=TALK_MINUTES,
        stars=", ".join(f"{'★' * n} {m} minutes" for n, m in EXERCISE_MINUTES.items()),
        question=QUESTION_MINUTES,
        report=hours(REPORT_MINUTES),
        total=exercises + len(questions) + REPORT_POINTS,
        exercises=exercises,
        questions=len(questions),
        report_points=REPORT_POINTS,
        two_weeks=schedule("Day", two_weeks(lessons), "Week 2, Fri", questions),
        six_weeks=schedule("Week", six_weeks(lessons), "Week 6, Fri", questions),
        by_lesson=by_lesson(lessons),
    )


def schedule(unit, slots, last, questions):
    """One plan as a table, the quiz and the report at its end."""
    if faults := list(complaints(slots)):
        raise ValueError("; ".join(faults))
    rows = [(unit, "Lessons", "Hours", "Points", "Exercises due"), RULE]
    for slot in slots:
        names = ", ".join(f"{lesson.number} · {lesson.title}" for lesson in slot.lessons)
        rows.append((slot.name, names, hours(slot.minutes), slot.points, slot.due))
    quiz = QUESTION_MINUTES * len(questions)
    rows.append((last, "Quiz", hours(quiz), len(questions), "in class"))
    report = hours(REPORT_MINUTES), REPORT_POINTS, f"{last}, 18:00"
    rows.append((last, "Report on the capstone", *report))
    time = sum(slot.minutes for slot in slots) + quiz + REPORT_MINUTES
    points = sum(slot.points for slot in slots) + len(questions) + REPORT_POINTS
    return table([*rows, ("**Total**", "", f"**{hours(time)}**", f"**{points}**", "")])


def by_lesson(lessons):
    """A table: what each lesson needs, its hours, its exercises and what they earn."""
    rows = [("Lesson", "Before", "Hours", "Points", "Exercises"), RULE]
    for lesson in lessons:
        before = ", ".join(map(str, sorted(lesson.before))) or "–"
        tasks = ", ".join(f"{'★' * task.stars} {task.title}" for task in lesson.exercises)
        name = f"{lesson.number} · {lesson.title}"
        rows.append((name, before, hours(minutes(lesson)), lesson.points, tasks))
    return table(rows)


def table(rows):
    """Rows of five cells as a table of Markdown."""
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in rows)


def hours(minutes):
    """Minutes as hours, to a tenth."""
    return f"{minutes / 60:.1f}"
