"""Answers to the checks of lesson 1."""

import numpy as np

from lessons.solutions.lesson_01 import backward, kept_by_linear, my_linear, softmax_backward
from minipeft.engine.tensor import record, value
from minipeft.lab.saved_tensors import tape_nodes


def hoarding(x, w):
    """Right, but the derivative of x keeps x."""
    a, b = value(x), value(w)
    return record(a @ b.T, (x, lambda g: g @ b + 0.0 * a), (w, lambda g: g.T @ a))


def transposed(x, w):
    """The gradient of w as (in, out)."""
    a, b = value(x), value(w)
    return record(a @ b.T, (x, lambda g: g @ b), (w, lambda g: a.T @ g))


def mean(x, w):
    """The gradient of w divided by the number of rows."""
    a, b = value(x), value(w)
    return record(a @ b.T, (x, lambda g: g @ b), (w, lambda g: g.T @ a / len(a)))


def without_w(x, w):
    """No edge to w."""
    b = value(w)
    return record(value(x) @ b.T, (x, lambda g: g @ b))


def in_place(g, p):
    """Right, but it writes into g."""
    g -= (g * p).sum(axis=-1, keepdims=True)
    return p * g


def assigned(loss):
    """The gradient of the last path replaces those before it."""
    gradients = {loss.node: np.ones(())}
    for node in reversed(tape_nodes(loss)):
        g = gradients.pop(node)
        for source, vjp in node.edges:
            gradients[source] = vjp(g)
    return gradients


def depth_first(loss):
    """Passes a node before all its gradients have come, and so once too often."""
    gradients = {}

    def visit(node, g):
        gradients[node] = gradients.get(node, 0.0) + g
        for source, vjp in node.edges:
            visit(source, vjp(gradients[node]))

    visit(loss.node, np.ones(()))
    return {node: g for node, g in gradients.items() if not node.edges}


ANSWERS = {
    "linear": (
        my_linear,
        hoarding,
        transposed,
        mean,
        without_w,
        lambda x, w: x.data @ w.data.T,
    ),
    "kept_by_linear": (
        kept_by_linear,
        lambda n, n_in, n_out, w_trains, x_needs: n * n_in,  # also for a frozen weight
        lambda n, n_in, n_out, w_trains, x_needs: n * n_in if w_trains or x_needs else 0,
        lambda n, n_in, n_out, w_trains, x_needs: n * n_out if w_trains else 0,  # the output
    ),
    "softmax_backward": (
        softmax_backward,
        in_place,
        lambda g, p: g * p * (1 - p),  # the diagonal alone
        lambda g, p: p * (g - (g * p).sum()),  # over all rows
        lambda g, p: p * (g - g.sum(axis=-1, keepdims=True)),
    ),
    "backward": (
        backward,
        assigned,
        depth_first,
        lambda loss: {node: 2 * g for node, g in backward(loss).items()},
        lambda loss: dict(list(backward(loss).items())[:1]),
    ),
}
