"""A model on arrays without values: the same modules and methods, no memory.

shape_model(Config.llama(…))     built by the Transformer's own code
shape_model(model)               a copy of a model as it stands, with all that is attached to it

What a step on it keeps and computes is what a step on the model would: see `ledger`.
"""

import contextlib
import copy

from ..engine.backend import array_constructor, np, xp
from ..engine.tensor import Node, Tensor
from ..model.config import Config
from ..model.quantize import QuantizedParameter, check_no_adapters
from ..model.transformer import Transformer
from ..peft.base import adapters, base_parameters
from ..peft.targets import linears, targeted
from .saved_tensors import base_buffer
from .shape_array import ShapeArray, new_like


class ShapeRNG(np.random.Generator):
    """A Generator that draws ShapeArrays."""

    def __init__(self):
        super().__init__(np.random.PCG64(0))

    def normal(self, mean, std, size):
        """Normal values."""
        return ShapeArray(size, "float64")

    def standard_normal(self, size):
        """Normal values."""
        return ShapeArray(size, "float64")

    def uniform(self, low, high, size):
        """Uniform values."""
        return ShapeArray(size, "float64")

    def random(self, size, dtype):
        """Uniform values in [0, 1)."""
        return ShapeArray(size, dtype)

    def __deepcopy__(self, memo):
        return self


class PackedShape(QuantizedParameter):
    """A QuantizedParameter whose codes and scales are ShapeArrays."""

    __slots__ = ()

    @property
    def data(self):
        """What the codes stand for, made anew at each asking."""
        return ShapeArray(self.shape, self.dtype)


@contextlib.contextmanager
def shape_arrays():
    """Inside the block, new parameters and constants are ShapeArrays."""
    if xp is not np:
        raise ValueError("shapes stand for NumPy's arrays; set MINIPEFT_BACKEND=numpy")
    with array_constructor(lambda values, dtype: ShapeArray(values.shape, dtype)):
        yield


def shape_model(model, packed=None):
    """The Transformer on ShapeArrays of a Config, or of a Transformer, which stays as it is.

    packed: "int8", "int4" or "nf4", to hold the weights as `quantize` would, which refuses to
    do so under an adapter. Raises TypeError for what is neither.
    """
    with shape_arrays():
        if isinstance(model, Config):
            new = Transformer(model, ShapeRNG())
        elif isinstance(model, Transformer):
            new = shape_copy(model)
        else:
            raise TypeError(f"the ledger is of a Config or a Transformer, got {model!r}")
    if packed:
        check_no_adapters(new)
        for p in new.parameters():
            p.requires_grad = False
        for layer in targeted(linears(new), "all-linear").values():
            layer.weight = PackedShape(layer.weight.data, packed)
    return new


def shape_copy(model):
    """A deep copy of a model in which every array is a ShapeArray."""
    memo, things = {}, [p for _, p in base_parameters(model)] + model.parameters()
    for adapter in adapters(model).values():
        things += adapter.parameters()
        for delta in adapter.deltas.values():
            things += arrays_in(list(vars(delta).values()))
    for thing in things:
        if isinstance(thing, QuantizedParameter):
            values = ShapeArray(thing.shape, thing.dtype)
            memo[id(thing)] = PackedShape(values, **thing.quantization)
        elif isinstance(thing, Tensor):
            add_shape(thing.data, memo)
            if thing.requires_grad:
                memo[id(thing.node)] = Node(thing.shape)
        else:
            add_shape(thing, memo)
    return copy.deepcopy(model, memo)


def arrays_in(things):
    """The arrays in nested lists and tuples."""
    for thing in things:
        if isinstance(thing, xp.ndarray):
            yield thing
        elif isinstance(thing, (list, tuple)):
            yield from arrays_in(thing)


def add_shape(a, memo):
    """Add an array's ShapeArray to {id: ShapeArray}; that of a view is a view of its base's."""
    base = base_buffer(a)
    if id(base) not in memo:
        memo[id(base)] = new_like(base)
    if a is not base:
        memo[id(a)] = memo[id(base)].view(a.shape, a.strides)
