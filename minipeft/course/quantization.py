"""Checks of lesson 11, quantisation: levels, bits per weight, and a low-rank repair."""

from statistics import NormalDist

from ..engine.backend import np
from .base import call, check, expect, pair, require


@check("each weight becomes the nearest level, times the largest |w| of its own block")
def absmax(case, answer):
    """answer(w, levels, block) -> array like w; levels (n,) rise from −1 to 1.

    Blocks are consecutive weights, row after row; the last may be short, and one may be zero.
    """
    rows, columns = case.size("rows", 1, 3), case.size("columns", 1, 5)
    block, half = case.size("block", 1, 4), case.size("levels above zero", 1, 4)
    levels = np.arange(-half, half + 1) / half
    w = case.array("w", rows, columns)
    if case.choice("first block zero", (False, True)):
        w.flat[:block] = 0.0
    expected = np.zeros(w.size)
    for start in range(0, w.size, block):
        weights = w.reshape(-1)[start : start + block]
        scale = np.abs(weights).max()
        distances = np.abs(weights[:, None] - levels * scale)
        nearest = np.sort(distances, axis=1)
        if scale and (nearest[:, 1] - nearest[:, 0] < 1e-9).any():
            return  # halfway between two levels: either is right
        expected[start : start + block] = levels[distances.argmin(axis=1)] * scale
    expect(call(answer, w=w, levels=levels, block=block), expected.reshape(w.shape))


@check("a weight costs its code and its share of the scales")
def bits_per_weight(case, answer):
    """answer(code, block, outer) -> bits per weight.

    code: bits of one code.  block: weights that share a scale, of 32 bits if outer is 0, or
    else of 8 bits; then `outer` such scales share one more scale of 32 bits.
    """
    code = case.choice("code", (4, 8))
    block, outer = 2 ** case.size("log2 block", 4, 9), 2 ** case.size("log2 outer", 4, 9)
    case.values |= {"block": block, "outer": outer}
    if case.choice("double", (False, True)):
        expect(answer(code, block, outer), code + 8 / block + 32 / (block * outer))
    else:
        case.values["outer"] = 0
        expect(answer(code, block, 0), code + 32 / block)


@check("the best rank-r repair of a rounded weight leaves the singular values beyond r")
def repair(case, answer):
    """answer(W, Q, r) -> (B (out, r), A (r, in)) with Q + B A as near to W as can be."""
    n_out, n_in = case.size("out", 2), case.size("in", 2)
    r = case.size("r", 1, min(n_out, n_in))
    W = case.array("W", n_out, n_in)
    Q = np.round(W * 2) / 2
    b, a = map(np.asarray, pair(answer(W.copy(), Q.copy(), r), "B, A"))
    shapes = f"B {b.shape} and A {a.shape}"
    require(b.shape == (n_out, r) and a.shape == (r, n_in), f"of rank {r}, got {shapes}")
    tail = np.linalg.svd(W - Q, compute_uv=False)[r:]
    expect(np.linalg.norm(Q + b @ a - W), np.linalg.norm(tail), "‖Q + B A − W‖")


@check("the levels are quantiles of the normal distribution, from −1 to 1, 0 among them")
def normal_levels(case, answer):
    """answer(tail, below, above) -> levels (below + 1 + above,), rising.

    Those below zero are the quantiles at `below` evenly spaced probabilities from `tail` on,
    where ½ would be the next; those above are mirrored, `above` of them. All are divided by the
    largest.
    """
    below, above = case.size("below", 1, 8), case.size("above", 1, 8)
    tail = case.size("tail in hundredths", 1, 9) / 100
    case.values["tail"] = tail
    quantile = NormalDist().inv_cdf
    low = [quantile(tail + i * (0.5 - tail) / below) for i in range(below)]
    high = [-quantile(tail + i * (0.5 - tail) / above) for i in range(above)]
    expected = np.array([*low, 0.0, *high[::-1]]) / -quantile(tail)
    result = np.asarray(answer(tail, below, above), dtype=float)
    shape = result.shape
    require(shape == expected.shape, f"expected {expected.size} levels, got shape {shape}")
    require((np.diff(result) > 0).all(), "the levels do not rise")
    require(0.0 in result, "0 is not among them: a weight of 0 should stay 0")
    expect(result, expected)
