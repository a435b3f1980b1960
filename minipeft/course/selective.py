"""Checks of lesson 7, selective tuning: (IA)³, BitFit, a norm's gain, and how each merges."""

from ..engine.backend import np
from .base import call, check, expect, pair


def layer(case):
    """Returns W (out, in) and b (out,) of a random Linear."""
    n_out, n_in = case.size("out"), case.size("in")
    return case.array("W", n_out, n_in), case.array("b", n_out)


@check("l ∘ (W x + b) is a Linear: each row of W and its bias are scaled by one factor")
def stretch_output(case, answer):
    """answer(W, b, l) with l (out,) -> (W', b') that compute l ∘ (W x + b)."""
    W, b = layer(case)
    stretch = case.array("l", len(b))
    weight, bias = pair(call(answer, W=W, b=b, l=stretch), "W', b'")
    expect(weight, stretch[:, None] * W, "the matrix")
    expect(bias, stretch * b, "the bias")


@check("W (l ∘ x) + b is a Linear: each column of W is scaled, the bias stays")
def stretch_input(case, answer):
    """answer(W, b, l) with l (in,) -> (W', b') that compute W (l ∘ x) + b."""
    W, b = layer(case)
    stretch = case.array("l", W.shape[1])
    weight, bias = pair(call(answer, W=W, b=b, l=stretch), "W', b'")
    expect(weight, W * stretch, "the matrix")
    expect(bias, b, "the bias")


@check("BitFit trains every bias: those of the Linears of each block, and of all the norms")
def biases(case, answer):
    """answer(layers, width, ffn) -> how many parameters the biases of a GPT-2 have.

    A block has four width → width matrices, width → ffn, ffn → width, and two norms. One more
    norm comes last. The head has no bias.
    """
    layers, width, ffn = case.size("layers"), case.size("width"), case.size("ffn")
    expect(answer(layers, width, ffn), layers * (5 * width + ffn + 2 * width) + width)


@check("a norm's gain and bias merge into the next layer: W (g ∘ n + β) + b is a Linear of n")
def merged_norm(case, answer):
    """answer(W, b, gain, beta) -> (W', b') that compute W (gain ∘ n + beta) + b from n."""
    W, b = layer(case)
    gain, beta = case.array("gain", W.shape[1]), case.array("beta", W.shape[1])
    weight, bias = pair(call(answer, W=W, b=b, gain=gain, beta=beta), "W', b'")
    expect(weight, W * gain, "the matrix")
    expect(bias, W @ beta + b, "the bias")


@check("the best scaling of W's rows towards T is, row by row, ⟨w, t⟩ / ⟨w, w⟩")
def best_stretch(case, answer):
    """answer(W, T) -> l (out,) for which ‖l ∘ W − T‖ is least, W and T (out, in)."""
    n_out, n_in = case.size("out"), case.size("in")
    W, T = case.array("W", n_out, n_in), case.array("T", n_out, n_in)
    best = (W * T).sum(axis=1) / (W * W).sum(axis=1)
    result = np.asarray(call(answer, W=W, T=T), dtype=float)
    expect(result.shape, best.shape, "the shape of l")
    distance, least = (float(np.linalg.norm(x[:, None] * W - T)) for x in (result, best))
    label = f"with l = {result} the distance is {distance:.4g}, it could be {least:.4g}"
    expect(distance, least, label)
