"""The teaching picture of a model: its tree with shapes, what trains, and what is attached."""

import html


def draw(module):
    """A module as an indented tree, equal neighbours folded: `0…2` for three blocks of one shape."""
    return "\n".join(_lines(module, type(module).__name__, ""))


def draw_html(module):
    """The same tree for a notebook, what trains in bold."""
    lines = (html.escape(line) for line in draw(module).split("\n"))
    rows = (f"<b>{line}</b>" if "trains" in line else line for line in lines)
    return "<pre style='line-height:1.3'>" + "\n".join(rows) + "</pre>"


def _lines(part, name, indent):
    children = [
        (key, child) for key, child in part.children() if not hasattr(child, "requires_grad")
    ]
    numbers = [
        (key, child) for key, child in part.children() if hasattr(child, "requires_grad")
    ]
    shapes = [
        f"{key} {tuple(p.shape)}{' trains' if p.requires_grad else ''}" for key, p in numbers
    ]
    yield f"{indent}{name:<{max(1, 24 - len(indent))}} {'  '.join(shapes)}".rstrip()
    folded = []  # [first key, last key, the lines below]
    for key, child in children:
        below = list(_lines(child, "", indent + "  "))
        if (
            folded
            and key.split(".")[0] == folded[-1][1].split(".")[0]
            and below == folded[-1][2]
        ):
            folded[-1][1] = key
        else:
            folded.append([key, key, below])
    for first, last, below in folded:
        label = first if first == last else f"{first}…{last.split('.')[-1]}"
        text = below[0].strip()
        yield f"{indent}  {label:<{max(1, 22 - len(indent))}} {text}".rstrip()
        yield from below[1:]
