"""Checks of lesson 2, memory: what is held between steps, what fits, micro-batches, FLOPs."""

from .base import check, expect, pair


@check("a frozen parameter costs its own bytes, a trainable one 16, with all that AdamW holds")
def training_bytes(case, answer):
    """answer(frozen, trained, policy) -> bytes; policy is "fp32" or "bf16"."""
    policy = case.choice("policy", ("fp32", "bf16"))
    frozen, trained = case.size("frozen", 0, 1000), case.size("trained", 0, 1000)
    itemsize = 4 if policy == "fp32" else 2
    expect(answer(frozen, trained, policy), itemsize * frozen + 16 * trained, "bytes")


@check("base · (2 + 16 · share) bytes fit, and one parameter more would not")
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


@check("the largest part has ⌈batch / parts⌉ rows; as few parts as fit, 0 if no row does")
def parts_needed(case, answer):
    """answer(batch, per_row, room) -> the smallest number of parts; a row takes `per_row`."""
    batch, per_row = case.size("batch", 1, 40), case.size("per_row", 1, 9)
    room = case.size("room", 1, 30)
    fitting = [n for n in range(1, batch + 1) if -(-batch // n) * per_row <= room]
    expect(answer(batch, per_row, room), min(fitting, default=0), "parts")


@check("W costs 2 n · in · out forward and once more backward, A and B twice as much backward")
def lora_flops(case, answer):
    """answer(n, in, out, r) -> (forward, backward) FLOPs of a frozen layer with LoRA."""
    n, n_in, n_out = case.size("n"), case.size("in"), case.size("out")
    r = case.size("r", 1, 3)
    forward, backward = pair(answer(n, n_in, n_out, r), "forward, backward")
    flops_w, flops_ba = 2 * n * n_in * n_out, 2 * n * r * (n_in + n_out)
    expect(forward, flops_w + flops_ba, "forward")
    expect(backward, flops_w + 2 * flops_ba, "backward")
