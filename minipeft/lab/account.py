"""A Ledger: the bytes and FLOPs of one training step, and how they read as a table."""

import math
from collections import Counter
from dataclasses import asdict, dataclass

from . import costs

OTHERS = {  # what is no op of its own
    "chunked_loss": "the gradient of what the head reads, and of the head where it trains",
    "recomputed": "what enters each block",
}


@dataclass(frozen=True, repr=False)
class Ledger:
    """Bytes and FLOPs of one training step; see the module for what each is."""

    method: str
    batch: int
    seq: int
    policy: str
    base_bits: int | None
    recompute: bool
    accumulate: int
    base_numbers: int
    trainable_numbers: int
    weights_of: dict[str, int]
    gradients: int
    optimiser_of: dict[str, int]
    kept: dict[tuple[str, str], int]  # {(layer, op): bytes} of the tape
    rebuilt: int
    beside: dict[str, int]
    flops: dict[str, int]

    @property
    def weights(self):
        """Bytes that the forward pass reads."""
        return sum(self.weights_of.values())

    @property
    def summed(self):
        """Bytes of the gradients' sum over the parts before, if the batch is read in parts."""
        return self.gradients if min(self.accumulate, self.batch) > 1 else 0

    @property
    def optimiser(self):
        """Bytes of the optimiser's state."""
        return sum(self.optimiser_of.values())

    @property
    def tape(self):
        """Bytes that the tape holds when the forward pass ends."""
        return sum(self.kept.values())

    @property
    def tape_by_op(self):
        """The same by kind of op, the largest first."""
        return dict(Counter(by_layer(self.kept, 1)).most_common())

    @property
    def tape_by_layer(self):
        """The same by block, from the start to the head."""
        return by_layer(self.kept)

    @property
    def total(self):
        """Bytes of all of these: the tape shrinks while gradients come, so seldom at once."""
        parts = self.weights, self.gradients, self.summed, self.optimiser, self.tape
        return sum(parts) + self.rebuilt

    def as_dict(self):
        """All of it as a JSON object."""
        values = {k: v for k, v in asdict(self).items() if k not in ("kept", "flops")}
        derived = "weights summed optimiser tape tape_by_op tape_by_layer total".split()
        values |= {name: getattr(self, name) for name in derived}
        return values | {"flops": self.flops | {"total": sum(self.flops.values())}}

    def __repr__(self):
        return "\n".join(lines(self))


def by_layer(kept, part=0):
    """Bytes of {(layer, op): bytes} added up by layer, or by op as the other part."""
    totals = Counter()
    for key, n in kept.items():
        totals[key[part]] += n
    return dict(totals)


def lines(found):
    """The Ledger as a table: bytes, shares of the total, and the largest parts of the tape."""
    yield f"{found.method}, on {found.base_numbers:,} numbers"
    yield (
        f"batch {found.batch} × {found.seq} tokens, {found.policy}"
        + (f", base in {found.base_bits} bits" if found.base_bits else "")
        + (f", in {found.accumulate} parts" if found.accumulate > 1 else "")
        + (", blocks recomputed" if found.recompute else "")
        + f"; trains {found.trainable_numbers:,}"
    )
    rows = {"weights": parts(found.weights_of), "gradients": ""}
    rows |= {"summed": "of the parts before", "optimiser": parts(found.optimiser_of)}
    rows |= {"tape": "at the end of the forward pass", "rebuilt": "one block, in backward"}
    for name, text in rows.items():
        n = getattr(found, name)
        if n or name not in ("rebuilt", "summed"):
            yield f"  {name:<18}{human(n):>10}{100 * n / found.total:>7.1f} %  {text}".rstrip()
        if name == "tape":
            yield from (
                f"    {op:<16}{human(n):>10}             {reason(op)}".rstrip()
                for op, n in found.tape_by_op.items()
            )
    yield f"  {'total':<18}{human(found.total):>10}"
    forward, backward = found.flops["forward"], found.flops["backward"]
    yield (
        f"  FLOPs             forward {human(forward, '')}, backward {human(backward, '')}, "
        f"{backward / forward:.2f} times as many"
    )
    if beside := parts(found.beside):
        yield f"  and beside it     {beside}"


def parts(named):
    """{name: bytes} in one line, without those that are nothing."""
    return ", ".join(f"{name} {human(n)}" for name, n in named.items() if n)


def human(n, unit="B"):
    """A number in thousands, millions, …: 13.48 GB.

    >>> human(13476831232), human(999), human(7.5e12, "")
    ('13.48 GB', '999 B', '7.50 T')
    """
    power = min(5, max(0, int(math.log10(n)) // 3)) if n else 0
    digits = f"{n / 1000**power:.2f}" if power else f"{n}"
    return f"{digits} {['', 'k', 'M', 'G', 'T', 'P'][power]}{unit}".rstrip()


def reason(op):
    """What an op keeps and why, in a few words."""
    if op in OTHERS:
        return OTHERS[op]
    return (getattr(costs, op).__doc__ or "").split(". ")[0].split("\n")[0].rstrip(".")
