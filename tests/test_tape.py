"""What the tape keeps alive, and when it lets go: all without the garbage collector."""

import contextlib
import gc
import weakref

import pytest

from minipeft.engine import functional as F
from minipeft.engine import ops
from minipeft.engine.backend import np, xp
from minipeft.engine.tensor import Tensor, needs_gradient, no_grad, once, record, value
from minipeft.lab.saved_tensors import tape_arrays
from minipeft.model.layers import Parameter
from test_autograd import doubled, leaf, same


@contextlib.contextmanager
def no_collector():
    """Inside the block nothing is freed but by reference counts."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def test_arrays_and_nodes_die_with_the_loss():
    x = leaf(4)
    with no_collector():
        y, kept = doubled(x)
        z, deeper = doubled(ops.exp(y))
        nodes = [weakref.ref(t.node) for t in (y, z)]
        loss = z.sum()
        del y, z
        assert kept() is not None and deeper() is not None and all(ref() for ref in nodes)
        del loss
        assert kept() is None and deeper() is None and not any(ref() for ref in nodes)


def test_backward_frees_what_it_has_used():
    x, alive = leaf(4), []
    with no_collector():
        y, first = doubled(x, during=lambda: alive.append((first(), second(), third())))
        y, second = doubled(y)
        y, third = doubled(y)
        loss = y.sum()
        loss.backward()
        assert [array is not None for array in alive[0]] == [True, False, False]
        alive.clear()
        assert first() is None  # although `loss` and `y` are still there
        assert same(x.grad, xp.full(4, 8.0))
        assert loss.node.edges is None and y.node.edges is None


def test_backward_frees_an_op_edge_by_edge():
    x, y, alive = leaf(3), leaf(3), []

    def edge(operand):
        kept = xp.full(3, 2.0)
        refs.append(weakref.ref(kept))
        return operand, lambda g: alive.append([ref() is not None for ref in refs]) or g * kept

    refs = []
    with no_collector():
        record(xp.ones(3), edge(x), edge(y)).sum().backward()
    assert alive == [[True, True], [True, False]]  # the last edge first


def test_backward_frees_the_gradients_on_the_way():
    x, refs, alive = leaf(3), [], []

    def noted(x):
        def vjp(g):
            alive.append([ref() is not None for ref in refs])
            dx = g * 2.0
            refs.append(weakref.ref(dx))
            return dx

        return record(value(x) * 2.0, (x, vjp))

    with no_collector():
        noted(noted(noted(x))).sum().backward()
    assert alive == [[], [True], [False, True]]  # g itself, and nothing before it


def test_a_shared_part_of_a_derivative_is_computed_once():
    calls = []
    shared = once(lambda g: calls.append(g) or 2 * g)
    assert [shared(3), shared(3)] == [6, 6] and calls == [3]


def test_a_value_dies_when_no_derivative_needs_it():
    x = leaf(4)
    with no_collector():
        y = x + 1.0
        ref = weakref.ref(y.data)
        loss = (y + 1.0).sum()
        del y
        assert ref() is None  # a sum needs nothing of its operands
        loss.backward()


@pytest.mark.parametrize("frozen", ["x", "w"])
def test_a_frozen_operand_leaves_no_edge_and_the_other_is_not_kept(frozen):
    a, b = xp.ones((2, 3)), xp.ones((4, 3))
    x, w = (Tensor(v, requires_grad=name != frozen) for name, v in (("x", a), ("w", b)))
    with no_collector():
        y = F.linear(x, w)
        trained = w if frozen == "x" else x
        assert [source for source, _ in y.node.edges] == [trained.node]
        # dx = g w needs the weight alone, dw = gᵀ x the input alone
        kept = {id(array) for array in tape_arrays(y)}
        assert kept == {id(b if frozen == "w" else a)}
        if frozen == "w":
            ref = weakref.ref(a)
            del a
            x.data = None
            assert ref() is None
        else:
            ref = weakref.ref(b)
            del b
            w.data = None
            assert ref() is None


def test_below_the_first_trainable_number_nothing_is_recorded():
    w = Tensor(xp.ones((3, 3)))
    x = F.linear(F.gelu(F.linear(Tensor(xp.ones((2, 3))), w)), w)
    assert x.node is None and not needs_gradient(x, w)
    assert (x * leaf(3)).node is not None


def test_tape_arrays_counts_each_buffer_once_and_no_parameters():
    p, flat = Parameter(np.ones((3, 3))), xp.ones(9)
    p.data = flat.reshape(3, 3)  # a view
    big = Tensor(xp.ones((4, 2, 3)), requires_grad=True)
    y = ops.exp(big)  # keeps its value
    half, other = y[:2].reshape(4, 3), y[2:].reshape(4, 3)
    loss = ((half * other).sum() + F.linear(y, p).sum()).sum()
    kept = tape_arrays(loss, [p])
    assert [id(a) for a in kept] == [id(y.data)]  # the views are of one buffer
    assert {id(a) for a in tape_arrays(loss)} == {id(y.data), id(flat)}
    loss.backward()
    assert tape_arrays(loss) == []
    with no_grad():
        assert tape_arrays(ops.exp(big)) == []


def test_a_long_chain_is_freed_without_recursion():
    y = leaf(2)
    with no_collector():
        refs = []
        for _ in range(50_000):
            y = y + 1.0
            refs.append(weakref.ref(y.node))
        del y
        assert not any(ref() for ref in refs)
