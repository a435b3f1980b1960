"""Gradient checkpointing: save only the input of each block, recompute the rest in backward.

Training usually saves all activations of all blocks for backward. With checkpointing the tape
holds one array per block, the block's input. When backward reaches a block, its forward pass
runs once more, and for that time the activations of this one block are in memory.

The price is one more forward pass: a third more arithmetic where everything is trainable, up to
half more where the base is frozen. The gradients are the same bits, except for a parameter that
blocks share, whose gradients are summed in another order.

Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost", arXiv:1604.06174
"""

import contextlib
import copy

from ..engine.backend import xp
from ..engine.tensor import Tensor, gradients, needs_gradient, no_grad, once, record, value
from .layers import preserve_rng_state


def recomputed(f, inputs, parameters):
    """Returns f(*inputs), a Tensor, with no tape of f: only the inputs are saved.

        dx = (∂f/∂x)ᵀ g      in backward, from a tape of f(*inputs) recorded only then

    f must be a pure function of `inputs`, each a Tensor or None, and of `parameters`. It draws
    the same dropout masks the second time.
    """
    f_again = preserve_rng_state(f)
    with no_grad():
        y = f(*inputs)

    @once
    def operand_gradients(g):
        fresh = [Tensor(x.data, requires_grad=True) if needs_gradient(x) else x for x in inputs]
        grads = gradients(f_again(*fresh), g)
        return [
            grads.get(x.node, xp.zeros_like(g, shape=x.shape, order="C"))
            if needs_gradient(x)
            else None
            for x in (*fresh, *parameters)
        ]

    operands = (*inputs, *parameters)
    edges = [(x, lambda g, i=i: operand_gradients(g)[i]) for i, x in enumerate(operands)]
    return record(value(y), *edges)


class RecomputedBlock:
    """A change at a Block's site that leaves its result as it is and saves only its input."""

    def __init__(self, block):
        self.block = block

    def __call__(self, f, x, cache, layer, *rest):
        def pure(x, keys, values):
            own_cache = copy.copy(cache)  # as f appends to its cache, and is called twice
            own_cache.keys, own_cache.values = list(cache.keys), list(cache.values)
            own_cache.keys[layer], own_cache.values[layer] = keys, values
            return f(x, own_cache, layer, *rest)

        inputs = x, cache.keys[layer], cache.values[layer]
        return recomputed(pure, inputs, self.block.parameters())


@contextlib.contextmanager
def recomputing(model):
    """Inside the block every transformer block of the model is recomputed in backward.

    This is for computing a loss: keys and values are not added to a cache meanwhile.
    """
    before = [(block, list(block.active)) for block in model.blocks]

    def restore():
        for block, active in before:
            block.active = active

    try:
        try:
            for block in model.blocks:
                block.active.append((RecomputedBlock(block), None))
            yield
        finally:
            restore()
    except BaseException:
        restore()  # again, in case that Ctrl-C was pressed in the first
        raise
