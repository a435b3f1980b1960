"""Checks of lesson 1, autograd: two derivatives, what a tape keeps, and the walk back."""

from ..engine.backend import np
from ..engine.functional import linear as product
from ..engine.functional import softmax
from ..engine.tensor import Tensor, gradients
from ..lab.saved_tensors import tape_arrays
from .base import check, expect, require


@check("y = x Wᵀ, ∂L/∂x = g W, ∂L/∂W = gᵀ x; and x is kept only if W trains")
def linear(draw, answer):
    """answer(x, w) -> y, a Tensor made by `record`; x (n, in) and w (out, in) are Tensors."""
    n, n_in, n_out = draw.size("n"), draw.size("in"), draw.size("out")
    x, w, g = draw.array("x", n, n_in), draw.array("w", n_out, n_in), draw.array("g", n, n_out)
    which = draw.choice("trains", ("x and w", "x", "w", "neither"))
    operands = Tensor(x, "x" in which), Tensor(w, "w" in which)
    y = answer(*operands)
    require(isinstance(y, Tensor), f"return what `record` returns, a Tensor; got {y!r}")
    expect(y.data, x @ w.T, "y")
    if which == "neither":
        require(not y.requires_grad, "nothing trains, but there is a tape")
        return
    kept = any(a is x for a in tape_arrays(y))
    require(not kept or "w" in which, "x is kept although w is frozen")
    found = gradients(y, g)
    for name, operand, wanted in zip("xw", operands, (g @ w, g.T @ x), strict=True):
        if operand.requires_grad:
            require(operand.node in found, f"{name} gets no gradient")
            expect(found[operand.node], wanted, f"∂L/∂{name}")


@check("a linear layer keeps its n · in inputs if its weight trains, and nothing otherwise")
def kept_by_linear(draw, answer):
    """answer(n, in, out, w_trains, x_needs_gradient) -> numbers kept beside W."""
    n, n_in, n_out = draw.size("n"), draw.size("in"), draw.size("out")
    w_trains, x_needs = (draw.choice(name, (True, False)) for name in ("w trains", "x needs"))
    w = Tensor(np.ones((n_out, n_in)), w_trains)
    y = product(Tensor(np.ones((n, n_in)), x_needs), w)
    kept = sum(a.size for a in tape_arrays(y, [w])) if y.requires_grad else 0
    expect(answer(n, n_in, n_out, w_trains, x_needs), kept, "by a real tape")


@check("∂L/∂x = p · (g − Σ g p), the sum over the last axis")
def softmax_backward(draw, answer):
    """answer(g, p) -> ∂L/∂x (n, k), given ∂L/∂p and p = softmax(x)."""
    n, k = draw.size("n", 1, 4), draw.size("k", 1, 5)
    x, g = Tensor(draw.array("x", n, k), requires_grad=True), draw.array("g", n, k)
    p = softmax(x)
    given = g.copy(), p.data.copy()
    found = answer(*given)
    same = (given[0] == g).all() and (given[1] == p.data).all()
    require(same, "your function wrote into g or p, which others still need")
    expect(found, gradients(p, g)[x.node])


def drawn_loss(leaves, steps):
    """A loss from leaf Tensors: each step (op, i, j) puts one more value behind them."""
    values = list(leaves)
    for op, i, j in steps:
        a, b = values[i % len(values)], values[j % len(values)]
        values.append(a + b if op == "+" else a * b)
    return values[-1]


@check("every leaf gets the sum of what comes back along all ways to it")
def backward(draw, answer):
    """answer(loss) -> {leaf node: gradient}, the loss a Tensor of one number."""
    numbers = [draw.number(f"x{i}", 1, 3) for i in range(draw.size("leaves", 1, 3))]
    steps = [
        (
            draw.choice(f"op {i}", "+*"),
            draw.size(f"from {i}", 0, 5),
            draw.size(f"and {i}", 0, 5),
        )
        for i in range(draw.size("operations", 1, 6))
    ]
    draw.drawn = {"numbers": numbers, "operations": written(len(numbers), steps)}
    leaves = [Tensor(np.array(x), requires_grad=True) for x in numbers]
    found, wanted = answer(drawn_loss(leaves, steps)), gradients(drawn_loss(leaves, steps))
    require(isinstance(found, dict), f"return a dict, got {found!r}")
    for i, leaf in enumerate(leaves):
        require((leaf.node in found) == (leaf.node in wanted), f"is x{i} a leaf of this loss?")
        if leaf.node in wanted:
            expect(found[leaf.node], wanted[leaf.node], f"∂loss/∂x{i}")


def written(n, steps):
    """The steps as text: 'x1 = x0 * x0, x2 = x1 + x0'."""
    places = ((n + k, op, i % (n + k), j % (n + k)) for k, (op, i, j) in enumerate(steps))
    return ", ".join(f"x{k} = x{i} {op} x{j}" for k, op, i, j in places)
