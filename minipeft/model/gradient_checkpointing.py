"""Gradient checkpointing: keep only what enters each block, compute the rest again when needed.

The tape is then one activation a block, and during backward the whole tape of one block, for
one more forward pass: a third more arithmetic where all trains, up to half more where the base
is frozen. The gradients are the same bits, but for a parameter that blocks share, whose sum
runs in another order.

Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost", arXiv:1604.06174
"""

import contextlib
import copy

from ..engine.backend import xp
from ..engine.tensor import Tensor, gradients, needs_gradient, no_grad, once, record, value
from .layers import same_masks


def recomputed(f, inputs, parameters):
    """f(*inputs), of whose tape only the inputs are kept.

        dx = (∂f/∂x)ᵀ g, with f computed anew at the kept x when g comes

    f: a pure function of `inputs` (Tensors, or None) and of `parameters`, whose result is one
    Tensor. What it drops out at first, it drops again.
    """
    again = same_masks(f)
    with no_grad():
        y = f(*inputs)

    @once
    def found(g):
        fresh = [Tensor(x.data, requires_grad=True) if needs_gradient(x) else x for x in inputs]
        grads = gradients(again(*fresh), g)
        return [
            grads.get(x.node, xp.zeros_like(g, shape=x.shape, order="C"))
            if needs_gradient(x)
            else None
            for x in (*fresh, *parameters)
        ]

    operands = [*inputs, *parameters]
    return record(value(y), *((x, lambda g, i=i: found(g)[i]) for i, x in enumerate(operands)))


class Recomputed:
    """A change at a Block's site that changes only what is kept."""

    def __init__(self, block):
        self.block = block

    def __call__(self, f, x, cache, layer, *rest):
        def read(x, keys, values):
            behind = copy.copy(cache)  # each call of f appends to a cache of its own
            behind.keys, behind.values = list(cache.keys), list(cache.values)
            behind.keys[layer], behind.values[layer] = keys, values
            return f(x, behind, layer, *rest)

        past = cache.keys[layer], cache.values[layer]
        return recomputed(read, (x, *past), self.block.parameters())


@contextlib.contextmanager
def recomputing(model):
    """Inside the block every transformer block of the model is recomputed in backward.

    For a loss: a cache is not filled meanwhile.
    """
    for block in model.blocks:
        block.active.append((Recomputed(block), None))
    try:
        yield
    finally:
        for block in model.blocks:
            block.active.pop()
