"""Checks of lesson 12: the LoRA family, and what all methods share."""

from unittest.mock import patch

from ..engine.backend import np
from .base import CheckFailed, check, expect, require


def softmax(scores):
    """Over the last axis."""
    e = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


@check("attention with a prefix is a mixture of two attentions, gated by the prefix's share")
def mixture(draw, answer):
    """answer(q, k, v, P_k, P_v) -> (T, K), for one head without a mask.

    q (T, K), k and v (S, K), P_k and P_v (n, K); scores are divided by √K.
    """
    T, S, n, K = (draw.size(name, 1, 4) for name in "TSnK")
    q, k, v = draw.array("q", T, K), draw.array("k", S, K), draw.array("v", S, K)
    P_k, P_v = draw.array("P_k", n, K), draw.array("P_v", n, K)
    keys, values = np.concatenate([P_k, k]), np.concatenate([P_v, v])
    wanted = softmax(q @ keys.T / np.sqrt(K)) @ values
    expect(answer(q, k, v, P_k, P_v), wanted, tolerance=1e-12)


@check("each member of the family trains as many numbers as its formula says")
def count(draw, answer):
    """answer(method, r, n_out, n_in) -> numbers on one matrix."""
    method = draw.choice("method", ("lora", "dora", "vera", "loha"))
    r, n_out, n_in = draw.size("r"), draw.size("out", 2), draw.size("in", 2)
    wanted = {
        "lora": r * (n_out + n_in),
        "dora": r * (n_out + n_in) + n_out,
        "vera": r + n_out,
        "loha": 2 * r * (n_out + n_in),
    }
    expect(answer(method, r, n_out, n_in), wanted[method], method)


@check("DoRA's rows have the lengths m and the directions of V = W + s B A")
def dora(draw, answer):
    """answer(W, B, A, s, m) -> the merged weight (out, in)."""
    n_out, n_in, r = draw.size("out"), draw.size("in", 2), draw.size("r", 1, 3)
    W, B, A = draw.array("W", n_out, n_in), draw.array("B", n_out, r), draw.array("A", r, n_in)
    s, m = draw.number("s", 0.5, 4), np.abs(draw.array("m", n_out))
    draw.drawn["m"] = m
    V = W + s * B @ A
    if np.linalg.norm(V, axis=1).min() < 1e-6:
        return  # a row without a direction
    before = W.copy()
    got = answer(W, B, A, s, m)
    require((W == before).all(), "your answer wrote into W; copy it first")
    wanted = np.array(
        [length * row / np.linalg.norm(row) for length, row in zip(m, V, strict=True)]
    )
    expect(got, wanted)


@check("(W₁ ⊗ W₂) x is W₂ X W₁ᵀ, x folded to X: no (out, in) matrix is needed")
def kronecker(draw, answer):
    """answer(W1, W2, x) -> np.kron(W1, W2) @ x, x of length i₁ i₂."""
    o1, i1, o2, i2 = (draw.size(name, 1, 4) for name in ("o₁", "i₁", "o₂", "i₂"))
    W1, W2 = draw.array("W₁", o1, i1), draw.array("W₂", o2, i2)
    x = draw.array("x", i1 * i2)
    wanted = np.kron(W1, W2) @ x
    with patch.object(np, "kron", too_large):
        got = answer(W1, W2, x)
    expect(got, wanted)


def too_large(*factors):
    """What np.kron is while an answer is tried."""
    raise CheckFailed("do it without np.kron, which forms the large matrix")
