"""Checks of lesson 7: stretching by (IA)³ and by a norm's gain, and what folds into what."""

from ..engine.backend import np
from .base import check, expect, require


def layer(draw):
    """W (out, in) and b (out,) of a Linear, two different sizes as a rule."""
    n_out, n_in = draw.size("out"), draw.size("in")
    return draw.array("W", n_out, n_in), draw.array("b", n_out)


def untouched(answer, *arrays):
    """What answer(*arrays) returns, having made sure that it wrote into none of them."""
    before = [a.copy() for a in arrays]
    result = answer(*arrays)
    same = all((a == old).all() for a, old in zip(arrays, before, strict=True))
    require(same, "your function wrote into an array that it was given; a merge makes new ones")
    return result


@check("l ∘ (W x + b) is a Linear: each row of W and its bias are stretched by one number")
def stretch_output(draw, answer):
    """answer(W, b, l) with l (out,) -> (W', b') that compute l ∘ (W x + b)."""
    W, b = layer(draw)
    stretch = draw.array("l", len(b))
    weight, bias = untouched(answer, W, b, stretch)
    expect(weight, stretch[:, None] * W, "the matrix")
    expect(bias, stretch * b, "the bias")


@check("W (l ∘ x) + b is a Linear: each column of W is stretched, the bias stays")
def stretch_input(draw, answer):
    """answer(W, b, l) with l (in,) -> (W', b') that compute W (l ∘ x) + b."""
    W, b = layer(draw)
    stretch = draw.array("l", W.shape[1])
    weight, bias = untouched(answer, W, b, stretch)
    expect(weight, W * stretch, "the matrix")
    expect(bias, b, "the bias")


@check("BitFit trains every bias: those of the Linears of each block, and of all the norms")
def biases(draw, answer):
    """answer(layers, width, ffn) -> how many biases a GPT-2 of that shape has.

    A block: four width → width matrices, width → ffn, ffn → width, and two norms. One norm
    more comes last. The head has no bias.
    """
    layers, width, ffn = draw.size("layers"), draw.size("width"), draw.size("ffn")
    expect(answer(layers, width, ffn), layers * (5 * width + ffn + 2 * width) + width)


@check(
    "a norm's gain and bias are the next layer's business: W (g ∘ n + β) + b is a Linear of n"
)
def fold_norm(draw, answer):
    """answer(W, b, gain, beta) -> (W', b') that compute W (gain ∘ n + beta) + b from n."""
    W, b = layer(draw)
    gain, beta = draw.array("gain", W.shape[1]), draw.array("beta", W.shape[1])
    weight, bias = untouched(answer, W, b, gain, beta)
    expect(weight, W * gain, "the matrix")
    expect(bias, W @ beta + b, "the bias")


@check("the best stretch of W towards T is, row by row, ⟨w, t⟩ / ⟨w, w⟩")
def nearest(draw, answer):
    """answer(W, T) -> l (out,) for which ‖l ∘ W − T‖ is least, W and T (out, in)."""
    n_out, n_in = draw.size("out"), draw.size("in")
    W, T = draw.array("W", n_out, n_in), draw.array("T", n_out, n_in)
    best = (W * T).sum(axis=1) / (W * W).sum(axis=1)
    found = np.asarray(untouched(answer, W, T), dtype=float)
    expect(found.shape, best.shape, "the shape of l")
    off, least = (float(np.linalg.norm(x[:, None] * W - T)) for x in (found, best))
    expect(off, least, f"with l = {found} the distance is {off:.4g}, it could be {least:.4g}")
