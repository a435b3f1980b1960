"""What the paper of each method says that it buys, and whether a comparison bears that out.

A method says it as `claim = kind, other`: what it is said to do better, and than which method.
Here the kind becomes a sentence, and rows of `minipeft compare --full` become a verdict.
"""

from ..errors import unknown
from ..peft.methods import METHODS
from .comparison_table import CLOSE, groups, mean

CLAIMS = {  # {kind: what is said of a method, against another one}
    "quality": "more words right than `{}`",
    "learning": "more words right than `{}` after few steps",
    "parameters": "as many words right as `{}`, from fewer parameters",
    "memory": "as many words right as `{}`, with less kept for the backward pass",
    "remembers": "as many words right as `{}`, and less forgotten of the old tasks",
    "equal": "as many words right as `{}`",
}
# What has to be smaller while as many words are right: a column, and what it is called.
SMALLER = {"parameters": ("trainable", "parameters"), "memory": ("tape_bytes", "tape")}


def said(method):
    """Returns what the paper of a method says that it buys, as text; "" if nothing."""
    if not method.claim:
        return ""
    kind, other = method.claim
    if kind not in CLAIMS:
        raise ValueError(unknown("kind of claim", kind, CLAIMS))
    if other not in METHODS or other == method.name:
        others = [name for name in METHODS if name != method.name]
        raise ValueError(unknown("method to compare with", other, others))
    return CLAIMS[kind].format(other)


def measured(method, rows):
    """Returns (what rows of a comparison show of a method's claim, the verdict), as text.

    Exact match is the mean over tasks and seeds, first at the fewest steps and then at the
    most. Two methods within 0.05 are as good as each other. The verdict is "yes", "no" or
    "no difference".
    """
    kind, other = method.claim
    ours, theirs = (by_budget(rows, name) for name in (method.name, other))
    budgets = sorted({min(ours), max(ours)})
    a, b = ([mean(some[n], "exact") for n in budgets] for some in (ours, theirs))
    text = " against ".join(" / ".join(f"{x:.2f}" for x in some) for some in (a, b))
    ahead = [x - y for x, y in zip(a, b, strict=True)]
    if kind == "learning":
        return text, better(ahead[:1])
    if kind == "quality":
        return text, better(ahead)
    right = ahead[-1] >= -CLOSE
    if kind in SMALLER:
        column, word = SMALLER[kind]
        share = mean(ours[max(ours)], column) / mean(theirs[max(ours)], column)
        text += f"; {100 * share:.3g} % of its {word}"
        right = right and share < 1
    if kind == "remembers":
        old = [mean(some[max(ours)], "old") for some in (ours, theirs)]
        text += f"; old tasks {old[0]:.2f} against {old[1]:.2f}"
        right = right and old[0] - old[1] > CLOSE
    return text, "yes" if right else "no"


def by_budget(rows, name):
    """Returns {steps: rows of a method}, from all tasks and seeds."""
    found = {}
    for (_, steps), methods in groups(rows).items():
        found.setdefault(steps, []).extend(methods[name])
    return found


def better(differences):
    """Returns whether a method is better at some budget and worse at none, as text."""
    if min(differences) < -CLOSE:
        return "no"
    return "yes" if max(differences) > CLOSE else "no difference"
