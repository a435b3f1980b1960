"""Checks of lesson 1, autograd: two derivatives, what a tape keeps, and the walk back."""

from ..engine.backend import np
from ..engine.functional import linear as linear_layer
from ..engine.functional import softmax
from ..engine.tensor import Tensor, gradients
from ..lab.saved_tensors import tape_arrays
from .base import call, check, expect, require


@check("y = x Wᵀ, ∂L/∂x = g W, ∂L/∂W = gᵀ x; and x is kept only if W trains")
def linear(case, answer):
    """answer(x, w) -> y, a Tensor made by `record`; x (n, in) and w (out, in) are Tensors."""
    n, n_in, n_out = case.size("n"), case.size("in"), case.size("out")
    x, w, g = case.array("x", n, n_in), case.array("w", n_out, n_in), case.array("g", n, n_out)
    trainable = case.choice("trains", ("x and w", "x", "w", "neither"))
    operands = Tensor(x, "x" in trainable), Tensor(w, "w" in trainable)
    y = answer(*operands)
    require(isinstance(y, Tensor), f"return what `record` returns, a Tensor; got {y!r}")
    expect(y.data, x @ w.T, "y")
    if trainable == "neither":
        require(not y.requires_grad, "nothing trains, but there is a tape")
        return
    keeps_x = any(a is x for a in tape_arrays(y))
    require(not keeps_x or "w" in trainable, "x is kept although w is frozen")
    results = gradients(y, g)
    for name, operand, expected in zip("xw", operands, (g @ w, g.T @ x), strict=True):
        if operand.requires_grad:
            require(operand.node in results, f"{name} gets no gradient")
            expect(results[operand.node], expected, f"∂L/∂{name}")


@check("a linear layer keeps its n · in inputs if its weight trains, and nothing otherwise")
def kept_by_linear(case, answer):
    """answer(n, in, out, w_trains, x_needs_gradient) -> how many values are kept beside W."""
    n, n_in, n_out = case.size("n"), case.size("in"), case.size("out")
    w_trains, x_needs = (case.choice(name, (True, False)) for name in ("w trains", "x needs"))
    w = Tensor(np.ones((n_out, n_in)), w_trains)
    y = linear_layer(Tensor(np.ones((n, n_in)), x_needs), w)
    kept = sum(a.size for a in tape_arrays(y, [w])) if y.requires_grad else 0
    expect(answer(n, n_in, n_out, w_trains, x_needs), kept, "on a real tape")


@check("∂L/∂x = p · (g − Σ g p), the sum over the last axis")
def softmax_backward(case, answer):
    """answer(g, p) -> ∂L/∂x (n, k), given g = ∂L/∂p and p = softmax(x)."""
    n, k = case.size("n", 1, 4), case.size("k", 1, 5)
    x, g = Tensor(case.array("x", n, k), requires_grad=True), case.array("g", n, k)
    p = softmax(x)
    result = call(answer, g=g, p=p.data)
    expect(result, gradients(p, g)[x.node])


@check("every leaf gets the sum of the gradients along all paths to it")
def backward(case, answer):
    """answer(loss) -> {leaf node: gradient}; the loss is a Tensor of shape ()."""
    values = [case.number(f"x{i}", 1, 3) for i in range(case.size("leaves", 1, 3))]
    operations = [
        (
            case.choice(f"op {i}", "+*"),
            case.size(f"from {i}", 0, 5),
            case.size(f"and {i}", 0, 5),
        )
        for i in range(case.size("operations", 1, 6))
    ]
    case.values = {"leaves": values, "operations": equations(len(values), operations)}
    leaves = [Tensor(np.array(x), requires_grad=True) for x in values]
    result = answer(loss_of(leaves, operations))
    expected = gradients(loss_of(leaves, operations))
    require(isinstance(result, dict), f"return a dict, got {result!r}")
    for i, leaf in enumerate(leaves):
        in_both = (leaf.node in result) == (leaf.node in expected)
        require(in_both, f"is x{i} a leaf of this loss?")
        if leaf.node in expected:
            expect(result[leaf.node], expected[leaf.node], f"∂loss/∂x{i}")


def loss_of(leaves, operations):
    """Returns the last value, where each operation (op, i, j) appends value i op value j."""
    values = list(leaves)
    for op, i, j in operations:
        a, b = values[i % len(values)], values[j % len(values)]
        values.append(a + b if op == "+" else a * b)
    return values[-1]


def equations(n, operations):
    """Returns the operations on n leaves as text: 'x1 = x0 * x0, x2 = x1 + x0'."""
    lines = []
    for k, (op, i, j) in enumerate(operations, start=n):
        lines.append(f"x{k} = x{i % k} {op} x{j % k}")
    return ", ".join(lines)
