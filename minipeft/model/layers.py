"""Layers: modules with parameters, and the sites where fine-tuning methods act.

A Module finds its parameters by looking through its attributes in the order they were set:
parameters, other modules, and lists or dicts of modules. Weights are (out, in), as in PyTorch.

A Site is a module whose function f can be replaced by a changed one, Δ(f); other libraries call
it a hook point. LoRA acts at a Linear, an adapter at an MLP, a prefix at the start of the
sequence. Sites are all that a model knows of fine-tuning: the methods are in `minipeft.peft`.
"""

import contextlib
import copy
import math
from contextvars import ContextVar
from functools import partial

from ..engine import functional as F
from ..engine.backend import array, np, xp
from ..engine.ops import where
from ..engine.tensor import Node, Tensor, value
from .summary import tree, tree_html


class Parameter(Tensor):
    """A tensor that belongs to a model: trainable while `requires_grad` is true, else frozen.

    Its `rate` is a factor on the optimiser's learning rate.
    """

    __slots__ = ("rate",)

    def __init__(self, values, requires_grad=True):
        super().__init__(array(values), requires_grad)
        self.rate = 1.0

    @property
    def requires_grad(self):
        """Whether it is trainable. Setting it to False also drops the gradient."""
        return self.node is not None

    @requires_grad.setter
    def requires_grad(self, train):
        if train != self.requires_grad:
            self.node = Node(self.shape, array=self.data) if train else None


class Module:
    """A part of a model: holds parameters and other modules as attributes, and is called."""

    def __call__(self, *args, **options):
        return self.forward(*args, **options)

    def forward(self, *args):
        """Returns what a call of the module computes; the docstring of its class says what."""
        raise NotImplementedError

    def children(self):
        """Yields (name, Module or Parameter) for each part that it holds directly."""
        for name, part in vars(self).items():
            if isinstance(part, (Module, Parameter)):
                yield name, part
            elif isinstance(part, (list, dict)):
                items = part.items() if isinstance(part, dict) else enumerate(part)
                yield from ((f"{name}.{key}", m) for key, m in items if isinstance(m, Module))

    def named_modules(self, prefix=""):
        """Yields (path, Module) for itself and all inside it: 'blocks.0.attn.q_proj', …"""
        yield prefix, self
        for name, part in self.children():
            if isinstance(part, Module):
                yield from part.named_modules(f"{prefix}.{name}" if prefix else name)

    def named_parameters(self):
        """Yields (path, Parameter) for each parameter in it; a shared one at its first path."""
        seen = set()
        for path, module in self.named_modules():
            for name, part in module.children():
                if isinstance(part, Parameter) and id(part) not in seen:
                    seen.add(id(part))
                    yield (f"{path}.{name}" if path else name), part

    def parameters(self):
        """Returns a list of every parameter in it, each once."""
        return [p for _, p in self.named_parameters()]

    def zero_grad(self):
        """Set the gradient of every parameter to None."""
        for p in self.parameters():
            p.grad = None

    @contextlib.contextmanager
    def training(self, rng):
        """Inside the block Dropout is active; rng, a NumPy Generator or RowRNG, draws masks."""
        token = _rng.set(rng)
        try:
            yield
        finally:
            _rng.reset(token)

    def __repr__(self):
        return tree(self)

    def _repr_html_(self):
        return tree_html(self)


class Site(Module):
    """A module whose function f can be replaced by Δ(f): a hook point for fine-tuning.

    `deltas` holds what is attached here: {name of an adapter: Δ}. `active` lists the pairs
    (Δ, rows) in use: the first is Δ₁(f), the second Δ₂(Δ₁(f)), and so on. If rows is not None
    but a boolean array (B,), Δ applies only to those rows of the batch.

    A Δ is called as delta(f, *args), and may call f, in place of f(*args). Only at the sites
    `start` and `attend` of a transformer may it look at several tokens. At all others it must
    compute each token by itself: there x (B, T, D) may come as one row of tokens (1, N, D).
    """

    def __init__(self):
        self.deltas, self.active = {}, []

    def __call__(self, *args):
        f = self.forward
        for delta, rows in self.active:
            f = partial(delta, f) if rows is None else partial(self.for_rows, rows, delta, f)
        return f(*args)

    def for_rows(self, rows, delta, f, *args):
        """Returns Δ(f) of the chosen rows and f of the others; f(*args) is computed once."""
        without = f(*args)

        def f_once(*same):
            return without if all(a is b for a, b in zip(same, args, strict=True)) else f(*same)

        return self.select_rows(rows, delta(f_once, *args), without)

    def select_rows(self, rows, with_delta, without):
        """Returns an array (B, …): the chosen rows of one result and the others of another.

        Raises ValueError if the choice is not of as many rows as the batch has.
        """
        if len(rows) != len(without):
            raise ValueError(
                f"adapters were chosen for {len(rows)} rows, the batch has {len(without)}; "
                "choose one for each row"
            )
        chosen = xp.asarray(rows).reshape(-1, *[1] * (without.ndim - 1))
        return where(chosen, with_delta, without)


class Linear(Site):
    """y = x Wᵀ + b, (…, in) -> (…, out), weight (out, in) drawn from N(0, std²), bias zero."""

    def __init__(self, n_in, n_out, rng, bias=True, std=0.02):
        super().__init__()
        self.weight = Parameter(rng.normal(0.0, std, (n_out, n_in)))
        self.bias = Parameter(np.zeros(n_out)) if bias else None

    def forward(self, x):
        return F.linear(x, self.weight, self.bias)


class Embedding(Site):
    """Rows of a table for token ids, (B, T) -> (B, T, D), weight (V, D) from N(0, std²)."""

    def __init__(self, n, width, rng, std=0.02):
        super().__init__()
        self.weight = Parameter(rng.normal(0.0, std, (n, width)))

    def forward(self, ids):
        return F.embedding(self.weight, ids)


class TiedHead(Site):
    """The output head y = x Wᵀ, (…, D) -> (…, V), whose weight W is the token table (V, D).

    A method that trains the head but not the table gives it a weight of its own.
    """

    def __init__(self, wte):
        super().__init__()
        self.weight = None  # a Parameter while the head has its own weight
        self.shared = (wte,)  # in a tuple, so that the table does not count as a part of this

    @property
    def table(self):
        """The weight in use, (V, D)."""
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


_rng = ContextVar("rng", default=None)  # what Dropout draws its masks from; None: no dropout


class RowRNG:
    """Random values for dropout, drawn for each row of a batch from a generator of its own.

    The values of a row do not depend on the other rows. So a batch has the same dropout masks
    read at once, in micro-batches, or on several processes.
    """

    def __init__(self, seed, rows):
        self.seed, self.rows, self.calls = seed, rows, 0

    def random(self, shape, dtype):
        """Returns uniform values in [0, 1) of a shape (rows, …), others at every call."""
        self.calls += 1
        rngs = [np.random.default_rng([*self.seed, self.calls, row]) for row in self.rows]
        return np.stack([rng.random(shape[1:], dtype) for rng in rngs])


def preserve_rng_state(f):
    """Returns f, except that every call of it draws the dropout masks that f would draw now."""
    state = copy.deepcopy(_rng.get())

    def from_state(*args):
        token = _rng.set(copy.deepcopy(state))
        try:
            return f(*args)
        finally:
            _rng.reset(token)

    return from_state


class Dropout(Module):
    """Zero each element with probability p and divide the others by 1 − p, if in training.

    Training is what happens inside `with model.training(rng):`; elsewhere y = x.
    """

    def __init__(self, p):
        if not 0 <= p < 1:
            raise ValueError(f"a dropout probability lies in [0, 1), got {p}")
        self.p = p

    def forward(self, x):
        rng = _rng.get()
        return x if rng is None or self.p == 0 else F.dropout(x, self.p, rng)


class Noise(Module):
    """Values from N(0, 1) in the shape of x, an array, if in training; elsewhere None."""

    def forward(self, x):
        rng = _rng.get()
        return None if rng is None else normal(x, rng)


def normal(x, rng):
    """Returns an array of the shape and type of x, each value from N(0, 1).

    It is drawn from `rng` on the host: Box and Muller's √(−2 log u) cos 2 π v, u and v uniform.
    """
    a = value(x)
    u, v = (rng.random(a.shape, dtype=np.float32) for _ in range(2))
    return array(np.sqrt(-2.0 * np.log(1.0 - u)) * np.cos(2.0 * np.pi * v), a.dtype)


def is_random(model):
    """Returns whether the model draws random values now, for dropout or noise."""
    return _rng.get() is not None and any(
        isinstance(module, Noise) or (isinstance(module, Dropout) and module.p > 0)
        for _, module in model.named_modules()
    )


def kaiming_uniform(rng, n_out, n_in):
    """Returns (n_out, n_in) values from U(−1/√n_in, 1/√n_in), PyTorch's default of a Linear."""
    return rng.uniform(-1.0, 1.0, (n_out, n_in)) / math.sqrt(n_in)
