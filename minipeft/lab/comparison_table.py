"""A comparison in words: one table for each task and number of steps, and what they say."""

import statistics

from ..peft.methods import METHODS, LoRA

COMPARED = METHODS | {"qlora": LoRA}  # on a backbone in nf4
CLOSE = 0.05  # a method this near to full fine-tuning, in exact match, is as good
COIN_TOSS = 0.5  # seeds that differ by more than this: one learns the task, another does not


def groups(rows):
    """Returns {(task, steps): {method: its rows, one a seed}}, in the order they come."""
    grouped = {}
    for row in rows:
        group = grouped.setdefault((row["task"], row["steps"]), {})
        group.setdefault(row["method"], []).append(row)
    return grouped


def families(methods):
    """Returns {family: {method: …}} of {method: …}, both in the order of COMPARED."""
    grouped = {}
    for name, method in COMPARED.items():
        if name in methods:
            grouped.setdefault(method.family, {})[name] = methods[name]
    return grouped


def mean(rows, column):
    """Returns the mean of a column over rows that differ only by seed."""
    return statistics.fmean(row[column] for row in rows)


def spread(rows, column):
    """Returns (mean, lowest, highest) of a column over seeds."""
    return extent([row[column] for row in rows])


def extent(values):
    """Returns (mean, lowest, highest) of some values."""
    middle = statistics.fmean(values)
    return middle, min(middle, *values), max(middle, *values)  # rounding may put it outside


def span(rows):
    """Returns the exact match of the worst and of the best seed, as text: 0.01–0.98."""
    _, low, high = spread(rows, "exact")
    return f"{low:.2f}–{high:.2f}"


def is_coin_toss(rows):
    """Returns whether it depends on the seed if a method learns the task at all."""
    _, low, high = spread(rows, "exact")
    return high - low > COIN_TOSS


FEW = 8  # methods that need no headings
# what is counted, on words and on a language model
WORDS = {"unit": "words", "right": "exact match", "token": "a letter", "old": "old tasks",
         "picture": "exact match on unseen words"}  # fmt: skip
MODEL = {"unit": "conversations", "right": "right answers", "token": "a token",
         "old": "other text", "picture": "right answers to unseen questions"}  # fmt: skip


def wording(rows):
    """Returns what the columns of some rows are called."""
    return MODEL if rows[0].get("kind") == "model" else WORDS


def head(rows):
    """Returns the heading of the columns."""
    says = wording(rows)
    return (
        f"{'method':<16}{'trainable':>10}{'% base':>8}{'lr':>8}{says['right']:>19}{'loss':>8}"
        f"{says['old']:>11}{'detached':>10}{'ms/step':>9}{'tape MB':>9}{'file kB':>9}"
        "  merges (max logit change)"
    )


def table(rows):
    """Returns everything measured, what each model writes for three words, and the message.

    Methods stand family by family; if there are many, each family has a heading.
    """
    lines = []
    for (task, steps), methods in groups(rows).items():
        lines += [heading(task, steps, methods), head(rows)]
        for family, members in families(methods).items():
            headed = len(methods) > FEW and len(members) > 1
            lines += [f"{family}-family"] if headed else []
            lines += [line(name, seeds) for name, seeds in members.items()]
        lines += coin_tosses({(task, steps): methods})
        lines += ["", *examples(methods), ""]
    return "\n".join([*lines, message(rows)])


def heading(task, steps, methods):
    """Returns what was measured, and how good the backbone was before."""
    first = next(iter(methods.values()))[0]
    says = wording([first])
    return (
        f"{task}: {steps} steps of {first['batch_size']} {says['unit']}, "
        f"{seed_count(methods)}; before: {says['right']} {first['exact_before']:.3f}, "
        f"loss {first['loss_before']:.2f} nats {says['token']}, "
        f"{says['old']} {first['old_before']:.3f}"
    )


def seed_count(methods):
    """Returns how many seeds a comparison has, as text: 1 seed, 3 seeds."""
    most = max(map(len, methods.values()))
    return f"{most} seed{'s'[: most > 1]}"


def line(name, rows):
    """Returns the line of a method: means over its seeds, and the span of the exact match."""
    first, exact = rows[0], f"{mean(rows, 'exact'):.3f}"
    exact += f" ({span(rows)})" if len(rows) > 1 else ""
    merges = (
        f"yes ({max(r['merge_difference'] for r in rows):.0e})" if first["mergeable"] else "no"
    )
    return (
        f"{name:<16}{first['trainable']:>10,}{first['percent']:>8.2f}{first['lr']:>8.2g}"
        f"{exact:>19}{mean(rows, 'loss'):>8.3f}"
        f"{mean(rows, 'old'):>11.3f}{mean(rows, 'old_detached'):>10.3f}"
        f"{1e3 * mean(rows, 'seconds_per_step'):>9.1f}{first['tape_bytes'] / 1e6:>9.2f}"
        f"{first['file_bytes'] / 1e3:>9.1f}  {merges}"
    )


def examples(methods):
    """Yields what each method writes for a few words: 'swim → imsway', with ✗ where wrong."""
    for name, rows in methods.items():
        words = [
            f"{lemma} → {answer or '(nothing)'}{'' if right else ' ✗'}"
            for lemma, answer, right in rows[0]["examples"]
        ]
        yield f"  {name:<14}{',  '.join(words)}"


def message(rows):
    """Returns what a comparison says, one sentence a line."""
    grouped = groups(rows)
    return "\n".join([*winner(grouped), *coin_tosses(grouped)])


def winner(grouped):
    """Yields which method is as good as full fine-tuning on the most tasks, the smallest first.

    After the largest number of steps, on the tasks that full fine-tuning learns.
    """
    most, near, percent = max(steps for _, steps in grouped), {}, {}
    for (task, steps), methods in grouped.items():
        goal = mean(methods["full"], "exact") - CLOSE if "full" in methods else 0
        if steps == most and goal > 0:
            for name, rows in methods.items():
                percent[name] = rows[0]["percent"]
                if mean(rows, "exact") >= goal:
                    near.setdefault(name, []).append(task)
    near.pop("full", None)
    if near:
        best = max(near, key=lambda name: (len(near[name]), -percent[name]))
        yield (
            f"With {percent[best]:.2g} % of the parameters, {best} is within {CLOSE} "
            f"of full fine-tuning on {named(near[best])}."
        )
    elif len(percent) > 1:
        yield f"After {most} steps no method is within {CLOSE} of full fine-tuning."


def coin_tosses(grouped):
    """Yields, for each task and number of steps, which methods are a coin toss."""
    for (task, steps), methods in grouped.items():
        tosses = [
            f"{name} {span(rows)}" for name, rows in methods.items() if is_coin_toss(rows)
        ]
        if tosses:
            over = f"over {seed_count(methods)}"
            yield f"On {task}, {steps} steps are a coin toss: {named(tosses)} {over}."


def named(things):
    """Returns a list as text: 'a, b and c'."""
    *others, last = things
    return f"{', '.join(others)} and {last}" if others else last
