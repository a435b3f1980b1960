"""Copies of the notebooks: without outputs or answers for students, with both for instructors.

A student copy says nothing of the solutions, its checks are locked, and its links stay inside
the folder. The metadata of nbgrader tell which cells hold an answer and which are marked.
"""

import ast
import copy
import json
import os.path
import re
import shutil
from pathlib import Path

from .lesson import FOLDER, ROOT, has, source, unlinked

ABOUT_SOLUTIONS = re.compile(r"\s*Solutions?: \[[^]]*\]\([^)]*solutions/[^)]*\)\.?")
LINK = re.compile(r"(!?)\[((?:[^][]|\[[^]]*\])*)\]\(([^)#\s]*)(#[^)\s]*)?\)")
NOT_THEIRS = re.compile(r"solutions?\b|instructor|tests/|pip install|^## The map", re.I)
STUDENTS = Path(__file__).with_name("students.md")  # the page of the folder, with two fields


def student_copy(lesson, keeps, public=None):
    """The notebook to hand out, as a dict: no outputs, no solutions, checks locked.

    keeps: the linked paths that are handed out too; other links lead to the public address, if
    there is one, and else become plain text.
    """
    notebook = marked_for_nbgrader(lesson)
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            cell |= {"outputs": [], "execution_count": None}
        else:
            cell["source"] = handed_out(source(cell), keeps, public)
    return notebook


def instructor_copy(lesson, solutions):
    """The notebook with its outputs, each stub filled in from the source of its solutions.

    A check's output is left out: it says that the exercise is open, which it no longer is.
    """
    notebook = marked_for_nbgrader(lesson)
    for exercise in lesson.exercises:
        stub = notebook["cells"][exercise.cell]
        stub["source"] = solved(source(stub), solutions, bound_in(lesson))
        notebook["cells"][exercise.check]["outputs"] = []
    return notebook


def marked_for_nbgrader(lesson):
    """A copy of the notebook whose stubs and checks have the metadata of nbgrader, version 3.

    A check is locked, and worth a point for each star of its exercise.
    """
    notebook = copy.deepcopy(lesson.notebook)
    for exercise in lesson.exercises:
        stub, check = (notebook["cells"][i] for i in (exercise.cell, exercise.check))
        stub["metadata"]["nbgrader"] = nbgrader(stub, solution=True)
        check["metadata"]["nbgrader"] = nbgrader(
            check, grade=True, locked=True, points=exercise.stars
        )
        check["metadata"] |= {"deletable": False, "editable": False}
    return notebook


def nbgrader(cell, **values):
    """nbgrader's metadata of a cell."""
    neither = {"grade": False, "solution": False, "locked": False, "task": False}
    return {"schema_version": 3, "grade_id": cell["id"]} | neither | values


def handed_out(markdown, keeps, public):
    """A text for students: no sentence about solutions, no link that leads to nothing."""

    def link(found):
        image, text, target, place = found.groups(default="")
        if "://" in target or not target or target in keeps:
            return found[0]
        if public and not image:
            path = os.path.relpath(FOLDER / target, ROOT).replace(os.sep, "/")
            return f"[{text}]({public}/blob/main/{path}{place})"
        return text

    return LINK.sub(link, ABOUT_SOLUTIONS.sub("", markdown)).strip("\n")


def solved(stub, solutions, known):
    """The stub's source with each `return None` replaced by the body of the solution.

    known: names that the notebook binds; what a solution needs beyond them comes along. The
    marks around it are those at which nbgrader cuts the solution out again.
    """
    functions = {n.name: n for n in ast.parse(solutions).body if isinstance(n, ast.FunctionDef)}
    parts = re.split(r"^(?=def )", stub, flags=re.M)
    for i, part in enumerate(parts):
        if name := re.match(r"def (\w+)", part):
            if name[1] not in functions:
                raise ValueError(f"the solutions hold no function {name[1]}")
            lines = body(functions[name[1]], solutions, known | set(functions))
            lines = ["### BEGIN SOLUTION", *lines, "### END SOLUTION"]
            text = "\n".join(f"    {line}".rstrip() for line in lines)
            parts[i] = re.sub(r"^    return None.*$", lambda _, t=text: t, part, flags=re.M)
    return "".join(parts)


def body(function, solutions, known):
    """The lines of a function's body: its docstring as comments, its imports, its code."""
    says = ast.get_docstring(function) or ""
    first = function.body[1 if says else 0]
    code = solutions.splitlines()[first.lineno - 1 : function.end_lineno]
    used = {node.id for node in ast.walk(function) if isinstance(node, ast.Name)}
    imports = [
        ast.unparse(node)
        for node in ast.parse(solutions).body
        if isinstance(node, (ast.Import, ast.ImportFrom))
        and {alias.asname or alias.name for alias in node.names} & (used - known)
    ]
    comments = [f"# {line}".rstrip() for line in says.splitlines()]
    return [*comments, *imports, *(line[4:] for line in code)]


def bound_in(lesson):
    """The names that the cells of a notebook import, or define as functions."""
    names = set()
    for cell in lesson.cells:
        if cell["cell_type"] != "code" or has(cell, "exercise"):
            continue
        for node in ast.walk(ast.parse(source(cell))):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                names |= {alias.asname or alias.name for alias in node.names}
            elif isinstance(node, ast.FunctionDef):
                names.add(node.name)
    return names


def files_read(lesson):
    """The files, relative to the lessons, whose paths the code of a notebook names."""
    tree = ast.parse("\n".join(source(c) for c in lesson.cells if c["cell_type"] == "code"))
    texts = {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant)}
    paths = [
        text for text in texts if isinstance(text, str) and re.search(r"\w/.*\.\w+$", text)
    ]
    return {path for path in paths if (FOLDER / path).is_file()}


def pages_and_files(lessons):
    """(pages {name: Markdown}, paths of other files) that the lessons need, directly or not.

    Pages are those beside the lessons to which they link, and the page for students.
    """
    pages, files = {"README.md": page_for_students(lessons)}, set()
    texts = [source(c) for lesson in lessons for c in lesson.cells if c["cell_type"] != "code"]
    texts.append(pages["README.md"])
    for lesson in lessons:
        files |= files_read(lesson)
    while texts:
        for image, _, target, _ in LINK.findall(texts.pop()):
            path = FOLDER / target
            if image and path.is_file():
                files.add(target)
            elif "/" not in target and path.suffix == ".md" and target not in pages:
                pages[target] = path.read_text(encoding="utf-8")
                texts.append(pages[target])
    return pages, files


def page_for_students(lessons):
    """The README of the folder: how to begin, and what of lessons/README.md is theirs."""
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    sections = re.split(r"^(?=## )", readme, flags=re.M)[1:]
    theirs = [s for s in sections if not NOT_THEIRS.search(s)]
    rows = ["| Lesson | Question | Read | Run |", "|---|---|--:|--:|"]
    for lesson in lessons:
        link = f"[{lesson.number} · {lesson.title}]({lesson.path.name})"
        rows.append(
            f"| {link} | {lesson.question} | {lesson.minutes} min | {lesson.seconds} s |"
        )
    text = STUDENTS.read_text(encoding="utf-8")
    return text.format(lessons="\n".join(rows), sections="".join(theirs))


def write_copies(folder, lessons, make, pages=None, files=()):
    """Write make(lesson) of each lesson into folder/lessons; returns the paths.

    pages: {name: Markdown}. files: paths beside the lessons, which keep their place, such as
    ../figures.
    """
    target, paths = folder / "lessons", []
    target.mkdir(parents=True)
    for lesson in lessons:
        paths.append(target / lesson.path.name)
        text = json.dumps(make(lesson), ensure_ascii=False, indent=1)
        paths[-1].write_text(text + "\n", encoding="utf-8")
    for name, text in (pages or {}).items():
        (target / name).write_text(text.strip("\n") + "\n", encoding="utf-8")
    for path in files:
        place = target / path
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(FOLDER / path, place)
    return paths


def write_students(folder, lessons, public=None):
    """Write the folder for students; returns the paths of its notebooks."""
    pages, files = pages_and_files(lessons)
    keeps = {*pages, *files, *(lesson.path.name for lesson in lessons)}
    pages = {name: handed_out(text, keeps, public) for name, text in pages.items()}
    return write_copies(folder, lessons, lambda x: student_copy(x, keeps, public), pages, files)


def write_instructors(folder, lessons):
    """Write the folder for instructors, solutions filled in; returns the paths."""

    def filled(lesson):
        path = FOLDER / "solutions" / f"lesson_{lesson.number:02}.py"
        return instructor_copy(lesson, path.read_text(encoding="utf-8"))

    pages, files = pages_and_files(lessons)
    pages = {name: unlinked(text) for name, text in pages.items()}
    return write_copies(folder, lessons, filled, pages, files)


def read_notebook(path):
    """A notebook as a dict."""
    return json.loads(path.read_text(encoding="utf-8"))


def public_address():
    """The project's address in pyproject.toml; None where it names none."""
    about = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    found = re.search(r'^(?:Repository|Source|Homepage) *= *"([^"]+)"', about, re.M | re.I)
    return found[1].rstrip("/") if found else None
