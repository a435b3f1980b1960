"""Answers to the checks of lesson 11."""

from statistics import NormalDist

import numpy as np

from lessons.solutions import lesson_11 as right


def one_scale(w, levels, block):
    """One scale for all: the largest |w|."""
    return right.absmax(w, levels, max(w.size, 1))


def without_sign(w, levels, block):
    """The largest w, not |w|."""
    blocks = np.pad(w.reshape(-1), (0, -w.size % block)).reshape(-1, block)
    scales = np.maximum(blocks.max(axis=1, keepdims=True), 1e-9)
    codes = np.abs((blocks / scales)[..., None] - levels).argmin(-1)
    return (levels[codes] * scales).reshape(-1)[: w.size].reshape(w.shape)


def level_below(w, levels, block):
    """The next level below instead of the nearest."""
    blocks = np.pad(w.reshape(-1), (0, -w.size % block)).reshape(-1, block)
    scales = np.abs(blocks).max(axis=1, keepdims=True)
    units = blocks / np.where(scales > 0, scales, 1.0)
    codes = np.searchsorted(levels, units + 1e-9) - 1
    return (levels[codes] * scales).reshape(-1)[: w.size].reshape(w.shape)


def zero_by_zero(w, levels, block):
    """A block of zeros has no scale to divide by."""
    with np.errstate(all="ignore"):
        blocks = np.pad(w.reshape(-1), (0, -w.size % block)).reshape(-1, block)
        scales = np.abs(blocks).max(axis=1, keepdims=True)
        codes = np.abs((blocks / scales)[..., None] - levels).argmin(-1)
        rounded = np.where(scales > 0, levels[codes], np.nan) * scales
    return rounded.reshape(-1)[: w.size].reshape(w.shape)


def first_of_the_weight(W, Q, r):
    """Rank r of W instead of what is missing."""
    return right.repair(W, 0 * W, r)


def whole(W, Q, r):
    """All that is missing, of too high a rank."""
    return W - Q, np.eye(W.shape[1])


def root_on_one_side(W, Q, r):
    """√S on B, and nothing on A."""
    u, s, vt = np.linalg.svd(W - Q, full_matrices=False)
    return u[:, :r] * np.sqrt(s[:r]), vt[:r]


def evenly_spaced(tail, below, above):
    """Even levels, as int4 has."""
    return np.array([*np.linspace(-1, 0, below + 1)[:-1], *np.linspace(0, 1, above + 1)])


def without_zero(tail, below, above):
    """Evenly spaced probabilities through ½, which need not meet it."""
    n = below + above + 1
    levels = [NormalDist().inv_cdf(p) for p in np.linspace(tail, 1 - tail, n + 1)[:-1]]
    return np.array(levels) / -levels[0]


ANSWERS = {
    "absmax": (right.absmax, one_scale, without_sign, level_below, zero_by_zero),
    "bits_per_weight": (
        right.bits_per_weight,
        lambda code, block, outer: code + 32 / block,
        lambda code, block, outer: code + (8 / block + 32 / outer if outer else 32 / block),
        lambda code, block, outer: code / 8 + 4 / block,
    ),
    "repair": (right.repair, first_of_the_weight, whole, root_on_one_side),
    "normal_levels": (
        right.normal_levels,
        evenly_spaced,
        without_zero,
        lambda *a: right.normal_levels(*a)[::-1],
        lambda *a: 2 * right.normal_levels(*a),
    ),
}
