"""Print how near each method is to HF PEFT, in float64.

python tests/parity/table.py              a line a method
python tests/parity/table.py boft miss    some of them

A number is the largest difference, relative to the largest value that HF PEFT computes, over
all rows of the method's spec, on a fixed model and two random ones: of the logits, of the
gradient of the loss, of losses and parameters over 20 updates by AdamW, and of the logits after
HF PEFT opens our file (out) and we open HF PEFT's (in).
"""

import logging
import sys
import tempfile
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
warnings.simplefilter("ignore")
logging.disable(logging.WARNING)

from hf import difference, hf_logits, hf_loss  # noqa: E402
from pairs import Pair  # noqa: E402
from test_exchange import EXPORTED, IMPORTED, off, opened  # noqa: E402

import minipeft as mp  # noqa: E402
from methods import SPECS  # noqa: E402
from minipeft.engine import functional as F  # noqa: E402
from strategies import batch, model  # noqa: E402

SEEDS = (None, 0, 1)
COLUMNS = ("forward", "gradient", "20 steps", "out", "in")


def computed(row, seed):
    """The differences of the logits and of all gradients."""
    pair = Pair(row, "float64", seed).shake()
    ids, labels = batch(pair.config, B=3, T=6)
    ours, theirs = pair.ours(ids), hf_logits(pair.theirs, ids)
    F.cross_entropy(ours, labels).backward()
    hf_loss(theirs, labels).backward()
    wanted, found = {name: p.grad for name, p in pair.hf.items()}, pair.gradients()
    least = 1e-2 * max(float(g.abs().max()) for g in wanted.values())
    gradient = max(difference(found[name], wanted[name], least) for name in wanted)
    return {"forward": difference(ours.data, theirs), "gradient": gradient}


def trained(row, seed):
    """The difference of the losses of 20 updates and of what they lead to."""
    pair = Pair(row, "float64", seed)
    losses = difference(*pair.train())
    ours, theirs = pair.trained()
    return {"20 steps": max(losses, *(difference(ours[name], theirs[name]) for name in theirs))}


def exchanged(name, row, seed):
    """The differences of the logits over a file, in the directions that the row has."""
    pair, found = Pair(row, "float64", seed).shake(), {}
    with tempfile.TemporaryDirectory() as name_of_folder:
        folder = Path(name_of_folder)
        if name in EXPORTED:
            path = mp.export_adapter(pair.ours, "default", folder / "ours")
            found["out"] = off(pair.ours, opened(pair, path, seed))
        if name in IMPORTED:
            row.files.save(pair, folder / "theirs")
            fresh = model(pair.config, seed or 0)
            mp.import_adapter(fresh, folder / "theirs", "default")
            found["in"] = off(fresh, pair.theirs)
    return found


def line(spec):
    """The worst of each difference over the rows of a method and over all models."""
    worst = {}
    for name, row in spec.rows.items():
        for seed in SEEDS:
            found = computed(row, seed) | trained(row, seed) | exchanged(name, row, seed)
            for column, value in found.items():
                worst[column] = max(value, worst.get(column, 0.0))
    return [f"{worst[column]:.0e}" if column in worst else "–" for column in COLUMNS]


def main():
    """Prints the table."""
    names = sys.argv[1:] or [name for name, spec in SPECS.items() if spec.rows]
    print(f"{'method':<18}{'rows':>5}" + "".join(f"{name:>10}" for name in COLUMNS))
    for name in names:
        cells = "".join(f"{cell:>10}" for cell in line(SPECS[name]))
        print(f"{name:<18}{len(SPECS[name].rows):>5}{cells}", flush=True)


if __name__ == "__main__":
    main()
