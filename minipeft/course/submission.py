"""Reads a submission: a Python file, or a notebook of which only the answers are taken."""

import ast
import contextlib
import functools
import json
import re
import symtable
from dataclasses import dataclass
from pathlib import Path

from . import LESSONS

MAGIC = re.compile(
    r"^\s*[%!?].*$", re.MULTILINE
)  # what IPython understands and Python does not


@dataclass(frozen=True)
class Submission:
    """What a student has handed in for one lesson."""

    path: Path
    lesson: int
    cells: tuple  # (code, tags) of each code cell; a Python file is one cell

    @classmethod
    def read(cls, path, lesson=None):
        """Returns the submission in a file.

        lesson: its number; by default that of the notebook's cells or of the file's name.
        Raises ValueError for a file of another kind or of no lesson, OSError if it is missing.
        """
        path = Path(path)
        try:
            text = path.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError:
            raise ValueError(f"{path} is not a text in UTF-8; save it as such") from None
        if path.suffix == ".py":
            cells, named = ((text, ()),), ""
        elif path.suffix == ".ipynb":
            cells, named = cells_of(path, text)
        else:
            raise ValueError(f"a submission is a file .py or .ipynb, got {str(path)!r}")
        if lesson is None:
            found = re.search(r"(?<=lesson_)\d\d(?!\d)", path.stem)
            found = found or re.search(r"(?<!\d)\d\d(?!\d)", f"{named} {path.stem}")
            if not found:
                text = (
                    "does not say which lesson it belongs to; add --lesson, such as --lesson 4"
                )
                raise ValueError(f"{path} {text}")
            lesson = int(found[0])
        if not 0 <= lesson < len(LESSONS):
            text = f"{path}: there are checks of the lessons 0 to {len(LESSONS) - 1}"
            raise ValueError(f"{text}, not of lesson {lesson}; choose one with --lesson")
        return cls(path, lesson, cells)

    def source(self, name):
        """Returns the code that defines the answer `name`, "" if there is none.

        Of a Python file that is all of it. Of a notebook it is the function, in a cell with the
        tag `exercise` if possible, and the imports, functions, classes and assignments that it
        needs, directly or not: no other cell is run, and no check.
        """
        if self.path.suffix == ".py":
            return self.cells[0][0]
        cells = [code for code, tags in self.cells if "check" not in tags]
        exercises = [code for code, tags in self.cells if "exercise" in tags]
        for candidates in (exercises, cells):
            for code in reversed(candidates):
                if name in bound_in(code, (ast.FunctionDef, ast.Assign)):
                    with contextlib.suppress(RecursionError):
                        return with_needed(name, cells, cells.index(code))
                    return code
                if not statements(code) and re.search(rf"^def {name}\(", code, re.MULTILINE):
                    return code  # which cannot be parsed: running it says why
        return ""


def cells_of(path, text):
    """Returns the code cells of a notebook's text as (code, tags), and its first cell's id."""
    try:
        found = json.loads(text)["cells"]
        cells = tuple(
            ("".join(cell["source"]), tuple(cell["metadata"].get("tags", ())))
            for cell in found
            if cell["cell_type"] == "code"
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise ValueError(f"{path} is not a notebook that can be read; save it again") from None
    match = re.match(r"\d\d(?=-)", str(found[0].get("id", ""))) if found else None
    return cells, match[0] if match else ""


@functools.lru_cache(maxsize=512)
def statements(code):
    """Returns the statements of a cell as syntax trees, [] if it cannot be parsed."""
    try:
        return ast.parse(MAGIC.sub("", code)).body
    except (SyntaxError, ValueError, RecursionError):
        return []


def bound_in(code, kinds):
    """Returns the names that the statements of these kinds in a cell bind."""
    return {name for s in statements(code) if isinstance(s, kinds) for name in bound_by(s)}


def bound_by(statement):
    """Returns the names that an import, definition or assignment binds; else none."""
    if isinstance(statement, (ast.FunctionDef, ast.ClassDef)):
        return {statement.name}
    if isinstance(statement, (ast.Import, ast.ImportFrom)):
        return {(alias.asname or alias.name).split(".")[0] for alias in statement.names}
    if isinstance(statement, (ast.Assign, ast.AnnAssign)):
        targets = getattr(statement, "targets", None) or [statement.target]
        nodes = [node for target in targets for node in ast.walk(target)]
        return {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    return set()


def with_needed(name, cells, at):
    """Returns the code that binds a name, as cell `at` does, and all that this needs."""
    places = [(i, s) for i, code in enumerate(cells) for s in statements(code)]
    taken, todo, seen = set(), [name], set()
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        binds = [bound_by(statement) for _, statement in places]
        binding = [k for k, names in enumerate(binds) if name in names]
        binding = binding or [k for k, names in enumerate(binds) if "*" in names]
        above = [k for k in binding if places[k][0] <= at]  # the latest before the answer
        for k in above[-1:] or binding[:1]:
            taken.add(k)
            with contextlib.suppress(SyntaxError, ValueError, RecursionError):
                todo += globals_used(ast.unparse(places[k][1]))  # running it says what is wrong
    return "\n\n".join(ast.unparse(places[k][1]) for k in sorted(taken))


def globals_used(code):
    """Returns the global names that some code refers to, inside of its functions too."""
    names, tables = set(), [symtable.symtable(code, "<cell>", "exec")]
    while tables:
        table = tables.pop()
        tables += table.get_children()
        for symbol in table.get_symbols():
            if symbol.is_referenced() and (table.get_type() == "module" or symbol.is_global()):
                names.add(symbol.get_name())
    return names
