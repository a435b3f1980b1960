"""Checks of lesson 1, autograd: two derivatives, what a tape keeps, and the walk back."""

import builtins
import gc
import types

from ..engine.backend import np
from ..engine.functional import linear as linear_layer
from ..engine.functional import softmax
from ..engine.tensor import Tensor, gradients, record, value
from ..lab.saved_tensors import base_buffer, tape_arrays, tape_nodes
from .base import CheckFailed, check, expect, require

RECORDING = tuple(
    f"engine.tensor.{name}"
    for name in ("record", "value", "values", "number", "needs_gradient", "__init__", "__len__",
                 "__repr__", "__array__", "data", "shape", "dtype", "ndim", "requires_grad",
                 "arrays", "unbroadcast")
)  # fmt: skip


def taped_linear(answer, x, w, g, trains):
    """Returns what an answer does with x, w and the gradient g of its y, as plain values.

    trains: which of "x and w", "x", "w" and "neither" need a gradient.
    """
    operands = {"x": Tensor(x, "x" in trains), "w": Tensor(w, "w" in trains)}
    y = answer(*operands.values())
    if y is None:
        return None
    if not isinstance(y, Tensor):
        raise CheckFailed(f"return what `record` returns, a Tensor; got {y!r}")
    kept = [a for a in kept_by(y) if not np.shares_memory(a, w)]
    found = gradients(y, g) if y.node and y.shape == g.shape else {}
    return {
        "y": y.data,
        "taped": y.requires_grad,
        "kept": sum(a.size for a in kept),  # beside w
        "gradients": {name: found[x.node] for name, x in operands.items() if x.node in found},
    }


def kept_by(y):
    """Returns the arrays that the derivatives of one operation keep, in whatever object."""
    arrays, seen = {}, {id(vars(builtins))}
    todo = [vjp for _, vjp in y.node.edges] if y.node else []
    while todo:
        holder = todo.pop()
        if id(holder) in seen or isinstance(holder, (type, types.ModuleType)):
            continue
        seen.add(id(holder))
        if isinstance(holder, np.ndarray):
            owner = base_buffer(holder)
            arrays[id(owner)] = owner
        module = getattr(holder, "__globals__", None)
        todo += [part for part in gc.get_referents(holder) if part is not module]
    return list(arrays.values())


def linear_with(dx, dw):
    """Returns a function (x, w) -> y = x wᵀ with these derivatives, of (g, x, w)."""

    def linear(x, w):
        a, b = value(x), value(w)
        return record(a @ b.T, (x, lambda g: dx(g, a, b)), (w, lambda g: dw(g, a, b)))

    return linear


@check(
    "y = x Wᵀ, ∂L/∂x = g W, ∂L/∂W = gᵀ x; and x is kept only if W trains",
    answer="my_linear",
    uses=RECORDING,
    slips={
        "∂L/∂W is transposed": linear_with(lambda g, x, w: g @ w, lambda g, x, w: x.T @ g),
        "∂L/∂W is a mean over the rows, where it should be a sum": (
            linear_with(lambda g, x, w: g @ w, lambda g, x, w: g.T @ x / len(x))
        ),
    },
    seen=lambda result: (result["y"], result["gradients"]),
)
def linear(case, answer):
    """answer(x, w) -> y, a Tensor made by `record`; x (n, in) and w (out, in) are Tensors."""
    n, n_in, n_out = case.size("n"), case.size("in"), case.size("out")
    x, w, g = case.array("x", n, n_in), case.array("w", n_out, n_in), case.array("g", n, n_out)
    trains = case.choice("trains", ("x and w", "x", "w", "neither"))
    result = answer(x, w, g, trains, probe=taped_linear)
    expect(result["y"], x @ w.T, "y")
    if trains == "neither":
        require(not result["taped"], "nothing trains, but there is a tape")
    if "w" not in trains:
        text = f"w is frozen, but beside it {result['kept']} values are kept, x or others"
        require(not result["kept"], text)
    for name, expected in {"x": g @ w, "w": g.T @ x}.items():
        if name in trains.split(" and "):
            require(name in result["gradients"], f"{name} gets no gradient")
            expect(result["gradients"][name], expected, f"∂L/∂{name}")


@check(
    "a linear layer keeps its n · in inputs if its weight trains, and nothing otherwise",
    stars=1,
    slips={
        "you forgot that a frozen weight needs no inputs": (
            lambda n, n_in, n_out, w_trains, x_needs: n * n_in
        ),
        "you keep the inputs for ∂L/∂x, which needs W only": (
            lambda n, n_in, n_out, w_trains, x_needs: n * n_in if w_trains or x_needs else 0
        ),
        "you counted the outputs, not the inputs": (
            lambda n, n_in, n_out, w_trains, x_needs: n * n_out if w_trains else 0
        ),
    },
)
def kept_by_linear(case, answer):
    """answer(n, in, out, w_trains, x_needs_gradient) -> how many values are kept beside W."""
    n, n_in, n_out = case.size("n"), case.size("in"), case.size("out")
    w_trains, x_needs = (case.choice(name, (True, False)) for name in ("w trains", "x needs"))
    count = answer(n, n_in, n_out, w_trains, x_needs)
    w = Tensor(np.ones((n_out, n_in)), w_trains)
    y = linear_layer(Tensor(np.ones((n, n_in)), x_needs), w)
    kept = sum(a.size for a in tape_arrays(y, [w])) if y.requires_grad else 0
    expect(count, kept, "on a real tape")


@check(
    "∂L/∂x = p · (g − Σ g p), the sum over the last axis",
    stars=2,
    slips={
        "you took only the terms i = j of the sum": lambda g, p: g * p * (1 - p),
        "you summed over all rows instead of along the last axis": (
            lambda g, p: p * (g - (g * p).sum())
        ),
        "you left p out of the sum": lambda g, p: p * (g - g.sum(axis=-1, keepdims=True)),
        "you left out the factor p": lambda g, p: g - (g * p).sum(axis=-1, keepdims=True),
    },
)
def softmax_backward(case, answer):
    """answer(g, p) -> ∂L/∂x (n, k), given g = ∂L/∂p and p = softmax(x)."""
    n, k = case.size("n", 1, 4), case.size("k", 1, 5)
    x, g = Tensor(case.array("x", n, k), requires_grad=True), case.array("g", n, k)
    p = softmax(x)
    result = answer(g, p.data)
    expect(result, gradients(p, g)[x.node])


def gradients_of_leaves(answer, values, operations):
    """Returns what an answer gives for the loss of `loss_of`, as plain values.

    {"leaves": the gradient of each leaf or None, "others": how many keys are no leaves}
    """
    leaves = [Tensor(np.array(x), requires_grad=True) for x in values]
    result = answer(loss_of(leaves, operations))
    if result is None:
        return None
    if type(result) is not dict:
        raise CheckFailed(f"return a dict, got {result!r}")
    found = [result.get(leaf.node) for leaf in leaves]
    return {
        "leaves": found,
        "others": len(result) - sum(leaf.node in result for leaf in leaves),
    }


def last_path_only(loss):
    """The walk back of a learner who assigns gradients instead of adding them."""
    found = {loss.node: np.ones(())}
    for node in reversed(tape_nodes(loss)):
        g = found.pop(node)
        found |= {source: vjp(g) for source, vjp in node.edges}
    return found


def with_inner_nodes(loss):
    """The walk back of a learner who keeps what belongs to the nodes in between."""
    found = {loss.node: np.ones(())}
    for node in reversed(tape_nodes(loss)):
        for source, vjp in node.edges:
            found[source] = found.get(source, 0.0) + vjp(found[node])
    return found


@check(
    "every leaf gets the sum of the gradients along all paths to it",
    stars=3,
    uses=(*RECORDING, "lab.saved_tensors.tape_nodes", "engine.ops"),
    slips={
        "the gradient of one path replaces that of another: they add up": last_path_only,
        "you return the nodes in between beside the leaves": with_inner_nodes,
    },
)
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
    result = answer(values, operations, probe=gradients_of_leaves)
    leaves = [Tensor(np.array(x), requires_grad=True) for x in values]
    expected = gradients(loss_of(leaves, operations))
    for i, (leaf, found) in enumerate(zip(leaves, result["leaves"], strict=True)):
        in_both = (found is not None) == (leaf.node in expected)
        require(in_both, f"is x{i} a leaf of this loss?")
        if leaf.node in expected:
            expect(found, expected[leaf.node], f"∂loss/∂x{i}")
    require(not result["others"], f"{result['others']} of your keys are not leaves")


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
