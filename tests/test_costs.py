"""What is said of each op in outline is true of it: layout, what is kept, FLOPs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cases import CASES, cases, public
from counted import Counted, counting
from minipeft import attention, autograd, costs, ops
from minipeft import functional as F
from minipeft.autograd import Tensor
from minipeft.backend import np
from minipeft.outline import Outline, noting
from minipeft.tape import tape_arrays


def test_every_op_has_its_costs():
    assert public(ops) | public(F) | public(attention) <= vars(costs).keys()


def outlined(a):
    """The Outline of an array, laid out alike."""
    return Outline(a.shape, a.dtype, sorted(range(a.ndim), key=lambda i: -a.strides[i]))


@pytest.mark.parametrize("name", CASES)
def test_an_op_in_outline_keeps_and_computes_what_the_op_does(name):
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
