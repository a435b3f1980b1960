"""AdamW, gradient clipping, and the learning-rate schedule (linear warm-up, then a cosine)."""

import math

from .backend import chunks, np, xp


class AdamW:
    """Adam with decoupled weight decay, which updates its parameters in place.

        m = β₁ m + (1 − β₁) g        v = β₂ v + (1 − β₂) g²
        w = w − lr · decay · w − lr · (m / (1 − β₁ᵗ)) / (√(v / (1 − β₂ᵗ)) + eps)

    Only matrices decay: biases, gains and other vectors do not. A parameter with a `rate` other
    than 1 learns, and decays, at lr · rate. A parameter without a gradient stays as it is: t
    counts its own updates, which are the steps less those that skipped it.

    Kingma & Ba 2014, arXiv:1412.6980; Loshchilov & Hutter 2017, arXiv:1711.05101
    """

    def __init__(self, parameters, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01):
        self.parameters = list(parameters)
        self.betas, self.eps, self.weight_decay = betas, eps, weight_decay
        self.steps, self.skipped = 0, [0] * len(self.parameters)
        self.m = [xp.zeros_like(p.data) for p in self.parameters]
        self.v = [xp.zeros_like(p.data) for p in self.parameters]

    @property
    def state(self):
        """The arrays that a resumed run needs: {kind: a list with one array per parameter}."""
        return {"m": self.m, "v": self.v}

    @np.errstate(under="ignore")
    def step(self, lr, scale=1.0, backup=None):
        """Update the parameters once, at learning rate `lr`, by their gradients times `scale`.

        backup: arrays, one per parameter, which receive the weights from before the update.
        With them, an update that is interrupted leaves every weight as it was.
        """
        written = []  # pairs of views: what is being updated, and what it was before
        try:
            self.update(lr, scale, backup, written)
        except BaseException:
            for w, saved in written:
                w[...] = saved
            raise

    def update(self, lr, scale, backup, written):
        """Update the parameters, noting before each part of a weight where it is saved."""
        self.steps += 1
        for i, p in enumerate(self.parameters):
            if p.grad is None:
                self.skipped[i] += 1
                continue
            saved = p.data if backup is None else backup[i]
            self.update_one(i, p, self.factors(i, p, lr), scale, saved, written)
            p.data = p.data  # so that a tape that has read it knows that it was written

    def factors(self, i, p, lr):
        """Returns (decay, rate, root): w becomes w · decay − rate · m / (√v · root + eps)."""
        b1, b2 = self.betas
        t = self.steps - self.skipped[i]
        rate = lr / (1.0 - b1**t)
        decay = 1.0 - lr * p.rate * self.weight_decay if p.ndim > 1 else 1.0
        return decay, rate * p.rate, 1.0 / math.sqrt(1.0 - b2**t)

    def update_one(self, i, p, factors, scale, saved, written):
        """Update the i-th parameter in chunks; each is saved and noted in `written` before."""
        decay, rate, root = factors
        for w, g, m, v, kept in in_chunks(p.data, p.grad, self.m[i], self.v[i], saved):
            kept[...] = w
            written.append((w, kept))
            change = self.direction(g * scale, m, v, root) * rate
            w *= decay
            w -= change

    def direction(self, g, m, v, root):
        """Update both moments by a gradient, in place. Returns m / (√v · root + eps)."""
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
    """Returns the Euclidean norm of all gradients as one vector, an array without axes."""
    squares = [sum_of_squares(p.grad) for p in parameters if p.grad is not None]
    return xp.sqrt(sum(squares).astype("float64")) if squares else xp.zeros(())


def sum_of_squares(g):
    """Returns Σ g², computed in chunks that stay in a core's cache."""
    return sum((part * part).sum() for (part,) in in_chunks(g))


def in_chunks(*arrays):
    """Yields views of the same rows of every array, so few that they stay in a core's cache."""
    rows = [xp.atleast_1d(a) for a in arrays]
    first = rows[0]
    for part in chunks(first):
        yield tuple(a[part] for a in rows)


def clip_scale(norm, limit):
    """Returns the factor that brings gradients of this norm down to `limit`, at most 1.

    It is 1 if limit is None.
    """
    return 1.0 if limit is None else min(1.0, limit / (float(norm) + 1e-6))


def learning_rate(step, steps, peak, warmup):
    """Returns the rate at a step: linear warm-up to `peak` in `warmup` steps, then a cosine.

    Steps count from 0. The cosine falls from `peak` and would be zero at step `steps`.

    >>> [round(learning_rate(t, 6, 1.0, 2), 2) for t in range(6)]
    [0.5, 1.0, 1.0, 0.85, 0.5, 0.15]
    """
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * 0.5 * (1.0 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))
