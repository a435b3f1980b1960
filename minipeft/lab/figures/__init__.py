"""The project's pictures, each with a JSON file of its numbers beside it.

minipeft figures                      all of them, to figures/
minipeft figures --only ranks,merge   some of them
minipeft figures --redraw             from the numbers that are there, nothing measured

One module a picture: `measure(fast)` returns its numbers as a JSON object, `draw(numbers)` the
matplotlib Figure, and the first line of its docstring is what the picture shows.
"""

from pathlib import Path

from threadpoolctl import threadpool_limits
from tqdm import tqdm

from ...errors import unknown
from ...io.files import check_writable, read_json, write_json
from ..plots import save
from . import (
    attention,
    curves,
    data,
    failures,
    family_tree,
    forgetting,
    hero,
    memory,
    merge,
    places,
    ranks,
    spectrum,
    storage,
)

FIGURES = {
    "hero": hero,
    "places": places,
    "family_tree": family_tree,
    "ranks": ranks,
    "memory": memory,
    "spectrum": spectrum,
    "forgetting": forgetting,
    "attention": attention,
    "curves": curves,
    "data": data,
    "failures": failures,
    "merge": merge,
    "storage": storage,
}


def figures(names=FIGURES, out="figures", fast=False, redraw=False):
    """Make pictures by name in a folder, NAME.png and NAME.json; ValueError for others."""
    for name in names:
        if name not in FIGURES:
            raise ValueError(unknown("figure", name, FIGURES))
    out = Path(out)
    if not redraw:
        check_writable(*(out / f"{name}.{end}" for name in names for end in ("json", "png")))
    for name in tqdm(names, desc="figures", unit="figure", disable=None):
        path = out / f"{name}.json"
        if not redraw:
            with threadpool_limits(1):
                write_json(path, FIGURES[name].measure(fast))
        save(FIGURES[name].draw(read_json(path)), out / f"{name}.png")


def arguments(parser):
    """What `minipeft figures` understands."""
    about = {name: (module.__doc__ or "").split("\n")[0] for name, module in FIGURES.items()}
    lines = [f"{name}: {first}" for name, first in about.items()]
    parser.epilog = "\n".join(["the figures:", *lines])
    parser.add_argument(
        "--only", metavar="NAMES", help=f"comma-separated, of {', '.join(FIGURES)}"
    )
    parser.add_argument("--fast", action="store_true", help="a short trial: a few steps each")
    parser.add_argument(
        "--redraw", action="store_true", help="draw from the JSON that is there"
    )
    parser.add_argument("--out", default="figures", help="folder (default: %(default)s)")


def main(options):
    """Run `minipeft figures`."""
    chosen = options.only
    names = FIGURES if chosen is None else [name.strip() for name in chosen.split(",")]
    figures(names, options.out, options.fast, options.redraw)
    print(f"wrote {', '.join(names)} to {options.out}/ (.png and .json)")
