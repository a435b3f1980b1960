"""A frozen base in 8 or 4 bits a number: what does not train need not be held precisely.

    w ≈ level[code] · scale        one code a number, one scale (the largest |w|) a block of 64

    int8   k / 127, k = −127 … 127        int4   k / 7, k = −7 … 7
    nf4    16 quantiles of N(0, 1), as trained weights are about normal: denser near zero

Two 4-bit codes share a byte. A float32 scale for 64 numbers costs 0.5 bits a number; with
double quantisation the scales, less their mean, are held in int8 themselves, in blocks of 256,
which costs 8/64 + 32/(64 · 256) = 0.127 bits. So nf4 takes 4.127 bits a number, float32 takes
32. The weight is made anew from its codes whenever a product needs it, forward and backward,
and then dropped. Any method trains on top; its gradient passes through the rounded weights.

Dettmers et al. 2023 (QLoRA), sections 2 and 3, arXiv:2305.14314; block-wise scales: Dettmers et
al. 2021, arXiv:2110.02861
"""

import functools
import itertools
import math
from dataclasses import dataclass, field
from statistics import NormalDist, fmean

from ..engine.backend import dtype, np, xp
from ..errors import unknown
from .layers import Linear, Parameter


def normal_levels():
    """The 16 levels of nf4: quantiles of N(0, 1) scaled to [−1, 1], 7 below zero, 8 above.

    At 8 and 9 evenly spaced probabilities from δ = ½ (1/32 + 1/30) to ½, the zero shared: the
    outermost lie as far from 0 and 1 as half a step would, for 16 levels on one side or 15.
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
}  # rising


@functools.cache
def table(kind, precision):
    """What each byte stands for: (256, 1) levels, or (256, 2) where a byte holds two codes."""
    levels = np.zeros(256)
    levels[: len(LEVELS[kind])] = LEVELS[kind]
    if len(LEVELS[kind]) > 16:
        return xp.asarray(levels[:, None], dtype=precision)
    byte = np.arange(256)
    return xp.asarray(levels[np.stack([byte >> 4, byte & 15], axis=1)], dtype=precision)


class Packed(Parameter):
    """A frozen array held in codes; `data` is what they stand for, made anew at each asking."""

    __slots__ = ("block", "codes", "double", "dtype", "kind", "mean", "scales", "shape")

    def __init__(self, values, kind="nf4", block=64, double=True):
        if kind not in LEVELS:
            raise ValueError(unknown("kind of quantisation", kind, LEVELS))
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
        self.codes = codes[: -(-values.size // table(kind, self.dtype).shape[1])].copy()
        self.mean, self.scales = None, scales
        if double:
            self.mean = scales.mean(keepdims=True)
            self.scales = Packed(scales - self.mean, "int8", 256, double=False)

    @property
    def data(self):
        """The array that the codes stand for."""
        levels = table(self.kind, self.dtype)[self.codes].reshape(-1)[: self.size]
        scales = self.scales.data + self.mean if self.double else self.scales
        scales = xp.repeat(scales.astype(self.dtype), self.block)[: self.size]
        return (levels * scales).reshape(self.shape)

    @data.setter
    def data(self, values):
        raise ValueError("a packed weight is read only; dequantize(model) first")

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
        """How many numbers the codes stand for."""
        return math.prod(self.shape)

    @property
    def nbytes(self):
        """The bytes that it takes in memory."""
        return sum(a.nbytes for a in self.arrays.values())

    @property
    def packed_by(self):
        """Kind, block and double, as the options of a Packed."""
        return {"kind": self.kind, "block": self.block, "double": self.double}

    @property
    def requires_grad(self):
        """False: codes cannot move a little."""
        return False

    @requires_grad.setter
    def requires_grad(self, train):
        if train:
            raise ValueError(
                "a packed weight cannot train; attach a method, or dequantize(model) first"
            )

    def packing(self, values):
        """Other values, packed as these are."""
        return Packed(values, **self.packed_by)

    def __deepcopy__(self, memo):
        return self  # read only, so it can be shared

    def __repr__(self):
        return f"Packed({self.shape}, {self.kind!r}, {self.nbytes:,} bytes)"


def nearest(x, kind):
    """The code of the level nearest to each number."""
    levels = LEVELS[kind]
    middles = [0.5 * (low + high) for low, high in itertools.pairwise(levels)]
    return xp.searchsorted(xp.asarray(middles, dtype=x.dtype), x).astype("uint8")


@dataclass(frozen=True)
class Quantized:
    """What `quantize` did: bytes of the weights before and after, and how far off each is."""

    kind: str
    numbers: int
    bytes_before: int
    bytes_after: int
    errors: dict = field(repr=False)  # {path: ‖rounded − W‖ / ‖W‖, Frobenius norms}

    def __str__(self):
        bits, error = 8 * self.bytes_after / self.numbers, fmean(self.errors.values())
        return (
            f"{len(self.errors)} weights in {self.kind}: {self.bytes_before:,} bytes are now "
            f"{self.bytes_after:,} ({bits:.3f} bits a number), {100 * error:.2f} % off"
        )

    __repr__ = __str__


def quantize(model, kind="nf4", *, block=64, double=True, skip=("lm_head",)):
    """Hold the weights of all Linears but `skip` in few bits, and freeze the base: a Quantized.

    kind: "int8", "int4" or "nf4".  Embeddings, norms and biases stay as they are. Raises, and
    changes nothing, if an adapter is attached (its base would change) or a weight is packed.
    """
    check_bare(model)
    layers = {path: m for path, m in model.named_modules() if isinstance(m, Linear)}
    layers = {path: m for path, m in layers.items() if path.split(".")[-1] not in skip}
    for path, layer in layers.items():
        if isinstance(layer.weight, Packed):
            raise ValueError(f"{path} is packed already; dequantize(model) first")
    dense = {path: layer.weight.data for path, layer in layers.items()}
    how = {"kind": kind, "block": block, "double": double}
    packed = pack(model, {f"{path}.weight": how for path in layers}).values()
    errors = {
        path: relative(p.data, w) for (path, w), p in zip(dense.items(), packed, strict=True)
    }
    before, after = (sum(a.nbytes for a in side) for side in (dense.values(), packed))
    return Quantized(kind, sum(p.size for p in packed), before, after, errors)


def pack(model, how):
    """Replace weights by packed ones, {path: options of Packed}, and freeze the base if any."""
    modules, parameters = dict(model.named_modules()), dict(model.named_parameters())
    if not isinstance(how, dict):
        raise ValueError(f"what is packed comes as {{path: options}}, got {how!r}")
    for path, options in how.items():
        if not path.endswith(".weight") or path not in parameters:
            raise ValueError(unknown("weight to pack", path, parameters))
        if not isinstance(options, dict) or options.keys() != {"kind", "block", "double"}:
            raise ValueError(f"{path} is packed by kind, block and double, got {options!r}")
    packed = {path: Packed(parameters[path].data, **how[path]) for path in how}
    for path, p in packed.items():
        modules[path.removesuffix(".weight")].weight = p
    for p in model.parameters() if packed else ():
        p.requires_grad = False
    return packed


def dequantize(model):
    """Hold all weights as plain numbers again, as the codes give them, free to train."""
    check_bare(model)
    for _, module in model.named_modules():
        if isinstance(module, Linear) and isinstance(module.weight, Packed):
            with dtype(module.weight.dtype):
                module.weight = Parameter(module.weight.data)
    for p in model.parameters():
        p.requires_grad = True


def check_bare(model):
    """Raise ValueError if adapters are attached."""
    if names := list(vars(model).get("adapters", ())):
        raise ValueError(
            f"{', '.join(map(repr, names))} would lose the base trained on; detach them first"
        )


def relative(a, b):
    """‖a − b‖ / ‖b‖ in Frobenius norms; 0 if a = b, though both be zero."""
    off, size = float(xp.linalg.norm(a - b)), float(xp.linalg.norm(b))
    return off / size if size else off and float("inf")
