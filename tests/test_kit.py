"""The instructor's kit: copies that work alone, plans that add up, answers recomputed, pages.

What makes no PDF needs no extra. Each rule of a student copy is a function of its cells that
yields complaints, and planted faults show it at work.
"""

import ast
import copy
import importlib.util
import re
import string
from dataclasses import replace
from itertools import combinations, pairwise
from pathlib import Path

import matplotlib
import pytest
from matplotlib import mathtext
from matplotlib.ft2font import FT2Font

import minipeft as mp
from lessons.kit import __main__ as command
from lessons.kit import copies, formula, lesson, plan, quiz, rubric
from lessons.kit.lesson import Lesson, has, read_lessons, source
from lessons.kit.question import QUESTIONS
from test_source import docstring_complaints, size_complaints

LESSONS = read_lessons()
KIT = Path(lesson.__file__).parent
NBGRADER = {"schema_version", "grade_id", "grade", "solution", "locked", "task"}
HAS_PDF = all(importlib.util.find_spec(name) for name in command.NEEDED)
needs_pdf = pytest.mark.skipif(not HAS_PDF, reason="needs the extra kit, of which PDF is made")


@pytest.fixture(scope="module")
def students(tmp_path_factory):
    """The folder for students."""
    folder = tmp_path_factory.mktemp("kit") / "students"
    copies.write_students(folder, LESSONS)
    return folder


@pytest.fixture(scope="module")
def asked():
    """The questions on all lessons, their numbers computed."""
    return quiz.questions_for(LESSONS)


# What is read from a notebook


def test_a_lesson_says_what_the_kit_needs():
    for found in LESSONS:
        assert found.question.endswith("?") and found.title
        assert found.minutes >= 10 and found.seconds >= 1 and found.picture
        assert found.number not in found.before and found.before <= set(range(found.number))
        assert [task.stars for task in found.exercises] == [1, 2, 3][: len(found.exercises)]
        assert found.predictions and found.section("What surprised you?")
        assert set(found.methods) <= mp.METHODS.keys()


def test_an_exercise_without_stars_is_refused():
    broken = Lesson(LESSONS[0].path)
    for cell in broken.cells:
        cell["source"] = source(cell).replace("★", "*")
    with pytest.raises(ValueError, match="has the tag exercise, so stars ★ are expected"):
        broken.exercises  # noqa: B018


def test_a_folder_without_notebooks_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no notebooks such as 04_lora\.ipynb in"):
        read_lessons(tmp_path)


# Copies for students


def output_complaints(cells, original):
    """No outputs, no counts of executions."""
    for cell in cells:
        if cell["cell_type"] == "code" and (cell["outputs"] or cell["execution_count"]):
            yield f"{cell['id']} has outputs"


def solution_complaints(cells, original):
    """No word about solutions, and stubs as they were."""
    for cell, before in zip(cells, original, strict=True):
        if re.search(r"\bsolutions?\b", source(cell), re.I):
            yield f"{cell['id']} mentions solutions"
        if cell["cell_type"] == "code" and source(cell) != source(before):
            yield f"{cell['id']} has other code"


def lock_complaints(cells, original):
    """nbgrader's metadata on stubs and checks; checks locked, with as many points as stars."""
    marked = [cell["metadata"].get("nbgrader") for cell in cells]
    ids = [data["grade_id"] for data in marked if data]
    if len(set(ids)) < len(ids):
        yield "two cells have one grade_id"
    for cell, data in zip(cells, marked, strict=True):
        stub, check = has(cell, "exercise"), has(cell, "check")
        if bool(data) != (stub or check):
            yield f"{cell['id']} has the wrong metadata"
        elif data:
            kinds = data["solution"], data["grade"], data["locked"]
            points = {"points"} if check else set()
            if data.keys() != NBGRADER | points or kinds != (stub, check, check):
                yield f"{cell['id']} is marked as {data}"
            if not re.fullmatch(r"[\w-]+", data["grade_id"]) or data["schema_version"] != 3:
                yield f"{cell['id']} does not keep nbgrader's schema"
            if check and (cell["metadata"]["editable"] or data["points"] not in (1, 2, 3)):
                yield f"{cell['id']} can be edited, or has no points"


RULES = [output_complaints, solution_complaints, lock_complaints]


@pytest.mark.parametrize("rule", RULES)
def test_a_student_copy_keeps_the_rule(rule, students):
    for found in LESSONS:
        cells = copies.read_notebook(students / "lessons" / found.path.name)["cells"]
        assert not list(rule(cells, found.cells)), found


def planted(cells, kind, **values):
    """The cells with other values in the first cell of a kind: a type, or a tag."""
    cells = copy.deepcopy(cells)
    first = next(c for c in cells if c["cell_type"] == kind or has(c, kind))
    for path, value in values.items():
        *above, last = path.split("__")
        place = first
        for key in above:
            place = place[key]
        place[last] = value
    return cells


FAULTS = [
    (output_complaints, "code", dict(outputs=[{}])),
    (output_complaints, "code", dict(execution_count=1)),
    (
        solution_complaints,
        "markdown",
        dict(source="Solutions: [here](solutions/lesson_00.py)."),
    ),
    (solution_complaints, "exercise", dict(source="def largest_rank(budget, shapes): ...")),
    (lock_complaints, "exercise", dict(metadata={"tags": ["exercise"]})),
    (lock_complaints, "exercise", dict(metadata__nbgrader__locked=True)),
    (lock_complaints, "exercise", dict(metadata__nbgrader__grade_id="00 largest")),
    (lock_complaints, "check", dict(metadata__editable=True)),
    (lock_complaints, "check", dict(metadata__nbgrader__points=0)),
    (lock_complaints, "check", dict(metadata__nbgrader__grade_id="00-largest")),
]


@pytest.mark.parametrize("rule, kind, values", FAULTS)
def test_a_planted_fault_is_caught(rule, kind, values):
    original = LESSONS[0].cells
    cells = copies.student_copy(LESSONS[0], {"01_autograd.ipynb"})["cells"]
    assert not list(rule(cells, original))
    assert list(rule(planted(cells, kind, **values), original))


def links_of(folder):
    """(file, target) of each relative link in a folder's pages and notebooks."""
    for path in sorted(folder.rglob("*")):
        texts = []
        if path.suffix == ".md":
            texts = [path.read_text(encoding="utf-8")]
        elif path.suffix == ".ipynb":
            cells = copies.read_notebook(path)["cells"]
            texts = [source(cell) for cell in cells if cell["cell_type"] == "markdown"]
        for text in texts:
            targets = re.findall(r"\]\(([^)#\s]+)", text)
            yield from ((path, target) for target in targets if "://" not in target)


def lost(folder):
    """The links of a folder that lead to nothing, or out of it."""
    for path, target in links_of(folder):
        place = (path.parent / target).resolve()
        if not place.exists() or folder.resolve() not in place.parents:
            yield f"{path.name}: {target}"


def test_links_stay_inside_the_folder(students):
    assert not list(lost(students)) and len(list(links_of(students))) >= 2 * len(LESSONS)
    (students / "astray.md").write_text("[a](lessons/missing.md) [b](../../elsewhere.md)")
    assert len(list(lost(students))) == 2
    (students / "astray.md").unlink()


def test_links_that_lead_out_go_to_the_public_address():
    text = "[lora.py](../minipeft/peft/methods/lora.py#L3), [next](05_adapters.ipynb)"
    assert copies.handed_out(text, {"05_adapters.ipynb"}, None).startswith("lora.py, [next](05")
    public = copies.handed_out(text, set(), "https://example.org/minipeft")
    assert "(https://example.org/minipeft/blob/main/minipeft/peft/methods/lora.py#L3)" in public
    assert "(https://example.org/minipeft/blob/main/lessons/05_adapters.ipynb)" in public


def test_what_the_code_reads_is_there(students):
    read = {path for found in LESSONS for path in copies.files_read(found)}
    assert "../figures/compare_full.json" in read
    assert all((students / "lessons" / path).is_file() for path in read)


def test_the_page_for_students_is_for_students(students):
    page = (students / "lessons" / "README.md").read_text(encoding="utf-8")
    assert "## Glossary" in page and all(found.path.name in page for found in LESSONS)
    assert not re.search("solution|instructor|nbconvert", page, re.I)


# Copies for instructors


def solved_cells(found):
    """(exercise, its cell in the instructor's copy) of a lesson."""
    path = lesson.FOLDER / "solutions" / f"lesson_{found.number:02}.py"
    cells = copies.instructor_copy(found, path.read_text(encoding="utf-8"))["cells"]
    return [(exercise, cells[exercise.cell]) for exercise in found.exercises]


def unbound(code, known):
    """The names that functions use, and neither they nor Python nor the notebook bind."""
    tree = ast.parse(code)
    names = [n for n in ast.walk(tree) if isinstance(n, ast.Name)]
    own = {n.id for n in names if isinstance(n.ctx, ast.Store)}
    own |= {arg.arg for n in ast.walk(tree) if isinstance(n, ast.arguments) for arg in n.args}
    own |= {n.name for n in ast.walk(tree) if isinstance(n, (ast.FunctionDef, ast.alias))}
    return {n.id for n in names} - own - known - set(dir(__builtins__)) - set(__builtins__)


def test_a_solution_fills_its_stub_and_can_be_cut_out_again():
    for found in LESSONS:
        known = copies.bound_in(found)
        known |= {name for task in found.exercises for name in task.functions}
        for task, cell in solved_cells(found):
            assert not unbound(source(cell), known), (found, task)
            region = r"^( *)### BEGIN SOLUTION\n(?:.*\n)*?.*### END SOLUTION"
            stub = source(found.cells[task.cell])
            cut = re.sub(region, r"\1return None", source(cell), flags=re.M)
            assert cut == re.sub(r"return None.*", "return None", stub), (found, task)
    assert unbound("def f(x):\n    return np.sum(x)", set()) == {"np"}


def test_a_filled_stub_passes_its_check(capsys):
    found = next(found for found in LESSONS if found.number == 11)  # one imports what it needs
    scope = {}
    exec("import numpy as np\nfrom minipeft.course import quantization", scope)
    for task, cell in solved_cells(found):
        exec(source(cell), scope)
        exec(source(found.cells[task.check]), scope)
    assert capsys.readouterr().out.count("✓") == len(found.exercises)


def test_a_missing_solution_is_named():
    with pytest.raises(ValueError, match="the solutions hold no function merged"):
        copies.solved("def merged(W):\n    return None", "def other(W):\n    return W", set())


# Plans


def test_plans_hold_every_lesson_once_and_in_order():
    for slots, count in ((plan.two_weeks(LESSONS), 9), (plan.six_weeks(LESSONS), 6)):
        assert [found for slot in slots for found in slot.lessons] == LESSONS
        assert len(slots) == count and all(slot.lessons for slot in slots)
        assert not list(plan.complaints(slots))


def test_days_are_about_as_long_as_each_other():
    def squares(cuts):
        ends = pairwise([0, *cuts, len(LESSONS)])
        return sum(sum(map(plan.minutes, LESSONS[a:b])) ** 2 for a, b in ends)

    best = min(map(squares, combinations(range(1, len(LESSONS)), 5)))
    found = sum(slot.minutes**2 for slot in plan.six_weeks(LESSONS))
    assert found == pytest.approx(best)
    with pytest.raises(ValueError, match="2 lessons cannot fill 3"):
        plan.cut(LESSONS[:2], 3)


def test_a_lesson_before_what_it_needs_is_caught():
    slots = plan.six_weeks(LESSONS)
    assert list(plan.complaints(slots[::-1]))
    assert list(plan.complaints([*slots, slots[0]])) == ["a lesson stands in the plan twice"]
    early = [replace(slots[0], lessons=(LESSONS[0], LESSONS[4]))]
    assert "lesson 4 needs lesson 1, which does not come before it" in plan.complaints(early)
    with pytest.raises(ValueError, match="needs lesson"):
        plan.schedule("Week", slots[::-1], "Week 6", [])


def test_hours_and_points_of_a_plan_add_up(asked):
    text = plan.plan(LESSONS, asked)
    tables = re.findall(r"\| (?:Day|Week) \|.*?\*\*Total\*\*[^\n]*", text, re.S)
    exercises = sum(task.stars for found in LESSONS for task in found.exercises)
    assert len(tables) == 2
    for table in tables:
        rows = [line.strip("| ").split(" | ") for line in table.splitlines()[2:]]
        *rows, total = [[cell.strip("* ") for cell in row] for row in rows]
        assert abs(sum(float(row[2]) for row in rows) - float(total[2])) <= 0.05 * len(rows)
        assert sum(int(row[3]) for row in rows) == int(total[3])
        assert int(total[3]) == exercises + len(asked) + plan.REPORT_POINTS
    found = rubric.rubric(LESSONS, asked)
    assert f"{int(total[3])} points in all" in found and f"Exercises: {exercises} p" in found


def test_the_levels_of_the_report_add_up(asked):
    report = rubric.rubric(LESSONS, asked).partition("## Report")[2]
    head, _, *criteria = re.findall(r"^\| (.*) \|$|^\|(-.*)$", report, re.M)
    best = int(head[0].split(" | ")[1])
    assert best * len(criteria) == plan.REPORT_POINTS
    assert all(len(row[0].split(" | ")) == 5 for row in criteria)


# The quiz


def test_each_lesson_has_two_questions_or_more(asked):
    numbers = [question.lesson for question in asked]
    assert all(numbers.count(found.number) >= 2 for found in LESSONS)
    assert len({question.name for question in QUESTIONS}) == len(QUESTIONS)


def bare_numbers(question):
    """Numbers in a question's answers that are neither computed nor given in the question."""
    given = set(re.findall(r"\d+", question.ask)) | {"1", "2", "0"}  # (a half, D², zero)
    for text in (question.answer, question.why):
        literal = "".join(part for part, *_ in string.Formatter().parse(text))
        yield from sorted(set(re.findall(r"\d+", literal)) - given - derived(question))


def derived(question):
    """Numbers that the function below a question names: there they are asserted or computed."""
    lines = Path(question.numbers.__code__.co_filename).read_text(encoding="utf-8").splitlines()
    first = question.numbers.__code__.co_firstlineno - 1
    body = "\n".join(lines[first:]).partition("\ndef ")[2].partition("\n\n\n")[0]
    return set(re.findall(r"\d+", body.replace("_", "")))


def test_numbers_of_answers_are_computed(asked):
    assert not [(q.name, list(bare_numbers(q))) for q in QUESTIONS if list(bare_numbers(q))]
    assert list(bare_numbers(replace(QUESTIONS[0], answer="800")))


def test_wrong_choices_are_wrong_and_different(asked):
    for question in asked:
        found = quiz.choices(question)
        assert len(set(found)) == len(found) and len(found) in (0, 4), question.name
        assert not found or found.count(question.answer) == 1
    right = [quiz.choices(q).index(q.answer) for q in asked if q.wrong]
    assert len(set(right)) == 4  # not always the same letter


@pytest.mark.parametrize(
    "name, place, fault",
    [
        ("lora_on_one_matrix", (mp.LoRA, "count"), lambda self, config: 1),
        ("houlsby_and_pfeiffer", (mp.Pfeiffer, "count"), lambda self, config: 1),
        ("no_merge_of_a_bend", (mp, "merge"), lambda model: None),
    ],
)
def test_an_answer_that_no_longer_holds_stops_the_kit(monkeypatch, name, place, fault):
    question = next(question for question in QUESTIONS if question.name == name)
    monkeypatch.setattr(*place, fault)
    with pytest.raises(AssertionError):
        question.filled()


def test_answers_stand_on_the_answer_sheet_only(asked):
    sheet, answers = quiz.sheet(asked, LESSONS), quiz.answers(asked, LESSONS)
    for question in asked:
        assert question.ask in sheet and question.why in answers and question.why not in sheet
        assert question.wrong or question.answer not in sheet


# Formulas and letters


def texts_of(found):
    """What a lesson shows: its cells and what they printed."""
    for cell in found.cells:
        yield source(cell)
        for output in cell.get("outputs", ()):
            yield "".join(output.get("text", ""))
            yield "".join(output.get("data", {}).get("text/plain", ""))


def test_every_formula_can_be_set():
    parser, count = mathtext.MathTextParser("path"), 0
    for found in LESSONS:
        prose = "\n".join(source(c) for c in found.cells if c["cell_type"] == "markdown")
        prose = re.sub(r"```.*?```|`[^`\n]*`", "", prose, flags=re.S)
        for displayed, short in re.findall(r"\$\$(.+?)\$\$|\$(.+?)\$", prose, re.S):
            parser.parse(f"${formula.spelled(displayed or short)}$", 72)
            count += 1
    assert count > 50
    below = r"\underset{\text{rank } r}{c \circ s{BA}}"
    assert formula.spelled(r"\underbrace{c \circ s{BA}}_{\text{rank } r}") == below
    matrix = r"\begin{bmatrix}A & B \\ C & D\end{bmatrix}"
    assert formula.spelled(matrix) == r"[A \; B;\;C \; D]"
    with pytest.raises(ValueError, match=r"the formula \$\\nothing\$ cannot be set"):
        formula.formula(r"\nothing", 10.0)


def test_the_fonts_have_every_letter():
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    shown = {letter for found in LESSONS for text in texts_of(found) for letter in text}
    shown |= set("".join(path.read_text(encoding="utf-8") for path in KIT.glob("*.md")))
    for name in ("DejaVuSans", "DejaVuSansMono"):
        font = FT2Font(str(folder / f"{name}.ttf"))
        assert not {x for x in shown if not font.get_char_index(ord(x))} - {"\n"}, name
        assert font.get_char_index(ord("✓")) and not font.get_char_index(ord("\U0001f999"))


# The command


@pytest.fixture
def no_second_count(monkeypatch, asked):
    """The command takes the questions that have been computed for the tests above."""
    monkeypatch.setattr(quiz, "questions_for", lambda lessons: asked)


def test_notebooks_and_markdown_need_no_extra(tmp_path, capsys, no_second_count):
    assert command.main([str(tmp_path / "kit"), "--no-pdf"]) == 0
    made = {path.name for path in (tmp_path / "kit").iterdir()}
    texts = {"README.md", "plan.md", "rubric.md", "quiz.md", "quiz_answers.md"}
    assert made == texts | {"students", "instructor"}
    assert "{" not in re.sub(r"(?s)```.*?```", "", (tmp_path / "kit/README.md").read_text())
    assert f"{len(LESSONS)} notebooks" in capsys.readouterr().out


def refusal(capsys, *arguments):
    """What the command says when it leaves with 2."""
    with pytest.raises(SystemExit) as left:
        command.main(list(map(str, arguments)))
    assert left.value.code == 2
    return capsys.readouterr().err


def test_nothing_is_overwritten_unasked(tmp_path, capsys, no_second_count):
    (tmp_path / "plan.md").write_text("mine")
    said = refusal(capsys, tmp_path, "--no-pdf", "--parts", "plan")
    assert "plan.md is there already; give another folder or --overwrite" in said
    assert (tmp_path / "plan.md").read_text() == "mine"
    command.main([str(tmp_path), "--no-pdf", "--parts", "plan", "--overwrite"])
    assert (tmp_path / "plan.md").read_text().startswith("# The plan")


def test_errors_say_what_to_do(tmp_path, capsys, monkeypatch):
    assert "there is no part 'plans'; expected" in refusal(capsys, tmp_path, "--parts", "plans")
    (tmp_path / "file").write_text("")
    assert "is a file; give a folder" in refusal(capsys, tmp_path / "file", "--no-pdf")
    assert "leave out --no-pdf" in refusal(capsys, tmp_path, "--parts", "slides", "--no-pdf")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    said = refusal(capsys, tmp_path)
    assert "PDF needs reportlab, mistune, pygments: python -m pip install '.[kit]'" in said


def test_the_kit_keeps_the_rules_of_the_source():
    sources = {path.stem: path.read_text(encoding="utf-8") for path in KIT.glob("*.py")}
    names = {question.name for question in QUESTIONS}  # what stands above says what they do
    complaints = [*size_complaints(sources), *docstring_complaints(sources)]
    assert not [line for line in complaints if line.split()[0].split(".")[-1] not in names]


# Pages


def pages_of(path):
    """The number of pages of a PDF."""
    return len(re.findall(rb"/Type /Page\b", path.read_bytes()))


def text_of(path):
    """The text of a PDF on one line, read by pypdf; skips without it."""
    reader = pytest.importorskip("pypdf", reason="reads the text of PDF").PdfReader(path)
    return " ".join(" ".join(page.extract_text().split()) for page in reader.pages)


@needs_pdf
def test_a_notebook_is_printed(tmp_path, students):
    from lessons.kit.notebook_pages import write_notebook

    found = LESSONS[0]
    notebook = copies.read_notebook(students / "lessons" / found.path.name)
    write_notebook(tmp_path / "students.pdf", notebook)
    write_notebook(tmp_path / "instructor.pdf", found.notebook)
    assert (
        3 <= pages_of(tmp_path / "students.pdf") <= pages_of(tmp_path / "instructor.pdf") < 20
    )
    text = text_of(tmp_path / "instructor.pdf")
    for shown in (found.question, "What surprised you?", "assert adapter.count ==", "○"):
        assert shown in text
    assert "Solutions" in text and "Solutions" not in text_of(tmp_path / "students.pdf")


@needs_pdf
def test_the_quiz_is_printed(tmp_path, asked):
    from lessons.kit.paper import pages_of as write

    write(quiz.sheet(asked, LESSONS), tmp_path / "quiz.pdf", quiz.BEGINS)
    assert pages_of(tmp_path / "quiz.pdf") >= 3
    text = text_of(tmp_path / "quiz.pdf")
    for number, question in enumerate(asked, 1):
        assert f"{number}. {' '.join(question.ask.split())[:20]}" in text


@needs_pdf
def test_slides_can_be_read_from_afar(tmp_path, monkeypatch):
    from lessons.kit import slides

    monkeypatch.setattr(slides, "FIT", "error")  # no text is made smaller
    monkeypatch.setattr(slides, "diagram", lambda methods: LESSONS[0].picture)
    count = slides.write_slides(tmp_path / "slides.pdf", LESSONS)
    assert count == pages_of(tmp_path / "slides.pdf") >= 3 * len(LESSONS) + 1
    looks = (slides.TITLE, slides.ASK, slides.HEAD, slides.BODY, slides.GOAL, slides.SMALL)
    assert min(look.fontSize for look in looks) >= slides.SMALLEST
    assert all(found.question in text_of(tmp_path / "slides.pdf") for found in LESSONS[:3])


@needs_pdf
def test_what_does_not_fit_a_line_is_broken():
    from lessons.kit import paper

    assert paper.broken("a" * 250).splitlines() == ["a" * 99, "↪ " + "a" * 97, "↪ " + "a" * 54]
    longest = max(line for found in LESSONS for t in texts_of(found) for line in t.split("\n"))
    assert all(len(line) <= paper.COLUMNS for line in paper.broken(longest).split("\n"))
    room = paper.pdfmetrics.stringWidth("m" * paper.COLUMNS, paper.MONO, paper.CODE_SIZE)
    assert room <= paper.WIDE - paper.OUTPUT.leftIndent
