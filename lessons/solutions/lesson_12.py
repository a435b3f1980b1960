"""Solutions of lesson 12: the LoRA family and the unified view."""

import numpy as np

from minipeft.course import family


def mixture(q, k, v, P_k, P_v):
    """(1 − λ) attention to the sequence + λ attention to the prefix, λ for each query."""
    root = np.sqrt(q.shape[-1])
    own, prefix = np.exp(q @ k.T / root), np.exp(q @ P_k.T / root)
    all_own, all_prefix = own.sum(1, keepdims=True), prefix.sum(1, keepdims=True)
    share = all_prefix / (all_own + all_prefix)
    return (1 - share) * (own / all_own @ v) + share * (prefix / all_prefix @ P_v)


def count(method, r, n_out, n_in):
    """Numbers that train on one matrix (out, in)."""
    thin = r * (n_out + n_in)
    return {"lora": thin, "dora": thin + n_out, "vera": r + n_out, "loha": 2 * thin}[method]


def dora(W, B, A, s, m):
    """Rows of V, each made as long as m says."""
    V = W + s * B @ A
    return (m / np.linalg.norm(V, axis=1))[:, None] * V


def kronecker(W1, W2, x):
    """x has the order of (i₁, i₂): W₂ acts on the second axis, W₁ on the first."""
    X = x.reshape(W1.shape[1], W2.shape[1])
    return (W1 @ X @ W2.T).reshape(-1)


if __name__ == "__main__":
    family.mixture(mixture)
    family.count(count)
    family.dora(dora)
    family.kronecker(kronecker)
