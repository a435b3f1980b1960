"""The slides: for each lesson its question, where its methods attach, a figure, the surprise.

Pages of 16 : 9, in letters that can be read from the back row: no text is smaller than 20
points on a page as high as 540.
"""

import io
import re

import mistune
from reportlab.pdfgen.canvas import Canvas
from reportlab.platypus import Frame, KeepInFrame, Paragraph, Spacer

from minipeft.lab.figures import places

from .notebook_pages import picture
from .paper import GREY, SANS, inline, style

WIDE, HIGH, EDGE, LOW = 960, 540, 48, 36
SMALLEST = 20  # points
WORDS = 65  # of a surprise, at most
TITLE = style("title", fontName=f"{SANS}-Bold", fontSize=46, leading=56)
ASK = style("ask", fontName=f"{SANS}-Bold", fontSize=36, leading=48)
HEAD = style("head", fontName=f"{SANS}-Bold", fontSize=26, leading=32)
BODY = style("body", fontSize=27, leading=39, spaceAfter=14)
GOAL = style("goal", fontSize=22, leading=31, spaceAfter=12)
SMALL = style("small", fontSize=SMALLEST, leading=29, spaceAfter=9)
FIT = "shrink"  # what becomes of text that is too long; the tests demand that none is
FOOT = 12  # points: the number of the page, and the lesson; not to be read from afar


class Deck:
    """A PDF of slides, written one after the other."""

    def __init__(self, path, title):
        self.canvas = Canvas(str(path), pagesize=(WIDE, HIGH))
        self.canvas.setTitle(title)
        self.count = 0

    def slide(self, story, foot="", top=40):
        """Add a slide with these flowables, made smaller where they would not fit."""
        wide, high = WIDE - 2 * EDGE, HIGH - LOW - top
        frame = Frame(EDGE, LOW, wide, high, 0, 0, 0, 0)
        frame.addFromList([KeepInFrame(wide, high, story, mode=FIT)], self.canvas)
        self.end(foot)

    def picture(self, png, foot):
        """Add a slide with nothing but a picture, as large as it can be."""
        image = picture(png, WIDE - 2 * EDGE, HIGH - 2 * LOW, points=9.0)
        left, below = (WIDE - image.drawWidth) / 2, (HIGH - image.drawHeight) / 2
        image.drawOn(self.canvas, left, below)
        self.end(foot)

    def end(self, foot):
        """Write the foot of a slide, and begin the next."""
        self.count += 1
        self.canvas.setFont(SANS, FOOT)
        self.canvas.setFillColor(GREY)
        self.canvas.drawString(EDGE, 16, foot)
        self.canvas.drawRightString(WIDE - EDGE, 16, str(self.count))
        self.canvas.showPage()

    def save(self):
        """Write the file; returns how many slides it has."""
        self.canvas.save()
        return self.count


def write_slides(path, lessons):
    """Write the deck of all lessons; returns the number of slides."""
    title = "Parameter-efficient fine-tuning"
    deck = Deck(path, title)
    last = f"{len(lessons)} questions, each with what was measured"
    deck.slide([Paragraph(title, TITLE), Spacer(0, 18), Paragraph(last, BODY)], top=170)
    for lesson in lessons:
        add_slides(deck, lesson)
    return deck.save()


def add_slides(deck, lesson):
    """Add the slides of a lesson."""
    name = f"{lesson.number} · {lesson.title}"
    question = Paragraph(markup(lesson.question, ASK), ASK)
    story = [Paragraph(name, HEAD), Spacer(0, 60), question, Spacer(0, 36), *guess(lesson)]
    deck.slide(story, name)
    if lesson.objectives:
        head = Paragraph("After this lesson you can", HEAD)
        deck.slide([head, Spacer(0, 22), *goals(lesson)], name)
    if lesson.methods:
        deck.picture(diagram(lesson.methods), name)
    if lesson.picture:
        deck.picture(lesson.picture, name)
    surprise = [Paragraph(markup(text, BODY), BODY) for text in shortened(lesson)]
    deck.slide([Paragraph("What surprised you?", HEAD), Spacer(0, 26), *surprise], name)


def guess(lesson):
    """What the class is asked to predict, at most two of the guesses."""
    texts = [text for text in lesson.predictions.values() if not text.startswith("your guess")]
    return [Paragraph("Your guess: " + markup(text, SMALL), SMALL) for text in texts[:2]]


def goals(lesson):
    """The objectives, a line each."""
    return [Paragraph("• " + markup(text, GOAL), GOAL) for text in lesson.objectives]


def markup(text, look):
    """Markup for a Paragraph from a line of Markdown."""
    parse = mistune.create_markdown(renderer=None, plugins=["math"])
    return " ".join(
        inline(token["children"], look) for token in parse(text) if "children" in token
    )


def diagram(methods):
    """Where some methods attach, the bytes of a PNG that is sharp on a screen."""
    file = io.BytesIO()
    places.lit(*methods).savefig(file, format="png", dpi=200)
    return file.getvalue()


def shortened(lesson):
    """The first sentences of what surprised, a list of paragraphs, about WORDS words."""
    paragraphs = re.split(r"\n\n|\n(?=[-*] )", lesson.section("What surprised you?"))
    left, kept = WORDS, []
    for paragraph in paragraphs:
        sentences = re.split(
            r"(?<=[.!?]\)) (?=\S)|(?<=[.!?]) (?=[A-Z*(])", " ".join(paragraph.split())
        )
        taken = []
        for sentence in sentences:
            left -= len(sentence.split())
            if left < 0 and (kept or taken):
                break
            taken.append(sentence)
        if taken:
            kept.append(re.sub(r"^[-*] ", "", " ".join(taken)))
        if left < 0:
            break
    return kept
