"""Formulas as pictures: LaTeX set by Matplotlib, so that no LaTeX has to be installed."""

import functools
import hashlib
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

from matplotlib import mathtext
from matplotlib.font_manager import FontProperties

DPI = 400
PICTURES = tempfile.TemporaryDirectory(prefix="formulas-")  # until the program ends
# What the lessons write, in the LaTeX that Matplotlib knows.
SPELLED = {
    r"\tfrac": r"\frac",
    r"\lVert": r"\Vert ",
    r"\rVert": r"\Vert ",
    r"\lvert": r"\vert ",
    r"\rvert": r"\vert ",
    r"\operatorname*": r"\operatorname",
    r"\top": r"\mathrm{T}",  # which has no space on its sides
}
LARGER = re.compile(
    r"\\[bB]igg?[lr]?(?![a-zA-Z])"
)  # brackets of a chosen size: left as they are
GROUP = r"\{((?:[^{}]|\{[^{}]*\})*)\}"
UNDERBRACE = re.compile(rf"\\underbrace{GROUP}_{GROUP}")  # which becomes words below, no brace
MATRIX = re.compile(r"\\begin\{[bp]matrix\}(.*?)\\end\{[bp]matrix\}")  # on a line: [A; B]


@dataclass(frozen=True)
class Formula:
    """The picture of a formula: its file, and its width, height and depth in points."""

    path: str
    width: float
    height: float
    depth: float


@functools.cache
def formula(latex, size, color="black"):
    """The Formula of some LaTeX without its dollars, in letters of `size` points.

    ValueError, with the formula in it, if Matplotlib cannot set it.
    """
    text = spelled(latex)
    digest = hashlib.sha256(f"{text} {size} {color}".encode()).hexdigest()[:16]
    path = Path(PICTURES.name) / f"{digest}.png"
    font = FontProperties(family="DejaVu Sans", size=size, math_fontfamily="dejavusans")
    try:
        width, height, *_ = mathtext.MathTextParser("path").parse(f"${text}$", 72, font)
        depth = mathtext.math_to_image(f"${text}$", path, font, DPI, "png", color=color)
    except ValueError as error:
        raise ValueError(f"the formula ${latex}$ cannot be set: {error}") from None
    return Formula(str(path), width, height, depth)


def spelled(latex):
    """The same formula on one line, in the commands that Matplotlib knows."""
    text = " ".join(latex.split())
    for theirs, known in SPELLED.items():
        text = text.replace(theirs, known)
    text = LARGER.sub("", text)
    text = UNDERBRACE.sub(r"\\underset{\2}{\1}", text)
    text = MATRIX.sub(lambda rows: f"[{in_a_line(rows[1])}]", text)
    return re.sub(r"\\sqrt (\w)", r"\\sqrt{\1}", text)


def in_a_line(rows):
    """The rows of a matrix with semicolons between them."""
    return r";\;".join(row.strip() for row in rows.replace("&", r"\;").split(r"\\"))
