"""Checks of lesson 12: the LoRA family, and what all methods share."""

from ..engine.backend import np
from .base import check, expect
from .prompts import GATE_SLIPS, attention


@check(
    "attention with a prefix is a mixture of two attentions, gated by the prefix's share",
    slips=GATE_SLIPS,
)
def mixture(case, answer):
    """answer(q, k, v, P_k, P_v) -> (T, K), for one head without a mask.

    q (T, K), k and v (S, K), P_k and P_v (n, K); scores are divided by √K.
    """
    T, S, n, K = (case.size(name, 1, 4) for name in "TSnK")
    q, k, v = case.array("q", T, K), case.array("k", S, K), case.array("v", S, K)
    P_k, P_v = case.array("P_k", n, K), case.array("P_v", n, K)
    result = answer(q, k, v, P_k, P_v)
    expected, _ = attention(q, np.concatenate([P_k, k]), np.concatenate([P_v, v]))
    expect(result, expected, tolerance=1e-12)


def counts(r, n_out, n_in):
    """Returns the parameters of each member on one matrix (out, in)."""
    lora = r * (n_out + n_in)
    return {"lora": lora, "dora": lora + n_out, "vera": r + n_out, "loha": 2 * lora}


def count_but(**other):
    """Returns a function (method, r, n_out, n_in) that counts some methods otherwise."""

    def count(method, *sizes):
        return other[method](*sizes) if method in other else counts(*sizes)[method]

    return count


@check(
    "each member of the family trains as many parameters as its formula says",
    stars=1,
    slips={
        "DoRA's magnitudes are one for each row of W, that is for each output": (
            count_but(dora=lambda r, n_out, n_in: r * (n_out + n_in) + n_in)
        ),
        "you forgot DoRA's magnitudes": (
            count_but(dora=lambda r, n_out, n_in: r * (n_out + n_in))
        ),
        "you counted VeRA's two random matrices, which are frozen": (
            count_but(vera=lambda r, n_out, n_in: r * (n_out + n_in) + r + n_out)
        ),
        "VeRA's second vector is as long as the output, not as the input": (
            count_but(vera=lambda r, n_out, n_in: r + n_in)
        ),
        "you counted one of LoHa's two pairs": (
            count_but(loha=lambda r, n_out, n_in: r * (n_out + n_in))
        ),
        "you counted LoRA for every method": (
            lambda method, r, n_out, n_in: r * (n_out + n_in)
        ),
    },
)
def count(case, answer):
    """answer(method, r, n_out, n_in) -> trainable parameters on one matrix (out, in)."""
    method = case.choice("method", ("lora", "dora", "vera", "loha"))
    r, n_out, n_in = case.size("r"), case.size("out", 2), case.size("in", 2)
    expect(answer(method, r, n_out, n_in), counts(r, n_out, n_in)[method], method)


def lengths(V, axis=1):
    """Returns the lengths of the rows of V (out, 1), or with axis 0 of its columns (1, in)."""
    return np.linalg.norm(V, axis=axis, keepdims=True)


@check(
    "DoRA's rows have the lengths m and the directions of V = W + s B A",
    stars=2,
    slips={
        "you divided by the lengths of the columns: a row of W belongs to one output": (
            lambda W, B, A, s, m: m[:, None] * (W + s * B @ A) / lengths(W + s * B @ A, 0)
        ),
        "you divided by the lengths of W's rows, not of those of V": (
            lambda W, B, A, s, m: m[:, None] * (W + s * B @ A) / lengths(W)
        ),
        "you multiplied by m without dividing by the lengths": (
            lambda W, B, A, s, m: m[:, None] * (W + s * B @ A)
        ),
        "you forgot s": (lambda W, B, A, s, m: m[:, None] * (W + B @ A) / lengths(W + B @ A)),
        "you divided by the length of the whole matrix": (
            lambda W, B, A, s, m: m[:, None] * (W + s * B @ A) / np.linalg.norm(W + s * B @ A)
        ),
    },
)
def dora(case, answer):
    """answer(W, B, A, s, m) -> the merged weight (out, in); m (out,) is positive."""
    n_out, n_in, r = case.size("out"), case.size("in", 2), case.size("r", 1, 3)
    W, B, A = case.array("W", n_out, n_in), case.array("B", n_out, r), case.array("A", r, n_in)
    s, m = case.number("s", 0.5, 4), np.abs(case.array("m", n_out))
    case.values["m"] = m
    V = W + s * B @ A
    if lengths(V).min() < 1e-6:
        return  # a row without a direction
    expect(answer(W, B, A, s, m), m[:, None] * V / lengths(V))


LARGE = 16  # rows and columns of two factors whose product is not to be formed


def folded(W1, W2, x):
    """Returns W₁ X W₂ᵀ as a vector, x folded to X (i₁, i₂)."""
    return (W1 @ x.reshape(W1.shape[1], W2.shape[1]) @ W2.T).reshape(-1)


@check(
    "(W₁ ⊗ W₂) x is W₁ X W₂ᵀ, x folded to X (i₁, i₂): no (out, in) matrix is needed",
    stars=3,
    slips={
        "you exchanged W₁ and W₂: the rows of X belong to W₁": (
            lambda W1, W2, x: folded(W2, W1, x)
        ),
        "you unfolded the transposed result": (
            lambda W1, W2, x: (W1 @ x.reshape(len(W1.T), len(W2.T)) @ W2.T).T.reshape(-1)
        ),
    },
)
def kronecker(case, answer):
    """answer(W1, W2, x) -> the Kronecker product of W1 and W2, times x of length i₁ i₂.

    For large factors, the product itself is not to be formed.
    """
    if case.choice("large", (False, False, True)):
        o1 = i1 = o2 = i2 = LARGE
    else:
        o1, i1, o2, i2 = (case.size(name, 1, 4) for name in ("o₁", "i₁", "o₂", "i₂"))
    W1, W2 = case.array("W₁", o1, i1), case.array("W₂", o2, i2)
    x = case.array("x", i1 * i2)
    memory = 4 * o1 * i1 * o2 * i2 if o1 == LARGE else None
    result = answer(W1, W2, x, memory=memory)
    expect(result, np.kron(W1, W2) @ x)
