"""The rows of a comparison as text, one table for each task and number of steps."""

import statistics

from ..peft.methods import METHODS, LoRA

COMPARED = METHODS | {"qlora": LoRA}  # on a backbone in nf4


def groups(rows):
    """{(task, steps): {method: its rows, one a seed}}, in the order they come."""
    grouped = {}
    for row in rows:
        group = grouped.setdefault((row["task"], row["steps"]), {})
        group.setdefault(row["method"], []).append(row)
    return grouped


def families(methods):
    """{family: {method: …}} of {method: …}, families and methods in the order of COMPARED."""
    grouped = {}
    for name, method in COMPARED.items():
        if name in methods:
            grouped.setdefault(method.family, {})[name] = methods[name]
    return grouped


def mean(rows, column):
    """The mean of a column over rows that differ only by seed."""
    return statistics.fmean(row[column] for row in rows)


def spread(rows, column):
    """(mean, lowest, highest) of a column over seeds."""
    return extent([row[column] for row in rows])


def extent(numbers):
    """(mean, lowest, highest) of some numbers."""
    middle = statistics.fmean(numbers)
    return middle, min(middle, *numbers), max(middle, *numbers)  # it may be rounded past them


FEW = 8  # methods that need no headings
HEAD = (
    f"{'method':<16}{'trainable':>10}{'% base':>8}{'lr':>8}{'exact':>15}{'loss':>8}"
    f"{'old tasks':>11}{'detached':>10}{'ms/step':>9}{'tape MB':>9}{'file kB':>9}"
    "  merges (max logit change)"
)


def table(rows):
    """Everything measured, and what the fine-tuned models write for three words each.

    Methods come family by family; of many, those of one stand under its name.
    """
    lines = []
    for (task, steps), methods in groups(rows).items():
        lines += [heading(task, steps, methods), HEAD]
        for family, own in families(methods).items():
            named = len(methods) > FEW and len(own) > 1
            lines += [f"{family}-family"] if named else []
            lines += [line(name, seeds) for name, seeds in own.items()]
        lines += ["", *examples(methods), ""]
    return "\n".join(lines)


def heading(task, steps, methods):
    """What was measured, and how the backbone did before."""
    first, seeds = next(iter(methods.values()))[0], max(map(len, methods.values()))
    return (
        f"{task}: {steps} steps of {first['batch_size']} words, "
        f"{seeds} seed{'s'[: seeds > 1]}; before: exact match {first['exact_before']:.3f}, "
        f"loss {first['loss_before']:.2f} nats a letter, old tasks {first['old_before']:.3f}"
    )


def line(name, rows):
    """One method's line: means over seeds, exact match with its range."""
    first, (exact, low, high) = rows[0], spread(rows, "exact")
    shown = f"{exact:.3f}" + (f" ±{(high - low) / 2:.3f}" if len(rows) > 1 else "")
    merges = (
        f"yes ({max(r['merge_difference'] for r in rows):.0e})" if first["mergeable"] else "no"
    )
    return (
        f"{name:<16}{first['trainable']:>10,}{first['percent']:>8.2f}{first['lr']:>8.2g}"
        f"{shown:>15}{mean(rows, 'loss'):>8.3f}"
        f"{mean(rows, 'old'):>11.3f}{mean(rows, 'old_detached'):>10.3f}"
        f"{1e3 * mean(rows, 'seconds_per_step'):>9.1f}{first['tape_bytes'] / 1e6:>9.2f}"
        f"{first['file_bytes'] / 1e3:>9.1f}  {merges}"
    )


def examples(methods):
    """For each method what it writes for a few words: 'swim → imsway', with ✗ where wrong."""
    for name, rows in methods.items():
        shown = [
            f"{w} → {a or '(nothing)'}{'' if right else ' ✗'}"
            for w, a, right in rows[0]["examples"]
        ]
        yield f"  {name:<14}{',  '.join(shown)}"
