"""Answers to the checks of lesson 2."""

from lessons.solutions.lesson_02 import largest_base, lora_flops, parts_needed, training_bytes

ANSWERS = {
    "training_bytes": (
        training_bytes,
        lambda frozen, trained, policy: 16 * (frozen + trained),
        lambda frozen, trained, policy: 4 * frozen + 16 * trained,  # bf16 forgotten
        lambda frozen, trained, policy: training_bytes(frozen, trained, policy) - 4 * trained,
        lambda frozen, trained, policy: training_bytes(frozen, 0, policy) + 8 * trained,
    ),
    "largest_base": (
        largest_base,
        lambda room, share: room // 2,  # what trains forgotten
        lambda room, share: room // 16,  # all trains
        lambda room, share: int(room / (2 + 16 * share)) + 1,
        lambda room, share: int(room // (2 + 14 * share)),  # without gradients
    ),
    "parts_needed": (
        parts_needed,
        lambda batch, per_row, room: batch * per_row // room,  # rounded down
        lambda batch, per_row, room: -(-batch * per_row // room),  # parts of a row
        lambda batch, per_row, room: parts_needed(batch, per_row, room) or batch,
        lambda batch, per_row, room: batch,
    ),
    "lora_flops": (
        lora_flops,
        lambda n, n_in, n_out, r: (f := lora_flops(n, n_in, n_out, r)[0], 2 * f),  # W trains
        lambda n, n_in, n_out, r: (lora_flops(n, n_in, n_out, r)[0],) * 2,
        lambda n, n_in, n_out, r: tuple(x // 2 for x in lora_flops(n, n_in, n_out, r)),
        lambda n, n_in, n_out, r: lora_flops(n, n_in, n_in, r),
    ),
}
