"""Solutions of lesson 1: an operation with its derivatives, what it keeps, and the walk back.

python lessons/solutions/lesson_01.py        runs the lesson's checks on them
"""

import numpy as np

from minipeft.course import autograd
from minipeft.engine.tensor import record, value
from minipeft.lab.saved_tensors import tape_nodes


def my_linear(x, w):
    """y = x Wᵀ (n, out) of x (n, in) and w (out, in), with its two derivatives."""
    a, b = value(x), value(w)
    return record(
        a @ b.T,
        (x, lambda g: g @ b),  # needs W, which exists anyway
        (w, lambda g: g.T @ a),  # needs x, which this function keeps alive
    )


def kept_by_linear(n, n_in, n_out, w_trains, x_needs_gradient):
    """★ Only ∂L/∂W = gᵀ x needs x; ∂L/∂x = g W needs no activation at all."""
    return n * n_in if w_trains else 0


def softmax_backward(g, p):
    """★★ Σᵢ gᵢ pᵢ (δᵢⱼ − pⱼ) = pⱼ (gⱼ − Σᵢ gᵢ pᵢ)"""
    return p * (g - (g * p).sum(axis=-1, keepdims=True))


def backward(loss):
    """★★★ From the youngest node to the oldest; the gradients of two paths add up."""
    gradients = {loss.node: np.ones(())}
    for node in reversed(tape_nodes(loss)):
        g = gradients.pop(node)
        for source, vjp in node.edges:
            gradients[source] = gradients.get(source, 0.0) + vjp(g)
    return gradients


if __name__ == "__main__":
    autograd.linear(my_linear)
    autograd.kept_by_linear(kept_by_linear)
    autograd.softmax_backward(softmax_backward)
    autograd.backward(backward)
