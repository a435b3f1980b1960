"""A model in outline: the same modules and methods, arrays without numbers, no memory.

sketch(Config.llama(…))     built as a Transformer is, by its own code
sketch(model)               a copy of a model as it stands, with all that is attached to it

What a step on it keeps and computes is what a step on the model would: see `ledger`.
"""

import contextlib
import copy

from ..engine.backend import creating, np, xp
from ..engine.tensor import Node
from ..model.config import Config
from ..model.layers import Parameter
from ..model.quantize import LEVELS, Packed, check_bare
from ..model.transformer import Cache, Transformer
from ..peft.base import adapters, base_parameters
from ..peft.targets import linears, targeted
from .saved_tensors import base_buffer
from .shape_array import Outline


class Draws(np.random.Generator):
    """A Generator whose numbers are Outlines."""

    def __init__(self):
        super().__init__(np.random.PCG64(0))

    def standard_normal(self, size):
        """The outline of normal numbers."""
        return Outline(size, "float64")

    def uniform(self, low, high, size):
        """The outline of uniform numbers."""
        return Outline(size, "float64")


class Masks:
    """Stands for a `Noise`: Dropout asks which numbers are at least p, and gets a mask."""

    def random(self, shape, dtype):
        """What compares as numbers of that shape."""
        self.shape = shape
        return self

    def __ge__(self, p):
        return np.empty(self.shape, bool)  # memory that is never touched


@contextlib.contextmanager
def outlines():
    """Inside the block new Parameters are Outlines."""
    if xp is not np:
        raise ValueError("outlines stand for NumPy's arrays; set MINIPEFT_BACKEND=numpy")
    with creating(lambda values, dtype: Outline(values.shape, dtype)):
        yield


class PackedOutline(Packed):
    """A Packed weight in outline: codes, and a scale a block that may be packed itself."""

    __slots__ = ()

    def __init__(self, shape, dtype, kind="nf4", block=64, double=True):
        self.node, self.kind, self.block, self.double = None, kind, block, double
        self.shape, self.dtype = shape, np.dtype(dtype)
        each = 1 if len(LEVELS[kind]) > 16 else 2  # codes in a byte
        self.codes = Outline((-(-self.size // each),), "uint8")
        self.mean, self.scales = None, Outline((-(-self.size // block),), "float32")
        if double:
            self.mean = Outline((1,), "float32")
            self.scales = PackedOutline(self.scales.shape, "float32", "int8", 256, False)

    @property
    def data(self):
        """What the codes stand for, made anew at each asking."""
        return Outline(self.shape, self.dtype)


def sketch(model, packed=None):
    """The outline of a Config or of a model, which stays as it is.

    packed: "int8", "int4" or "nf4", to hold the weights as `quantize` would, which refuses to
    do so under an adapter. TypeError for what is neither.
    """
    if isinstance(model, Config):
        with outlines():
            new = Transformer(model, Draws())
    elif isinstance(model, Transformer):
        with outlines():
            new = copied(model)
    else:
        raise TypeError(f"the ledger is of a Config or a Transformer, got {model!r}")
    if packed:
        check_bare(new)
        for p in new.parameters():
            p.requires_grad = False
        for layer in targeted(linears(new), "all-linear").values():
            layer.weight = PackedOutline(layer.weight.shape, layer.weight.dtype, packed)
    return new


def copied(model):
    """A deep copy of a model in which every array is an Outline."""
    memo, found = {}, [p for _, p in base_parameters(model)] + model.parameters()
    for adapter in adapters(model).values():
        found += adapter.parameters()
        for delta in adapter.deltas.values():
            found += arrays_in(list(vars(delta).values()))
    for thing in found:
        if isinstance(thing, Packed):
            how = thing.packed_by
            memo[id(thing)] = PackedOutline(thing.shape, thing.dtype, **how)
        elif isinstance(thing, Parameter):
            outline(thing.data, memo)
            if thing.requires_grad:
                memo[id(thing.node)] = Node(thing.shape)
        else:
            outline(thing, memo)
    return copy.deepcopy(model, memo)


def arrays_in(things):
    """The arrays in nested lists and tuples."""
    for thing in things:
        if isinstance(thing, xp.ndarray):
            yield thing
        elif isinstance(thing, (list, tuple)):
            yield from arrays_in(thing)


def outline(a, memo):
    """Put the Outline of an array into {id: Outline}; that of a view shares its base's."""
    whole = base_buffer(a)
    if id(whole) not in memo:
        memo[id(whole)] = Outline(whole.shape, whole.dtype)
    if a is not whole:
        memo[id(a)] = memo[id(whole)].view(a.shape, a.strides)


class Unmasked(Cache):
    """A cache that makes the causal mask in outline: it is as large as attention's scores."""

    def __init__(self, cache):
        vars(self).update(vars(cache))

    def extend(self, B, T, attention_mask, dtype):
        if attention_mask is not None or self.attention_mask is not None:
            return super().extend(B, T, attention_mask, dtype)
        self.length += T
        mask = Outline((T, self.length), dtype)
        return np.arange(self.length - T, self.length), mask


def unmasked(f, x, attention_mask):
    """A change at the start of a sequence: the same, but for the numbers of the mask."""
    x, attention_mask, cache = f(x, attention_mask)
    return x, attention_mask, Unmasked(cache)
