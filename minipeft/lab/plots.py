"""What all pictures share: colours, markers and dashes, axes, labels that keep apart.

A family of methods has one hue: where there are enough, one of Okabe and Ito's, which
colour-blind readers tell apart. Its first method has a marker that no other family's first
method has. Within a family each method has a marker, a lightness of the hue and, as a line, a
dash, so that the picture can also be read in grey.

In all pictures a score, such as exact match, is a share from 0 to 1; a part of something, such
as the parameters or the FLOPs, is in percent.
"""

import io
import itertools
from pathlib import Path

from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Annotation

from ..engine.backend import np
from ..io.files import write_bytes
from .comparison_table import COMPARED

BLACK, WHITE = np.zeros(3), np.ones(3)
HUES = {"full": "#222222", "selective": "#CC79A7", "lora": "#0072B2", "adapter": "#D55E00",
        "prompt": "#009E73", "orthogonal": "#E69F00", "shared": "#56B4E9",
        "spectral": "#6A3D9A", "mixture": "#8C8C00"}  # fmt: skip
OTHER_HUES = ("#666666", "#44AA99", "#882255")  # of families that HUES does not name, in turn
MARKERS = "osD^vPXph<>d"
FIRST_MARKERS = {"full": "*", "selective": "D", "lora": "o", "adapter": "s", "prompt": "^",
                 "orthogonal": "P", "shared": "X", "spectral": "v", "mixture": "p"}  # fmt: skip
DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1.5)), (0, (6, 1.5, 1.5, 1.5)), (0, (3, 3)))
BESIDE = 13  # pixels between a point and a label that needs no line to it
FAINTEST = 2  # the least contrast of a colour with white
SMALL, LARGE = 10, 12  # points, of labels and titles


def style(method):
    """Returns the look of a method's points in every picture, as options of `Axes.plot`."""
    family, number = COMPARED[method].family, place_in_family(method)
    marker = first_marker(family)
    if number:
        marker = MARKERS[(MARKERS.find(marker) + number) % len(MARKERS)]
    size = 9 if marker == "*" else 6
    return {"color": shade(hue(family), number), "marker": marker, "markersize": size}


def line_style(method):
    """Returns the look of a method's points and of a line through them, for `Axes.plot`."""
    return style(method) | {"linestyle": DASHES[place_in_family(method) % len(DASHES)]}


def place_in_family(method):
    """Returns the number of a method among those of its family, from 0."""
    family = COMPARED[method].family
    return [name for name, kind in COMPARED.items() if kind.family == family].index(method)


def first_marker(family):
    """Returns the marker of a family, which is that of its first method."""
    return FIRST_MARKERS.get(family, MARKERS[0])


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
    shares = np.linspace(0, 0.55, 56)
    most = max(x for x in shares if x == 0 or contrast(mix(colour, WHITE, x)) >= FAINTEST)
    return mix(colour, WHITE, most * (2 * lightness - 1))


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


class Picture(Figure):
    """A Figure that a notebook shows also where pyplot is not in use."""

    def _repr_png_(self):
        written = io.BytesIO()
        self.savefig(written, format="png")
        return written.getvalue()


def canvas(rows, columns, width, height):
    """(Picture, its axes in one row): panels in a grid, width and height in inches."""
    figure = Picture(figsize=(width, height), layout="constrained")
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


def place_labels(axes, farthest=150, first=None):
    """Move each label to the place nearest to its point where it covers nothing else.

    A label that is moved away gets a thin line to its point. One that finds no place within
    `farthest` pixels is taken away, and its point stays without a name. Where `first` is given,
    only the labels with these texts may move away; all others stand beside their points.
    """
    axes.figure.draw_without_rendering()  # lays out the axes, and then they stay
    axes.figure.set_layout_engine("none")
    labels = [text for text in axes.texts if isinstance(text, Annotation)]
    taken = [around(axes.transData.transform(label.xy), 5) for label in labels]
    taken += [text.get_window_extent().extents for text in axes.texts if text not in labels]
    taken += [box for line in axes.lines for box in along(line)]
    frame, points = axes.get_window_extent(), 72 / axes.figure.dpi
    for label in labels:
        point, extent = axes.transData.transform(label.xy), label.get_window_extent()
        reach = farthest if first is None or label.get_text() in first else BESIDE
        places = candidates(*point, extent.width, extent.height, frame, reach)
        covered = np.array(taken)
        place = next((place for place in places if free(place, covered)), None)
        if place is None:
            label.remove()
            continue
        taken.append(place)
        x, y = point
        label.set_position(((place[0] - x) * points, (place[1] - y) * points))
        if distance(point, place) > 1.5 * extent.height:  # far enough to need a line
            thin = {"arrowstyle": "-", "lw": 0.5, "color": "grey", "shrinkA": 0, "shrinkB": 3}
            end = np.subtract(nearest(point, place), point) * points
            axes.annotate("", label.xy, end, textcoords="offset points", arrowprops=thin)


def along(line):
    """Yields small boxes (left, bottom, right, top), in pixels, that cover a line."""
    corners = line.get_transform().transform(line.get_xydata())
    size = 1 + line.get_linewidth() * line.figure.dpi / 72 / 2
    for start, end in itertools.pairwise(corners):
        count = 2 + int(np.hypot(*(end - start)) / (2 * size))
        for point in np.linspace(start, end, count):
            yield around(point, size)


def around(point, size):
    """Returns the box (left, bottom, right, top) around a point."""
    return (point[0] - size, point[1] - size, point[0] + size, point[1] + size)


def candidates(x, y, width, height, frame, farthest):
    """Returns boxes (left, bottom, right, top) of a size in the frame, nearest to (x, y) first.

    All numbers are pixels.
    """
    lefts = [x + 9, x - 9 - width, x - width / 2]
    lefts += [x + side * away for side in (1, -1) for away in range(20, farthest, 12)]
    bottoms = [y - height / 2 + 0.5 * height * k for k in range(-20, 21)]
    boxes = [(left, low, left + width, low + height) for left in lefts for low in bottoms]
    boxes = [
        box
        for box in boxes
        if frame.x0 <= box[0] and box[2] <= frame.x1 + 25 and frame.y0 <= box[1]
        and box[3] <= frame.y1 and 6 < distance((x, y), box) <= farthest
    ]  # fmt: skip
    return sorted(
        boxes, key=lambda box: distance((x, y), box) + abs(box[1] + box[3] - 2 * y) / 4
    )


def nearest(point, box):
    """Returns the point of a box (left, bottom, right, top) that is nearest to a point."""
    return [min(max(at, box[i]), box[i + 2]) for i, at in enumerate(point)]


def distance(point, box):
    """Returns how far a point is from a box, 0 if it lies inside."""
    return float(np.hypot(*np.subtract(point, nearest(point, box))))


def free(box, taken):
    """Whether a box overlaps none of those taken, an array with a row for each."""
    left, low, right, high = taken.T
    return bool(
        np.all((box[2] <= left) | (right <= box[0]) | (box[3] <= low) | (high <= box[1]))
    )
