"""Marks submissions: Python files or notebooks with a student's answers to a lesson.

minipeft mark lesson_04.py                       one student's file
minipeft mark 04_lora.ipynb --json results.json  a notebook; writes what Gradescope reads
minipeft mark class/*.ipynb --csv marks.csv      a whole class, one row a student

Each exercise has one point a star, all or nothing. The answers are found by the names of their
functions; of a notebook only the answers and what they need are run, and no check in it. They
run in a process of their own with limits of time and memory. This process draws the cases,
anew each time unless there is a --seed, and compares the values, so that nothing in the
submission can see or replace what is right. An answer that crashes, hangs or exits gets no
points, and the next one is marked.

What this cannot promise, as it is not a sandbox: a submission can read and write the files of
whoever runs it, reach the network, and disturb this process. Run it on submissions that you do
not trust as a user, or in a container, that has nothing to lose, and keep the solutions away
from there. That an answer does not call minipeft itself is checked inside of its own process:
whoever copies code of the package, or takes the trouble to deceive that watch, gets points for
right values, so read the answers too.

--json writes a results.json of Gradescope: `score`, and `tests` with name, score, max_score,
status, output and visibility (gradescope-autograders.readthedocs.io/en/latest/specs).
"""

import contextlib
import csv
import importlib
import io
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

from . import LESSONS
from .answers import Ended
from .base import OPEN, PASSED, WRONG, Check
from .plain import CheckFailed, from_json, to_json
from .submission import Submission

SIGNS = {PASSED: "✓", WRONG: "✗", OPEN: "○"}
ROOT = Path(__file__).parents[2]
LONGEST_REPLY, LONGEST_MESSAGE = 50_000_000, 2000  # characters


def exercises(lesson):
    """Returns the Checks of a lesson's exercises, in their order."""
    module = importlib.import_module(f".{LESSONS[lesson]}", __package__)
    return [c for c in vars(module).values() if isinstance(c, Check) and c.stars]


def mark(submission, seed=None, seconds=60.0, memory=4.0):
    """Returns the Result of each exercise of a Submission.

    seed: of the cases, by default a new one.  seconds: for each exercise.  memory: in GB.
    """
    seed = secrets.randbits(32) if seed is None else seed
    with SeparateProcess(int(memory * 1e9)) as worker:
        return [
            marked(check, submission.source(check.answer_name), worker, seed, seconds)
            for check in exercises(submission.lesson)
        ]


def marked(check, source, worker, seed, seconds):
    """Returns the Result of one exercise, whose answer the source defines."""
    if not source:
        return check.outcome(OPEN, f"there is no function {check.answer_name}")
    with worker.within(seconds):
        try:
            if check.answer_name not in worker.define(source):
                return check.outcome(OPEN, f"there is no function {check.answer_name}")
        except (Ended, CheckFailed) as failed:
            return check.outcome(WRONG, str(failed))
        return check.judge(worker.asking(check.answer_name, check.uses), seed)


class SeparateProcess:
    """A process that runs submissions, started when it is needed, and anew after it ended."""

    def __init__(self, memory):
        self.memory = memory
        self.process = self.source = None
        self.seconds = self.too_late = None
        self.number = 0  # of the latest request

    def __enter__(self):
        self.folder = tempfile.TemporaryDirectory(prefix="minipeft-mark-")
        return self

    def __exit__(self, *error):
        self.stop()
        with contextlib.suppress(OSError):
            self.folder.cleanup()

    def start(self):
        """Starts the process, with nothing of this one's environment that it could use."""
        keep = ("PATH", "SYSTEMROOT", "LANG", "LC_ALL")
        environment = {name: os.environ[name] for name in keep if name in os.environ}
        threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
        places = dict.fromkeys(("HOME", "TMPDIR", "TEMP"), self.folder.name)
        code = (
            f"import sys; sys.path[:] = {[str(ROOT), *import_paths()]!r}; "
            "from minipeft.course import worker; sys.path.pop(0); "
            f"worker.main({self.memory})"
        )
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-B", "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=self.folder.name,
            env=environment | threads | places | {"MPLBACKEND": "Agg"},
            start_new_session=True,
        )

    def stop(self):
        """Ends the process, and those that it has started."""
        if self.process is None:
            return
        self.kill()
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()
        self.process = self.source = None

    def kill(self):
        """Kills the process and those that it has started, if there is one."""
        process = self.process
        if process is not None:
            with contextlib.suppress(OSError):
                if hasattr(os, "killpg"):
                    os.killpg(process.pid, signal.SIGKILL)
                else:
                    process.kill()

    @contextlib.contextmanager
    def within(self, seconds):
        """Inside the block the process has so many seconds; then it is killed.

        They are counted from when it is ready: on a busy machine its start takes a while.
        """
        self.seconds, self.too_late, self.ended = seconds, threading.Event(), ""
        if self.process is None:
            self.wait_until_ready()

        def end():
            self.too_late.set()
            self.kill()

        timer = threading.Timer(seconds, end)
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            timer.join()
            if self.too_late.is_set():  # perhaps while this process was computing
                self.stop()

    def wait_until_ready(self):
        """Starts the process and returns once it has answered; ValueError if it does not."""
        try:
            self.define("")
        except (Ended, CheckFailed):
            text = "the process that runs submissions does not start; give it more --memory"
            raise ValueError(text) from None

    def define(self, source):
        """Returns the names of the functions of a source; CheckFailed if it does not run."""
        if self.process is None:
            self.start()
        if source != self.source:
            self.names, self.source = self.reply(load=source), source
        return self.names

    def asking(self, name, uses):
        """Returns `ask` for an Answer: it calls a function of the source in that process."""

        def ask(arguments, probe, memory):
            if probe is not None:
                probe = f"{probe.__module__.rpartition('.')[2]}.{probe.__name__}"
            given = {"arguments": to_json(arguments), "uses": uses, "memory": memory}
            return self.reply(function=name, probe=probe, **given)

        return ask

    def reply(self, **request):
        """Returns the reply to a request; raises CheckFailed with what it complains of.

        Raises Ended if the process ends or sends something else, now and until the next block.
        """
        if self.ended:
            raise Ended(self.ended)
        line, self.number = b"", self.number + 1
        with contextlib.suppress(OSError):
            self.process.stdin.write(
                json.dumps(request | {"number": self.number}).encode() + b"\n"
            )
            self.process.stdin.flush()
            line = self.process.stdout.readline(LONGEST_REPLY)
        try:
            reply = json.loads(line)
            if reply["number"] != self.number:
                raise ValueError("not a reply to this request")
            if "failed" not in reply:
                return names_of(reply) if "load" in request else from_json(reply["value"])
            problem = str(reply["failed"])
        except (ValueError, TypeError, KeyError, RecursionError, CheckFailed):
            self.stop()
            late = f"it took more than {self.seconds:g} s"
            ended = "it ended its own process, or disturbed it"
            self.ended = late if self.too_late.is_set() else ended
            raise Ended(self.ended) from None
        raise CheckFailed(problem)


def names_of(reply):
    """Returns the names in a reply to `load`; raises ValueError for anything but strings."""
    names = reply["names"]
    if not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        raise ValueError("not a list of names")
    return names


def import_paths():
    """Returns where a submission may import from: neither a clone of minipeft nor here."""
    here = {"", os.getcwd()} | ({str(ROOT)} if not ROOT.name.endswith("-packages") else set())
    return [path for path in sys.path if path not in here]


def total(results):
    """Returns (points, possible points) of some Results."""
    return sum(r.points for r in results), sum(r.possible for r in results)


def table(submission, results):
    """Returns the Results of one submission as text, what is wrong or open indented."""
    points, possible = total(results)
    lines = [f"{submission.path}, lesson {submission.lesson}: {points} of {possible} points"]
    for r in results:
        lines.append(f"{SIGNS[r.status]} {r.points} of {r.possible}  {r.name}")
        lines += [f"      {line}" for line in shown(r).splitlines()]
    return "\n".join(lines)


def shown(result):
    """Returns what a Result says of an answer: its law if that is wrong, and its message."""
    law = f"{result.law}.\n" if result.status == WRONG else ""
    text = "".join(c if c.isprintable() or c == "\n" else " " for c in law + result.message)
    return text[:LONGEST_MESSAGE]


def gradescope(results):
    """Returns the Results of one submission as the object of Gradescope's results.json."""
    tests = [
        {
            "name": r.name,
            "score": r.points,
            "max_score": r.possible,
            "status": "passed" if r else "failed",
            "output": f"{SIGNS[r.status]} {r.law}" if r else f"{SIGNS[r.status]} {shown(r)}",
            "visibility": "visible",
        }
        for r in results
    ]
    return {"score": total(results)[0], "visibility": "visible", "tests": tests}


def csv_rows(marks):
    """Returns the lines of a CSV file, a row for each (submission, results)."""
    names = list(dict.fromkeys(r.name for _, results in marks for r in results))
    rows = [["submission", "lesson", "points", "possible", *names]]
    for submission, results in marks:
        points = {r.name: r.points for r in results}
        head = [submission.path, submission.lesson, *total(results)]
        rows.append([*head, *(points.get(name, "") for name in names)])
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def arguments(parser):
    """Adds the options of `minipeft mark` to its parser."""
    parser.add_argument("submissions", nargs="+", metavar="FILE", help="a .py or .ipynb file")
    text = "number of the lesson (default: as the notebook's cells or the file's name say)"
    parser.add_argument("--lesson", type=int, metavar="N", help=text)
    text = "write Gradescope's results.json of the one submission; - for the standard output"
    parser.add_argument("--json", metavar="FILE", help=text)
    parser.add_argument("--csv", metavar="FILE", help="write the points, a row a submission")
    text = "for each exercise, in seconds by the clock (default: %(default)g)"
    parser.add_argument("--timeout", type=float, default=60.0, metavar="S", help=text)
    text = "for a submission, where the system can limit it (default: %(default)g)"
    parser.add_argument("--memory", type=float, default=4.0, metavar="GB", help=text)
    text = "of the cases that are drawn, to mark again by the same ones (default: a new one)"
    parser.add_argument("--seed", type=int, metavar="N", help=text)


def main(options):
    """Runs `minipeft mark`."""
    for name, most in (("timeout", 1e6), ("memory", 1e6)):
        if not 0 < (value := getattr(options, name)) <= most:
            raise ValueError(f"--{name} must be > 0 and at most {most:g}, got {value:g}")
    if options.seed is not None and not 0 <= options.seed < 2**32:
        raise ValueError(f"--seed must be between 0 and 2**32 − 1, got {options.seed}")
    if options.json and len(options.submissions) > 1:
        raise ValueError(
            "--json takes one submission, as Gradescope does; use --csv for several"
        )
    submissions = [Submission.read(path, options.lesson) for path in options.submissions]
    seed = secrets.randbits(32) if options.seed is None else options.seed
    marks, to_stdout = [], options.json == "-"
    for submission in submissions:
        results = mark(submission, seed, options.timeout, options.memory)
        marks.append((submission, results))
        if len(submissions) > 1:
            signs = " ".join(SIGNS[r.status] for r in results)
            points, possible = total(results)
            print(f"{points:>3} of {possible}  {signs}  {submission.path}", flush=True)
        elif not to_stdout:
            print(table(submission, results))
    if not to_stdout:
        print(f"(marked with --seed {seed})")
    if options.json:
        text = json.dumps(gradescope(marks[0][1]), ensure_ascii=False, indent=2) + "\n"
        print(text, end="") if to_stdout else Path(options.json).write_text(text, "utf-8")
    if options.csv:
        Path(options.csv).write_text(csv_rows(marks), "utf-8")
