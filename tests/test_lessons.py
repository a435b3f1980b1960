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

from tools import confusions

LESSONS = Path(__file__).parents[1] / "lessons"
NOTEBOOKS = {
    path.stem: json.loads(path.read_text()) for path in sorted(LESSONS.glob("*.ipynb"))
}
MAP = (LESSONS / "README.md").read_text()
SOLUTIONS = {path.stem[-2:]: path for path in sorted(LESSONS.glob("solutions/lesson_??.py"))}
HEADINGS = ["Question", "Predict", "Implement", "Check", "Plot", "What surprised you?",
            "Exercises", "In HF PEFT", "References"]  # fmt: skip
BYTES, PIXELS = 300_000, 900
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
WITHOUT_PLACES = ("00", "01", "02", "10", "13")  # lessons that are not about methods


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
    """A title with its number, then the nine headings in order, each once."""
    prose = "\n".join(text(cell) for cell in cells if cell["cell_type"] == "markdown")
    if not prose.startswith(f"# {int(name[:2])} · "):
        yield f"does not start with the title '# {int(name[:2])} · …'"
    found = [line for line in re.findall(r"^## (.*\S)", prose, re.M) if line in HEADINGS]
    if found != HEADINGS:
        yield f"has the headings {found}"
    if not re.search(r"\b\d{4}\.\d{4,5}\b", prose.rpartition("## References")[2]):
        yield "has no arXiv id under References"


def objective_complaints(name, cells):
    """The first cell ends with what a reader can do afterwards, in two to four points."""
    _, found, after = text(cells[0]).partition("\n**After this lesson you can**\n\n")
    points = re.findall(r"^- .+(?:\n  .+)*$", after, re.M)
    if not found or not 2 <= len(points) <= 4 or "\n".join(points) != after.strip():
        yield "does not end its first cell with two to four objectives"


def thread_complaints(name, cells):
    """The first code cell begins with one BLAS thread, which NumPy reads when it comes."""
    first = next((cell for cell in cells if cell["cell_type"] == "code"), None)
    lines = ast.parse(text(first)).body if first else []
    threads = ast.parse(f"import os\nos.environ |= {ONE_THREAD}").body
    if [*map(ast.dump, lines[:2])] != [*map(ast.dump, threads)]:
        yield f"does not begin its first code cell with `os.environ |= {ONE_THREAD}`"


def hf_complaints(name, cells):
    """One block of Python under In HF PEFT, which tests/parity/test_lessons_in_peft.py runs."""
    prose = "\n".join(text(cell) for cell in cells if cell["cell_type"] == "markdown")
    part = re.split(r"^## ", prose.partition("## In HF PEFT\n")[2], flags=re.M)[0]
    blocks = re.findall(r"^```python\n(# model: \w+\n)?(.*?)^```$", part, re.M | re.S)
    if len(blocks) != 1 or not blocks[0][0]:
        yield "has not one block of Python under In HF PEFT whose first line is # model: …"


def ending_complaints(name, cells):
    """The last line leads to the next lesson, by its title, and to the solutions."""
    number, last = name[:2], text(cells[-1]).strip().splitlines()[-1]
    solutions = f"Solutions: [lesson_{number}.py](solutions/lesson_{number}.py)."
    if not last.endswith(solutions):
        yield f"does not end with {solutions}"
    for path in [path for path in sorted(NOTEBOOKS) if path > name][:1]:
        title = text(NOTEBOOKS[path]["cells"][0]).splitlines()[0].removeprefix("# ")
        if last != f"Next: [{title}]({path}.ipynb). {solutions}":
            yield f"does not end with Next: [{title}]({path}.ipynb). {solutions}"


def place_complaints(name, cells):
    """A lesson about methods shows once where they attach, and the picture is there."""
    drawn = [cell for cell in cells if "places.lit(" in text(cell)]
    if len(drawn) != (0 if name[:2] in WITHOUT_PLACES else 1):
        yield f"calls places.lit in {len(drawn)} cells"
    for cell in drawn:
        if not any("image/png" in o.get("data", {}) for o in cell.get("outputs", ())):
            yield f"{cell['id']} shows no picture"


def confusion_complaints(name, cells):
    """A cell that refutes a confusion asserts it, and first prints a sentence with a number."""
    for cell in cells:
        tags = cell["metadata"].get("tags", ())
        if not any(tag.startswith("confusion") for tag in tags):
            continue
        known = [f"confusion-{number}" for number in confusions.PEOPLE_THINK]
        if not set(tags) & set(known):
            yield f"{cell['id']} has a tag of no known confusion: {tags}"
        if not any(isinstance(node, ast.Assert) for node in ast.walk(code([cell]))):
            yield f"{cell['id']} asserts nothing"
        if not re.fullmatch(r"[^\s].*\d.*\.", confusions.first_line(cell)):
            yield f"{cell['id']} does not begin its output with a sentence that has a number"


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
    objective_complaints,
    thread_complaints,
    hf_complaints,
    ending_complaints,
    place_complaints,
    confusion_complaints,
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


def test_every_confusion_is_refuted_by_one_cell():
    assert confusions.tagged_cells().keys() == confusions.PEOPLE_THINK.keys()


def test_the_table_of_confusions_says_what_the_lessons_print():
    page = confusions.PAGE.read_text(encoding="utf-8")
    assert confusions.written(page, confusions.tagged_cells()) == page


def test_a_confusion_that_two_cells_refute_is_an_error(tmp_path, monkeypatch):
    cell = {"metadata": {"tags": ["confusion-7"]}, "source": ["# 0 · Title"]}
    (tmp_path / "00_twice.ipynb").write_text(json.dumps({"cells": [cell, cell]}))
    monkeypatch.setattr(confusions, "LESSONS", tmp_path)
    with pytest.raises(ValueError, match="two cells have the tag confusion-7"):
        confusions.tagged_cells()


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
    (heading_complaints, without("## In HF PEFT")),
    (objective_complaints, replaced("**After this lesson", "**Before this lesson")),
    (objective_complaints, replaced("\n- explain", "\n\nexplain")),
    (thread_complaints, replaced("import os\n", "import numpy\nimport os\n")),
    (thread_complaints, replaced('"OMP_NUM_THREADS": "1"', '"OMP_NUM_THREADS": "2"')),
    (hf_complaints, without("```python")),
    (hf_complaints, replaced("# model: ", "# a model: ")),
    (
        hf_complaints,
        replaced("## In HF PEFT\n", "## In HF PEFT\n\n```python\n# model: x\n```\n"),
    ),
    (ending_complaints, replaced("Next: [1 · ", "Next: [2 · ")),
    (ending_complaints, replaced("(01_autograd.ipynb)", "(02_memory.ipynb)")),
    (ending_complaints, replaced("solutions/lesson_00", "solutions/lesson_01")),
    (place_complaints, without("places.lit(")),
    (place_complaints, changed(outputs=[])),
    (place_complaints, lambda cells: cells * 2),
    (confusion_complaints, changed(outputs=[])),
    (confusion_complaints, replaced("assert ", "print or ")),
    (confusion_complaints, changed(metadata={"tags": ["confusion-99"]})),
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
    name = "04_lora" if rule in (place_complaints, confusion_complaints) else "00_tour"
    assert not list(rule(name, NOTEBOOKS[name]["cells"]))
    cells = fault(copy.deepcopy(NOTEBOOKS[name]["cells"]))
    assert list(rule(name, cells))
