"""Solutions of lesson 11: rounding to levels, bits per weight, repair, the levels of nf4.

python lessons/solutions/lesson_11.py        runs the lesson's checks on them
"""

from statistics import NormalDist

import numpy as np

from minipeft.course import quantization


def absmax(w, levels, block):
    """w rounded: each weight to the nearest level times its block's largest |w|."""
    levels = np.asarray(levels)
    blocks = np.pad(w.reshape(-1), (0, -w.size % block)).reshape(-1, block)
    scales = np.abs(blocks).max(axis=1, keepdims=True)
    units = blocks / np.where(scales > 0, scales, 1.0)
    midpoints = (levels[1:] + levels[:-1]) / 2
    rounded = levels[np.searchsorted(midpoints, units)] * scales
    return rounded.reshape(-1)[: w.size].reshape(w.shape).astype(w.dtype)


def bits_per_weight(code, block, outer):
    """★ One scale per block: of 32 bits, or of 8 and a share of one of 32."""
    if not outer:
        return code + 32 / block
    return code + 8 / block + 32 / (block * outer)


def repair(W, Q, r):
    """★★ The largest r singular values of what the rounding took."""
    u, s, vt = np.linalg.svd(W - Q, full_matrices=False)
    return u[:, :r] * s[:r], vt[:r]


def normal_levels(tail, below, above):
    """★★★ Each side at evenly spaced probabilities from the tail to ½, where the zero is."""
    quantile = NormalDist().inv_cdf
    low = [quantile(p) for p in np.linspace(tail, 0.5, below + 1)[:-1]]
    high = [-quantile(p) for p in np.linspace(tail, 0.5, above + 1)[:-1]]
    return np.array([*low, 0.0, *reversed(high)]) / -low[0]


if __name__ == "__main__":
    quantization.absmax(absmax)
    quantization.bits_per_weight(bits_per_weight)
    quantization.repair(repair)
    quantization.normal_levels(normal_levels)
