"""What is said of each op in outline is true of it: layout, what is kept, FLOPs."""

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from cases import CASES, cases, public
from counted import Counted, counting
from minipeft.engine import functional as F
from minipeft.engine import ops
from minipeft.engine import tensor as autograd
from minipeft.engine.backend import np
from minipeft.engine.tensor import Tensor
from minipeft.lab import costs
from minipeft.lab.saved_tensors import tape_arrays
from minipeft.lab.shape_array import Outline, noting


def test_every_op_has_its_costs():
    assert public(ops) | public(F) <= vars(costs).keys()


def outlined(a):
    """The Outline of an array, laid out alike."""
    return Outline(a.shape, a.dtype, sorted(range(a.ndim), key=lambda i: -a.strides[i]))


@pytest.mark.parametrize("name", CASES)
def test_an_op_in_outline_keeps_and_computes_what_the_op_does(name):
    hold(name, list(Phase))


def hold(name, phases):
    """Assert it of one op, over drawn operands of which some train."""

    @settings(phases=phases)
    @given(cases(name), st.data())
    def property(case, data):
        f, arrays = case
        trains = data.draw(st.lists(st.booleans(), min_size=len(arrays), max_size=len(arrays)))
        order = data.draw(st.sampled_from("CF"))
        arrays = [np.asarray(a, order=order) for a in arrays]
        real = [Tensor(a.view(Counted), t) for a, t in zip(arrays, trains, strict=True)]
        with counting() as counts:
            y = f(*real)
            kept = sorted(a.nbytes for a in tape_arrays(y))
            if y.requires_grad:
                autograd.gradients(y, np.ones(y.shape))
        drawn = [Tensor(outlined(a), t) for a, t in zip(arrays, trains, strict=True)]
        with costs.in_outline(), noting() as noted:
            z = f(*drawn)
            assert sorted(a.nbytes for a in tape_arrays(z)) == kept
            if z.requires_grad:
                autograd.gradients(z, Outline(z.shape, z.dtype))
        assert (z.shape, z.dtype, z.requires_grad) == (y.shape, y.dtype, y.requires_grad)
        assert noted == counts

    property()


def forgets_the_input(x, w, b=None):
    """A linear whose dw would keep nothing."""
    y = Outline((*x.shape[:-1], w.shape[0]), x.dtype)
    n = 2 * y.size * x.shape[-1]
    return costs.costed("linear", y, (x, [w], n), (w, [], n), (b,), flops=n)


def halves_a_product(x, y):
    """A product whose FLOPs are counted as its multiplications only."""
    a, b = x.data, y.data
    return costs.costed("matmul", a @ b, (x, [b], (a @ b).size), (y, [a], (a @ b).size))


@pytest.mark.parametrize(
    "name, wrong", [("linear", forgets_the_input), ("matmul", halves_a_product)]
)
def test_a_wrong_cost_is_caught(name, wrong, monkeypatch):
    monkeypatch.setattr(costs, name, wrong)
    with pytest.raises(AssertionError):
        hold(name, [Phase.generate])
