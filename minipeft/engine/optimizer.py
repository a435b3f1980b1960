"""AdamW, the clipping of gradients, and the learning rate's rise and fall."""

import math

from .backend import blocks, xp


class AdamW:
    """Adam with decoupled weight decay, updating its parameters in place.

        m = β₁ m + (1 − β₁) g        v = β₂ v + (1 − β₂) g²
        w = w − lr · decay · w − lr · (m / (1 − β₁ᵗ)) / (√(v / (1 − β₂ᵗ)) + eps)

    Decay applies to matrices only: biases, gains and other vectors are left alone. A parameter
    with a `rate` of its own learns at lr · rate.
    A parameter without a gradient is not touched.

    Kingma & Ba 2014, arXiv:1412.6980; Loshchilov & Hutter 2017, arXiv:1711.05101
    """

    def __init__(self, parameters, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01):
        self.parameters = list(parameters)
        self.betas, self.eps, self.weight_decay = betas, eps, weight_decay
        self.steps = 0
        self.m = [xp.zeros_like(p.data) for p in self.parameters]
        self.v = [xp.zeros_like(p.data) for p in self.parameters]

    @property
    def state(self):
        """The arrays that a resumed run needs, {kind: one for each parameter}."""
        return {"m": self.m, "v": self.v}

    def step(self, lr, scale=1.0, before=None):
        """One update at rate `lr` by the gradients times `scale` (see `clip_scale`).

        before: arrays that are given the weights as they were.
        """
        self.steps += 1
        b1, b2 = self.betas
        rate = lr / (1.0 - b1**self.steps)
        root = 1.0 / math.sqrt(1.0 - b2**self.steps)
        for i, p in enumerate(self.parameters):
            if p.grad is None:
                continue
            kept = 1.0 - lr * p.rate * self.weight_decay if p.ndim > 1 else 1.0
            was = p.data if before is None else before[i]
            arrays = (p.data, p.grad, self.m[i], self.v[i], was)
            for w, g, m, v, was in in_blocks(*arrays):
                was[...] = w
                w *= kept
                w -= self.change(g * scale, m, v, root) * (rate * p.rate)

    def change(self, g, m, v, root):
        """Move both moments on by a gradient, in place; return (m / (√v · root + eps))."""
        b1, b2 = self.betas
        m *= b1
        m += g * (1.0 - b1)
        g = g * g
        g *= 1.0 - b2
        v *= b2
        v += g
        xp.sqrt(v, out=g)
        g *= root
        g += self.eps
        return xp.divide(m, g, out=g)


def grad_norm(parameters):
    """The Euclidean norm of all gradients taken as one vector, an array without axes."""
    squares = [square_sum(p.grad) for p in parameters if p.grad is not None]
    return xp.sqrt(sum(squares).astype("float64")) if squares else xp.zeros(())


def square_sum(g):
    """Σ g², by parts that stay in a core's cache."""
    return sum((part * part).sum() for (part,) in in_blocks(g))


def in_blocks(*arrays):
    """Views of the same rows of each array, a block at a time that stays in a core's cache."""
    rows = [xp.atleast_1d(a) for a in arrays]
    first = rows[0]
    for part in blocks(first):
        yield tuple(a[part] for a in rows)


def clip_scale(norm, limit):
    """The factor that brings gradients of this norm down to `limit`; 1 if there is no need."""
    return 1.0 if limit is None else min(1.0, limit / (float(norm) + 1e-6))


def learning_rate(step, steps, peak, warmup):
    """Linear rise to `peak` over `warmup` steps, then half a cosine to zero; steps start at 0.

    >>> [round(learning_rate(t, 6, 1.0, 2), 2) for t in range(6)]
    [0.5, 1.0, 1.0, 0.85, 0.5, 0.15]
    """
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * 0.5 * (1.0 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))
