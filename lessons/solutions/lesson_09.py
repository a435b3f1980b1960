"""Solutions of lesson 9: mixed batches, bfloat16, unmerging, combined adapters.

python lessons/solutions/lesson_09.py        runs the lesson's checks on them
"""

import numpy as np

from minipeft.course import swapping


def mixed(x, W, A, B, which):
    """One pass for rows that use different adapters; −1 is the bare weight."""
    hidden = np.einsum("bi,bri->br", x, A[which])
    change = np.einsum("br,bor->bo", hidden, B[which])
    return x @ W.T + np.where(which[:, None] >= 0, change, 0.0)


def bf16(x):
    """float32 values rounded to the nearest bfloat16, halves to even, kept as float32."""
    bits = np.asarray(x, np.float32).view(np.uint32)
    last_bit = (bits >> 16) & 1  # of those that stay
    return ((bits + 0x7FFF + last_bit) & 0xFFFF0000).view(np.float32)


def merge_and_back(W, change):
    """★ Keep the old array instead of subtracting the change again."""
    return W + change, W


def combined(pairs, weights):
    """★★ Side by side: the B's as columns, the A's as rows, the weight on one of the two."""
    B = np.concatenate([w * b for w, (b, _) in zip(weights, pairs, strict=True)], axis=1)
    A = np.concatenate([a for _, a in pairs])
    return B, A


def best_of_rank(pairs, weights, k):
    """★★★ The SVD of the sum, from thin matrices: with B = Q R and Aᵀ = P S it is that of R Sᵀ.

    Zeros fill up where the sum has a lower rank than k.
    """
    B, A = combined(pairs, weights)
    (Q, R), (P, S) = np.linalg.qr(B), np.linalg.qr(A.T)
    u, s, vt = np.linalg.svd(R @ S.T, full_matrices=False)
    b, a = (Q @ u * s)[:, :k], (vt @ P.T)[:k]
    missing = max(k - len(a), 0)
    return np.pad(b, ((0, 0), (0, missing))), np.pad(a, ((0, missing), (0, 0)))


if __name__ == "__main__":
    swapping.mixed_batch(mixed)
    swapping.bf16(bf16)
    swapping.merge_and_back(merge_and_back)
    swapping.combined(combined)
    swapping.best_of_rank(best_of_rank)
