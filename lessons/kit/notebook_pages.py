"""A notebook as printable pages: its prose, its code in colours, and its outputs if any."""

import io
import struct

from reportlab.platypus import CondPageBreak, Image, KeepTogether, Spacer

from .lesson import has, images, source
from .paper import WIDE, code, flowables, kept, plain, write_pdf

POINTS = 0.8  # of a picture's pixel on paper
TALL = 560  # points, of a picture at most
TASK = 130  # points that an exercise finds on its page at least


def write_notebook(path, notebook):
    """Write a notebook, a dict, as a PDF; its title is that of its first line."""
    title = source(notebook["cells"][0]).splitlines()[0].lstrip("# ")
    write_pdf(path, title, kept(story_of(notebook)))


def story_of(notebook):
    """The flowables of a notebook's cells in their order."""
    story, cells = [], notebook["cells"]
    for cell, below in zip(cells, [*cells[1:], None], strict=True):
        if cell["cell_type"] == "markdown":
            if below and has(below, "exercise"):
                story.append(CondPageBreak(TASK))
            story += flowables(source(cell))
        else:
            story += code(source(cell)) + outputs(cell)
    return story


def outputs(cell):
    """The flowables of what a cell printed and drew."""
    story = []
    printed = ["".join(output["text"]) for output in cell["outputs"] if "text" in output]
    drew = [output.get("data", {}) for output in cell["outputs"]]
    printed += [
        "".join(d["text/plain"]) for d in drew if "text/plain" in d and "image/png" not in d
    ]
    if text := "".join(printed).strip("\n"):
        story += plain(text)
    for png in images(cell):
        story.append(KeepTogether([picture(png), Spacer(0, 8)]))
    return story


def picture(png, wide=WIDE, tall=TALL, points=POINTS):
    """A picture that fits the given width and height, an Image, from the bytes of a PNG."""
    width, height = struct.unpack(">II", png[16:24])
    scale = min(points, wide / width, tall / height)
    return Image(io.BytesIO(png), width * scale, height * scale)
