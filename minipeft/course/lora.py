"""Checks of lesson 4, LoRA: its value, its merge, its gradients, its best approximation."""

from ..engine.backend import np
from .base import check, expect, require


def matrices(draw):
    """W (out, in), A (r, in) and B (out, r), and α."""
    r, n_in, n_out = draw.size("r", 1, 4), draw.size("in"), draw.size("out")
    W, A = draw.array("W", n_out, n_in), draw.array("A", r, n_in)
    return W, A, draw.array("B", n_out, r), draw.number("α")


def asked(answer, *arguments, into):
    """What an answer returns; CheckFailed if it wrote into its arrays, `into` says which."""
    given = [a.copy() if isinstance(a, np.ndarray) else a for a in arguments]
    result = answer(*given)
    kept = all(np.array_equal(a, b) for a, b in zip(given, arguments, strict=True))
    require(kept, f"your function wrote into {into}; return a new array")
    return result


def two(found, names):
    """What should be a pair; CheckFailed with the names if it is none."""
    require(isinstance(found, (tuple, list)) and len(found) == 2, f"return ({names})")
    return found


@check("y = x Wᵀ + (α / r) x Aᵀ Bᵀ")
def forward(draw, answer):
    """answer(x, W, A, B, α) -> y (n, out), x (n, in)."""
    W, A, B, alpha = matrices(draw)
    x = draw.array("x", draw.size("n", 1, 3), W.shape[1])
    y = asked(answer, x, W, A, B, alpha, into="x, W, A or B")
    expect(y, x @ W.T + alpha / len(A) * (x @ A.T @ B.T))


@check("merged, W is W + (α / r) B A, and W itself keeps its numbers")
def merged(draw, answer):
    """answer(W, A, B, α) -> the merged weight (out, in), a new array."""
    W, A, B, alpha = matrices(draw)
    new = asked(answer, W, A, B, alpha, into="W, A or B")
    expect(new, W + alpha / len(A) * (B @ A))


@check("∂L/∂A = s Bᵀ gᵀ x and ∂L/∂B = s gᵀ x Aᵀ; the first is 0 while B is 0")
def gradients(draw, answer):
    """answer(g, x, A, B, s) -> (∂L/∂A, ∂L/∂B), g (n, out) and x (n, in)."""
    n, n_in, n_out, r = draw.size("n", 1, 3), draw.size("in"), draw.size("out"), draw.size("r")
    x, g, s = draw.array("x", n, n_in), draw.array("g", n, n_out), draw.number("s")
    A, B = draw.array("A", r, n_in), draw.array("B", n_out, r)
    if draw.choice("B is", ("random", "zero")) == "zero":
        B = draw.drawn["B"] = np.zeros_like(B)
    dA, dB = two(asked(answer, g, x, A, B, s, into="g, x, A or B"), "∂L/∂A, ∂L/∂B")
    expect(dA, s * B.T @ g.T @ x, "∂L/∂A")
    expect(dB, s * g.T @ x @ A.T, "∂L/∂B")


@check("no (α / r) B A of rank r is nearer to ΔW: what is left are the smaller singular values")
def compress(draw, answer):
    """answer(ΔW, r, α) -> (A, B), A (r, in) and B (out, r)."""
    n_out, n_in = draw.size("out"), draw.size("in")
    r = draw.size("r", 1, min(n_out, n_in))
    change, alpha = draw.array("ΔW", n_out, n_in), draw.number("α")
    A, B = map(np.asarray, two(asked(answer, change, r, alpha, into="ΔW"), "A, B"))
    require(A.shape == (r, n_in), f"A should be (r, in) = {(r, n_in)}, got {A.shape}")
    require(B.shape == (n_out, r), f"B should be (out, r) = {(n_out, r)}, got {B.shape}")
    floor = np.sqrt((np.linalg.svd(change, compute_uv=False)[r:] ** 2).sum())
    expect(np.linalg.norm(change - alpha / r * B @ A), floor, "‖ΔW − (α / r) B A‖")
