"""Reverse-mode automatic differentiation, once through a tape of edges.

An operation computes its value with plain arrays and calls `record` with one edge an operand:

    def mul(x, y):
        a, b = value(x), value(y)
        return record(
            a * b,
            (x, lambda g: g * b),      # how a gradient g of the result becomes one of x
            (y, lambda g: g * a),
        )

`record` keeps only the edges whose operand needs a gradient. An edge to a frozen weight is
dropped and with it the closure that held the layer's input: the input is not kept, the weight's
gradient is never computed, and below the first trainable number no tape exists. That is where
parameter-efficient fine-tuning saves.

A Node is apart from its array, so an array lives only while somebody's derivative needs it.
Nodes are numbered as they are made, which is a topological order: backward needs no recursion.
First derivatives only: a gradient is a plain array, not a Tensor.
"""

import contextlib
import heapq
import itertools
from contextvars import ContextVar

from .backend import xp

_recording = ContextVar("recording", default=True)
_numbers = itertools.count()


class Node:
    """One value on the tape: where its gradient goes next; for a leaf, the gradient itself."""

    __slots__ = ("__weakref__", "edges", "grad", "number", "shape")

    def __init__(self, shape, edges=()):
        self.number = next(_numbers)
        self.shape = shape
        self.edges = edges  # (operand's node, vjp) pairs; () for a leaf, None once used
        self.grad = None


class Tensor:
    """An array and, if a gradient has to pass through it, its node on the tape.

    Arithmetic (+ - * / @, indexing, …) is defined in `ops`.
    """

    __slots__ = ("data", "node")
    __array_ufunc__ = None  # array + Tensor asks Tensor, not NumPy

    def __init__(self, data, requires_grad=False, node=None):
        self.data = data
        self.node = Node(data.shape) if requires_grad else node

    @property
    def grad(self):
        """The gradient left here by `backward`; None before that, and for a frozen tensor."""
        return self.node.grad if self.node is not None else None

    @grad.setter
    def grad(self, g):
        if self.node is not None:
            self.node.grad = g
        elif g is not None:
            raise ValueError("a frozen tensor holds no gradient; set requires_grad first")

    @property
    def requires_grad(self):
        """Whether a gradient passes through here."""
        return self.node is not None

    @property
    def arrays(self):
        """What holds it in memory, {end of its name in a file: array}; one, unless packed."""
        return {"": self.data}

    @property
    def shape(self):
        """The length of each axis."""
        return self.data.shape

    @property
    def dtype(self):
        """The type of the numbers."""
        return self.data.dtype

    @property
    def ndim(self):
        """The number of axes."""
        return self.data.ndim

    def __len__(self):
        return len(self.data)

    def item(self):
        """The number in a one-element tensor, as a Python float (copied to the host)."""
        return float(self.data)

    def backward(self):
        """See `minipeft.autograd.backward`."""
        backward(self)

    def __repr__(self):
        return f"Tensor({self.data!r}{', requires_grad' if self.requires_grad else ''})"


def value(x):
    """The array inside a Tensor; arrays and Python numbers stand for themselves (constants)."""
    return x.data if isinstance(x, Tensor) else x


def needs_gradient(*operands):
    """Whether `record` would now keep an edge to any of these operands."""
    return _recording.get() and any(
        isinstance(x, Tensor) and x.node is not None for x in operands
    )


def record(result, *edges):
    """Wrap an op's result; keep the edges (operand, vjp) to operands that need a gradient.

    A vjp takes the gradient g of the result, never writes into it, and returns the operand's
    gradient, which may still carry broadcast axes: backward sums those away.
    """
    if not _recording.get():
        return Tensor(result)
    kept = [(x.node, vjp) for x, vjp in edges if isinstance(x, Tensor) and x.node is not None]
    return Tensor(result, node=Node(result.shape, kept) if kept else None)


def once(vjp):
    """A part of a derivative that several edges of one op share, computed only once."""
    memo = []

    def shared(g):
        if not memo:
            memo.append(vjp(g))
        return memo[0]

    return shared


@contextlib.contextmanager
def no_grad():
    """Record nothing inside the block: evaluation and generation need no tape."""
    token = _recording.set(False)
    try:
        yield
    finally:
        _recording.reset(token)


def backward(loss):
    """Add d loss / d leaf to the `.grad` of every leaf that the scalar `loss` depends on.

    Raises what `gradients` raises, and then adds nothing.
    """
    add_to_leaves(gradients(loss))


def add_to_leaves(found):
    """Add {leaf node: gradient} to the `.grad` of each leaf."""
    for leaf, g in found.items():
        leaf.grad = g if leaf.grad is None else leaf.grad + g


def gradients(loss, g=None):
    """{leaf node: d loss / d leaf} for every leaf that the scalar `loss` depends on.

    g: the gradient to start from, where `loss` is a step on the way and no scalar.
    The tape is used up, its arrays freed as soon as they were needed. Raises ValueError for a
    loss that is no scalar or depends on nothing trainable, and RuntimeError for a tape that was
    used before: compute the loss again.
    """
    if g is None and loss.data.size != 1:
        text = f"backward starts from one number, but the loss has shape {loss.shape}"
        raise ValueError(f"{text}; reduce it first, with .mean() or .sum()")
    if loss.node is None:
        text = "the loss depends on nothing that requires a gradient"
        raise ValueError(f"{text}; attach a method or set requires_grad before computing it")
    found, pending = {}, {loss.node: xp.ones_like(loss.data) if g is None else g}
    heap = [(-loss.node.number, loss.node)]
    while heap:  # the youngest node first: all that used it have been visited
        node = heapq.heappop(heap)[1]
        g = pending.pop(node)
        if node.edges is None:
            raise RuntimeError("this tape was already used; compute the loss again")
        if not node.edges:
            found[node] = g
            continue
        edges, node.edges = node.edges, None
        while edges:
            source, vjp = edges.pop()
            dx = unbroadcast(vjp(g), source.shape)
            if source in pending:
                pending[source] = pending[source] + dx
            else:
                pending[source] = dx
                heapq.heappush(heap, (-source.number, source))
    return found


def unbroadcast(g, shape):
    """Sum a gradient over the axes along which its operand was broadcast.

    >>> import numpy as np
    >>> unbroadcast(np.ones((4, 2, 3)), (2, 1)).tolist()
    [[12.0], [12.0]]
    """
    if g.shape == shape:
        return g
    g = g.sum(axis=tuple(range(g.ndim - len(shape))))
    stretched = tuple(i for i, n in enumerate(shape) if n == 1 and g.shape[i] != 1)
    return g.sum(axis=stretched, keepdims=True) if stretched else g
