"""Layers: parameters in a tree of modules, and the Site, a function that others may change.

A Module finds its parameters by looking at its own attributes, in the order they were set:
modules, parameters, and lists or dicts of modules. Weights are (out, in), as in PyTorch.
"""

import contextlib
import copy
import math
from contextvars import ContextVar
from functools import partial

from ..engine import functional as F
from ..engine.backend import array, np, xp
from ..engine.ops import where
from ..engine.tensor import Node, Tensor
from .summary import draw, draw_html


class Parameter(Tensor):
    """A tensor that a model owns. It trains while `requires_grad` is true.

    `rate` is how many times the optimiser's learning rate it learns at.
    """

    __slots__ = ("rate",)

    def __init__(self, values, requires_grad=True):
        super().__init__(array(values), requires_grad)
        self.rate = 1.0

    @property
    def requires_grad(self):
        """Whether it trains. Setting it to False also drops the gradient."""
        return self.node is not None

    @requires_grad.setter
    def requires_grad(self, train):
        if train != self.requires_grad:
            self.node = Node(self.data.shape) if train else None


class Module:
    """A part of a model: holds parameters and other modules as attributes, and is called."""

    def __call__(self, *args, **options):
        return self.forward(*args, **options)

    def forward(self, *args):
        """What calling the module computes; the docstring of its class says what that is."""
        raise NotImplementedError

    def children(self):
        """(name, Module or Parameter) for each part held directly."""
        for name, part in vars(self).items():
            if isinstance(part, (Module, Parameter)):
                yield name, part
            elif isinstance(part, (list, dict)):
                items = part.items() if isinstance(part, dict) else enumerate(part)
                yield from ((f"{name}.{key}", m) for key, m in items if isinstance(m, Module))

    def named_modules(self, prefix=""):
        """(path, Module) for this one and all below, parents first: 'blocks.0.attn.q_proj'."""
        yield prefix, self
        for name, part in self.children():
            if isinstance(part, Module):
                yield from part.named_modules(f"{prefix}.{name}" if prefix else name)

    def named_parameters(self):
        """(path, Parameter) for every parameter at or below this module, each object once."""
        seen = set()
        for path, module in self.named_modules():
            for name, part in module.children():
                if isinstance(part, Parameter) and id(part) not in seen:
                    seen.add(id(part))
                    yield (f"{path}.{name}" if path else name), part

    def parameters(self):
        """Every parameter at or below this module, each once."""
        return [p for _, p in self.named_parameters()]

    def zero_grad(self):
        """Forget all gradients."""
        for p in self.parameters():
            p.grad = None

    @contextlib.contextmanager
    def training(self, noise):
        """Inside the block Dropout drops, by masks from a Generator or Noise; elsewhere not."""
        token = _rng.set(noise)
        try:
            yield
        finally:
            _rng.reset(token)

    def __repr__(self):
        return draw(self)

    def _repr_html_(self):
        return draw_html(self)


class Site(Module):
    """A module whose function f may be replaced by Δ(f); its parameters keep their names.

    `deltas` holds what is attached here, by name; `active` the (delta, rows) pairs in use,
    innermost first. With rows, a boolean array (B,), only these rows of a batch see the delta.
    """

    def __init__(self):
        self.deltas, self.active = {}, []

    def __call__(self, *args):
        f = self.forward
        for delta, rows in self.active:
            f = partial(delta, f) if rows is None else partial(self.only_for, rows, delta, f)
        return f(*args)

    def only_for(self, rows, delta, f, *args):
        """Δ(f) for the chosen rows of the batch and f for the others; f is computed once."""
        without = f(*args)

        def remembered(*same):
            return without if all(a is b for a, b in zip(same, args, strict=True)) else f(*same)

        return self.mix(rows, delta(remembered, *args), without)

    def mix(self, rows, with_delta, without):
        """Take the chosen rows of one result (B, …) and the others of another."""
        if len(rows) != len(without):
            raise ValueError(
                f"adapters were chosen for {len(rows)} rows, the batch has {len(without)}"
            )
        chosen = xp.asarray(rows).reshape(-1, *[1] * (without.ndim - 1))
        return where(chosen, with_delta, without)


class Linear(Site):
    """y = x Wᵀ + b, (…, in) -> (…, out), weight (out, in) drawn from N(0, std²), bias zero."""

    def __init__(self, n_in, n_out, rng, bias=True, std=0.02):
        super().__init__()
        self.weight = Parameter(rng.standard_normal((n_out, n_in)) * std)
        self.bias = Parameter(np.zeros(n_out)) if bias else None

    def forward(self, x):
        return F.linear(x, self.weight, self.bias)


class Embedding(Site):
    """Rows of a table for token ids, (B, T) -> (B, T, D), weight (V, D) from N(0, std²)."""

    def __init__(self, n, width, rng, std=0.02):
        super().__init__()
        self.weight = Parameter(rng.standard_normal((n, width)) * std)

    def forward(self, ids):
        return F.embedding(self.weight, ids)


class TiedHead(Site):
    """y = x Wᵀ, (…, D) -> (…, V), by the token table W until it has a weight of its own."""

    def __init__(self, wte):
        super().__init__()
        self.weight = None  # a Parameter while it is fine-tuned apart from the table
        self.shared = (wte,)  # in a tuple, as it is no part of this module

    @property
    def table(self):
        """The weight that it uses, (V, D)."""
        return self.shared[0].weight if self.weight is None else self.weight

    def forward(self, x):
        return F.linear(x, self.table)


class LayerNorm(Module):
    """Each token's vector to mean 0 and variance 1, then gain · x + bias; (…, D) -> (…, D)."""

    def __init__(self, width, eps=1e-5):
        self.weight, self.bias = Parameter(np.ones(width)), Parameter(np.zeros(width))
        self.eps = eps

    def forward(self, x):
        return F.layer_norm(x, self.weight, self.bias, self.eps)


class RMSNorm(Module):
    """Each token's vector divided by its root mean square, then gain · x; (…, D) -> (…, D)."""

    def __init__(self, width, eps=1e-5):
        self.weight = Parameter(np.ones(width))
        self.eps = eps

    def forward(self, x):
        return F.rms_norm(x, self.weight, self.eps)


_rng = ContextVar("noise", default=None)  # what Dropout draws from; None: nothing drops


class RowRNG:
    """Random numbers for the rows of a batch: a row's do not depend on which others it is with.

    So a batch read in parts, on any number of workers, drops what it drops when read at once.
    """

    def __init__(self, seed, rows):
        self.seed, self.rows, self.drawn = seed, rows, 0

    def random(self, shape, dtype):
        """Uniform numbers in [0, 1) of a shape (rows, …), other ones at every call."""
        self.drawn += 1
        each = [np.random.default_rng([*self.seed, self.drawn, row]) for row in self.rows]
        return np.stack([rng.random(shape[1:], dtype) for rng in each])


def same_masks(f):
    """f, drawing at every call the numbers that it would draw now."""
    now = copy.deepcopy(_rng.get())

    def again(*args):
        token = _rng.set(copy.deepcopy(now))
        try:
            return f(*args)
        finally:
            _rng.reset(token)

    return again


class Dropout(Module):
    """Zero a fraction p, scale the rest by 1 / (1 − p), but only inside `Module.training`."""

    def __init__(self, p):
        if not 0 <= p < 1:
            raise ValueError(f"a dropout probability lies in [0, 1), got {p}")
        self.p = p

    def forward(self, x):
        noise = _rng.get()
        return x if noise is None or self.p == 0 else F.dropout(x, self.p, noise)


def kaiming_uniform(rng, n_out, n_in):
    """(n_out, n_in) numbers from U(±1/√n_in), which is PyTorch's default for a Linear."""
    return rng.uniform(-1.0, 1.0, (n_out, n_in)) / math.sqrt(n_in)
