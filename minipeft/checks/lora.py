"""Checks of lesson 4, LoRA: its value, its merge, its gradients, its best approximation."""

from ..backend import np
from .base import check, expect, require


def matrices(draw):
    """W (out, in), A (r, in) and B (out, r), and α."""
    r, n_in, n_out = draw.size("r", 1, 4), draw.size("in"), draw.size("out")
    W, A = draw.array("W", n_out, n_in), draw.array("A", r, n_in)
    return W, A, draw.array("B", n_out, r), draw.number("α")


def kept(sentence, given, before):
    """Raise CheckFailed with the sentence unless arrays are what they were."""
    require(all((a == b).all() for a, b in zip(given, before, strict=True)), sentence)


@check("y = x Wᵀ + (α / r) x Aᵀ Bᵀ")
def forward(draw, answer):
    """answer(x, W, A, B, α) -> y (n, out), x (n, in)."""
    W, A, B, alpha = matrices(draw)
    x = draw.array("x", draw.size("n", 1, 3), W.shape[1])
    before = [a.copy() for a in (x, W, A, B)]
    y = answer(x, W, A, B, alpha)
    kept("your function wrote into its arguments", (x, W, A, B), before)
    expect(y, x @ W.T + alpha / len(A) * (x @ A.T @ B.T))


@check("merged, W is W + (α / r) B A, and W itself keeps its numbers")
def merged(draw, answer):
    """answer(W, A, B, α) -> the merged weight (out, in), a new array."""
    W, A, B, alpha = matrices(draw)
    before = [a.copy() for a in (W, A, B)]
    new = answer(W, A, B, alpha)
    kept("your function wrote into W, A or B; return a new array", (W, A, B), before)
    expect(new, W + alpha / len(A) * (B @ A))


@check("∂L/∂A = s Bᵀ gᵀ x and ∂L/∂B = s gᵀ x Aᵀ; the first is 0 while B is 0")
def gradients(draw, answer):
    """answer(g, x, A, B, s) -> (∂L/∂A, ∂L/∂B), g (n, out) and x (n, in)."""
    W, A, B, _ = matrices(draw)
    n = draw.size("n", 1, 3)
    x, g, s = draw.array("x", n, W.shape[1]), draw.array("g", n, len(B)), draw.number("s")
    if draw.choice("B is", ("random", "zero")) == "zero":
        B = draw.drawn["B"] = np.zeros_like(B)
    found = answer(g, x, A, B, s)
    require(isinstance(found, (tuple, list)) and len(found) == 2, "return (∂L/∂A, ∂L/∂B)")
    expect(found[0], s * B.T @ g.T @ x, "∂L/∂A")
    expect(found[1], s * g.T @ x @ A.T, "∂L/∂B")


@check("no (α / r) B A of rank r is nearer to ΔW: what is left are the smaller singular values")
def compress(draw, answer):
    """answer(ΔW, r, α) -> (A, B), A (r, in) and B (out, r)."""
    n_out, n_in = draw.size("out"), draw.size("in")
    r = draw.size("r", 1, min(n_out, n_in))
    change, alpha = draw.array("ΔW", n_out, n_in), draw.number("α")
    before, found = change.copy(), answer(change, r, alpha)
    kept("your function wrote into ΔW", [change], [before])
    require(isinstance(found, (tuple, list)) and len(found) == 2, "return (A, B)")
    A, B = map(np.asarray, found)
    require(A.shape == (r, n_in), f"A should be (r, in) = {(r, n_in)}, got {A.shape}")
    require(B.shape == (n_out, r), f"B should be (out, r) = {(n_out, r)}, got {B.shape}")
    floor = np.sqrt((np.linalg.svd(change, compute_uv=False)[r:] ** 2).sum())
    expect(np.linalg.norm(change - alpha / r * B @ A), floor, "‖ΔW − (α / r) B A‖")
