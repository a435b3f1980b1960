"""Checks of lesson 11: few bits a number, and what they cost."""

from statistics import NormalDist

from ..engine.backend import np
from .base import check, expect, require


@check("each number becomes the nearest level, times the largest |w| of its own block")
def absmax(draw, answer):
    """answer(w, levels, block) -> array like w; levels (n,) rising from −1 to 1.

    Blocks are consecutive numbers, row after row; the last may be short, and one may be zero.
    """
    rows, columns = draw.size("rows", 1, 3), draw.size("columns", 1, 5)
    block, half = draw.size("block", 1, 4), draw.size("levels above zero", 1, 4)
    levels = np.arange(-half, half + 1) / half
    w = draw.array("w", rows, columns)
    if draw.choice("first block zero", (False, True)):
        w.flat[:block] = 0.0
    before, wanted = w.copy(), np.zeros(w.size)
    for start in range(0, w.size, block):
        part = w.reshape(-1)[start : start + block]
        scale = np.abs(part).max()
        off = np.abs(part[:, None] - levels * scale)
        nearest = np.sort(off, axis=1)
        if nearest.shape[1] > 1 and (nearest[:, 1] - nearest[:, 0] < 1e-9).any() and scale:
            return  # a tie: both neighbours are right
        wanted[start : start + block] = levels[off.argmin(axis=1)] * scale
    got = answer(w, levels, block)
    require((w == before).all(), "your answer wrote into w; copy it first")
    expect(got, wanted.reshape(w.shape))


@check("a number costs its code and its share of the scales")
def bits_a_number(draw, answer):
    """answer(code, block, outer) -> bits a number.

    code bits a number; a scale of 32 bits each `block` numbers, or, if outer is not 0, one of
    8 bits, and one of 32 bits each `outer` of those.
    """
    code = draw.choice("code", (4, 8))
    block, outer = 2 ** draw.size("log2 block", 4, 9), 2 ** draw.size("log2 outer", 4, 9)
    draw.drawn |= {"block": block, "outer": outer}
    if draw.choice("double", (False, True)):
        expect(answer(code, block, outer), code + 8 / block + 32 / (block * outer))
    else:
        draw.drawn["outer"] = 0
        expect(answer(code, block, 0), code + 32 / block)


@check("the best rank-r repair of a rounded weight leaves the singular values beyond r")
def repair(draw, answer):
    """answer(W, Q, r) -> (B (out, r), A (r, in)) with Q + B A as near to W as can be."""
    n_out, n_in = draw.size("out", 2), draw.size("in", 2)
    r = draw.size("r", 1, min(n_out, n_in))
    W = draw.array("W", n_out, n_in)
    Q = np.round(W * 2) / 2
    both = answer(W.copy(), Q.copy(), r)
    require(isinstance(both, tuple) and len(both) == 2, "return the pair (B, A)")
    b, a = map(np.asarray, both)
    shapes = f"B {b.shape} and A {a.shape}"
    require(b.shape == (n_out, r) and a.shape == (r, n_in), f"of rank {r}, got {shapes}")
    tail = np.linalg.svd(W - Q, compute_uv=False)[r:]
    expect(np.linalg.norm(Q + b @ a - W), np.linalg.norm(tail), "‖Q + B A − W‖")


@check("the levels are quantiles of the normal law, rising from −1 to 1 with 0 among them")
def normal_levels(draw, answer):
    """answer(tail, below, above) -> levels (below + 1 + above,).

    Those below zero at `below` evenly spaced probabilities from `tail` on, ½ the next; those
    above mirrored, `above` of them; all divided by the largest.
    """
    below, above = draw.size("below", 1, 8), draw.size("above", 1, 8)
    tail = draw.size("tail in hundredths", 1, 9) / 100
    draw.drawn["tail"] = tail
    z = NormalDist().inv_cdf
    low = [z(tail + i * (0.5 - tail) / below) for i in range(below)]
    high = [-z(tail + i * (0.5 - tail) / above) for i in range(above)]
    wanted = np.array([*low, 0.0, *high[::-1]]) / -z(tail)
    got = np.asarray(answer(tail, below, above), dtype=float)
    require(got.shape == wanted.shape, f"{wanted.size} levels expected, got shape {got.shape}")
    require((np.diff(got) > 0).all(), "the levels do not rise")
    require(0.0 in got, "0 is not among them: a weight of 0 should stay 0")
    expect(got, wanted)
