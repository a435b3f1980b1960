"""Solutions of lesson 4: LoRA forward, merged, its gradients, and a change compressed.

python lessons/solutions/lesson_04.py        runs the lesson's checks on them
"""

import numpy as np

from minipeft.course import lora


def lora_forward(x, W, A, B, alpha):
    """x Wᵀ + (α / r) x Aᵀ Bᵀ: x (n, in), W (out, in), A (r, in), B (out, r)."""
    r = len(A)
    return x @ W.T + alpha / r * (x @ A.T) @ B.T


def merged(W, A, B, alpha):
    """★ A new array; `W += …` would have destroyed the base."""
    return W + alpha / len(A) * B @ A


def gradients(g, x, A, B, s):
    """★★ With h = x Aᵀ and y = … + s h Bᵀ: ∂L/∂h = s g B, which is 0 while B is."""
    h = x @ A.T
    dh = s * g @ B
    return dh.T @ x, s * g.T @ h


def compress(change, r, alpha):
    """★★★ The r largest singular values, the root of each on either side."""
    u, sigma, vt = np.linalg.svd(change, full_matrices=False)
    root = np.sqrt(sigma[:r] * r / alpha)
    return root[:, None] * vt[:r], u[:, :r] * root


if __name__ == "__main__":
    lora.forward(lora_forward)
    lora.merged(merged)
    lora.gradients(gradients)
    lora.compress(compress)
