"""Checks of lesson 4, LoRA: its value, its merge, its gradients, its best approximation."""

from ..engine.backend import np
from .base import check, expect, matrices, pair, require


def random_lora(case):
    """Returns random W (out, in), A (r, in) and B (out, r), and α."""
    r, n_in, n_out = case.size("r", 1, 4), case.size("in"), case.size("out")
    W, A = case.array("W", n_out, n_in), case.array("A", r, n_in)
    return W, A, case.array("B", n_out, r), case.number("α")


@check(
    "y = x Wᵀ + (α / r) x Aᵀ Bᵀ",
    answer="lora_forward",
    slips={
        "you did not divide α by r": lambda x, W, A, B, a: x @ W.T + a * x @ A.T @ B.T,
        "you forgot the factor α / r": lambda x, W, A, B, a: x @ W.T + x @ A.T @ B.T,
        "you forgot the frozen path x Wᵀ": lambda x, W, A, B, a: a / len(A) * x @ A.T @ B.T,
        "you divided α by the number of inputs, not by r": (
            lambda x, W, A, B, a: x @ W.T + a / len(A.T) * x @ A.T @ B.T
        ),
        "you did not transpose A and B": (
            lambda x, W, A, B, a: x @ W.T + a / len(A) * x @ B @ A
        ),
    },
)
def forward(case, answer):
    """answer(x, W, A, B, α) -> y (n, out), x (n, in)."""
    W, A, B, alpha = random_lora(case)
    x = case.array("x", case.size("n", 1, 3), W.shape[1])
    y = answer(x, W, A, B, alpha)
    expect(y, x @ W.T + alpha / len(A) * (x @ A.T @ B.T))


@check(
    "merged, W is W + (α / r) B A, and W itself keeps its values",
    stars=1,
    slips={
        "you did not divide α by r": lambda W, A, B, a: W + a * B @ A,
        "you forgot the factor α / r": lambda W, A, B, a: W + B @ A,
        "you added the transposed product": lambda W, A, B, a: W + a / len(A) * (B @ A).T,
        "you subtracted the change": lambda W, A, B, a: W - a / len(A) * B @ A,
        "you returned the change without W": lambda W, A, B, a: a / len(A) * B @ A,
    },
)
def merged(case, answer):
    """answer(W, A, B, α) -> the merged weight (out, in), a new array."""
    W, A, B, alpha = random_lora(case)
    expect(answer(W, A, B, alpha), W + alpha / len(A) * (B @ A))


@check(
    "∂L/∂A = s Bᵀ gᵀ x and ∂L/∂B = s gᵀ x Aᵀ; the first is 0 while B is 0",
    stars=2,
    slips={
        "you returned ∂L/∂B first": lambda g, x, A, B, s: (
            s * g.T @ x @ A.T,
            s * B.T @ g.T @ x,
        ),
        "your gradients are transposed: each has the shape of what it belongs to": (
            lambda g, x, A, B, s: (s * x.T @ g @ B, s * A @ x.T @ g)
        ),
        "you took the mean over the rows, where it should be the sum": (
            lambda g, x, A, B, s: (s * B.T @ g.T @ x / len(g), s * g.T @ x @ A.T / len(g))
        ),
        "you forgot s": lambda g, x, A, B, s: (B.T @ g.T @ x, g.T @ x @ A.T),
        "you forgot s in ∂L/∂A": lambda g, x, A, B, s: (B.T @ g.T @ x, s * g.T @ x @ A.T),
        "you forgot s in ∂L/∂B": lambda g, x, A, B, s: (s * B.T @ g.T @ x, g.T @ x @ A.T),
    },
)
def gradients(case, answer):
    """answer(g, x, A, B, s) -> (∂L/∂A, ∂L/∂B), g = ∂L/∂y (n, out), x (n, in) and s = α / r."""
    n, n_in, n_out, r = case.size("n", 1, 3), case.size("in"), case.size("out"), case.size("r")
    x, g, s = case.array("x", n, n_in), case.array("g", n, n_out), case.number("s")
    A, B = case.array("A", r, n_in), case.array("B", n_out, r)
    if case.choice("B is", ("random", "zero")) == "zero":
        B = case.values["B"] = np.zeros_like(B)
    dA, dB = pair(answer(g, x, A, B, s), "∂L/∂A, ∂L/∂B")
    expect(dA, s * B.T @ g.T @ x, "∂L/∂A")
    expect(dB, s * g.T @ x @ A.T, "∂L/∂B")


def thin(u, sigma, vt):
    """Returns (A, B) with B A = u Σ vᵀ, the root of each singular value on either side."""
    root = np.sqrt(sigma)
    return root[:, None] * vt, u * root


def largest(change, r):
    """Returns the r largest terms (u, σ, vᵀ) of the SVD."""
    u, sigma, vt = np.linalg.svd(change, full_matrices=False)
    return u[:, :r], sigma[:r], vt[:r]


def smallest(change, r):
    """Returns the r smallest terms (u, σ, vᵀ) of the SVD."""
    u, sigma, vt = np.linalg.svd(change, full_matrices=False)
    return u[:, -r:], sigma[-r:], vt[-r:]


def scaled(terms, change, r, factor):
    """Returns (A, B) with B A = factor times some of the terms of the SVD."""
    u, sigma, vt = terms(change, r)
    return thin(u, sigma * factor, vt)


@check(
    "no (α / r) B A of rank r is nearer to ΔW: what is left are the smaller singular values",
    stars=3,
    slips={
        "you forgot that B A is multiplied by α / r afterwards": (
            lambda change, r, alpha: scaled(largest, change, r, 1)
        ),
        "you multiplied by α / r, where the pair has to make up for it": (
            lambda change, r, alpha: scaled(largest, change, r, alpha / r)
        ),
        "you divided by α / r on both sides": (
            lambda change, r, alpha: scaled(largest, change, r, (r / alpha) ** 2)
        ),
        "you kept the smallest singular values": (
            lambda change, r, alpha: scaled(smallest, change, r, r / alpha)
        ),
        "you kept one singular value, not r": (
            lambda change, r, alpha: scaled(largest, change, 1, r / alpha)
        ),
    },
    seen=lambda result: np.asarray(result[1]) @ np.asarray(result[0]),
)
def compress(case, answer):
    """answer(ΔW, r, α) -> (A, B), A (r, in) and B (out, r)."""
    n_out, n_in = case.size("out"), case.size("in")
    r = case.size("r", 1, min(n_out, n_in))
    change, alpha = case.array("ΔW", n_out, n_in), case.number("α")
    A, B = matrices(answer(change, r, alpha), "A, B")
    require(A.shape == (r, n_in), f"A should be (r, in) = {(r, n_in)}, got {A.shape}")
    require(B.shape == (n_out, r), f"B should be (out, r) = {(n_out, r)}, got {B.shape}")
    floor = np.sqrt((np.linalg.svd(change, compute_uv=False)[r:] ** 2).sum())
    expect(np.linalg.norm(change - alpha / r * B @ A), floor, "‖ΔW − (α / r) B A‖")
