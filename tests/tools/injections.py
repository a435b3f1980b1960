"""Interrupt every operation at every line, and refuse it memory at every allocation.

    python tests/tools/injections.py [--every N] [--methods lora,full,…]

After each the model must be, bit for bit, as it was before; and the operation, done again, must
give what it gives undisturbed. Prints how often that was tried; exit 1 if it failed once.
"""

import argparse
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]

import minipeft as mp  # noqa: E402
from laws.case import Case  # noqa: E402
from laws.failing import allocations, beginnings, fails_cleanly  # noqa: E402

SIZES = dict(vocab=11, context=40, width=32, layers=1, heads=4, kv_heads=2, ffn=24)
CONFIGS = mp.Config.gpt2(**SIZES), mp.Config.llama(**SIZES)


def campaign(case, every):
    """Returns (how many injections, complaints) for one method on one model."""
    tried, complaints = 0, []
    for operation, start, lines, after in beginnings(case):
        points = [("line", n) for n in range(1, lines + 1, every)]
        points += [("allocation", n) for n in range(1, allocations(start) + 1, every)]
        for kind, number in points:
            tried += 1
            try:
                fails_cleanly(start, number, after, kind)
            except AssertionError as complaint:
                name = f"{case.method.name}, {operation.__name__}, {kind} {number}"
                complaints.append(f"{name}: {complaint}")
    return tried, complaints


def main():
    """Runs the campaign over methods and both shapes."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--every", type=int, default=1, help="try only each N-th line")
    parser.add_argument("--methods", default=",".join(mp.METHODS))
    options, total, complaints = parser.parse_args(), 0, []
    for name in options.methods.split(","):
        for config in CONFIGS:
            case = Case(config, mp.METHODS[name]())
            try:
                case.attached()
            except ValueError:  # such as BitFit where there are no biases
                continue
            tried, found = campaign(case, options.every)
            total, complaints = total + tried, complaints + found
        print(f"{name:<16}{total:>8,} injections so far, {len(complaints)} failed", flush=True)
    print("\n".join(complaints[:40]))
    sys.exit(bool(complaints))


if __name__ == "__main__":
    main()
