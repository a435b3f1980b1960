"""The tape: what is recorded, what is kept alive, what backward adds and when it refuses."""

import threading
import weakref

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import mutually_broadcastable_shapes

import minipeft as mp
from minipeft.engine import ops
from minipeft.engine.backend import default_dtype, np, to_numpy, xp
from minipeft.engine.tensor import (
    Tensor,
    gradients,
    needs_gradient,
    no_grad,
    record,
    unbroadcast,
    value,
)
from minipeft.lab.saved_tensors import tape_arrays
from minipeft.model.layers import Parameter


def leaf(*shape, seed=0):
    """A Tensor of random numbers that needs a gradient."""
    a = np.random.default_rng(seed).standard_normal(shape)
    return Tensor(xp.asarray(a), requires_grad=True)


def same(a, b):
    """Whether two arrays are equal in every bit and in shape."""
    a, b = to_numpy(a), to_numpy(b)
    return a.shape == b.shape and bool((a == b).all())


def doubled(x, during=lambda: None):
    """(2 x, weak reference to an array that its derivative keeps); calls `during` backward."""
    twos = xp.full(x.shape, 2.0)

    def vjp(g):
        during()
        return g * twos

    return record(value(x) * twos, (x, vjp)), weakref.ref(twos)


# What backward adds


@given(st.integers(1, 6))
def test_fan_out_adds_up(uses):
    x, total = leaf(3), 0.0
    for i in range(uses):
        total = total + x * float(i + 1)
    total.sum().backward()
    assert same(x.grad, xp.full(3, uses * (uses + 1) / 2))


def test_an_operand_used_twice_by_one_op():
    x = leaf(4)
    ops.mul(x, x).sum().backward()
    assert same(x.grad, 2.0 * x.data)


def test_a_diamond_is_walked_once():
    x, calls = leaf(3), []
    top, _ = doubled(x, during=lambda: calls.append("top"))
    left, right = ops.exp(top), ops.square(top)
    (left * right).sum().backward()
    a = 2.0 * x.data
    expected = 2.0 * xp.exp(a) * (a * a + 2.0 * a)
    np.testing.assert_allclose(to_numpy(x.grad), to_numpy(expected), rtol=1e-14)
    assert calls == ["top"]


@given(st.integers(2, 12))
def test_a_ladder_of_diamonds_takes_one_visit_a_node(rungs):
    x, calls = leaf(1), []
    y = x
    for _ in range(rungs):
        y, _ = doubled(y, during=lambda: calls.append(1))
        y = y + y  # 2ⁿ paths, n nodes
    y.sum().backward()
    assert len(calls) == rungs
    assert same(x.grad, xp.full(1, 4.0**rungs))


def test_a_branch_that_the_loss_does_not_use_is_left_alone():
    x, unused = leaf(3), leaf(3)
    side, ref = doubled(x, during=lambda: pytest.fail("an unused branch was visited"))
    (x + unused * 0.0)  # recorded, and not part of the loss
    (x * 3.0).sum().backward()
    assert same(x.grad, xp.full(3, 3.0))
    assert unused.grad is None and ref() is not None and side.node.edges


@pytest.mark.parametrize("length", [5_000, 50_000])
def test_a_long_chain_needs_no_recursion(length):
    x = leaf(2)
    y = x
    for _ in range(length):
        y = y + 1.0
    assert len(tape_arrays(y.sum())) == 0
    y.sum().backward()
    assert same(x.grad, xp.ones(2))


def test_two_backwards_add_up():
    x = leaf(3)
    (x * 3.0).sum().backward()
    first = x.grad
    (x * 4.0).sum().backward()
    assert same(x.grad, xp.full(3, 7.0))
    assert same(first, xp.full(3, 3.0))  # not written into


def test_gradients_leaves_the_leaves_alone():
    x = leaf(3)
    found = gradients((x * 3.0).sum())
    assert x.grad is None and same(found[x.node], xp.full(3, 3.0))


def test_gradients_start_from_a_given_one():
    x, g = leaf(2, 3), xp.asarray(np.arange(6.0).reshape(2, 3))
    assert same(gradients(x * 3.0, g)[x.node], 3.0 * g)


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_any_shape_of_one_number_is_a_loss(shape):
    x = leaf(3)
    ops.reshape(x.sum(), shape).backward()
    assert same(x.grad, xp.ones(3))


def test_a_frozen_tensor_holds_no_gradient():
    x = Tensor(xp.ones(3))
    x.grad = None
    assert x.grad is None and not x.requires_grad
    with pytest.raises(ValueError, match="requires_grad"):
        x.grad = xp.ones(3)


def test_freezing_a_parameter_drops_its_gradient():
    p = Parameter(np.ones(3))
    (p * 2.0).sum().backward()
    p.requires_grad = True  # as it was: nothing happens
    assert same(p.grad, xp.full(3, 2.0))
    p.requires_grad = False
    assert p.grad is None
    p.requires_grad = True
    assert p.grad is None and p.requires_grad


# When it refuses


def test_a_second_backward_is_an_error_and_adds_nothing():
    x = leaf(3)
    loss = (x * 2.0).sum()
    loss.backward()
    with pytest.raises(RuntimeError, match="already used; compute the loss again"):
        loss.backward()
    assert same(x.grad, xp.full(3, 2.0))


def test_a_second_backward_through_a_shared_part_adds_nothing():
    x, y = leaf(3), leaf(3)
    shared = x * 2.0
    first, second = shared.sum(), (shared * y + y).sum()
    first.backward()
    with pytest.raises(RuntimeError, match="already used"):
        second.backward()
    assert same(x.grad, xp.full(3, 2.0))
    assert y.grad is None  # found before the used part was met, and not kept


def test_a_leaf_itself_may_be_the_loss_again_and_again():
    x = leaf(1)
    x.backward()
    x.backward()
    assert same(x.grad, xp.full(1, 2.0))


SHAPES = st.lists(st.integers(1, 3), min_size=1, max_size=4)


@given(SHAPES.filter(lambda shape: np.prod(shape) > 1))
def test_a_loss_is_one_number(shape):
    x = leaf(*shape)
    with pytest.raises(ValueError) as error:
        (x * 2.0).backward()
    assert str(tuple(shape)) in str(error.value) and ".mean()" in str(error.value)
    assert x.grad is None


def test_a_loss_of_nothing_trainable_is_an_error():
    with pytest.raises(ValueError, match="nothing that requires a gradient; attach"):
        (Tensor(xp.ones(3)) * 2.0).sum().backward()
    with no_grad():
        loss = leaf(3).sum()
    with pytest.raises(ValueError, match="nothing that requires a gradient"):
        loss.backward()


# Recording


def test_no_grad_records_nothing_and_ends_even_by_an_error():
    x = leaf(3)
    with pytest.raises(KeyError), no_grad():
        with no_grad():
            assert (x * 2.0).node is None
        assert (x * 2.0).node is None and not needs_gradient(x)
        raise KeyError
    assert needs_gradient(x) and (x * 2.0).node is not None


def in_thread(f):
    """f(), computed in a thread of its own."""
    results = []
    thread = threading.Thread(target=lambda: results.append(f()))
    thread.start()
    thread.join()
    return results[0]


def test_threads_do_not_share_no_grad_and_dtype():
    x, inside, done = leaf(3), threading.Event(), threading.Event()

    def other():
        with no_grad(), mp.dtype("float64"):
            inside.set()
            done.wait(10)

    thread = threading.Thread(target=other)
    thread.start()
    assert inside.wait(10)
    try:
        assert needs_gradient(x) and (x * 2.0).node is not None
        assert default_dtype() == "float32" and Parameter(np.ones(2)).dtype == "float32"
    finally:
        done.set()
        thread.join()
    (x * 2.0).sum().backward()
    assert same(x.grad, xp.full(3, 2.0))


def test_threads_record_on_tapes_of_their_own():
    x = leaf(3)

    def gradient_of(k):
        return gradients((x * float(k)).sum())[x.node]

    threads = [in_thread(lambda k=k: gradient_of(k)) for k in range(4)]
    assert all(same(g, xp.full(3, float(k))) for k, g in enumerate(threads))


@pytest.mark.parametrize("name", ["float16", "int32", "double precision", None])
def test_an_unknown_dtype_is_refused(name):
    with pytest.raises(ValueError, match="use 'float32' or 'float64'"), mp.dtype(name):
        pass
    assert default_dtype() == "float32"


# Broadcasting


@given(mutually_broadcastable_shapes(num_shapes=2, max_dims=4, max_side=3, min_side=1))
def test_broadcasting_is_undone_once(shapes):
    (a, b), full = shapes.input_shapes, shapes.result_shape
    x, y = leaf(*a, seed=1), leaf(*b, seed=2)
    (x * y).sum().backward()
    for one, other in ((x, y), (y, x)):
        spread = np.broadcast_to(to_numpy(other.data), full)
        index = np.broadcast_to(np.arange(one.data.size).reshape(one.shape), full)
        expected = np.bincount(index.ravel(), spread.ravel(), one.data.size)
        assert one.grad.shape == one.shape
        np.testing.assert_allclose(to_numpy(one.grad).ravel(), expected, rtol=1e-13)


@given(mutually_broadcastable_shapes(num_shapes=1, base_shape=(2, 1, 3), min_side=1))
def test_unbroadcast_counts_the_repeats(shapes):
    (shape,), full = shapes.input_shapes, shapes.result_shape
    repeats = np.prod(full) / np.prod(shape)
    assert same(unbroadcast(xp.ones(full), shape), xp.full(shape, float(repeats)))


def test_unbroadcast_gives_back_what_fits():
    g = xp.ones((2, 3))
    assert unbroadcast(g, (2, 3)) is g
