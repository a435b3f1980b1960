"""Write the table of lessons/confusions.md, or check that it says what the lessons print.

python tests/tools/confusions.py              rewrite what lies between the markers
python tests/tools/confusions.py --check      exit 1 if that would change anything

A cell with the tag confusion-7 refutes the seventh; its first printed line is the answer.
"""

import json
import re
import sys
from pathlib import Path

LESSONS = Path(__file__).parents[2] / "lessons"
PAGE = LESSONS / "confusions.md"
BEGIN, END = "<!-- begin table -->\n", "<!-- end table -->"

PEOPLE_THINK = {
    1: "A merged model gives other outputs, so the merge is wrong.",
    2: "An adapter can be merged into a base in 4 bits like into any other.",
    3: "Merging is off because dropout was on in training.",
    4: "With B = 0 the product has no gradient, so nothing can learn.",
    5: "α = 16 means the same in every library and at every rank.",
    6: "Naming target modules adapts the modules that I mean.",
    7: "With 0.1 % of the parameters training takes 0.1 % of the memory.",
    8: "With 0.1 % of the parameters training is a thousand times faster.",
    9: "If my count and the printed one differ, one of them is wrong.",
    10: "The head and the token table are two parameters, and I adapt one of them.",
    11: "A few new tokens make the adapter's file a little larger.",
    12: "Prefix tuning and gradient checkpointing exclude each other.",
    13: "Prefix tuning, P-tuning and P-tuning v2 are three different methods.",
    14: "Prompt tuning does not learn.",
    15: "An adapter that was saved and loaded can be trained on as if nothing had happened.",
    16: "Two adapters are combined by averaging their weights.",
    17: "“Element 0 of tensors does not require grad” means that nothing was attached.",
    18: "PiSSA starts as the base does, so its adapter fits the original weights.",
    19: "AdaLoRA finds its ranks by itself, whatever the training loop calls.",
    20: "DoRA's norm of W + ΔW needs the whole matrix, so DoRA must be slow.",
    21: "LoRA on q and v is the same whether q, k and v are one matrix or three.",
    22: "Houlsby's and Pfeiffer's adapters are different modules.",
    23: "Adapters in use together simply add up.",
    24: "LoRA's start, merge, scale and frozen base have to be believed.",
}


def tagged_cells():
    """{number: (name of the lesson's file, its title, cell)} of the cells that refute one."""
    found = {}
    for path in sorted(LESSONS.glob("[0-9][0-9]_*.ipynb")):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        title = "".join(cells[0]["source"]).splitlines()[0].removeprefix("# ")
        for cell in cells:
            for tag in cell["metadata"].get("tags", ()):
                if match := re.fullmatch(r"confusion-(\d+)", tag):
                    if (number := int(match[1])) in found:
                        raise ValueError(f"two cells have the tag {tag}: one has to go")
                    found[number] = path.name, title, cell
    return found


def first_line(cell):
    """What a cell prints first, or "" if it prints nothing."""
    streams = (o for o in cell.get("outputs", ()) if o.get("name") == "stdout")
    printed = "".join("".join(output["text"]) for output in streams)
    return printed.partition("\n")[0]


def table(found):
    """The table, a row for each confusion that a lesson refutes."""
    rows = ["| | what people think | what is true | lesson, cell |", "|--:|---|---|---|"]
    for number, thought in PEOPLE_THINK.items():
        if number in found:
            name, title, cell = found[number]
            true = first_line(cell).replace("|", "\\|")
            rows.append(
                f"| {number} | {thought} | {true} | [{title}]({name}), `{cell['id']}` |"
            )
    return "\n".join(rows) + "\n"


def written(page, found):
    """The page with its table made anew."""
    head, rest = page.split(BEGIN)
    return head + BEGIN + table(found) + END + rest.split(END, 1)[1]


def main():
    """Rewrite or check; returns the exit code."""
    found, old = tagged_cells(), PAGE.read_text(encoding="utf-8")
    if missing := sorted(PEOPLE_THINK.keys() - found.keys()):
        print(f"no lesson refutes {', '.join(map(str, missing))}", file=sys.stderr)
    new = written(old, found)
    if "--check" not in sys.argv:
        PAGE.write_text(new, encoding="utf-8")
    elif new != old:
        text = "out of date: lessons/confusions.md; run python tests/tools/confusions.py"
        print(text, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
