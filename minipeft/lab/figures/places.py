"""Where each method attaches, on the way from token ids to logits.

Nothing here lists methods by hand. Each is attached to a small model, of GPT-2's shape and of
Llama's, and asked which functions it replaces and of which parameters it trains copies. Their
paths are the columns of the picture, and methods that attach at the same places share a row.
"""

import re
import textwrap

from matplotlib.patches import FancyBboxPatch

from ...engine.backend import array, np
from ...engine.tensor import Tensor, no_grad
from ...errors import unknown
from ...model.config import Config
from ...model.transformer import Transformer
from ...peft.attach import attach, detach
from ...peft.methods import METHODS
from ..command_line import with_targets
from ..plots import LARGE, SMALL, Picture, first_marker, hue, readable

SIZES = dict(vocab=48, context=64, width=80, layers=3, heads=4)
SHAPES = (Config.gpt2(**SIZES, tied=False), Config.llama(**SIZES))
REPLACED = "f"  # what a method does at a place: it replaces the function, or it trains …
TRAINED = {"weight": "W", "bias": "b"}
OF_NORMS = {"W": "γ", "b": "β"}

# The places, from left to right: the path in the model, without "blocks.0.", and its name.
PLACES = {
    "wte": "wte", "start": "input", "ln_1": "norm", "attn.q_proj": "q", "attn.k_proj": "k",
    "attn.v_proj": "v", "cache": "cache", "attn.attend": "attend", "attn.o_proj": "o",
    "attn": "attention's output", "ln_2": "norm", "mlp.up_proj": "up",
    "mlp.down_proj": "down", "mlp": "MLP's output", "": "block's output", "ln_f": "norm",
    "lm_head": "head",
}  # fmt: skip
SAME = {"wpe": "wte", "mlp.gate_proj": "mlp.up_proj"}  # drawn as one


def measure(fast=False, methods=METHODS):
    """{"rows": [[family, note, {place: what}, [methods]], …]}, in the order of the methods."""
    rows = {}
    for name in methods:
        places, note = attachments(METHODS[name])
        key = METHODS[name].family, note, tuple(sorted(places.items()))
        rows.setdefault(key, []).append(name)
    return {"rows": [[family, note, dict(places), names]
                     for (family, note, places), names in rows.items()]}  # fmt: skip


def attachments(method):
    """Returns ({place: what a method does there}, a note on the blocks), over both shapes."""
    there, blocks, refused = {}, set(), []
    for config in SHAPES:
        model = Transformer(config, rng=0)
        try:
            adapter = attach(model, widest(method, model))
        except ValueError as error:  # BitFit on Llama's shape, which has no biases
            refused.append(error)
            continue
        for path, what in touched(model, adapter):
            blocks |= set(re.findall(r"^blocks\.(\d+)", path))
            what = OF_NORMS.get(what, what) if "ln_" in path else what
            there.setdefault(place(path), set()).add(what)
    if len(refused) == len(SHAPES):
        raise refused[0]
    whole = not blocks or len(blocks) == SIZES["layers"]
    note = "" if whole else f"block {', '.join(sorted(blocks))} of {SIZES['layers']}"
    note = "last block" if blocks == {str(SIZES["layers"] - 1)} else note
    order = [REPLACED, *TRAINED.values(), *OF_NORMS.values()]
    return {
        name: "".join(sorted(parts, key=order.index)) for name, parts in there.items()
    }, note


def widest(method, model):
    """Returns the method with default options; if its targets are an example, on all."""
    wide = with_targets(method(), "all-linear")
    try:
        attach(model, wide)
        detach(model)
        return wide
    except ValueError:  # it does not fit on all of them
        return method()


def touched(model, adapter):
    """Yields (path, what) for each function that is replaced and each parameter copied."""
    for path in adapter.deltas:
        if path == "start":
            yield from ((path, REPLACED) for path in added_in_front(model))
        else:
            yield path, REPLACED
    for path in adapter.copies:
        module, _, part = path.rpartition(".")
        yield module, TRAINED[part]


def added_in_front(model):
    """Returns what the method in use puts in front: vectors of the input, or of the cache."""
    with no_grad():
        x = Tensor(array(np.zeros((1, 3, SIZES["width"]))))
        longer, _, cache = model.start(x, None)
    return ["start"] * (longer.shape[1] > 3) + ["cache"] * (cache.length > 0)


def place(path):
    """Returns the key in PLACES of a module's path."""
    name = re.sub(r"^blocks\.\d+\.?", "", path)
    name = SAME.get(name, name)
    if name not in PLACES:
        raise ValueError(f"the diagram has no place for {path}; add one to PLACES")
    return name


WIDE, HIGH = 8.65, 2.65  # inches: of the picture, and of the diagram above the rows
LEFT, STEP, LINE = 1.95, 0.362, 0.185  # where the columns start, their distance, a line of text
NARROW = 25  # letters in a line of names
STREAM, BRANCH, RISE = 0.4, 0.95, 0.35  # heights: the residual stream, a sub-layer, q k v
INK, PALE, BAND, LIT = "#444444", "#cfcfcf", "#f5f5f5", "#ffe9a8"
KEY = "marker: this function is replaced;   W, b, γ, β: a copy of these parameters trains"


def lit(*methods):
    """Returns the Picture of these methods alone, and of the model with their places lit.

    It fits a page of a notebook. ValueError for a name that is no method's, and for none.
    """
    for name in methods:
        if name not in METHODS:
            raise ValueError(unknown("method", name, METHODS))
    if not methods:
        raise ValueError("expected the names of methods to show, such as 'lora'; got none")
    title = (
        "Where this\nmethod attaches" if len(methods) == 1 else "Where these\nmethods attach"
    )
    numbers = measure(methods=dict.fromkeys(methods))
    return draw(numbers, title, {place for row in numbers["rows"] for place in row[2]})


def draw(numbers, title="Where each\nmethod attaches", lit=()):
    """Returns the Picture: the model above, and below it a row for each group of methods.

    `lit`: places whose boxes are coloured.
    """
    rows = [(row, lines(row)) for row in numbers["rows"]]
    depth = sum(height(text) for _, text in rows) + 0.3
    figure = Picture(figsize=(WIDE, HIGH + depth))
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, WIDE), ylim=(-depth, HIGH))
    axes.set_axis_off()
    top = 0
    for i, (row, text) in enumerate(rows):
        draw_row(axes, row, text, top, BAND if i % 2 == 0 else "white")
        top -= height(text)
    for name in PLACES:
        axes.plot([x_of(name)] * 2, [top, STREAM], color=PALE, lw=0.7, ls=":", zorder=1)
    diagram(axes, lit)
    axes.text(0.05, HIGH - 0.1, title, fontsize=LARGE + 3, va="top", weight="bold",
              linespacing=1.3)  # fmt: skip
    axes.text(WIDE - 0.05, top - 0.17, KEY, fontsize=SMALL - 1, ha="right", va="center")
    legend(axes, numbers["rows"])
    return figure


def legend(axes, rows):
    """Draw the mark and the colour of each family."""
    for i, family in enumerate(dict.fromkeys(row[0] for row in rows)):
        y, colour = HIGH - 0.8 - LINE * i, readable(hue(family))
        replaces = any(REPLACED in row[2].values() for row in rows if row[0] == family)
        mark(axes, 0.15, y, REPLACED if replaces else "W", family, colour)
        name = family.replace("lora", "LoRA")
        label(axes, 0.3, y, f"{name} family", SMALL - 1, ha="left", color=colour)


def lines(row):
    """Returns the names of a row as lines of text."""
    _, note, _, names = row
    text = ", ".join(names) + (f" ({note})" if note else "")
    return textwrap.wrap(text, NARROW, break_on_hyphens=False)


def height(text):
    """Returns the height of a row in inches."""
    return LINE * len(text) + 0.09


def x_of(name):
    """Returns where a place is drawn, from left to right; between up and down is room for φ."""
    number = [*PLACES].index(name)
    return LEFT + STEP * number + (0.2 if number >= [*PLACES].index("mlp.down_proj") else 0)


def draw_row(axes, row, text, top, band):
    """Draw one row downwards from `top`: the names, and a mark in each of their columns."""
    family, _, places, _ = row
    low, colour = top - height(text), readable(hue(family))
    axes.axhspan(low, top, color=band, zorder=0)
    for i, line in enumerate(text):
        axes.text(LEFT - 0.25, top - 0.045 - LINE * (i + 0.5), line, ha="right", va="center",
                  fontsize=SMALL - 0.5, color=colour)  # fmt: skip
    y = (low + top) / 2
    xs = sorted(x_of(name) for name in places)
    axes.plot([xs[0], xs[-1]], [y, y], color=colour, lw=1.2, zorder=2)
    for name, what in places.items():
        mark(axes, x_of(name), y, what, family, colour)


def mark(axes, x, y, what, family, colour):
    """Draw what a method of a family does at a place."""
    if what == REPLACED:
        axes.plot(x, y, first_marker(family), color=colour, ms=9, zorder=3)
    else:
        around = {"boxstyle": "round,pad=0.2", "fc": colour, "ec": "none"}
        label(axes, x, y, what, SMALL - 2.5, color="white", weight="bold", bbox=around)


def diagram(axes, lit):
    """Draw the model: the residual stream, with attention and the MLP on branches above it."""
    first, last, end = x_of("ln_1") - 0.2, x_of("") + 0.17, x_of("lm_head")
    frame(axes, (first, STREAM - 0.22), (last, HIGH - 0.05), fc="#fafafa", ls="--")
    label(axes, last - 0.08, HIGH - 0.2, "a block, L times", ha="right", size=SMALL)
    line(axes, (LEFT - 0.4, STREAM), (end + 0.3, STREAM), lw=2.5, head=True)
    label(axes, LEFT - 0.45, STREAM, "ids", ha="right", size=SMALL)
    label(axes, end + 0.3, STREAM, "logits", ha="left", size=SMALL)
    attention(axes, lit)
    mlp(axes, lit)
    for name in ("wte", "ln_f", "lm_head"):
        box(axes, name, STREAM, lit)
    for name, sign in (("start", ""), ("attn", "+"), ("mlp", "+"), ("", "")):
        face = LIT if name in lit else "white"
        axes.plot(x_of(name), STREAM, "o", ms=11 if sign else 7, mfc=face, mec=INK, zorder=4)
        label(axes, x_of(name), STREAM, sign, size=SMALL)
    label(axes, x_of("start") - 0.03, STREAM + 0.2, "input", color=INK)
    label(axes, x_of("") - 0.01, STREAM + 0.2, "output", color=INK)


def attention(axes, lit):
    """Draw the sub-layer that mixes tokens: norm, q k v, what they attend to, o."""
    top = BRANCH + 3 * RISE
    fork, core, back = x_of("ln_1") + 0.18, x_of("attn.attend"), x_of("attn")
    line(axes, (x_of("ln_1"), STREAM), (x_of("ln_1"), BRANCH))
    line(axes, (fork, BRANCH), (fork, BRANCH + 2 * RISE))
    for i, name in enumerate(("attn.q_proj", "attn.k_proj", "attn.v_proj", "cache")):
        y = BRANCH + i * RISE
        line(axes, (x_of("cache") if name == "cache" else fork, y), (core - 0.13, y), head=True)
        box(axes, name, y, lit)
    line(axes, (x_of("ln_1"), BRANCH), (back, BRANCH))
    line(axes, (back, BRANCH), (back, STREAM + 0.08), head=True)
    box(axes, "ln_1", BRANCH, lit)
    box(axes, "attn.attend", (BRANCH + top) / 2, lit, tall=top - BRANCH + 0.27)
    box(axes, "attn.o_proj", BRANCH, lit)
    label(axes, x_of("attn.o_proj") - 0.1, BRANCH + 0.27, "attention", ha="left", size=SMALL)


def mlp(axes, lit):
    """Draw the sub-layer that works on each token alone: norm, up, φ, down."""
    back = x_of("mlp")
    middle = (x_of("mlp.up_proj") + x_of("mlp.down_proj")) / 2
    line(axes, (x_of("ln_2"), STREAM), (x_of("ln_2"), BRANCH))
    line(axes, (x_of("ln_2"), BRANCH), (back, BRANCH))
    line(axes, (back, BRANCH), (back, STREAM + 0.08), head=True)
    for name in ("ln_2", "mlp.up_proj", "mlp.down_proj"):
        box(axes, name, BRANCH, lit)
    axes.plot(middle, BRANCH, "o", ms=12, mfc="white", mec=INK, zorder=4)
    label(axes, middle, BRANCH, "φ", size=SMALL - 1)
    label(axes, middle, BRANCH + 0.27, "MLP", size=SMALL)


def box(axes, name, y, lit, tall=0.27):
    """Draw the box of a place, with its name."""
    x, half = x_of(name), 0.165
    corners = (x - half, y - tall / 2), (x + half, y + tall / 2)
    frame(axes, *corners, fc=LIT if name in lit else "white", zorder=4)
    label(axes, x, y, PLACES[name], SMALL - 3.5, rotation=90 if tall > 0.5 else 0)


def frame(axes, low, high, **look):
    """Draw a rectangle with round corners, from its lower left to its upper right (x, y)."""
    size, style = np.subtract(high, low), "round,pad=0,rounding_size=0.05"
    axes.add_patch(FancyBboxPatch(low, *size, boxstyle=style, ec=INK, lw=0.9, **look))


def label(axes, x, y, text, size=SMALL - 3, ha="center", **look):
    """Write a small text at (x, y)."""
    axes.text(x, y, text, ha=ha, va="center_baseline", fontsize=size, zorder=5, **look)


def line(axes, start, end, lw=1.0, head=False):
    """Draw a line from one (x, y) to another, or an arrow."""
    look = {"arrowstyle": "-|>" if head else "-", "lw": lw, "color": INK, "shrinkA": 0,
            "shrinkB": 0, "mutation_scale": 7}  # fmt: skip
    axes.annotate("", end, start, arrowprops=look, zorder=2)
