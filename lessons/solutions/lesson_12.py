"""Solutions of lesson 12: attention with a prefix, counts, DoRA, Kronecker products.

python lessons/solutions/lesson_12.py        runs the lesson's checks on them
"""

import numpy as np

from minipeft.course import family


def mixture(q, k, v, P_k, P_v):
    """(1 − λ) attention to the sequence + λ attention to the prefix, λ for each query."""
    root = np.sqrt(q.shape[-1])
    text, prefix = np.exp(q @ k.T / root), np.exp(q @ P_k.T / root)
    on_text, on_prefix = text.sum(1, keepdims=True), prefix.sum(1, keepdims=True)
    share = on_prefix / (on_text + on_prefix)
    return (1 - share) * (text / on_text @ v) + share * (prefix / on_prefix @ P_v)


def count(method, r, n_out, n_in):
    """★ Parameters that train on one matrix (out, in)."""
    lora = r * (n_out + n_in)
    return {"lora": lora, "dora": lora + n_out, "vera": r + n_out, "loha": 2 * lora}[method]


def dora(W, B, A, s, m):
    """★★ Rows of V, each scaled to the length that m gives."""
    V = W + s * B @ A
    return (m / np.linalg.norm(V, axis=1))[:, None] * V


def kronecker(W1, W2, x):
    """★★★ x has the order of (i₁, i₂): W₂ acts on the second axis, W₁ on the first."""
    X = x.reshape(W1.shape[1], W2.shape[1])
    return (W1 @ X @ W2.T).reshape(-1)


if __name__ == "__main__":
    family.mixture(mixture)
    family.count(count)
    family.dora(dora)
    family.kronecker(kronecker)
