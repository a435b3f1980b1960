"""Checks of lesson 12: the LoRA family, and what all methods share."""

from unittest.mock import patch

from ..engine.backend import np
from .base import CheckFailed, call, check, expect


def softmax(scores):
    """Returns the softmax over the last axis."""
    e = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


@check("attention with a prefix is a mixture of two attentions, gated by the prefix's share")
def mixture(case, answer):
    """answer(q, k, v, P_k, P_v) -> (T, K), for one head without a mask.

    q (T, K), k and v (S, K), P_k and P_v (n, K); scores are divided by √K.
    """
    T, S, n, K = (case.size(name, 1, 4) for name in "TSnK")
    q, k, v = case.array("q", T, K), case.array("k", S, K), case.array("v", S, K)
    P_k, P_v = case.array("P_k", n, K), case.array("P_v", n, K)
    keys, values = np.concatenate([P_k, k]), np.concatenate([P_v, v])
    expected = softmax(q @ keys.T / np.sqrt(K)) @ values
    expect(answer(q, k, v, P_k, P_v), expected, tolerance=1e-12)


@check("each member of the family trains as many parameters as its formula says")
def count(case, answer):
    """answer(method, r, n_out, n_in) -> trainable parameters on one matrix (out, in)."""
    method = case.choice("method", ("lora", "dora", "vera", "loha"))
    r, n_out, n_in = case.size("r"), case.size("out", 2), case.size("in", 2)
    counts = {
        "lora": r * (n_out + n_in),
        "dora": r * (n_out + n_in) + n_out,
        "vera": r + n_out,
        "loha": 2 * r * (n_out + n_in),
    }
    expect(answer(method, r, n_out, n_in), counts[method], method)


@check("DoRA's rows have the lengths m and the directions of V = W + s B A")
def dora(case, answer):
    """answer(W, B, A, s, m) -> the merged weight (out, in); m (out,) is positive."""
    n_out, n_in, r = case.size("out"), case.size("in", 2), case.size("r", 1, 3)
    W, B, A = case.array("W", n_out, n_in), case.array("B", n_out, r), case.array("A", r, n_in)
    s, m = case.number("s", 0.5, 4), np.abs(case.array("m", n_out))
    case.values["m"] = m
    V = W + s * B @ A
    lengths = np.linalg.norm(V, axis=1, keepdims=True)
    if lengths.min() < 1e-6:
        return  # a row without a direction
    expect(call(answer, W=W, B=B, A=A, s=s, m=m), m[:, None] * V / lengths)


@check("(W₁ ⊗ W₂) x is W₂ X W₁ᵀ, x reshaped to X: no (out, in) matrix is needed")
def kronecker(case, answer):
    """answer(W1, W2, x) -> np.kron(W1, W2) @ x, for x of length i₁ i₂."""
    o1, i1, o2, i2 = (case.size(name, 1, 4) for name in ("o₁", "i₁", "o₂", "i₂"))
    W1, W2 = case.array("W₁", o1, i1), case.array("W₂", o2, i2)
    x = case.array("x", i1 * i2)
    expected = np.kron(W1, W2) @ x
    with patch.object(np, "kron", refuse):
        result = answer(W1, W2, x)
    expect(result, expected)


def refuse(*factors):
    """Stands in for np.kron while an answer is tried."""
    raise CheckFailed("do it without np.kron, which makes the large matrix")
