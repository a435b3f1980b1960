"""Reverse-mode automatic differentiation: a tape of operations, walked backward once.

An operation computes its value on plain arrays and calls `record` with one edge per operand:

    def mul(x, y):
        a, b = value(x), value(y)
        return record(
            a * b,
            (x, lambda g: g * b),      # the gradient g of the result -> the gradient of x
            (y, lambda g: g * a),      # … -> the gradient of y
        )

The function in an edge is a vector-Jacobian product (vjp). The arrays that it refers to, here
a and b, are the saved tensors: they stay in memory until the backward pass has used them.

`record` keeps only the edges whose operand needs a gradient. The edge to a frozen weight is
dropped, and with it the vjp that refers to the layer's input. So that input is not saved, the
gradient of the weight is never computed, and below the first trainable parameter there is no
tape at all. This is where parameter-efficient fine-tuning saves memory and time.

Only the node of a leaf holds its array, so an array that no vjp refers to is freed at once.
Nodes are numbered as they are created, which is a topological order: backward needs no
recursion. A leaf gets a new number when it is seen to have been written. If that is larger than
the number of an operation that read it, backward refuses to give a wrong gradient.
Only first derivatives exist, as a gradient is a plain array and not a Tensor.
"""

import contextlib
import heapq
import itertools
from contextvars import ContextVar

from .backend import array, np, to_numpy, xp

_recording = ContextVar("recording", default=True)
_numbers = itertools.count()


class Node:
    """One value on the tape: the edges to its operands; at a leaf, the gradient itself."""

    __slots__ = ("__weakref__", "array", "edges", "grad", "number", "sample", "shape")

    def __init__(self, shape, edges=(), array=None):
        self.number = next(_numbers)
        self.shape = shape
        self.edges = edges  # (operand's node, vjp) pairs; () at a leaf; None once used
        self.array, self.sample = array, None  # of a leaf, and the bytes of a few of its values
        self.grad = None

    def look(self):
        """Number a leaf anew if any of 16 values in it has changed since the last look."""
        if isinstance(self.array, np.ndarray):
            sample = self.array.flat[:: self.array.size // 16 + 1].tobytes()
            if sample != self.sample:
                self.sample, self.number = sample, next(_numbers)

    def __setstate__(self, state):
        """Fill a copy or an unpickled node. It is numbered here: each process counts anew."""
        for name, part in state[1].items():
            setattr(self, name, part)
        self.number = next(_numbers)


class Tensor:
    """An array and, if a gradient has to pass through it, its node on the tape.

    An array stays as it is; a number, or a list of numbers, becomes an array of the default
    dtype. The arithmetic (+ - * / ** @, indexing, sum, reshape, …) is defined in `ops`.
    """

    __slots__ = ("_data", "node")
    __array_ufunc__ = None  # in `array + tensor`, NumPy leaves the sum to Tensor

    def __init__(self, data, requires_grad=False, node=None):
        self._data = data if hasattr(data, "shape") else array(data)
        self.node = Node(self._data.shape, array=self._data) if requires_grad else node

    @property
    def data(self):
        """The array. If a leaf is written, by AdamW, by `w.data -= a` or by `w.data[...] = a`,
        `backward` of a loss that was computed before raises RuntimeError.

        NumPy tells nobody of writes into an array, so up to 16 values, evenly spaced, are
        compared. A write to a few others, to a frozen tensor, or on a GPU goes unnoticed.
        """
        return self._data

    @data.setter
    def data(self, a):
        self._data = a
        if self.node is not None and self.node.edges == ():
            self.node.array, self.node.number = a, next(_numbers)

    @property
    def grad(self):
        """The gradient that `backward` left here; None before that, and if frozen."""
        return self.node.grad if self.node is not None else None

    @grad.setter
    def grad(self, g):
        if self.node is not None:
            self.node.grad = g
        elif g is not None:
            raise ValueError("a frozen tensor holds no gradient; set requires_grad first")

    @property
    def requires_grad(self):
        """Whether it is on the tape, so that a gradient passes through it."""
        return self.node is not None

    @property
    def arrays(self):
        """The arrays that hold it in memory, {end of its name in a file: array}.

        There is one, {"": data}; a quantised weight has several (codes and scales).
        """
        return {"": self.data}

    @property
    def shape(self):
        """The length of each axis."""
        return self.data.shape

    @property
    def dtype(self):
        """The type of the elements."""
        return self.data.dtype

    @property
    def ndim(self):
        """The number of axes."""
        return self.data.ndim

    def __len__(self):
        return len(self.data)

    def __array__(self, dtype=None, copy=None):
        """Its values for NumPy, on the host; no gradient passes through them."""
        a = to_numpy(self.data)
        return np.array(a, dtype) if copy else np.asarray(a, dtype)

    def item(self):
        """Returns the value of a one-element tensor as a Python float, copied to the host."""
        return float(self.data)

    def backward(self):
        """Add d self / d leaf to the `.grad` of every leaf: see the function `backward`."""
        backward(self)

    def __repr__(self):
        return f"Tensor({self.data!r}{', requires_grad' if self.requires_grad else ''})"


def value(x):
    """Returns the array of a Tensor, or of a list of numbers; other constants as they are."""
    if isinstance(x, Tensor):
        return x.data
    return array(x) if isinstance(x, (list, tuple)) else x


def values(x, y):
    """Returns the values of two operands; beside a Tensor, a NumPy number is one of Python.

    For one such as np.sqrt(8), a float64, would turn a result of float32 into float64.
    """
    a = number(value(x)) if isinstance(y, Tensor) and not isinstance(x, Tensor) else value(x)
    b = number(value(y)) if isinstance(x, Tensor) and not isinstance(y, Tensor) else value(y)
    return a, b


def number(a):
    """Returns a NumPy array without axes as a Python number, and all else as it is."""
    return a.item() if isinstance(a, (np.generic, np.ndarray)) and a.ndim == 0 else a


def needs_gradient(*operands):
    """Returns whether `record` would keep an edge to any of these operands."""
    return _recording.get() and any(
        isinstance(x, Tensor) and x.node is not None for x in operands
    )


def record(result, *edges):
    """Returns the result of an operation as a Tensor, its edges (operand, vjp) on the tape.

    Only edges to operands that need a gradient are kept, and none inside `no_grad`.
    A vjp takes the gradient g of the result, never writes into it, and returns the gradient of
    the operand. If the operand was broadcast, backward sums that gradient to its shape.
    """
    if not _recording.get():
        return Tensor(result)
    kept = [(x.node, vjp) for x, vjp in edges if isinstance(x, Tensor) and x.node is not None]
    for source, _ in kept:
        source.look()
    return Tensor(result, node=Node(result.shape, kept) if kept else None)


def once(vjp):
    """Returns the vjp such that only its first call computes; the others return that result.

    It is for a part of the derivative that several edges of one operation share.
    """
    results = []

    def shared(g):
        if not results:
            results.append(vjp(g))
        return results[0]

    return shared


@contextlib.contextmanager
def no_grad():
    """Record no tape inside the block: evaluation and generation need no gradients."""
    token = _recording.set(False)
    try:
        yield
    finally:
        _recording.reset(token)


def backward(loss):
    """Add d loss / d leaf to the `.grad` of every leaf that the scalar `loss` depends on.

    Raises ValueError or RuntimeError as `gradients` does, and then adds nothing.
    """
    add_to_leaves(gradients(loss))


def add_to_leaves(leaf_gradients):
    """Add {leaf node: gradient} to the `.grad` of each leaf, an array with memory of its own.

    A gradient may be a view, or that of two leaves: then it is copied.
    """
    taken = set()
    for leaf, g in leaf_gradients.items():
        if leaf.grad is not None:
            g = leaf.grad + g
        own = isinstance(g, xp.ndarray) and g.base is None and id(g) not in taken
        leaf.grad = g if own else xp.array(g)
        taken.add(id(g))


@np.errstate(under="ignore")
def gradients(loss, g=None):
    """Returns {leaf node: d loss / d leaf} for every leaf that the scalar `loss` depends on.

    With g, an array of the shape of `loss`, it returns the vjp Σ g · d loss / d leaf instead,
    and `loss` need not be a scalar. The tape is used up: its saved tensors are freed meanwhile.
    Raises ValueError if the loss is not a scalar (reduce it first) or depends on nothing that
    requires a gradient, and RuntimeError if its tape was already used, or if a leaf was written
    after the loss was computed (then compute the loss again).
    """
    if g is None and loss.data.size != 1:
        text = f"backward starts from a scalar, but the loss has shape {loss.shape}"
        raise ValueError(f"{text}; reduce it first, with .mean() or .sum()")
    if loss.node is None:
        text = "the loss depends on nothing that requires a gradient"
        raise ValueError(f"{text}; attach a method or set requires_grad before computing it")
    arrived, heap = {loss.node: xp.ones_like(loss.data) if g is None else g}, []
    if loss.node.edges != ():
        heap.append((-loss.node.number, loss.node))
    while heap:  # the youngest node first: every node that used it has been visited
        node = heapq.heappop(heap)[1]
        g = arrived.pop(node)
        if node.edges is None:
            raise RuntimeError("this tape was already used; compute the loss again")
        edges, node.edges = node.edges, None
        while edges:
            source, vjp = edges.pop()
            source.look()
            if source.number > node.number:
                text = "a weight was written after the loss was computed from it"
                raise RuntimeError(f"{text}; call backward first, or compute the loss again")
            dx = unbroadcast(vjp(g), source.shape)
            if source in arrived:
                arrived[source] = arrived[source] + dx
                continue
            arrived[source] = dx
            if source.edges != ():  # a leaf stays where its gradients arrive
                heapq.heappush(heap, (-source.number, source))
    return arrived


def unbroadcast(g, shape):
    """Returns a gradient summed to its operand's shape, over the axes that were broadcast.

    >>> import numpy as np
    >>> unbroadcast(np.ones((4, 2, 3)), (2, 1)).tolist()
    [[12.0], [12.0]]
    """
    if g.shape == shape:
        return g
    g = g.sum(axis=tuple(range(g.ndim - len(shape))))
    stretched = tuple(i for i, n in enumerate(shape) if n == 1 and g.shape[i] != 1)
    return g.sum(axis=stretched, keepdims=True) if stretched else g
