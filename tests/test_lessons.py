"""The lessons: solutions that pass every check, notebooks of one pattern, with their outputs.

tests/tools/lessons.py executes the notebooks, which takes minutes; here they are read. Each
rule is a function of a notebook that yields complaints, and planted faults show it at work.
"""

import ast
import base64
import copy
import json
import re
import runpy
from pathlib import Path

import pytest

LESSONS = Path(__file__).parents[1] / "lessons"
NOTEBOOKS = {
    path.stem: json.loads(path.read_text()) for path in sorted(LESSONS.glob("*.ipynb"))
}
MAP = (LESSONS / "README.md").read_text()
SOLUTIONS = {path.stem[-2:]: path for path in sorted(LESSONS.glob("solutions/lesson_??.py"))}
HEADINGS = ["Question", "Predict", "Implement", "Check", "Plot", "What surprised you?",
            "Exercises", "References"]  # fmt: skip
BYTES, PIXELS = 300_000, 900


def text(cell):
    """What a cell holds: prose or code."""
    return "".join(cell["source"])


def code(cells):
    """The code of a notebook's cells as one syntax tree."""
    return ast.parse("\n".join(text(cell) for cell in cells if cell["cell_type"] == "code"))


def printed(cell):
    """What a code cell printed."""
    return "".join("".join(o.get("text", "")) for o in cell["outputs"])


def checks_called(tree):
    """Names of the checks, 'lora.merged', that a program calls."""
    imports = [n for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)]
    modules = {a.name for n in imports if n.module == "minipeft.course" for a in n.names}
    calls = [n.func for n in ast.walk(tree) if isinstance(n, ast.Call)]
    calls = [f for f in calls if isinstance(f, ast.Attribute) and isinstance(f.value, ast.Name)]
    return {f"{f.value.id}.{f.attr}" for f in calls if f.value.id in modules}


def heading_complaints(name, cells):
    """A title with its number, then the eight headings in order, each once."""
    prose = "\n".join(text(cell) for cell in cells if cell["cell_type"] == "markdown")
    if not prose.startswith(f"# {int(name[:2])} · "):
        yield f"does not start with the title '# {int(name[:2])} · …'"
    found = [line for line in re.findall(r"^## (.*\S)", prose, re.M) if line in HEADINGS]
    if found != HEADINGS:
        yield f"has the headings {found}"
    if not re.search(r"\b\d{4}\.\d{4,5}\b", prose.rpartition("## References")[2]):
        yield "has no arXiv id under References"


def link_complaints(name, cells):
    """Relative links lead to files, one at least of the package."""
    prose = "\n".join(text(cell) for cell in cells if cell["cell_type"] == "markdown")
    links = [link for link in re.findall(r"\]\(([^)#\s]+)", prose) if "://" not in link]
    if not any(link.startswith("../minipeft/") for link in links):
        yield "links to no file of the package"
    yield from (f"links to {link}" for link in links if not (LESSONS / link).exists())


def tagged(cells, tag):
    """The cells with a tag."""
    return [cell for cell in cells if tag in cell["metadata"].get("tags", ())]


def exercise_complaints(name, cells):
    """Two exercises or more, each open, its check in the next cell; a prediction revealed."""
    exercises = tagged(cells, "exercise")
    if len(exercises) < 2:
        yield f"has {len(exercises)} cells with the tag exercise"
    imports = "\n".join(text(cell) for cell in cells if "minipeft.course import" in text(cell))
    for cell in exercises:
        if checks_called(ast.parse(f"{imports}\n{text(cell)}")):
            yield f"{cell['id']} checks itself: the check stands in the next cell"
        if cells.index(cell) + 1 not in [cells.index(c) for c in tagged(cells, "check")]:
            yield f"{cell['id']} is not followed by a cell with the tag check"
    for cell in tagged(cells, "check"):
        if not checks_called(ast.parse(f"{imports}\n{text(cell)}")):
            yield f"{cell['id']} calls no check"
        if "○" not in printed(cell):
            yield f"{cell['id']} is not open"
    if not re.search(r"^\s*reveal\(", "\n".join(map(text, cells)), re.M):
        yield "reveals no prediction"
    if not any(isinstance(node, ast.Assert) for node in ast.walk(code(cells))):
        yield "asserts nothing of what its prose claims"


def output_complaints(name, cells):
    """Run from top to bottom in one go, the outputs kept, without errors or warnings."""
    ran = [cell for cell in cells if cell["cell_type"] == "code"]
    if [cell["execution_count"] for cell in ran] != list(range(1, len(ran) + 1)):
        yield "was not run from top to bottom"
    outputs = [output for cell in ran for output in cell["outputs"]]
    if any(o["output_type"] == "error" or o.get("name") == "stderr" for o in outputs):
        yield "has errors or warnings among its outputs"
    images = [o["data"]["image/png"] for o in outputs if "image/png" in o.get("data", {})]
    if not images:
        yield "has no picture"
    for image in images:
        width = int.from_bytes(base64.b64decode("".join(image))[16:20], "big")
        if width > PIXELS:
            yield f"has a picture {width} pixels wide"


def size_complaints(name, cells):
    """Small files, cells with ids that stay."""
    if (size := len(json.dumps(cells, ensure_ascii=False).encode())) > BYTES:
        yield f"has {size:,} bytes"
    ids = [cell["id"] for cell in cells]
    if len(set(ids)) < len(ids) or not all(id.startswith(f"{name[:2]}-") for id in ids):
        yield f"has cells whose ids are not unique or not {name[:2]}-…"


def solution_complaints(name, cells):
    """Every check that the lesson calls has its solution."""
    if name[:2] not in SOLUTIONS:
        yield "has no solutions"
        return
    solved = checks_called(ast.parse(SOLUTIONS[name[:2]].read_text()))
    if open := checks_called(code(cells)) - solved:
        yield f"has no solution for {sorted(open)}"


RULES = [
    heading_complaints,
    link_complaints,
    exercise_complaints,
    output_complaints,
    size_complaints,
    solution_complaints,
]


@pytest.mark.parametrize("name", sorted(NOTEBOOKS))
@pytest.mark.parametrize("rule", RULES)
def test_a_lesson_keeps_the_pattern(rule, name):
    assert not list(rule(name, NOTEBOOKS[name]["cells"]))


@pytest.mark.parametrize("number", SOLUTIONS)
def test_solutions_pass_their_checks(number, capsys):
    runpy.run_path(str(SOLUTIONS[number]), run_name="__main__")
    lines = capsys.readouterr().out.splitlines()
    called = checks_called(ast.parse(SOLUTIONS[number].read_text()))
    assert len(lines) == len(called) > 0
    assert all(line.startswith("✓ ") for line in lines), lines


def told(first):
    """What the first cell of a lesson says of it, as in the map, links to the package last."""
    minutes, seconds = (re.search(rf"(\d+) {unit}", first).group(1) for unit in ("min", "s"))
    links = re.findall(r"\]\((\.\./minipeft/[^)]*)\)", first)
    plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", first)
    before = re.search(r"lessons? (\d[\d, andto]*)", plain)
    before = before.group(1).strip().replace(" and", ",") if before else "–"
    return [f"{minutes} min", f"{seconds} s", before, links]


def test_the_map_says_what_the_lessons_say():
    rows = [line[2:-2].split(" | ") for line in MAP.splitlines() if ".ipynb" in line]
    rows = {row[0].rpartition("(")[2].removesuffix(".ipynb)"): row for row in rows if row[1:]}
    assert rows.keys() == NOTEBOOKS.keys()
    for name, (title, question, *rest, links) in rows.items():
        first = text(NOTEBOOKS[name]["cells"][0])
        assert first.startswith(f"# {title[1 : title.index(']')]}\n") and question in first
        assert [*rest, re.findall(r"\]\(([^)]*)\)", links)] == told(first)


def test_links_of_the_map_lead_somewhere():
    links = [link for link in re.findall(r"\]\(([^)#\s]+)\)", MAP) if "://" not in link]
    assert not [link for link in links if not (LESSONS / link).exists()]


def without(key):
    """A fault: cells whose text or outputs have the key are left out."""
    return lambda cells: [cell for cell in cells if key not in json.dumps(cell)]


def changed(**values):
    """A fault: every code cell has other values."""
    return lambda cells: [c | values if c["cell_type"] == "code" else c for c in cells]


def replaced(old, new):
    """A fault: another text."""

    def fault(cells):
        return [cell | {"source": [text(cell).replace(old, new)]} for cell in cells]

    return fault


FAULTS = [
    (heading_complaints, without("## Predict")),
    (heading_complaints, replaced("# 0 · ", "# 1 · ")),
    (heading_complaints, lambda cells: cells[::-1]),
    (heading_complaints, without("## References")),
    (link_complaints, replaced("../minipeft/", "../minipft/")),
    (exercise_complaints, without('"exercise"')),
    (exercise_complaints, without('"check"')),
    (exercise_complaints, replaced("return None", "return tour.lora_count(None)")),
    (exercise_complaints, replaced("tour.", "tours.")),
    (exercise_complaints, changed(outputs=[])),
    (exercise_complaints, replaced("reveal(", "print(")),
    (exercise_complaints, replaced("assert ", "print or ")),
    (output_complaints, changed(execution_count=None)),
    (output_complaints, changed(outputs=[{"output_type": "error"}])),
    (output_complaints, changed(outputs=[])),
    (size_complaints, lambda cells: cells * 2),
    (size_complaints, replaced("# 0 · ", "x" * BYTES)),
    (solution_complaints, replaced("tour.lora_count(", "tour.novel(")),
]


@pytest.mark.parametrize(("rule", "fault"), FAULTS)
def test_a_planted_fault_is_caught(rule, fault):
    name = "00_tour"
    cells = fault(copy.deepcopy(NOTEBOOKS[name]["cells"]))
    assert list(rule(name, cells))
