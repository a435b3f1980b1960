"""Answers to the checks of lesson 0."""

ANSWERS = {
    "lora_count": (
        lambda r, shapes: sum(r * (n_out + n_in) for n_out, n_in in shapes),
        lambda r, shapes: sum(r * n_out * n_in for n_out, n_in in shapes),
        lambda r, shapes: r * sum(shapes[0]),
        lambda r, shapes: sum(r * n_out for n_out, _ in shapes),
    ),
}
