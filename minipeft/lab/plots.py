"""What all pictures share: colours and markers, axes, labels that keep apart.

A family of methods has one hue (Okabe and Ito's, which colour-blind readers tell apart). Within
a family each method has a marker and a lightness of that hue, so that the picture can also be
read in grey.
"""

import io
from pathlib import Path

from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Annotation

from ..engine.backend import np
from ..io.files import write_bytes
from .comparison_table import COMPARED

BLACK, WHITE = np.zeros(3), np.ones(3)
HUES = {"full": "#222222", "selective": "#CC79A7", "lora": "#0072B2", "adapter": "#D55E00",
        "prompt": "#009E73"}  # fmt: skip
OTHER_HUES = ("#E69F00", "#56B4E9", "#666666")  # of families that HUES does not name, in turn
MARKERS = "osD^vPXph<>d"
SMALL, LARGE = 10, 12  # points, of labels and titles


def style(method):
    """Returns the look of a method in every picture, as options of `Axes.plot`."""
    family = COMPARED[method].family
    members = [name for name, kind in COMPARED.items() if kind.family == family]
    number = members.index(method)
    marker = "*" if method == "full" else MARKERS[number % len(MARKERS)]
    size = 9 if marker == "*" else 6
    return {"color": shade(hue(family), number), "marker": marker, "markersize": size}


def hue(family):
    """Returns the colour of a family."""
    if family in HUES:
        return HUES[family]
    others = dict.fromkeys(kind.family for kind in COMPARED.values() if kind.family not in HUES)
    return OTHER_HUES[[*others].index(family) % len(OTHER_HUES)]


def shade(colour, number):
    """Returns a colour made darker or lighter: number 0 is the colour itself.

    Steps of the golden ratio keep neighbours far apart, and never give the same shade twice.
    """
    lightness = (0.5 + number * 0.6180339887) % 1  # 0.5: as it is
    if lightness < 0.5:
        return mix(colour, BLACK, 1.1 * (0.5 - lightness))  # up to 55 % black
    return mix(colour, WHITE, 1.1 * (lightness - 0.5))


def mix(colour, other, share):
    """Returns a colour with this share of another in it."""
    return to_hex((1 - share) * np.array(to_rgb(colour)) + share * np.array(to_rgb(other)))


def tint(method):
    """Returns the colour of a method's name: its family's hue, dark enough to read on white."""
    return readable(hue(COMPARED[method].family))


def readable(colour):
    """Returns a colour, darkened until its contrast with white is 4.5 : 1, as WCAG 2 asks."""
    return next(
        dark
        for percent in range(101)
        if contrast(dark := mix(colour, BLACK, percent / 100)) >= 4.5
    )


def contrast(colour):
    """Returns the contrast of a colour with white, from 1 (white) to 21 (black)."""
    rgb = np.array(to_rgb(colour))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return 1.05 / (float(linear @ (0.2126, 0.7152, 0.0722)) + 0.05)


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
