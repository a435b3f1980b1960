"""Answers to the checks of lesson 12."""

import numpy as np

from lessons.solutions import lesson_12 as right


def gate_by_length(q, k, v, P_k, P_v):
    """A gate that does not look at the query: n / (n + S)."""
    share = len(P_k) / (len(P_k) + len(k))
    text, prefix = (right.mixture(q, a, b, a, b) for a, b in ((k, v), (P_k, P_v)))
    return (1 - share) * text + share * prefix


def added(q, k, v, P_k, P_v):
    """Two attentions added up: weights that sum to 2."""
    return right.mixture(q, k, v, k, v) + right.mixture(q, P_k, P_v, P_k, P_v)


def dora_by_columns(W, B, A, s, m):
    """The paper's columns, of a transposed weight, taken for ours."""
    V = W + s * B @ A
    return m[:, None] * V / np.linalg.norm(V, axis=0)


def dora_by_base(W, B, A, s, m):
    """The length of W's rows, not of V's."""
    return (m / np.linalg.norm(W, axis=1))[:, None] * (W + s * B @ A)


def dora_in_place(W, B, A, s, m):
    """Right, but the base is gone."""
    W += s * B @ A
    W *= (m / np.linalg.norm(W, axis=1))[:, None]
    return W


def wrong_counts(method, r, n_out, n_in):
    """VeRA with the matrices that it shares; DoRA's m for each input."""
    lora = r * (n_out + n_in)
    return {"lora": lora, "dora": lora + n_in, "vera": lora, "loha": lora * lora}[method]


ANSWERS = {
    "mixture": (
        right.mixture,
        gate_by_length,
        added,
        lambda q, k, v, P_k, P_v: right.mixture(q, P_k, P_v, k[:1], v[:1]),
        lambda q, k, v, P_k, P_v: right.mixture(q * np.sqrt(q.shape[1] + 1), k, v, P_k, P_v),
    ),
    "count": (right.count, wrong_counts, lambda method, r, n_out, n_in: r * (n_out + n_in)),
    "dora": (right.dora, dora_by_columns, dora_by_base, dora_in_place),
    "kronecker": (
        right.kronecker,
        lambda W1, W2, x: right.kronecker(W2, W1, x),
        lambda W1, W2, x: (W2 @ x.reshape(W2.shape[1], W1.shape[1]) @ W1.T).reshape(-1),
        lambda W1, W2, x: np.kron(W1, W2) @ x,
    ),
}
