"""`minipeft mark`: right answers get their points, open and wrong ones and cheats get none."""

import importlib
import json
import re
import time
from pathlib import Path

import pytest

from minipeft.__main__ import main
from minipeft.course import LESSONS, answers, base, cases, mark
from minipeft.course.submission import Submission

FOLDER = Path(__file__).parents[1] / "lessons"
SOLUTIONS = sorted(FOLDER.glob("solutions/lesson_??.py"))
EXERCISES = [check for lesson in range(len(LESSONS)) for check in mark.exercises(lesson)]
NOTEBOOKS = [p for p in sorted(FOLDER.glob("[0-9]*.ipynb")) if int(p.stem[:2]) < len(LESSONS)]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Fewer cases than a marker tries, so that the tests are quick."""
    monkeypatch.setattr(cases, "CASES", 10)
    monkeypatch.setattr(cases, "FURTHER", 0)


@pytest.fixture
def seeded(monkeypatch):
    """The loop from small cases to large ones, so that a cheat meets the large ones."""
    monkeypatch.setattr(base, "smallest_failure", cases.smallest_seeded_failure)


@pytest.fixture(scope="module")
def worker():
    with mark.SeparateProcess(int(8e9)) as worker:
        yield worker


def check_of(name):
    """The Check of a name such as 'lora.merged'."""
    lesson, own = name.split(".")
    return getattr(importlib.import_module(f"minipeft.course.{lesson}"), own)


def marked(name, source, worker, seconds=600):
    """The Result of a source for one check, in the process of its own."""
    return mark.marked(check_of(name), source, worker, seed=5, seconds=seconds)


CONSTANTS = [0, 1, 2.0, True, "", "lora", [], {}, set(), (0, 0), ([], []), float("nan")]


@pytest.mark.parametrize("check", EXERCISES, ids=lambda check: check.name)
def test_a_constant_or_an_argument_is_no_answer(check, seeded):
    for constant in CONSTANTS:
        assert check.result(lambda *args, constant=constant: constant).status == base.WRONG
    for i in range(3):
        result = check.result(lambda *args, i=i: args[i] if i < len(args) else 0)
        assert result.status == base.WRONG


HEADER = "import numpy as np\nimport minipeft as mp\n"
CHEATS = {  # in this process and in one of its own
    "comparison.paired_difference zip": "def paired_difference(a, b):\n"
    "    d = [x - y for x, y in zip(a.values(), b.values())]\n    return min(d), max(d)",
    "data.batches in order": "def batches(step, size, n, seed):\n"
    "    return np.arange(step * size, (step + 1) * size) % n",
    "data.batches turned by epoch and seed": "def batches(step, size, n, seed):\n"
    "    rows = np.arange(step * size, (step + 1) * size)\n"
    "    return (rows + (rows // n + 1) * (seed + 1) * 7) % n",
    "data.batches without seed": "def batches(step, size, n, seed):\n"
    "    r = range(step * size, (step + 1) * size)\n"
    "    return np.array([np.random.default_rng(i // n).permutation(n)[i % n] for i in r])",
    "quantization.absmax even levels": "def absmax(w, levels, block):\n"
    "    b = np.pad(w.reshape(-1), (0, -w.size % block)).reshape(-1, block)\n"
    "    s = np.abs(b).max(axis=1, keepdims=True)\n    half = max(len(levels) // 2, 1)\n"
    "    q = np.round(b / np.where(s > 0, s, 1) * half) / half * s\n"
    "    return q.reshape(-1)[:w.size].reshape(w.shape)",
    "swapping.combined of full rank": "def combined(pairs, weights):\n"
    "    total = sum(w * B @ A for w, (B, A) in zip(weights, pairs))\n"
    "    return total, np.eye(total.shape[1])",
    "swapping.best_of_rank by the full matrix": "def best_of_rank(pairs, weights, k):\n"
    "    u, s, vt = np.linalg.svd(sum(w * B @ A for w, (B, A) in zip(weights, pairs)))\n"
    "    return u[:, :k] * s[:k], vt[:k]",
    "tour.exact_match never compares": "def exact_match(best, labels):\n"
    "    return ((best != 6) | (labels == -100)).all(axis=1).mean()",
    "autograd.linear keeps a copy": "from minipeft.engine.tensor import record, value\n"
    "def my_linear(x, w):\n    a, b = value(x).copy(), value(w)\n"
    "    return record(a @ b.T, (x, lambda g: g @ b + 0 * a), (w, lambda g: g.T @ a))",
    "autograd.linear keeps it in a dict": "from minipeft.engine.tensor import record, value\n"
    "def my_linear(x, w):\n    a, b = value(x), value(w)\n    held = {'x': [x]}\n"
    "    return record(a @ b.T, (x, lambda g: g @ b if held else 0), (w, lambda g: g.T @ a))",
    "autograd.linear of the package": "from minipeft.engine.functional import linear\n"
    "my_linear = linear",
    "autograd.backward inner nodes": "from minipeft.lab.saved_tensors import tape_nodes\n"
    "def backward(loss):\n    found = {loss.node: np.ones(())}\n"
    "    for node in reversed(tape_nodes(loss)):\n        for source, vjp in node.edges:\n"
    "            found[source] = found.get(source, 0.0) + vjp(found[node])\n    return found",
    "autograd.backward of the package": "from minipeft.engine.tensor import gradients\n"
    "def backward(loss):\n    return gradients(loss)",
    "autograd.backward by .grad": "def backward(loss):\n"
    "    nodes, todo = [], [loss.node]\n    while todo:\n        node = todo.pop()\n"
    "        nodes += [node] if not node.edges else []\n"
    "        todo += [source for source, _ in node.edges]\n    loss.backward()\n"
    "    return {node: node.grad for node in nodes}",
    "autograd.kept_by_linear by a tape": "from minipeft.engine.functional import linear\n"
    "from minipeft.lab.saved_tensors import tape_arrays\n"
    "def kept_by_linear(n, i, o, trains, needs):\n    w = mp.Tensor(np.ones((o, i)), trains)\n"
    "    y = linear(mp.Tensor(np.ones((n, i)), needs), w)\n"
    "    return sum(a.size for a in tape_arrays(y, [w])) if y.requires_grad else 0",
    "freezing.last_k by the package": "def last_k(k, width):\n"
    "    c = mp.Config.gpt2(vocab=5, context=4, width=width, layers=k, heads=1)\n"
    "    return mp.LastK(k=k).count(c)",
    "freezing.last_k catches all": "def last_k(k, width):\n    for _ in range(2):\n"
    "        try:\n            mp.Config.gpt2(vocab=5, context=4, width=width, layers=k)\n"
    "        except BaseException:\n            pass\n"
    "    return k * (12 * width**2 + 13 * width)",
    "freezing.last_k unwatched": "import sys\ndef last_k(k, width):\n"
    "    sys.setprofile(None)\n    return k * (12 * width**2 + 13 * width)",
    "freezing.last_k in a thread": "import threading\ndef last_k(k, width):\n"
    "    threading.Thread(target=print).start()\n    return k * (12 * width**2 + 13 * width)",
    "lora.merged in place": "def merged(W, A, B, alpha):\n"
    "    W += alpha / len(A) * B @ A\n    return W",
    "lora.merged equal to everything": "class Equal(np.ndarray):\n"
    "    def __eq__(self, other): return True\n    def __sub__(self, other): return 0 * other\n"
    "    __rsub__ = __sub__\n"
    "def merged(W, A, B, alpha):\n    return W.view(Equal)",
    "lora.merged array of its own": "class Any:\n    def __array__(self, *a, **k): return W0\n"
    "    def __eq__(self, other): return True\n"
    "def merged(W, A, B, alpha):\n    global W0\n    W0 = W + alpha / len(A) * B @ A\n"
    "    return Any()",
    "lora.merged a generator": "def merged(W, A, B, alpha):\n"
    "    yield from W + alpha / len(A) * B @ A",
    "lora.merged as text": "def merged(W, A, B, alpha):\n"
    "    return (W + alpha / len(A) * B @ A).astype(str).tolist()",
    "lora.merged complex": "def merged(W, A, B, alpha):\n"
    "    return W + alpha / len(A) * B @ A + 1j",
    "lora.merged right every second time": "calls = []\ndef merged(W, A, B, alpha):\n"
    "    calls.append(1)\n    return W + alpha / len(A) * B @ A if len(calls) % 2 else W",
    "lora.merged right in the first calls": "calls = []\ndef merged(W, A, B, alpha):\n"
    "    calls.append(1)\n    return W + alpha / len(A) * B @ A if len(calls) < 9 else W",
    "lora.merged reads the frames": "import sys\ndef merged(W, A, B, alpha):\n"
    "    frame = sys._getframe(1)\n    while frame:\n"
    "        for name, v in frame.f_locals.items():\n"
    "            if name in ('expected', 'wanted', 'right'): return v\n"
    "        frame = frame.f_back\n    return W",
    "lora.merged exits": "import sys\ndef merged(W, A, B, alpha):\n    sys.exit(0)",
    "lora.merged ends the process": "import os\ndef merged(W, A, B, alpha):\n    os._exit(0)",
    "lora.merged raises": "def merged(W, A, B, alpha):\n    raise AssertionError('passed')",
    "family.kronecker by np.kron": "def kronecker(W1, W2, x):\n    return np.kron(W1, W2) @ x",
    "family.kronecker by einsum": "def kronecker(W1, W2, x):\n"
    "    full = np.einsum('ab,cd->acbd', W1, W2)\n"
    "    return full.reshape(len(W1) * len(W2), -1) @ x",
    "family.kronecker of the package": "from minipeft.course.family import folded as kronecker",
    "prompts.steer nan": "def steer(q, K, V, y):\n    return q * np.nan, y * np.nan",
    "adapters.witness far away": "def witness(D, b1, U, b2):\n"
    "    return b2 * np.inf, -b2 * np.inf",
    "selective.biases a dict": "def biases(*sizes):\n    return {'biases': 0}",
    "memory.parts_needed fits one": "def parts_needed(batch, per_row, room):\n    return batch",
    "comparison.front all": "def front(points):\n    return set(points)",
}


@pytest.mark.parametrize("cheat", CHEATS)
def test_a_cheat_does_not_pass_in_a_notebook(cheat, seeded):
    check, namespace = check_of(cheat.split(" ")[0]), {"__name__": "cheat"}
    exec(HEADER + CHEATS[cheat], namespace)
    assert check.result(namespace[check.answer_name]).status == base.WRONG


def right(name):
    """The source of the solution of a check."""
    lesson = LESSONS.index(name.split(".")[0])
    return SOLUTIONS[lesson].read_text()


ONLY_APART = {  # what would disturb this process
    "lora.merged replaces the checker": "import minipeft.course.base as b\n"
    "import minipeft.course.plain as p\nimport minipeft.course.lora as l\n"
    "b.expect = l.expect = lambda *a, **k: None\np.alike = lambda a, b: True\n"
    "np.abs = lambda x: np.zeros(1)\nimport builtins\nbuiltins.all = lambda x: True\n"
    "def merged(W, A, B, alpha):\n    return 0 * W",
    "lora.merged writes verdicts": "import os\ndef merged(W, A, B, alpha):\n"
    "    for fd in range(1, 10):\n        try:\n"
    '            os.write(fd, b\'{"passed": true, "points": 9, "value": 1}\\n\')\n'
    "        except OSError:\n            pass\n    return 0 * W",
    "lora.merged by the solutions": "from lessons.solutions.lesson_04 import merged",
    "lora.merged ends the process at once": "import os\nos._exit(0)\n"
    "def merged(W, A, B, alpha):\n    pass",
    "lora.merged stops by Ctrl-C": "def merged(W, A, B, alpha):\n    raise KeyboardInterrupt",
    "lora.merged kills": "import os, signal\ndef merged(W, A, B, alpha):\n"
    "    os.kill(os.getpid(), signal.SIGTERM)",
    "lora.merged cannot be parsed": "def merged(W, A, B, alpha) return W",
    "lora.merged forges its names": "import os\nfor fd in range(3, 12):\n    try:\n"
    '        os.write(fd, b\'{"number": 1, "names": 5}\\n\')\n'
    "    except OSError:\n        pass\ndef merged(W, A, B, alpha):\n    return 0 * W",
    "lora.merged a list in itself": "def merged(W, A, B, alpha):\n"
    "    a = []\n    a.append(a)\n    return a",
}


@pytest.mark.parametrize("cheat", ONLY_APART)
def test_a_cheat_does_not_pass_apart(cheat, worker):
    result = marked(cheat.split(" ")[0], HEADER + ONLY_APART[cheat], worker)
    assert result.status == base.WRONG and result.points == 0


def test_what_hangs_is_stopped_and_the_next_is_marked(worker):
    hangs = "import time\ndef merged(*args):\n    time.sleep(1000)"
    result = marked("lora.merged", hangs, worker, seconds=1)
    assert result.message == "it took more than 1 s" and not result
    assert marked("lora.merged", right("lora.merged"), worker)


def test_a_child_that_keeps_the_pipe_open_ends_too(worker):
    forks = "import os, time\nif os.fork() == 0:\n    time.sleep(30)\n    os._exit(0)\n"
    began = time.monotonic()
    result = marked("lora.merged", f"{forks}os._exit(0)\ndef merged(*a): pass", worker, 2)
    assert result.status == base.WRONG and time.monotonic() - began < 20


def test_a_limit_that_passes_while_the_marker_computes_ends_the_process(worker):
    assert marked("lora.merged", right("lora.merged"), worker)
    with worker.within(0.1):
        time.sleep(0.3)
    assert worker.process is None
    assert marked("lora.merged", right("lora.merged"), worker)


def test_right_answers_pass_where_the_package_lies_within_the_standard_library(monkeypatch):
    around = str(Path(base.__file__).parents[2]) + "/"
    monkeypatch.setattr(answers, "LIBRARIES", (*answers.LIBRARIES, around))
    for name in ("lora.merged", "autograd.backward"):
        namespace = {"__name__": "solution"}
        exec(right(name), namespace)
        assert check_of(name).result(namespace[check_of(name).answer_name])


@pytest.mark.parametrize("code", [
    "def merged(W, W, B, alpha): return W", "def merged(W):\n    global W\n    return W",
    "def merged(W):\n    return W" + " + 0" * 2000,
])  # fmt: skip
def test_a_slip_that_only_running_shows_is_wrong_and_no_traceback(code, tmp_path, worker):
    cells = [
        {"cell_type": "code", "id": "04-a", "source": code, "metadata": {"tags": ["exercise"]}}
    ]
    path = tmp_path / "a.ipynb"
    path.write_text(json.dumps({"cells": cells}))
    assert (
        marked("lora.merged", Submission.read(path).source("merged"), worker).status
        == base.WRONG
    )


def test_files_of_other_editors_and_names_with_dates(tmp_path):
    path = tmp_path / "2024-11-05_lesson_04.py"
    path.write_text("x = 1", encoding="utf-8-sig")
    submission = Submission.read(path)
    assert submission.lesson == 4 and submission.source("merged") == "x = 1"
    path.write_bytes("x = 'é'".encode("latin-1"))
    with pytest.raises(ValueError, match="is not a text in UTF-8"):
        Submission.read(path)


def test_cheats_do_not_pass_apart_either(worker):
    for cheat in list(CHEATS)[::6]:
        assert marked(cheat.split(" ")[0], HEADER + CHEATS[cheat], worker).status == base.WRONG


@pytest.mark.parametrize("lesson", range(len(LESSONS)))
def test_solutions_get_full_points(lesson, worker):
    submission = Submission.read(SOLUTIONS[lesson])
    for check in mark.exercises(lesson):
        source = submission.source(check.answer_name)
        assert mark.marked(check, source, worker, seed=3, seconds=600).points == check.stars


def solved(path, folder):
    """A copy of a lesson whose exercises hold the solutions, and whose checks are tampered."""
    notebook = json.loads(path.read_text())
    solutions = SOLUTIONS[int(path.stem[:2])].read_text()
    for cell in notebook["cells"]:
        code, tags = "".join(cell["source"]), cell["metadata"].get("tags", ())
        name = re.match(r"def (\w+)", code)
        if "exercise" in tags and name:
            body = re.search(rf"^def {name[1]}\(.*?(?=^\S|\Z)", solutions, re.M | re.S)[0]
            cell["source"] = [f"%time\n{body}\nprint({name[1]}.unrun)"]
        if "check" in tags:
            cell["source"] = [f"raise SystemExit\ndef {name and name[1]}(): pass"]
    copy = folder / path.name
    copy.write_text(json.dumps(notebook))
    return copy


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_untouched_notebooks_are_open_and_solved_ones_pass(path, tmp_path, worker):
    untouched = Submission.read(path)
    finished = Submission.read(solved(path, tmp_path), lesson=untouched.lesson)
    assert untouched.lesson == int(path.stem[:2])
    for check in mark.exercises(untouched.lesson):
        source = untouched.source(check.answer_name)
        assert f"def {check.answer_name}(" in source and "load_base" not in source
        result = mark.marked(check, source, worker, seed=3, seconds=600)
        assert result.status == base.OPEN and result.points == 0
        source = finished.source(check.answer_name)
        assert "unrun" not in source and "return None" not in source
        if check.stars == 1:
            assert mark.marked(check, source, worker, seed=3, seconds=600)


def test_a_notebook_brings_what_its_answer_needs(tmp_path):
    cell = {"cell_type": "code", "metadata": {}, "outputs": [], "execution_count": None}
    codes = [
        "import numpy as np, os\nfrom math import *\nW = expensive()",
        "SCALE = 2\ndef half(x):\n    return x / SCALE",
        "!pip install evil\nW = 1\nmerged = None",
        "def merged(W, A, B, alpha):\n    return half(np.array(W))",
        "SCALE = 3",
    ]
    cells = [cell | {"id": f"04-{i}", "source": code} for i, code in enumerate(codes)]
    cells[3]["metadata"] = {"tags": ["exercise"]}
    path = tmp_path / "homework.ipynb"
    path.write_text(json.dumps({"cells": cells}))
    submission = Submission.read(path)
    source = submission.source("merged")
    assert submission.lesson == 4
    assert all(part in source for part in ("import numpy", "SCALE = 2", "def half"))
    assert all(
        part not in source for part in ("expensive", "SCALE = 3", "merged = None", "pip")
    )
    assert submission.source("compress") == ""


def test_the_command_writes_what_gradescope_reads(tmp_path, capsys):
    path = tmp_path / "lesson_04.py"
    path.write_text(
        right("lora.merged").replace("alpha / len(A)", "alpha").split("def comp")[0]
    )
    out, marks = tmp_path / "results.json", tmp_path / "marks.csv"
    code = main(["mark", str(path), "--json", str(out), "--csv", str(marks), "--seed", "1"])
    text = capsys.readouterr().out
    assert code == 0 and "2 of 6 points" in text and "✗ 0 of 1  lora.merged" in text
    assert "It looks as if you did not divide α by r." in text
    results = json.loads(out.read_text())
    assert results["score"] == 2
    assert [(t["name"], t["score"], t["max_score"]) for t in results["tests"]] == [
        ("lora.merged", 0, 1), ("lora.gradients", 2, 2), ("lora.compress", 0, 3)
    ]  # fmt: skip
    assert [t["status"] for t in results["tests"]] == ["failed", "passed", "failed"]
    assert marks.read_text().splitlines() == [
        "submission,lesson,points,possible,lora.merged,lora.gradients,lora.compress",
        f"{path},4,2,6,0,2,0",
    ]


BAD = {
    "missing_04.py": "No such file",
    "notes_04.txt": "a submission is a file .py or .ipynb",
    "broken_04.ipynb": "is not a notebook that can be read",
    "mine.py": "add --lesson",
    "lesson_99.py": "choose one with --lesson",
    "lesson_04.py --timeout 0": "--timeout must be > 0 and at most 1e+06, got 0",
    "lesson_04.py --seed -1": "--seed must be between",
    "lesson_04.py mine.py --json out": "--json takes one submission",
}


@pytest.mark.parametrize("line", BAD)
def test_bad_input_is_one_sentence_and_code_2(line, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("notes_04.txt", "broken_04.ipynb", "mine.py", "lesson_99.py", "lesson_04.py"):
        (tmp_path / name).write_text("x = 1\n")
    assert main(["mark", *line.split()]) == 2
    out, err = capsys.readouterr()
    assert out == "" and BAD[line] in err and err.count("\n") == 1


def test_a_process_that_cannot_start_is_not_the_fault_of_the_submission(monkeypatch):
    monkeypatch.setattr(mark, "import_paths", lambda: [])  # NumPy is not found
    submission = Submission.read(SOLUTIONS[4])
    with pytest.raises(ValueError, match="does not start"):
        mark.mark(submission)
