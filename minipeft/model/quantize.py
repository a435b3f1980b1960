"""Quantisation: the weights of a frozen base in 8 or 4 bits per parameter instead of 32.

Frozen weights are only read, so they need not be precise enough for small updates. A block of
64 weights shares one scale, its largest |w|, and each weight is a code, the index of a level:

    w ≈ level[code] · scale

    int8   levels k / 127, k = −127 … 127        int4   levels k / 7, k = −7 … 7
    nf4    levels at 16 quantiles of N(0, 1), denser near zero, as trained weights are about
           normally distributed

Two 4-bit codes share a byte. A float32 scale per 64 weights costs 32/64 = 0.5 bits per weight.
With double quantisation the scales, less their mean, are themselves held in int8, in blocks of
256, and cost 8/64 + 32/(64 · 256) = 0.127 bits per weight. So nf4 takes 4.127 bits in all.

A weight is dequantised whenever a product needs it, in forward and in backward, and freed
afterwards. Any method can train on top: gradients pass through the quantised weights, not into
them.

Dettmers et al. 2023 (QLoRA), sections 2 and 3, arXiv:2305.14314; scales per block: Dettmers et
al. 2021, arXiv:2110.02861
"""

import functools
import itertools
import math
from dataclasses import dataclass, field
from statistics import NormalDist, fmean

from ..engine.backend import chunks, dtype, np, xp
from ..errors import to_python, unknown
from .layers import Linear, Parameter
from .transaction import all_or_nothing


def normal_levels():
    """Returns the 16 levels of nf4: quantiles of N(0, 1), scaled to [−1, 1], in rising order.

    One is zero. Seven are negative, at probabilities spaced evenly from δ up to ½, and eight
    are positive, at probabilities from ½ up to 1 − δ. At 0 and 1 quantiles would be infinite:
    δ = (1/32 + 1/30) / 2 is the mean of half a step of 16 levels and of 15.
    Dettmers et al. 2023, appendix E
    """
    tail = 0.5 * (1 / 32 + 1 / 30)
    quantile = NormalDist().inv_cdf
    below = [quantile(tail + i * (0.5 - tail) / 7) for i in range(7)]
    above = [-quantile(tail + i * (0.5 - tail) / 8) for i in range(8)]
    return sorted(level / -below[0] for level in (*below, 0.0, *above))


LEVELS = {
    "int8": [k / 127 for k in range(-127, 128)],
    "int4": [k / 7 for k in range(-7, 8)],
    "nf4": normal_levels(),
}  # each in rising order


@functools.cache
def levels_of_bytes(kind, precision):
    """Returns what each of the 256 bytes stands for: a level, or the pair of two 4-bit codes.

    A pair is one complex number, so that a look-up copies both of its levels at once. That is
    several times faster than the look-up of rows of two.
    """
    levels = np.zeros(256, precision)
    levels[: len(LEVELS[kind])] = LEVELS[kind]
    if len(LEVELS[kind]) > 16:
        return xp.asarray(levels)
    byte = np.arange(256)
    pairs = levels[np.stack([byte >> 4, byte & 15], axis=1)]
    return xp.asarray(pairs.view(np.result_type(precision, np.complex64))[:, 0])


def look_up(table, codes, out):
    """Write table[codes] into an array, whose floats may be pairs in the table."""
    if isinstance(codes, np.ndarray):  # a byte is never beyond a table of 256: nothing to check
        np.take(table, codes, out=out.view(table.dtype), mode="clip")
    else:
        out[...] = xp.take(table, codes).view(out.dtype)


class QuantizedParameter(Parameter):
    """A frozen parameter held as codes and scales. Reading its `data` dequantises it each time.

    Raises ValueError for an unknown kind, a block that is not an even number of weights, or
    weights that are not finite.
    """

    __slots__ = ("block", "codes", "double", "dtype", "kind", "mean", "scales", "shape")

    def __init__(self, values, kind="nf4", block=64, double=True):
        if kind not in LEVELS:
            raise ValueError(unknown("kind of quantisation", kind, LEVELS))
        block, double = map(to_python, (block, double))
        if type(block) is not int or not 2 <= block <= 65536 or block % 2:
            raise ValueError(f"a block is an even number of weights ≤ 65536, got {block!r}")
        if not bool(xp.isfinite(values).all()):
            raise ValueError("only finite weights can be quantised; these hold inf or NaN")
        self.node, self.kind, self.block, self.double = None, kind, block, double
        self.shape, self.dtype = values.shape, values.dtype
        blocks = xp.pad(values.reshape(-1), (0, -values.size % block)).reshape(-1, block)
        scales = xp.abs(blocks).max(axis=1).astype("float32")
        codes = nearest(blocks / xp.where(scales > 0, scales, 1.0)[:, None], kind)
        codes = codes.reshape(-1)
        codes = codes if len(LEVELS[kind]) > 16 else codes[::2] << 4 | codes[1::2]
        codes_per_byte = 1 if len(LEVELS[kind]) > 16 else 2
        self.codes = codes[: -(-values.size // codes_per_byte)].copy()  # without the padding
        self.mean, self.scales = None, scales
        if double:
            self.mean = scales.mean(keepdims=True)
            self.scales = QuantizedParameter(scales - self.mean, "int8", 256, double=False)

    @property
    def data(self):
        """The dequantised array, computed anew at each access, a chunk at a time."""
        table = levels_of_bytes(self.kind, self.dtype)
        scales = self.scales.data + self.mean if self.double else self.scales
        scales = scales.astype(self.dtype)
        weights = xp.empty(self.size, self.dtype)
        blocks, rest = divmod(self.size, self.block)  # the last block may be shorter
        whole = weights[: self.size - rest].reshape(blocks, self.block)
        bytes_of_block = self.block * self.dtype.itemsize // table.itemsize
        codes = self.codes[: blocks * bytes_of_block].reshape(blocks, bytes_of_block)
        for part in chunks(whole):
            look_up(table, codes[part], whole[part])
            whole[part] *= scales[:blocks][part, None]
        if rest:
            last = xp.take(table, self.codes[codes.size :]).view(self.dtype)
            weights[-rest:] = last[:rest] * scales[-1]
        return weights.reshape(self.shape)

    @data.setter
    def data(self, values):
        raise ValueError("a quantised weight is read-only; dequantize(model) first")

    @property
    def arrays(self):
        if not self.double:
            return {".codes": self.codes, ".scales": self.scales}
        inner = {f".scales{end}": a for end, a in self.scales.arrays.items()}
        return {".codes": self.codes, ".mean": self.mean} | inner

    @property
    def ndim(self):
        return len(self.shape)

    @property
    def size(self):
        """How many weights the codes stand for."""
        return math.prod(self.shape)

    @property
    def nbytes(self):
        """Its bytes in memory: codes and scales."""
        return sum(a.nbytes for a in self.arrays.values())

    @property
    def quantization(self):
        """The options by which it was quantised: {"kind": …, "block": …, "double": …}."""
        return {"kind": self.kind, "block": self.block, "double": self.double}

    @property
    def requires_grad(self):
        """False: a code cannot move by a small step, so it is always frozen."""
        return False

    @requires_grad.setter
    def requires_grad(self, train):
        if train:
            raise ValueError(
                "a quantised weight cannot train; attach a method, or dequantize(model) first"
            )

    def requantized(self, values):
        """Returns other values, quantised by the same options."""
        return QuantizedParameter(values, **self.quantization)

    def __getstate__(self):
        slots = [*QuantizedParameter.__slots__, *type(self).__slots__]
        return {name: getattr(self, name) for name in dict.fromkeys(slots)}

    def __setstate__(self, state):
        for name, value in state.items():
            setattr(self, name, value)
        self.node = None

    def __deepcopy__(self, memo):
        return self  # read-only, so copies of a model can share it

    def __repr__(self):
        return f"QuantizedParameter({self.shape}, {self.kind!r}, {self.nbytes:,} bytes)"


class CodedParameter(QuantizedParameter):
    """A frozen parameter in the 4-bit codes of a GGUF file, in blocks of 32 weights.

        w = scale · code + minimum        or without minima: w = scale · (code − 8)

    The codes are those that the file has, so nothing is rounded; a merge, which would have to
    round, is refused.
    """

    __slots__ = ("minima",)

    def __init__(self, codes, scales, minima, shape):
        self.node, self.kind, self.block = None, "coded", 32
        self.double, self.mean = False, None
        self.codes, self.scales, self.minima = codes, scales, minima  # uint8, (N, 1), or None
        self.shape, self.dtype = tuple(shape), np.dtype("float32")

    @classmethod
    def from_halves(cls, codes, scales, minima, shape):
        """Returns one of bytes (N, 16) that hold the first 16 weights of a block, and the last.

        Here a byte holds neighbours, so that one look-up gives two weights in a row.
        """
        first = np.concatenate([codes & 15, codes >> 4], axis=1)  # (N, 32)
        pairs = first[:, ::2] << 4 | first[:, 1::2]
        minima = None if minima is None else xp.asarray(minima)
        return cls(xp.asarray(pairs.reshape(-1)), xp.asarray(scales), minima, shape)

    @QuantizedParameter.data.getter
    def data(self):
        """The dequantised array, computed anew at each access, a chunk at a time."""
        weights = xp.empty((len(self.scales), self.block), self.dtype)
        codes = self.codes.reshape(len(weights), -1)
        pairs = pairs_of_codes(8 if self.minima is None else 0)
        for part in chunks(weights):
            look_up(pairs, codes[part], weights[part])
            weights[part] *= self.scales[part]
            if self.minima is not None:
                weights[part] += self.minima[part]
        return weights.reshape(self.shape)

    @property
    def arrays(self):
        minima = {} if self.minima is None else {".minima": self.minima}
        return {".codes": self.codes, ".scales": self.scales} | minima

    def requantized(self, values):
        raise ValueError(
            "the base holds the codes of a GGUF file, and merging would round them anew; "
            "dequantize(model) first"
        )


@functools.cache
def pairs_of_codes(zero):
    """Returns what each of the 256 bytes stands for: two 4-bit codes less `zero`.

    A pair is one complex number, as in `levels_of_bytes`.
    """
    byte = np.arange(256)
    pairs = np.stack([byte >> 4, byte & 15], axis=1).astype("float32") - np.float32(zero)
    return xp.asarray(pairs.view("complex64")[:, 0])


def nearest(x, kind):
    """Returns the code of the level nearest to each element, in uint8."""
    levels = LEVELS[kind]
    midpoints = [0.5 * (low + high) for low, high in itertools.pairwise(levels)]
    return xp.searchsorted(xp.asarray(midpoints, dtype=x.dtype), x).astype("uint8")


@dataclass(frozen=True)
class QuantizationReport:
    """What `quantize` did: bytes of the weights before and after, and the error of each."""

    kind: str
    parameters: int  # in the quantised weights
    bytes_before: int
    bytes_after: int
    errors: dict = field(repr=False)  # {path: ‖Ŵ − W‖ / ‖W‖, Frobenius norms, Ŵ dequantised}

    def __str__(self):
        bits, error = 8 * self.bytes_after / self.parameters, fmean(self.errors.values())
        return (
            f"{len(self.errors)} weights in {self.kind}: {self.bytes_before:,} bytes are now "
            f"{self.bytes_after:,} ({bits:.3f} bits per parameter), mean error {error:.2%}"
        )

    __repr__ = __str__


@all_or_nothing
def quantize(model, kind="nf4", *, block=64, double=True, skip=("lm_head",)):
    """Quantise the weights of all Linear layers and freeze the model.

    Returns a QuantizationReport. kind: "int8", "int4" or "nf4", with `block` weights per scale.
    double: quantise the scales as well. skip: names of Linear layers to leave as they are;
    embeddings, norms and biases always stay so.
    Raises ValueError, and changes nothing, for options that do not exist, if an adapter is
    attached (detach it), or if a weight is already quantised (dequantise it).
    """
    check_no_adapters(model)
    skip = (skip,) if isinstance(skip, str) else to_python(skip)
    layers = {path: m for path, m in model.named_modules() if isinstance(m, Linear)}
    layers = {path: m for path, m in layers.items() if path.split(".")[-1] not in skip}
    for path, layer in layers.items():
        if isinstance(layer.weight, QuantizedParameter):
            raise ValueError(f"{path} is already quantised; dequantize(model) first")
    dense = {path: layer.weight.data for path, layer in layers.items()}
    options = {"kind": kind, "block": block, "double": double}
    quantized = quantize_weights(model, {f"{path}.weight": options for path in layers})
    errors = {
        path: relative_error(quantized[f"{path}.weight"].data, dense[path]) for path in dense
    }
    parameters = sum(w.size for w in dense.values())
    before, after = (sum(a.nbytes for a in side.values()) for side in (dense, quantized))
    return QuantizationReport(kind, parameters, before, after, errors)


def quantize_weights(model, options_of):
    """Replace the weights in {path: options} by quantised ones, and freeze the model.

    Returns {path: the quantised weight}. Without any, the model stays trainable. Raises
    ValueError, and changes nothing, for a path or options that do not exist.
    """
    modules, parameters = dict(model.named_modules()), dict(model.named_parameters())
    if not isinstance(options_of, dict):
        raise ValueError(f"quantised weights come as {{path: options}}, got {options_of!r}")
    for path, options in options_of.items():
        if not path.endswith(".weight") or path not in parameters:
            raise ValueError(unknown("weight to quantise", path, parameters))
        if not isinstance(options, dict) or options.keys() != {"kind", "block", "double"}:
            raise ValueError(f"{path} is quantised by kind, block and double, got {options!r}")
    quantized = {
        path: QuantizedParameter(parameters[path].data, **options)
        for path, options in options_of.items()
    }
    for path, p in quantized.items():
        modules[path.removesuffix(".weight")].weight = p
    for p in model.parameters() if quantized else ():
        p.requires_grad = False
    return quantized


@all_or_nothing
def dequantize(model):
    """Replace every quantised weight by its dequantised values, and make the model trainable.

    Raises ValueError, and changes nothing, if an adapter is attached: detach it first.
    """
    check_no_adapters(model)
    for _, module in model.named_modules():
        if isinstance(module, Linear) and isinstance(module.weight, QuantizedParameter):
            with dtype(module.weight.dtype):
                module.weight = Parameter(module.weight.data)
    for p in model.parameters():
        p.requires_grad = True


def check_no_adapters(model):
    """Raises ValueError if adapters are attached, as they fit only the weights as they are."""
    if names := list(vars(model).get("adapters", ())):
        raise ValueError(
            f"the base of {', '.join(map(repr, names))} would change; detach all adapters first"
        )


def relative_error(a, b):
    """Returns ‖a − b‖ / ‖b‖ in Frobenius norms; if b is zero, 0 if a is zero too, else ∞."""
    error, size = float(xp.linalg.norm(a - b)), float(xp.linalg.norm(b))
    return error / size if size else error and float("inf")
