"""Checks of lesson 11, quantisation: levels, bits per weight, and a low-rank repair."""

from statistics import NormalDist

from ..engine.backend import np
from .base import check, expect, matrices, require


def rounded(w, levels, block, scale_of=lambda block: np.abs(block).max(), below=False):
    """Returns w with each weight at the nearest level, or that below it, times its scale."""
    levels, result = np.asarray(levels), np.zeros(w.size)
    for start in range(0, w.size, block):
        weights = w.reshape(-1)[start : start + block]
        scale = scale_of(weights)
        distances = weights[:, None] - levels * scale
        if below:
            distances = np.where(distances > -1e-9, distances, np.inf)
        result[start : start + block] = levels[np.abs(distances).argmin(axis=1)] * scale
    return result.reshape(w.shape)


def even(levels):
    """Returns as many levels, evenly spaced from −1 to 1."""
    return np.linspace(-1, 1, len(levels))


@check(
    "each weight becomes the nearest level, times the largest |w| of its own block",
    slips={
        "you took one scale for all blocks": (
            lambda w, levels, block: rounded(w, levels, max(w.size, 1))
        ),
        "you took a scale for each row, not for each block": (
            lambda w, levels, block: rounded(w, levels, w.shape[1])
        ),
        "your scale is the largest w, where it should be the largest |w|": (
            lambda w, levels, block: rounded(w, levels, block, np.max)
        ),
        "you rounded down to the level below, not to the nearest": (
            lambda w, levels, block: rounded(w, levels, block, below=True)
        ),
        "you took evenly spaced levels instead of those that are given": (
            lambda w, levels, block: rounded(w, even(levels), block)
        ),
    },
)
def absmax(case, answer):
    """answer(w, levels, block) -> array like w; levels (n,) rise from −1 to 1.

    Blocks are consecutive weights, row after row; the last may be short, and one may be zero.
    """
    rows, columns = case.size("rows", 1, 3), case.size("columns", 1, 5)
    block, between = case.size("block", 1, 4), case.size("levels between", 0, 6)
    inner = np.sort(case.rng().permutation(np.arange(-19, 20))[:between]) / 20
    levels = case.values["levels"] = np.array([-1, *inner, 1])  # not evenly spaced
    w = case.array("w", rows, columns)
    if case.choice("first block zero", (False, True)):
        w.flat[:block] = 0.0
    result = answer(w, levels, block)
    for start in range(0, w.size, block):
        weights = w.reshape(-1)[start : start + block]
        scale = np.abs(weights).max()
        nearest = np.sort(np.abs(weights[:, None] - levels * scale), axis=1)
        if scale and (nearest[:, 1] - nearest[:, 0] < 1e-9).any():
            return  # halfway between two levels: either is right
    expect(result, rounded(w, levels, block))


@check(
    "a weight costs its code and its share of the scales",
    stars=1,
    slips={
        "you counted bytes, where bits are asked": (
            lambda code, block, outer: (
                code + (8 / block + 32 / (block * outer) if outer else 32 / block)
            ) / 8
        ),
        "you forgot that a scale is shared by a block": (
            lambda code, block, outer: code + (8 + 32 / outer if outer else 32)
        ),
        "you forgot the double quantisation": lambda code, block, outer: code + 32 / block,
        "you forgot the scales": lambda code, block, outer: code,
        "you shared the outer scale among scales only, not among their weights": (
            lambda code, block, outer: (
                code + (8 / block + 32 / outer if outer else 32 / block)
            )
        ),
        "you forgot the outer scales": (
            lambda code, block, outer: code + (8 if outer else 32) / block
        ),
    },
)  # fmt: skip
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


def terms(matrix, where, left=lambda s: s, right=lambda s: s**0):
    """Returns (B, A): those terms of a matrix's SVD, the singular values to either side."""
    u, s, vt = np.linalg.svd(matrix, full_matrices=False)
    return u[:, where] * left(s[where]), right(s[where])[:, None] * vt[where]


@check(
    "the best rank-r repair of a rounded weight leaves the singular values beyond r",
    stars=2,
    slips={
        "you took W itself, not what the rounding took, W − Q": (
            lambda W, Q, r: terms(W, slice(r))
        ),
        "you took Q − W: the sign is turned": lambda W, Q, r: terms(Q - W, slice(r)),
        "you put the root of the singular values on one side only": (
            lambda W, Q, r: terms(W - Q, slice(r), np.sqrt)
        ),
        "the singular values are on both sides, so that they count twice": (
            lambda W, Q, r: terms(W - Q, slice(r), right=lambda s: s)
        ),
        "you left out the singular values": (
            lambda W, Q, r: terms(W - Q, slice(r), lambda s: s**0)
        ),
        "you kept the smallest singular values": (
            lambda W, Q, r: terms(W - Q, slice(-r, None))
        ),
    },
    seen=lambda result: np.asarray(result[0]) @ np.asarray(result[1]),
)
def repair(case, answer):
    """answer(W, Q, r) -> (B (out, r), A (r, in)) with Q + B A as near to W as can be."""
    n_out, n_in = case.size("out", 2), case.size("in", 2)
    r = case.size("r", 1, min(n_out, n_in))
    W = case.array("W", n_out, n_in)
    Q = np.round(W * 2) / 2
    b, a = matrices(answer(W, Q, r), "B, A")
    shapes = f"B {b.shape} and A {a.shape}"
    require(b.shape == (n_out, r) and a.shape == (r, n_in), f"of rank {r}, got {shapes}")
    tail = np.linalg.svd(W - Q, compute_uv=False)[r:]
    expect(np.linalg.norm(Q + b @ a - W), np.linalg.norm(tail), "‖Q + B A − W‖")


def quantiles(tail, below, above):
    """Returns the quantiles below zero, 0, and those above, not yet divided."""
    quantile = NormalDist().inv_cdf
    low = [quantile(tail + i * (0.5 - tail) / below) for i in range(below)]
    high = [-quantile(tail + i * (0.5 - tail) / above) for i in range(above)]
    return np.array([*low, 0.0, *high[::-1]])


def evenly_spaced(tail, below, above):
    """Returns levels as those of int4, with as many below zero and above."""
    return np.array([*np.linspace(-1, 0, below + 1)[:-1], *np.linspace(0, 1, above + 1)])


def through_a_half(tail, below, above):
    """Returns quantiles of probabilities that are evenly spaced from one tail to the other."""
    probabilities = np.linspace(tail, 1 - tail, below + 1 + above)
    return np.array(list(map(NormalDist().inv_cdf, probabilities))) / NormalDist().inv_cdf(
        1 - tail
    )


@check(
    "the levels are quantiles of the normal distribution, from −1 to 1, 0 among them",
    stars=3,
    slips={
        "your levels are evenly spaced; their probabilities should be": evenly_spaced,
        "you took all probabilities in one row, which need not meet ½": through_a_half,
        "you did not divide by the largest": quantiles,
        "you gave `below` levels above zero and `above` below it": (
            lambda tail, below, above: (
                quantiles(tail, above, below) / -NormalDist().inv_cdf(tail)
            )
        ),
        "your levels fall, where they should rise": (
            lambda tail, below, above: (
                quantiles(tail, below, above)[::-1] / -NormalDist().inv_cdf(tail)
            )
        ),
    },
)
def normal_levels(case, answer):
    """answer(tail, below, above) -> levels (below + 1 + above,), rising.

    Those below zero are the quantiles at `below` evenly spaced probabilities from `tail` on,
    where ½ would be the next; those above are mirrored, `above` of them. All are divided by the
    largest.
    """
    below, above = case.size("below", 1, 8), case.size("above", 1, 8)
    tail = case.size("tail in hundredths", 1, 9) / 100
    case.values["tail"] = tail
    result = np.asarray(answer(tail, below, above), dtype=float)
    expected = quantiles(tail, below, above) / -NormalDist().inv_cdf(tail)
    shape = result.shape
    require(shape == expected.shape, f"expected {expected.size} levels, got shape {shape}")
    require((np.diff(result) > 0).all(), "the levels do not rise")
    require(np.abs(result).min() < 1e-9, "0 is not among them: a weight of 0 should stay 0")
    expect(result, expected)
