"""A Ledger as a table: bytes, shares of the total, and why each op keeps what it does."""

import math

KEEPS = {  # what the tape holds for an op, and why
    "linear": "the input, for the gradient of a weight that trains",
    "embedding": "the token ids",
    "dropout": "the mask, one byte a value",
    "gelu": "the slope at each input",
    "gelu_erf": "the slope at each input",
    "silu": "the slope at each input",
    "layer_norm": "the normed input, and 1 / √(var + eps) of each row",
    "rms_norm": "the normed input, and 1 / √(mean(x²) + eps) of each row",
    "softmax": "the probabilities",
    "attention": "queries, keys, values and probabilities",
    "rope": "sines and cosines",
    "cross_entropy": "the probabilities, and which rows and labels",
    "mul": "each operand, for the gradient of the other",
    "matmul": "each operand, for the gradient of the other",
    "div": "both operands",
    "exp": "the result",
    "sqrt": "the result",
    "tanh": "the result",
    "sigmoid": "the result",
    "log": "the input",
    "square": "the input",
    "power": "the input",
    "relu": "which inputs are above zero, one byte each",
    "where": "the condition",
    "getitem": "the indices",
    "chunked_loss": "the gradient of what the head reads, and of the head where it trains",
    "recomputed": "what enters each block",
}


def lines(ledger):
    """Yields the lines of the table."""
    yield f"{ledger.method}, on {ledger.base_parameters:,} parameters"
    yield (
        f"batch {ledger.batch} × {ledger.seq} tokens, {ledger.policy}"
        + (f", base in {ledger.base_bits} bits" if ledger.base_bits else "")
        + (f", in {ledger.accumulate} parts" if ledger.accumulate > 1 else "")
        + (", blocks recomputed" if ledger.recompute else "")
        + f"; trains {ledger.trainable_parameters:,}"
    )
    rows = {"weights": parts(ledger.weights_of), "gradients": ""}
    rows |= {"summed": "of the parts before", "optimiser": parts(ledger.optimiser_of)}
    rows |= {"tape": "at the end of the forward pass", "rebuilt": "one block, in backward"}
    for name, text in rows.items():
        n = getattr(ledger, name)
        if n or name not in ("rebuilt", "summed"):
            yield f"  {name:<18}{human(n):>10}{100 * n / ledger.total:>7.1f} %  {text}".rstrip()
        if name == "tape":
            for op, n in ledger.tape_by_op.items():
                yield f"    {op:<16}{human(n):>10}             {KEEPS.get(op, '')}".rstrip()
    yield f"  {'total':<18}{human(ledger.total):>10}"
    forward, backward = ledger.flops["forward"], ledger.flops["backward"]
    yield (
        f"  FLOPs             forward {human(forward, '')}, backward {human(backward, '')}, "
        f"{backward / forward:.2f} times as many"
    )
    if beside := parts(ledger.beside):
        yield f"  and beside it     {beside}"


def parts(named):
    """{name: bytes} in one line, without those that are nothing."""
    return ", ".join(f"{name} {human(n)}" for name, n in named.items() if n)


def human(n, unit="B"):
    """A count in thousands, millions, …: 13.48 GB.

    >>> human(13476831232), human(999), human(7.5e12, "")
    ('13.48 GB', '999 B', '7.50 T')
    """
    power = min(5, max(0, int(math.log10(n)) // 3)) if n else 0
    digits = f"{n / 1000**power:.2f}" if power else f"{n}"
    return f"{digits} {['', 'k', 'M', 'G', 'T', 'P'][power]}{unit}".rstrip()
