"""Checks of lesson 2, memory: what stands between steps, what fits, in parts, and the FLOPs."""

from .base import check, expect, require


@check(
    "a frozen number costs its own bytes, a trained one 16: itself, gradient, moments, master"
)
def training_bytes(draw, answer):
    """answer(frozen, trained, policy) -> bytes; policy is "fp32" or "bf16"."""
    policy = draw.choice("policy", ("fp32", "bf16"))
    frozen, trained = draw.size("frozen", 0, 1000), draw.size("trained", 0, 1000)
    each = 4 if policy == "fp32" else 2
    expect(answer(frozen, trained, policy), each * frozen + 16 * trained, "bytes")


@check("base · (2 + 16 · share) bytes fit, and one number more would not")
def largest_base(draw, answer):
    """answer(room, share) -> the largest whole number of frozen numbers, in bf16."""
    share = draw.choice("share", (0.5, 0.25, 0.125))  # exact in binary
    each = 2 + 16 * share
    fits = draw.size("fits", 0, 200)
    room = draw.drawn["room"] = int(fits * each) + draw.size("spare", 0, int(each) - 1)
    del draw.drawn["fits"], draw.drawn["spare"]
    expect(answer(room, share), fits, "base numbers")


@check("the largest part has ⌈batch / parts⌉ rows; as few parts as fit, 0 if no row does")
def parts_needed(draw, answer):
    """answer(batch, per_row, room) -> the smallest number of parts."""
    batch, per_row = draw.size("batch", 1, 40), draw.size("per_row", 1, 9)
    room = draw.size("room", 1, 90)
    parts = range(1, batch + 1)
    fitting = [p for p in parts if -(-batch // p) * per_row <= room]
    expect(answer(batch, per_row, room), min(fitting, default=0), "parts")


@check("W costs 2 n · in · out forward and once more backward, A and B twice as much backward")
def lora_flops(draw, answer):
    """answer(n, in, out, r) -> (forward, backward) FLOPs of a frozen layer with LoRA."""
    n, n_in, n_out = draw.size("n"), draw.size("in"), draw.size("out")
    r = draw.size("r", 1, 3)
    found = answer(n, n_in, n_out, r)
    require(isinstance(found, (tuple, list)) and len(found) == 2, "return (forward, backward)")
    wide, thin = 2 * n * n_in * n_out, 2 * n * r * (n_in + n_out)
    expect(found[0], wide + thin, "forward")
    expect(found[1], wide + 2 * thin, "backward")
