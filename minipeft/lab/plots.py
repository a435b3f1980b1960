"""What all pictures share: colours and markers, axes, labels that keep apart.

One hue a family of methods (Okabe & Ito's, which colour-blind readers tell apart), and within
it one marker and shade a method.
"""

import io
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.text import Annotation

from ..io.files import write_bytes
from .comparison_table import COMPARED

COLOURS = {  # of families, and a second shade where there are many methods
    "full": ("#000000",),
    "selective": ("#CC79A7",),
    "lora": ("#0072B2", "#56B4E9"),
    "adapter": ("#D55E00",),
    "prompt": ("#009E73",),
}
MARKERS = "osD^vP"
SMALL, LARGE = 10, 12  # points, of labels and titles


def style(method):
    """The colour and marker that a method has in every picture, as options of `Axes.plot`."""
    family = COMPARED[method].family
    members = [name for name, kind in COMPARED.items() if kind.family == family]
    shade, number = divmod(members.index(method), len(MARKERS))
    marker = "*" if family == "full" else MARKERS[number]
    size = 9 if marker == "*" else 6
    return {"color": COLOURS[family][shade], "marker": marker, "markersize": size}


def tint(method):
    """The colour of a method's name: the darkest of its family, to be read on white."""
    return COLOURS[COMPARED[method].family][0]


def canvas(rows, columns, width, height):
    """(Figure, its axes in one row): panels in a grid, width and height in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False).reshape(-1)


def save(figure, path):
    """Write a figure, as PNG if its name does not end otherwise, whole or not at all."""
    kind, drawn = Path(path).suffix[1:] or "png", io.BytesIO()
    figure.savefig(drawn, format=kind, dpi=110, bbox_inches="tight")
    write_bytes(path, drawn.getvalue())


def tidy(axes):
    """Light grid, no box."""
    axes.grid(alpha=0.25, lw=0.5)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=SMALL)


def place_labels(axes):
    """Move each label to the place nearest to its point where it covers nothing else."""
    labels = [text for text in axes.texts if isinstance(text, Annotation)]
    taken = [around(axes.transData.transform(label.xy), 5) for label in labels]
    strokes = [line for line in axes.lines if len(line.get_xdata()) == 2]
    taken += [line.get_window_extent().extents for line in strokes]
    frame, points = axes.get_window_extent(), 72 / axes.figure.dpi
    for label in labels:
        x, y = axes.transData.transform(label.xy)
        extent = label.get_window_extent()
        near = list(places(x, y, extent.width, extent.height, frame))
        place = next((place for place in near if free(place, taken)), near[0])
        taken.append(place)
        label.set_position(((place[0] - x) * points, (place[1] - y) * points))
        if abs(place[1] - y) > 2 * extent.height:  # far enough to need a line
            thin = {"arrowstyle": "-", "lw": 0.4, "color": "grey"}
            end = label.get_position()
            axes.annotate("", label.xy, end, textcoords="offset points", arrowprops=thin)


def around(point, size):
    """The box (left, bottom, right, top) around a point."""
    return (point[0] - size, point[1] - size, point[0] + size, point[1] + size)


def places(x, y, width, height, frame):
    """Boxes (left, bottom, right, top) near a point in pixels, nearest first, in the frame."""
    for away in range(1, 40):
        for left in (x + 7, x - 7 - width, x - width / 2):
            for rise in (away, -away):
                bottom = y - height / 2 + (rise - (1 if rise > 0 else -1)) * 0.55 * height
                centred = left == x - width / 2
                if centred and abs(bottom + height / 2 - y) < height:
                    continue
                box = (left, bottom, left + width, bottom + height)
                if frame.x0 <= box[0] and box[2] <= frame.x1 + 25 and frame.y0 <= box[1]:
                    yield box


def free(box, taken):
    """Whether a box overlaps none of those taken."""
    return all(
        box[2] <= t[0] or t[2] <= box[0] or box[3] <= t[1] or t[3] <= box[1] for t in taken
    )
