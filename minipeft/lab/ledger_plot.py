"""The picture of a ledger: bars of what a training step holds, a method each."""

from .ledger_table import human
from .plots import LARGE, SMALL, canvas

PARTS = {  # {what it is: (colour, hatch, keys of a Ledger)}; colours of Okabe & Ito's
    "weights": ("#BBBBBB", "", ["weights"]),
    "gradients": ("#D55E00", "///", ["gradients", "summed"]),
    "optimiser": ("#0072B2", "", ["optimiser"]),
    "tape (activations)": ("#009E73", "...", ["tape", "rebuilt"]),
}
CUT = 1.9  # the axis ends at so many times the second largest bar
UNITS = {"GB": 1e9, "MB": 1e6, "kB": 1e3, "B": 1}


def bars(rows):
    """A Figure of {label: a Ledger's as_dict()}: stacked bars of bytes, one below the other.

    A bar that is much longer than all others is cut, and its length written; beside each are
    what trains and the share of the largest number of FLOPs.
    """
    figure, (axes,) = canvas(1, 1, 8.8, 1.8 + 0.42 * len(rows))
    totals = sorted((row["total"] for row in rows.values()), reverse=True)
    end = min(totals[0], CUT * totals[1]) if len(totals) > 1 else totals[0]
    name, unit = next((n, u) for n, u in UNITS.items() if end >= u)
    most = max(row["flops"]["total"] for row in rows.values())
    for y, row in enumerate(rows.values()):
        stack(axes, y, row, unit)
        flops = f"{row['flops']['total'] / most:.0%} of the FLOPs"
        text = f"{human(row['total'])} · trains {row['trainable_parameters']:,} · {flops}"
        write(axes, y, row["total"] / unit, end / unit, text)
    axes.set_yticks(range(len(rows)), rows, fontsize=LARGE)
    axes.set(xlim=(0, end / unit), xlabel=f"{name} held in {asked(row)}")
    axes.invert_yaxis()
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    handles = [axes.barh(0, 0, label=part, **look(part)) for part in PARTS]
    figure.legend(handles=handles, loc="outside upper left", ncols=4, frameon=False,
                  fontsize=SMALL)  # fmt: skip
    axes.set_title(message(rows), fontsize=LARGE, loc="left")
    return figure


def message(rows):
    """Returns which of the rows holds most and which that trains holds least, in words."""
    totals = {name: row["total"] for name, row in rows.items() if row["trainable_parameters"]}
    if not totals:
        return "Nothing trains"
    most, least = max(totals, key=totals.get), min(totals, key=totals.get)
    if most == least:
        return f"{most} holds {human(totals[most])}"
    return (
        f"{most} holds {human(totals[most])}, {least} holds {human(totals[least])}: "
        f"{totals[most] / totals[least]:.2g} times less"
    )


def look(part):
    """Returns how a part of a bar is filled: a colour, and a hatch for those who see none."""
    colour, hatch, _ = PARTS[part]
    return {"color": colour, "hatch": hatch, "edgecolor": "white", "linewidth": 0}


def stack(axes, y, row, unit):
    """Draw one bar."""
    left = 0.0
    for part, (_, _, keys) in PARTS.items():
        n = sum(row[key] for key in keys) / unit
        axes.barh(y, n, left=left, height=0.68, **look(part))
        left += n


def write(axes, y, length, end, text):
    """Write beside a bar, or into one that is cut, with a mark of that at its end."""
    if length <= end:
        axes.text(length + 0.01 * end, y, text, va="center", fontsize=SMALL)
        return
    paper = {"boxstyle": "round,pad=0.25", "fc": "white", "ec": "none"}  # over several colours
    axes.text(0.95 * end, y, text, ha="right", va="center", fontsize=SMALL, bbox=paper)
    for x in (0.97, 0.98):
        axes.plot([(x - 0.006) * end, (x + 0.006) * end], [y + 0.4, y - 0.4], "w", lw=3)


def asked(row):
    """Of what step a Ledger is, in a line."""
    parts = f" in {row['accumulate']} parts" if row["accumulate"] > 1 else ""
    less = ", blocks recomputed" if row["recompute"] else ""
    size = f"{row['base_parameters']:,} parameters, {row['policy']}"
    return f"a training step on {size}, batch {row['batch']} × {row['seq']} tokens{parts}{less}"
