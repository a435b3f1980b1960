"""Checks of lesson 2, memory: what is held between steps, what fits, micro-batches, FLOPs."""

from .base import check, expect, pair


@check(
    "a frozen parameter costs its own bytes, a trainable one 16, with all that AdamW holds",
    slips={
        "a frozen parameter has no gradient and no moments": (
            lambda frozen, trained, policy: 16 * (frozen + trained)
        ),
        "you forgot that bf16 has two bytes": (
            lambda frozen, trained, policy: 4 * frozen + 16 * trained
        ),
    },
)
def training_bytes(case, answer):
    """answer(frozen, trained, policy) -> bytes; policy is "fp32" or "bf16"."""
    policy = case.choice("policy", ("fp32", "bf16"))
    frozen, trained = case.size("frozen", 0, 1000), case.size("trained", 0, 1000)
    itemsize = 4 if policy == "fp32" else 2
    expect(answer(frozen, trained, policy), itemsize * frozen + 16 * trained, "bytes")


@check(
    "base · (2 + 16 · share) bytes fit, and one parameter more would not",
    stars=1,
    slips={
        "you forgot what trains": lambda room, share: room // 2,
        "you forgot the frozen weights themselves": lambda room, share: room // (16 * share),
        "all of the base trains": lambda room, share: room // 16,
        "a trainable parameter takes only its own two bytes": (
            lambda room, share: room // (2 + 2 * share)
        ),
        "you counted bits where the room is in bytes": (
            lambda room, share: room // (8 * (2 + 16 * share))
        ),
        "you rounded up": lambda room, share: -(-room // (2 + 16 * share)),
    },
)
def largest_base(case, answer):
    """answer(room, share) -> how many frozen parameters fit in `room` bytes, in bf16.

    share: trainable parameters for each frozen one.
    """
    share = case.choice("share", (0.5, 0.25, 0.125))  # exact in binary
    nbytes = 2 + 16 * share
    base = case.size("base", 0, 200)
    room = case.values["room"] = int(base * nbytes) + case.size("spare", 0, int(nbytes) - 1)
    del case.values["base"], case.values["spare"]
    expect(answer(room, share), base, "parameters of the base")


@check(
    "the largest part has ⌈batch / parts⌉ rows; as few parts as fit, 0 if no row does",
    stars=2,
    slips={
        "you rounded down: what is left over needs a part too": (
            lambda batch, per_row, room: batch * per_row // room
        ),
        "you divided bytes, but a row cannot be split between two parts": (
            lambda batch, per_row, room: -(-batch * per_row // room)
        ),
        "you forgot the 0 where not even one row fits": (
            lambda batch, per_row, room: -(-batch // max(1, room // per_row))
        ),
        "you read row by row, though several fit at once": (
            lambda batch, per_row, room: batch if per_row <= room else 0
        ),
    },
)
def parts_needed(case, answer):
    """answer(batch, per_row, room) -> the smallest number of parts; a row takes `per_row`."""
    batch, per_row = case.size("batch", 1, 40), case.size("per_row", 1, 9)
    room = case.size("room", 1, 30)
    parts = answer(batch, per_row, room)
    fitting = [n for n in range(1, batch + 1) if -(-batch // n) * per_row <= room]
    expect(parts, min(fitting, default=0), "parts")


def products(n, n_in, n_out, r):
    """Returns the FLOPs of x Wᵀ, and those of the two thin products of A and B."""
    return 2 * n * n_in * n_out, 2 * n * r * (n_in + n_out)


def flops_with(forward, backward):
    """Returns a function (n, in, out, r) -> FLOPs, each computed from those of `products`."""

    def flops(*sizes):
        w, ba = products(*sizes)
        return forward(w, ba), backward(w, ba)

    return flops


@check(
    "W costs 2 n · in · out forward and once more backward, A and B twice as much backward",
    stars=3,
    slips={
        "you counted a gradient of W, which is frozen": (
            flops_with(lambda w, ba: w + ba, lambda w, ba: 2 * w + 2 * ba)
        ),
        "you forgot that backward computes two products for each of A and B": (
            flops_with(lambda w, ba: w + ba, lambda w, ba: w + ba)
        ),
        "you forgot that the gradient passes back through W": (
            flops_with(lambda w, ba: w + ba, lambda w, ba: 2 * ba)
        ),
        "you counted a multiplication and an addition as one FLOP": (
            flops_with(lambda w, ba: (w + ba) // 2, lambda w, ba: (w + 2 * ba) // 2)
        ),
    },
)
def lora_flops(case, answer):
    """answer(n, in, out, r) -> (forward, backward) FLOPs of a frozen layer with LoRA."""
    n, n_in, n_out = case.size("n"), case.size("in"), case.size("out")
    r = case.size("r", 1, 3)
    forward, backward = pair(answer(n, n_in, n_out, r), "forward, backward")
    flops_w, flops_ba = products(n, n_in, n_out, r)
    expect(forward, flops_w + flops_ba, "forward")
    expect(backward, flops_w + 2 * flops_ba, "backward")
