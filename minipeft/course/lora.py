"""Checks of lesson 4, LoRA: its value, its merge, its gradients, its best approximation."""

from ..engine.backend import np
from .base import call, check, expect, pair, require


def matrices(case):
    """Returns random W (out, in), A (r, in) and B (out, r), and α."""
    r, n_in, n_out = case.size("r", 1, 4), case.size("in"), case.size("out")
    W, A = case.array("W", n_out, n_in), case.array("A", r, n_in)
    return W, A, case.array("B", n_out, r), case.number("α")


@check("y = x Wᵀ + (α / r) x Aᵀ Bᵀ")
def forward(case, answer):
    """answer(x, W, A, B, α) -> y (n, out), x (n, in)."""
    W, A, B, alpha = matrices(case)
    x = case.array("x", case.size("n", 1, 3), W.shape[1])
    y = call(answer, x=x, W=W, A=A, B=B, alpha=alpha)
    expect(y, x @ W.T + alpha / len(A) * (x @ A.T @ B.T))


@check("merged, W is W + (α / r) B A, and W itself keeps its values")
def merged(case, answer):
    """answer(W, A, B, α) -> the merged weight (out, in), a new array."""
    W, A, B, alpha = matrices(case)
    expect(call(answer, W=W, A=A, B=B, alpha=alpha), W + alpha / len(A) * (B @ A))


@check("∂L/∂A = s Bᵀ gᵀ x and ∂L/∂B = s gᵀ x Aᵀ; the first is 0 while B is 0")
def gradients(case, answer):
    """answer(g, x, A, B, s) -> (∂L/∂A, ∂L/∂B), g = ∂L/∂y (n, out), x (n, in) and s = α / r."""
    n, n_in, n_out, r = case.size("n", 1, 3), case.size("in"), case.size("out"), case.size("r")
    x, g, s = case.array("x", n, n_in), case.array("g", n, n_out), case.number("s")
    A, B = case.array("A", r, n_in), case.array("B", n_out, r)
    if case.choice("B is", ("random", "zero")) == "zero":
        B = case.values["B"] = np.zeros_like(B)
    dA, dB = pair(call(answer, g=g, x=x, A=A, B=B, s=s), "∂L/∂A, ∂L/∂B")
    expect(dA, s * B.T @ g.T @ x, "∂L/∂A")
    expect(dB, s * g.T @ x @ A.T, "∂L/∂B")


@check("no (α / r) B A of rank r is nearer to ΔW: what is left are the smaller singular values")
def compress(case, answer):
    """answer(ΔW, r, α) -> (A, B), A (r, in) and B (out, r)."""
    n_out, n_in = case.size("out"), case.size("in")
    r = case.size("r", 1, min(n_out, n_in))
    change, alpha = case.array("ΔW", n_out, n_in), case.number("α")
    A, B = map(np.asarray, pair(call(answer, ΔW=change, r=r, alpha=alpha), "A, B"))
    require(A.shape == (r, n_in), f"A should be (r, in) = {(r, n_in)}, got {A.shape}")
    require(B.shape == (n_out, r), f"B should be (out, r) = {(n_out, r)}, got {B.shape}")
    floor = np.sqrt((np.linalg.svd(change, compute_uv=False)[r:] ** 2).sum())
    expect(np.linalg.norm(change - alpha / r * B @ A), floor, "‖ΔW − (α / r) B A‖")
