"""Answers to the checks of lesson 7."""

import numpy as np

from lessons.solutions import lesson_07 as right


def output_in_place(W, b, stretch):
    W *= stretch[:, None]
    return W, stretch * b


def input_in_place(W, b, stretch):
    W *= stretch
    return W, b


ANSWERS = {
    "stretch_output": (
        right.stretch_output,
        lambda W, b, s: (s[:, None] * W, b),
        lambda W, b, s: (s * W, s * b),
        lambda W, b, s: (W + np.diag(s) @ W, b + s * b),
        output_in_place,
    ),
    "stretch_input": (
        right.stretch_input,
        lambda W, b, s: (s[:, None] * W, b),
        lambda W, b, s: (W * s, b * s),
        lambda W, b, s: (W / s, b),
        input_in_place,
    ),
    "biases": (
        right.biases,
        lambda layers, width, ffn: layers * (5 * width + ffn),
        lambda layers, width, ffn: layers * (5 * width + ffn + 2 * width),
        lambda layers, width, ffn: 11 * layers * width + width,
    ),
    "merged_norm": (
        right.merged_norm,
        lambda W, b, gain, beta: (W * gain, b),
        lambda W, b, gain, beta: (W * gain, b + beta[: len(b)].sum()),
        lambda W, b, gain, beta: (W * gain, W @ (gain * beta) + b),
        lambda W, b, gain, beta: (gain[: len(b), None] * W, W @ beta + b),
    ),
    "best_stretch": (
        right.best_stretch,
        lambda W, T: (T / W).mean(axis=1),
        lambda W, T: (W * T).sum(axis=1) / (T * T).sum(axis=1),
        lambda W, T: np.linalg.norm(T, axis=1) / np.linalg.norm(W, axis=1),
        lambda W, T: (W * T).sum(axis=0) / (W * W).sum(axis=0),
    ),
}
