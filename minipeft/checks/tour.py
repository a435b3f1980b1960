"""Checks of lesson 0, the tour: what a LoRA costs."""

from .base import check, expect


@check("LoRA trains r (in + out) numbers on each matrix")
def lora_count(draw, answer):
    """answer(r, shapes) -> how many numbers train, shapes a list of (out, in)."""
    r, n = draw.size("r"), draw.size("matrices", 1, 3)
    shapes = [(draw.size(f"out {i}"), draw.size(f"in {i}")) for i in range(n)]
    expect(answer(r, shapes), sum(r * (n_out + n_in) for n_out, n_in in shapes))
