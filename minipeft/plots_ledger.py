"""The picture of a ledger: bars of what a training step holds, a method each."""

from .plots import LARGE, SMALL, canvas

PARTS = {  # {part: (colour, what it is)}; of Okabe & Ito's
    "weights": ("#BBBBBB", "weights"),
    "gradients": ("#D55E00", "gradients"),
    "optimiser": ("#0072B2", "optimiser"),
    "activations": ("#009E73", "tape (activations)"),
}
CUT = 1.9  # the axis ends at so many times the second largest bar


def bars(rows):
    """A Figure of {label: a Ledger's as_dict()}: stacked bars of bytes, one below the other.

    A bar that is much longer than all others is cut, and its length written; beside each are
    what trains and the share of the largest number of FLOPs.
    """
    figure, (axes,) = canvas(1, 1, 8.8, 1.5 + 0.42 * len(rows))
    totals = sorted((row["total"] / 1e9 for row in rows.values()), reverse=True)
    end = min(totals[0], CUT * totals[1]) if len(totals) > 1 else totals[0]
    most = max(row["flops"]["total"] for row in rows.values())
    for y, row in enumerate(rows.values()):
        left = 0.0
        for part, (colour, _) in PARTS.items():
            n = row["tape"] + row["rebuilt"] if part == "activations" else row[part]
            axes.barh(y, n / 1e9, left=left, color=colour, height=0.68)
            left += n / 1e9
        flops = row["flops"]["total"] / most
        text = f"{left:.1f} GB · trains {row['trainable_numbers']:,} · {flops:.0%} of the FLOPs"
        if left > end:  # the end of a bar that is cut
            axes.text(0.985 * end, y, f"{text}  →", ha="right", va="center", fontsize=SMALL,
                      color="white")  # fmt: skip
        else:
            axes.text(left + 0.01 * end, y, text, va="center", fontsize=SMALL)
    axes.set_yticks(range(len(rows)), rows, fontsize=LARGE)
    axes.set(xlim=(0, end), xlabel="GB")
    axes.invert_yaxis()
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    handles = [axes.barh(0, 0, color=colour, label=name) for colour, name in PARTS.values()]
    figure.legend(handles=handles, loc="outside upper left", ncols=4, frameon=False,
                  fontsize=SMALL)  # fmt: skip
    return figure
