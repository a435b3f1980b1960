"""Solutions of lesson 2: what is held in memory, what fits there, and what a step computes.

python lessons/solutions/lesson_02.py        runs the lesson's checks on them
"""

from minipeft.course import memory


def training_bytes(frozen, trained, policy):
    """Bytes held between steps, for so many frozen and trainable parameters."""
    if policy == "fp32":
        weight, gradient, moments, master = 4, 4, 4 + 4, 0
    else:  # bf16
        weight, gradient, moments, master = 2, 2, 4 + 4, 4
    return frozen * weight + trained * (weight + gradient + moments + master)


def largest_base(room, share):
    """★ Each parameter of the base brings 16 · share bytes of trainable ones with it."""
    return int(room // (2 + 16 * share))


def parts_needed(batch, per_row, room):
    """★★ Round up: a last part of fewer rows is a part too."""
    rows = room // per_row
    return -(-batch // rows) if rows else 0


def lora_flops(n, n_in, n_out, r):
    """★★★ ∂L/∂x through W; then ∂L/∂B and ∂L/∂h of B's product, ∂L/∂A and ∂L/∂x of A's."""
    flops_w, flops_ba = 2 * n * n_in * n_out, 2 * n * n_in * r + 2 * n * r * n_out
    return flops_w + flops_ba, flops_w + 2 * flops_ba


if __name__ == "__main__":
    memory.training_bytes(training_bytes)
    memory.largest_base(largest_base)
    memory.parts_needed(parts_needed)
    memory.lora_flops(lora_flops)
