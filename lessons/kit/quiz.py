"""The quiz as two sheets of Markdown: the questions, and the answers with their reasons."""

import random

from . import questions_from_adapters, questions_to_lora  # noqa: F401  they fill QUESTIONS
from .question import QUESTIONS

LETTERS = "ABCDE"
LINES = "___\n\n___"  # two rules to write on
BEGINS = r"^(?=\*\*\d+\. )"  # where a question begins in the Markdown below


def questions_for(lessons):
    """The questions on some lessons, their numbers filled in, in order."""
    numbers = {lesson.number for lesson in lessons}
    asked = [question.filled() for question in QUESTIONS if question.lesson in numbers]
    return sorted(asked, key=lambda question: question.lesson)


def choices(question):
    """The answers to choose from, in an order that stays the same; [] for a short answer."""
    if not question.wrong:
        return []
    mixed = [question.answer, *question.wrong]
    random.Random(question.name).shuffle(mixed)
    return mixed


def sheet(questions, lessons):
    """The questions as Markdown, a heading for each lesson."""
    lines = [
        "# Quiz\n",
        "Name: " + "\\_" * 30 + "\n",
        f"{len(questions)} questions, a point each. "
        "Tick one answer, or write one or two sentences.\n",
    ]
    for number, question, heading in walk(questions, lessons):
        lines += [heading] if heading else []
        lines.append(f"**{number}.** {question.ask}\n")
        found = choices(question)
        ticks = [f"○ {letter}: {text}" for letter, text in zip(LETTERS, found, strict=False)]
        lines.append("\\\n".join(ticks) or LINES)
        lines.append("")
    return "\n".join(lines)


def answers(questions, lessons):
    """The answers as Markdown: the letter or the sentence, and why."""
    lines = [
        "# Quiz: answers\n",
        "A point for the right letter. For a sentence of one's own, a point if it says what is "
        "in bold type, half a point if it says a part of it.\n",
    ]
    for number, question, heading in walk(questions, lessons):
        lines += [heading] if heading else []
        found = choices(question)
        letter = f"{LETTERS[found.index(question.answer)]}: " if found else ""
        lines.append(f"**{number}. {letter}{question.answer}**\\\n{question.why}\n")
    return "\n".join(lines)


def walk(questions, lessons):
    """(number, question, heading if its lesson begins, or "") of each question."""
    titles = {lesson.number: f"## {lesson.number} · {lesson.title}\n" for lesson in lessons}
    before = None
    for number, question in enumerate(questions, 1):
        yield number, question, titles[question.lesson] if question.lesson != before else ""
        before = question.lesson
