"""Answers to the checks of lesson 4."""

import numpy as np

from lessons.solutions.lesson_04 import compress, gradients, lora_forward, merged


def merged_in_place(W, A, B, alpha):
    """The right values, but the base is lost."""
    W += alpha / len(A) * B @ A
    return W


def unscaled(change, r, alpha):
    """Forgets that the product is multiplied by α / r."""
    return compress(change, r, r)


def last_terms(change, r, alpha):
    """The smallest singular values instead of the largest."""
    u, sigma, vt = np.linalg.svd(change, full_matrices=False)
    return vt[-r:], u[:, -r:] * sigma[-r:] * r / alpha


ANSWERS = {
    "forward": (
        lora_forward,
        lambda x, W, A, B, alpha: x @ W.T + alpha * x @ A.T @ B.T,  # no division by r
        lambda x, W, A, B, alpha: x @ W.T + x @ A.T @ B.T,  # no α
        lambda x, W, A, B, alpha: alpha / len(A) * x @ A.T @ B.T,  # no frozen path
        lambda x, W, A, B, alpha: x @ W.T + alpha / len(A[0]) * x @ A.T @ B.T,  # α / in
        lambda x, W, A, B, alpha: x @ W.T + alpha / len(A) * x @ B @ A,  # swapped
    ),
    "merged": (
        merged,
        merged_in_place,
        lambda W, A, B, alpha: W + B @ A,
        lambda W, A, B, alpha: W + alpha * B @ A,
        lambda W, A, B, alpha: W + alpha / len(A) * (B @ A).T,
        lambda W, A, B, alpha: W - alpha / len(A) * B @ A,
    ),
    "gradients": (
        gradients,
        lambda g, x, A, B, s: gradients(g, x, A, B, s)[::-1],
        lambda g, x, A, B, s: (gradients(g, x, A, B, 1)[0], gradients(g, x, A, B, s)[1]),
        lambda g, x, A, B, s: gradients(g / len(g), x, A, B, s),  # mean for sum
        lambda g, x, A, B, s: (s * g.T @ x, s * g.T @ x @ A.T),  # B left out
    ),
    "compress": (
        compress,
        unscaled,
        last_terms,
        lambda change, r, alpha: compress(change, r, alpha)[::-1],
        lambda change, r, alpha: compress(change, 1, alpha),
    ),
}
