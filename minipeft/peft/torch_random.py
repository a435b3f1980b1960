"""The random values that PyTorch draws on a CPU from a seed, drawn without PyTorch.

Methods whose matrices are random and frozen save only a seed. Drawn from this generator the
matrices are those of HF PEFT, bit for bit, so that its files can be read here and ours there.

PyTorch's generator is the Mersenne Twister, as is that of np.random.RandomState; what differs
is how its words of 32 bits become numbers.
"""

import math

from ..engine.backend import np


class TorchGenerator:
    """torch.Generator().manual_seed(seed)."""

    def __init__(self, seed):
        self.twister = np.random.RandomState(seed % 2**32)

    def words(self, n):
        """The next n words, whole numbers below 2³²."""
        return np.frombuffer(self.twister.bytes(4 * n), "<u4")

    def units(self, n):
        """The next n values of 24 bits, as many as a float32 has, in [0, 1)."""
        return (self.words(n) % 2**24) * 2.0**-24

    def uniform(self, bound, shape, rounded=np.float32):
        """Values from U[−bound, bound), as of Tensor.uniform_, in float32 or as `rounded` does.

        One that is rounded to the upper bound, which is excluded, becomes the lower one.
        """
        low, width = float(np.float32(-bound)), float(np.float32(bound) - np.float32(-bound))
        values = rounded((self.units(math.prod(shape)) * width + low).astype(np.float32))
        return np.where(values < rounded(bound), values, rounded(-bound)).reshape(shape)

    def kaiming(self, *shape, gain=2.0, rounded=np.float32):
        """Values from U[±√(3 gain / columns)), as of kaiming_uniform_; a ReLU's gain is 2."""
        bound = math.sqrt(gain) / math.sqrt(shape[-1]) * math.sqrt(3.0)
        return self.uniform(bound, shape, rounded)

    def normal(self, deviation, *shape):
        """Values from N(0, deviation²), as of torch.normal, but for rounding in float32.

        So it is for 16 values or more; fewer are the first of 16, which PyTorch's are not.
        """
        n = max(math.prod(shape), 16)
        values, whole = np.empty(n), n - n % 16
        values[:whole] = box_muller(self.units(n)[:whole])
        if n % 16:
            values[-16:] = box_muller(self.units(16))
        return deviation * values[: math.prod(shape)].reshape(shape)

    def choice(self, n, k):
        """The first k of torch.randperm(n): k different whole numbers below n.

        Each is swapped from a random later place to its own; only places that were swapped are
        held, so the time grows with k and not with n.
        """
        moved, chosen = {}, np.empty(k, np.int64)
        for i, word in enumerate(self.words(k).tolist()):
            j = i + word % (n - i)
            chosen[i] = moved.get(j, j)
            moved[j] = moved.get(i, i)
        return chosen


def bfloat16(x):
    """The nearest numbers that bfloat16 has, as float32; the even one where two are as near."""
    bits = np.asarray(x, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000).view(np.float32)


def box_muller(units):
    """Normal values from uniform ones: of each 16, the first 8 are radii, the others angles."""
    radii, angles = units.reshape(-1, 2, 8).transpose(1, 0, 2)
    lengths, angles = np.sqrt(-2 * np.log(1 - radii)), 2 * np.pi * angles
    return np.stack([lengths * np.cos(angles), lengths * np.sin(angles)], axis=1).reshape(-1)
