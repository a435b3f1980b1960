"""A model printed as a tree: its modules, the shapes of their parameters, and what trains."""

import html


def tree(module):
    """Returns a module as an indented tree; a run of equal neighbours is one line, `0…2`."""
    return "\n".join(_lines(module, type(module).__name__, ""))


def tree_html(module):
    """Returns the same tree as HTML for a notebook, with what trains in bold."""
    lines = (html.escape(line) for line in tree(module).split("\n"))
    rows = (f"<b>{line}</b>" if "trains" in line else line for line in lines)
    return "<pre style='line-height:1.3'>" + "\n".join(rows) + "</pre>"


def _lines(part, name, indent):
    """Yields the line of a module with the shapes of its parameters, then those inside it."""
    modules, shapes = [], []
    for key, child in part.children():
        if hasattr(child, "requires_grad"):  # a Parameter
            shapes.append(f"{key} {child.shape}{' trains' if child.requires_grad else ''}")
        else:
            modules.append((key, list(_lines(child, "", indent + "  "))))
    yield f"{indent}{name:<{max(1, 24 - len(indent))}} {'  '.join(shapes)}".rstrip()
    for first, last, below in _runs(modules):
        label = first if first == last else f"{first}…{last.split('.')[-1]}"
        text = below[0].strip()
        yield f"{indent}  {label:<{max(1, 22 - len(indent))}} {text}".rstrip()
        yield from below[1:]


def _runs(modules):
    """Returns [first key, last key, lines] for each run of equal neighbours in one list."""
    runs = []
    for key, lines in modules:
        same_list = runs and key.split(".")[0] == runs[-1][1].split(".")[0]
        if same_list and lines == runs[-1][2]:
            runs[-1][1] = key
        else:
            runs.append([key, key, lines])
    return runs
