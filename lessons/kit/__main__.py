"""Make the instructor's kit: python -m lessons.kit FOLDER, from the root of the clone."""

import argparse
import importlib.util
import shutil
import sys
from pathlib import Path

from tqdm import tqdm

from . import copies, plan, quiz, rubric
from .lesson import read_lessons, source

PARTS = ("students", "instructor", "plan", "rubric", "quiz", "slides")
NEEDED = ("reportlab", "mistune", "pygments")  # for PDF
ABOUT = """\
what comes out, beside a README that says how to use it:

  students/     notebooks without outputs and solutions, checks locked, with the data and pages
                that they need; the same as PDF
  instructor/   notebooks with outputs, and solutions where the stubs were; the same as PDF
  plan          a plan of two weeks and one of six: hours, points, deadlines
  rubric        what earns how many points
  quiz          the questions, and quiz_answers with the reasons
  slides.pdf    for each lesson its question, where its methods attach, a figure, the surprise

plan, rubric and quiz are Markdown and PDF. Everything is made from the notebooks as they are.
"""


def main(arguments=None):
    """Make the kit; returns the exit code, 0, or leaves with 2 and one sentence."""
    parser = argparse.ArgumentParser(
        prog="python -m lessons.kit", description="Make the instructor's kit.", epilog=ABOUT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("folder", type=Path, help="where to; made if it is not there")
    parser.add_argument(
        "--parts", default=",".join(PARTS), metavar="A,B", help="some of: " + ", ".join(PARTS)
    )
    parser.add_argument("--no-pdf", action="store_true", help="notebooks and Markdown only")
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace the parts that are there, whatever they hold",
    )
    options = parser.parse_args(arguments)
    parts = options.parts.split(",")
    try:
        check(options, parts)
        made = build(options.folder, parts, not options.no_pdf)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    for name, what in made.items():
        print(f"{name:<12}{what}")
    return 0


def check(options, parts):
    """ValueError if a part is unknown, a tool is missing, or something is in the way."""
    if unknown := [part for part in parts if part not in PARTS]:
        raise ValueError(
            f"there is no part {unknown[0]!r}; expected some of {', '.join(PARTS)}"
        )
    if options.no_pdf and parts == ["slides"]:
        raise ValueError("slides are a PDF: leave out --no-pdf")
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing and not options.no_pdf:
        raise ValueError(
            f"PDF needs {', '.join(missing)}: python -m pip install '.[kit]', or give --no-pdf"
        )
    if options.folder.exists() and not options.folder.is_dir():
        raise ValueError(f"{options.folder} is a file; give a folder")
    there = [path for part in parts for path in sorted(options.folder.glob(f"{part}*"))]
    if there and not options.overwrite:
        raise ValueError(f"{there[0]} is there already; give another folder or --overwrite")
    for path in there:
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def build(folder, parts, pdf):
    """Make some parts; returns {name: what was made, in words}."""
    folder.mkdir(parents=True, exist_ok=True)
    lessons, made = read_lessons(), {}
    questions = quiz.questions_for(lessons)
    writers = {
        "students": lambda: copies.write_students(
            folder / "students", lessons, copies.public_address()
        ),
        "instructor": lambda: copies.write_instructors(folder / "instructor", lessons),
    }
    for part in parts:
        if part in writers:
            paths = writers[part]()
            made[part] = f"{len(paths)} notebooks" + (printed(paths, part) if pdf else "")
    texts = {
        "plan": lambda: {"plan": plan.plan(lessons, questions)},
        "rubric": lambda: {"rubric": rubric.rubric(lessons, questions)},
        "quiz": lambda: {
            "quiz": quiz.sheet(questions, lessons),
            "quiz_answers": quiz.answers(questions, lessons),
        },
    }
    for part in parts:
        for name, text in texts[part]().items() if part in texts else ():
            write_text(folder / f"{name}.md", text, pdf)
            made[name] = f"{len(text.split()):,} words"
    if "slides" in parts and pdf:
        from .slides import write_slides

        made["slides"] = f"{write_slides(folder / 'slides.pdf', lessons)} slides"
    (folder / "README.md").write_text(guide(lessons, questions), encoding="utf-8")
    return made


def printed(paths, part):
    """Write notebooks as PDF into a folder beside theirs; returns how many, in words."""
    from .notebook_pages import write_notebook

    folder = paths[0].parents[1] / "pdf"
    folder.mkdir()
    for path in tqdm(paths, desc=f"{part}, PDF", disable=None):
        write_notebook(folder / f"{path.stem}.pdf", copies.read_notebook(path))
    return f", {len(paths)} PDF"


def write_text(path, text, pdf):
    """Write Markdown, and its PDF if asked for."""
    path.write_text(text.rstrip("\n") + "\n", encoding="utf-8")
    if pdf:
        from .paper import pages_of

        pages_of(text, path.with_suffix(".pdf"), quiz.BEGINS if "quiz" in path.name else None)


def guide(lessons, questions):
    """The kit's README, for the instructor."""
    text = (Path(__file__).parent / "guide.md").read_text(encoding="utf-8")
    stubs = source(lessons[0].cells[lessons[0].exercises[0].cell])
    return text.format(
        lessons=len(lessons), exercises=sum(len(lesson.exercises) for lesson in lessons),
        points=sum(lesson.points for lesson in lessons), questions=len(questions),
        stub=stubs.splitlines()[-1].strip().partition("  #")[0],
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
