"""What one notebook says of its lesson: question, time, exercises, predictions, pictures.

Everything the kit tells of a lesson is read here, from the notebook itself, so that nothing has
to be kept up to date by hand.
"""

import ast
import base64
import json
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import minipeft as mp

FOLDER = Path(__file__).parents[1]
ROOT = FOLDER.parent


@dataclass(frozen=True)
class Exercise:
    """One exercise: what it is called, its stars, its stub's functions, and its two cells.

    stars: 1 to 3, which are also its points. cell and check: indices of the cells.
    """

    title: str
    stars: int
    functions: tuple
    cell: int
    check: int


class Lesson:
    """A notebook, and what can be read from it."""

    def __init__(self, path):
        self.path = Path(path)
        self.notebook = json.loads(self.path.read_text(encoding="utf-8"))
        self.cells = self.notebook["cells"]

    def __repr__(self):
        return f"Lesson({self.path.name!r})"

    @property
    def name(self):
        """The notebook's name, such as '04_lora'."""
        return self.path.stem

    @property
    def number(self):
        """The number at the beginning of the name."""
        return int(self.name[:2])

    @cached_property
    def first(self):
        """The source of the first cell: title, table, objectives."""
        return source(self.cells[0])

    @property
    def title(self):
        """The title without its number."""
        return self.first.splitlines()[0].partition(" · ")[2]

    @property
    def question(self):
        """The question in the first cell's table."""
        return self.facts["Question"]

    @cached_property
    def facts(self):
        """{name: text} of the first cell's table, which stands upright or lies on its side."""
        lines = [line for line in self.first.splitlines() if line.startswith("|")]
        rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
        rows = [row for row in rows if any(cell.strip(":-") for cell in row)]
        if len(rows[0]) > 2:
            return dict(zip(*rows, strict=True))
        return dict(rows)

    @property
    def minutes(self):
        """Minutes to read."""
        return int(re.search(r"(\d+) min", self.first)[1])

    @property
    def seconds(self):
        """Seconds to run, on two quiet cores."""
        return int(re.search(r"(\d+) s(?:econds)?\b", self.first)[1])

    @property
    def before(self):
        """The numbers of the lessons to be read before, a set."""
        plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", self.first)
        named = re.search(r"lessons? (\d+(?:(?:, | and | to |, and )\d+)*)", plain)
        numbers = set()
        for first, last in re.findall(r"(\d+)(?: to (\d+))?", named[1] if named else ""):
            numbers |= set(range(int(first), int(last or first) + 1))
        return numbers

    @property
    def objectives(self):
        """What can be done after the lesson: the bullets under that line, a list."""
        _, found, after = self.first.partition("After this lesson you can")
        bullets = re.findall(r"^[-*] (.+(?:\n  +\S.*)*)", after, re.M) if found else []
        return [" ".join(bullet.split()) for bullet in bullets]

    @cached_property
    def exercises(self):
        """The exercises in their order."""
        return [self.exercise(i) for i, cell in enumerate(self.cells) if has(cell, "exercise")]

    def exercise(self, i):
        """The exercise whose stub is cell i; ValueError if the cells around it do not fit."""
        prose = [source(cell) for cell in self.cells[:i] if cell["cell_type"] == "markdown"][-1]
        stars = re.search("★+", prose)
        if not stars or not has(self.cells[i + 1], "check"):
            raise ValueError(
                f"{self.path.name}: cell {self.cells[i]['id']} has the tag exercise, so stars "
                "★ are expected in the text above it, and the tag check on the cell below"
            )
        functions = re.findall(r"^def (\w+)", source(self.cells[i]), re.M)
        name = re.search(r"\*\*(?:★+ )?([^*★]+?)\.?\*\*", prose[max(stars.start() - 2, 0) :])
        title = name[1] if name and name.start() < 8 else functions[0].replace("_", " ")
        return Exercise(title, len(stars[0]), tuple(functions), i, i + 1)

    @property
    def points(self):
        """What the exercises of the lesson earn: a point for each star."""
        return sum(exercise.stars for exercise in self.exercises)

    @property
    def predictions(self):
        """{name: what is to be guessed} of the variables that the lesson sets to None."""
        code = "\n".join(source(cell) for cell in self.cells if cell["cell_type"] == "code")
        return dict(re.findall(r"^(\w+) = None  # (.*)$", code, re.M))

    def section(self, heading):
        """The text of the cell that has this heading, without it, links as plain text."""
        for cell in self.cells:
            if source(cell).startswith(f"## {heading}"):
                return unlinked(source(cell).partition("\n")[2].strip())
        raise ValueError(f"{self.path.name} has no cell that begins with '## {heading}'")

    @property
    def picture(self):
        """The first picture from the heading Plot on, the bytes of a PNG; None without one.

        The diagram of places is none.
        """
        below = False
        for cell in self.cells:
            below = below or bool(re.search(r"^## Plot", source(cell), re.M))
            if below and images(cell) and "places." not in source(cell):
                return images(cell)[0]
        return None

    @cached_property
    def methods(self):
        """The names of the methods that the lesson is about.

        Those that it lights in the diagram of places; else those that its code builds.
        """
        tree = ast.parse("\n".join(source(c) for c in self.cells if c["cell_type"] == "code"))
        classes = {method.__name__: name for name, method in mp.METHODS.items()}
        lit, built = [], {}
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                owner = getattr(node.func.value, "id", "")
                if (owner, node.func.attr) == ("places", "lit"):
                    lit += [arg.value for arg in node.args if isinstance(arg, ast.Constant)]
                elif owner == "mp" and node.func.attr in classes:
                    built[classes[node.func.attr]] = True
        return lit or list(built)


def source(cell):
    """The source of a cell as one string."""
    return "".join(cell["source"])


def has(cell, tag):
    """Whether a cell has a tag."""
    return tag in cell["metadata"].get("tags", ())


def images(cell):
    """The pictures among a cell's outputs, a list of the bytes of PNG files."""
    outputs = [output.get("data", {}) for output in cell.get("outputs", ())]
    return [
        base64.b64decode("".join(data["image/png"])) for data in outputs if "image/png" in data
    ]


def unlinked(markdown):
    """Markdown whose links are plain text."""
    return re.sub(r"(?<!!)\[((?:[^][]|\[[^]]*\])*)\]\([^)\s]*\)", r"\1", markdown)


def read_lessons(folder=FOLDER):
    """The lessons of a folder in the order of their numbers; ValueError if there are none."""
    paths = sorted(Path(folder).glob("[0-9][0-9]_*.ipynb"))
    if not paths:
        raise ValueError(f"no notebooks such as 04_lora.ipynb in {folder}")
    return [Lesson(path) for path in paths]
