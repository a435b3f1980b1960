"""On arrays without values every op keeps, returns and multiplies what it does on real ones."""

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from cases import CASES, cases
from counted import Counted, counting
from minipeft.engine.backend import np
from minipeft.engine.tensor import Tensor, gradients
from minipeft.lab import shape_array
from minipeft.lab.ledger_table import KEEPS
from minipeft.lab.saved_tensors import base_buffer, tape_arrays
from minipeft.lab.shape_array import ShapeArray, counting_flops, largest_first


@pytest.mark.parametrize("name", CASES)
def test_an_op_does_the_same_without_values(name):
    hold(name, list(Phase))


def hold(name, phases):
    """Assert it of one op, over drawn operands of which some train."""

    @settings(phases=phases)
    @given(cases(name), st.data())
    def property(case, data):
        f, arrays = case
        trains = data.draw(st.lists(st.booleans(), min_size=len(arrays), max_size=len(arrays)))
        order = data.draw(st.sampled_from("CF"))
        real = [np.asarray(a, order=order).view(Counted) for a in arrays]
        shapes = [ShapeArray(a.shape, a.dtype, largest_first(a)) for a in real]
        with counting() as counts:
            expected = done(f, real, trains, np.ones)
        with counting_flops() as flops:
            assert done(f, shapes, trains, ShapeArray) == expected
        assert sum(flops) == sum(counts.values())
        assert not expected["kept"] or name in KEEPS  # what the ledger's table says of it

    property()


def done(f, arrays, trains, new):
    """What an op returns, keeps and passes back, without values; `new` makes the gradient."""
    operands = [Tensor(a, t) for a, t in zip(arrays, trains, strict=True)]
    y = f(*operands)
    views = [base_buffer(y.data) is base_buffer(a) for a in arrays]
    kept = sorted(a.nbytes for a in tape_arrays(y))
    grads = gradients(y, new(y.shape, y.dtype)) if y.requires_grad else {}
    back = [laid_out(grads[x.node]) for x in operands if x.node in grads]
    return {"result": laid_out(y.data), "views": views, "kept": kept, "back": back}


def laid_out(a):
    """Shape, dtype, and the strides of the axes that are longer than 1."""
    strides = [stride for n, stride in zip(a.shape, a.strides, strict=True) if n > 1]
    return a.shape, a.dtype, strides


def test_the_table_speaks_of_ops_only():
    assert KEEPS.keys() <= CASES.keys() | {"chunked_loss", "recomputed"}


def uncounted(a, b, product=shape_array.product):
    """A product whose FLOPs go elsewhere."""
    with counting_flops():
        return product(a, b)


def float64(shape, *_):
    """A result whose operands are not looked at."""
    return ShapeArray(shape, "float64")


def copied(a, shape, strides):
    """New memory instead of a view."""
    return ShapeArray(shape, a.dtype)


MISTAKES = {  # {a wrong rule: (its place, what stands there, an op that shows it)}
    "products are not counted": ("product", uncounted, "matmul"),
    "a mask takes eight bytes a value": ("result", float64, "relu"),
    "a reshape always copies": ("regrouped", lambda *_: None, "reshape"),
    "a sum keeps its axis": ("ShapeArray.sum", lambda a, *_, **__: a.copy(), "sum"),
    "a transposed array is a copy": ("ShapeArray.view", copied, "transpose"),
    "rows are looked up without a copy": (
        "ShapeArray.__getitem__",
        lambda a, _: a,
        "embedding",
    ),
    "the order in memory is forgotten": ("largest_first", lambda a: range(a.ndim), "exp"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_wrong_rule_is_caught(mistake, monkeypatch):
    place, wrong, op = MISTAKES[mistake]
    monkeypatch.setattr(f"minipeft.lab.shape_array.{place}", wrong)
    with pytest.raises(AssertionError):
        hold(op, [Phase.generate])


def test_values_are_refused():
    a = ShapeArray((2, 3), "float32")
    for use in (np.asarray, float, int, bool):
        with pytest.raises(TypeError, match="no values"):
            use(a)
    with pytest.raises(TypeError, match=r"np\.cumsum has no rule .* add one"):
        np.cumsum(a)
    with pytest.raises(TypeError, match=r"np\.add\.reduce has no rule"):
        np.add.reduce(a)


def test_shapes_that_do_not_fit_are_refused():
    a = ShapeArray((2, 3), "float32")
    with pytest.raises(ValueError, match="do not fit"):
        a @ a
    with pytest.raises(ValueError, match="cannot reshape"):
        a.reshape(4, -1)
    with pytest.raises(ValueError, match="broadcast"):
        a + a.T
    with pytest.raises(OverflowError):
        ShapeArray((10**12, 10**12), "float32")
