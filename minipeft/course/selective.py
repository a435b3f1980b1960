"""Checks of lesson 7, selective tuning: (IA)³, BitFit, a norm's gain, and how each merges."""

from ..engine.backend import np
from .base import check, expect, pair


def layer(case):
    """Returns W (out, in) and b (out,) of a random Linear."""
    n_out, n_in = case.size("out"), case.size("in")
    return case.array("W", n_out, n_in), case.array("b", n_out)


@check(
    "l ∘ (W x + b) is a Linear: each row of W and its bias are scaled by one factor",
    slips={
        "you forgot that the bias is scaled too": lambda W, b, s: (s[:, None] * W, b),
        "you scaled the columns of W; outputs are its rows": lambda W, b, s: (s * W, s * b),
        "you added the scaled layer to the old one": (
            lambda W, b, s: (W + s[:, None] * W, b + s * b)
        ),
    },
)
def stretch_output(case, answer):
    """answer(W, b, l) with l (out,) -> (W', b') that compute l ∘ (W x + b)."""
    W, b = layer(case)
    stretch = case.array("l", len(b))
    weight, bias = pair(answer(W, b, stretch), "W', b'")
    expect(weight, stretch[:, None] * W, "the matrix")
    expect(bias, stretch * b, "the bias")


@check(
    "W (l ∘ x) + b is a Linear: each column of W is scaled, the bias stays",
    slips={
        "you scaled the bias, which is added later": lambda W, b, s: (W * s, b * s),
        "you scaled the rows of W; inputs are its columns": lambda W, b, s: (s[:, None] * W, b),
        "you divided by the factors": lambda W, b, s: (W / s, b),
    },
)
def stretch_input(case, answer):
    """answer(W, b, l) with l (in,) -> (W', b') that compute W (l ∘ x) + b."""
    W, b = layer(case)
    stretch = case.array("l", W.shape[1])
    weight, bias = pair(answer(W, b, stretch), "W', b'")
    expect(weight, W * stretch, "the matrix")
    expect(bias, b, "the bias")


@check(
    "BitFit trains every bias: those of the Linears of each block, and of all the norms",
    stars=1,
    slips={
        "you forgot the norms": lambda layers, width, ffn: layers * (5 * width + ffn),
        "you forgot the last norm": lambda layers, width, ffn: layers * (7 * width + ffn),
        "you counted the gains of the norms too": (
            lambda layers, width, ffn: layers * (9 * width + ffn) + 2 * width
        ),
        "you took every bias for as long as the width": (
            lambda layers, width, ffn: layers * 8 * width + width
        ),
        "you took ffn for 4 · width": lambda layers, width, ffn: layers * 11 * width + width,
        "you counted the last norm in every block": (
            lambda layers, width, ffn: layers * (8 * width + ffn)
        ),
    },
)
def biases(case, answer):
    """answer(layers, width, ffn) -> how many parameters the biases of a GPT-2 have.

    A block has four width → width matrices, width → ffn, ffn → width, and two norms. One more
    norm comes last. The head has no bias.
    """
    layers, width, ffn = case.size("layers"), case.size("width"), case.size("ffn")
    expect(answer(layers, width, ffn), layers * (5 * width + ffn + 2 * width) + width)


@check(
    "a norm's gain and bias merge into the next layer: W (g ∘ n + β) + b is a Linear of n",
    stars=2,
    slips={
        "you forgot that beta passes through W into the bias": (
            lambda W, b, gain, beta: (W * gain, b)
        ),
        "you scaled beta by the gain, which comes before it": (
            lambda W, b, gain, beta: (W * gain, W @ (gain * beta) + b)
        ),
        "you scaled the rows of W; what the norm gives meets its columns": (
            lambda W, b, gain, beta: (gain[:, None] * W, W @ beta + b)
        ),
        "you forgot the bias b of the layer": (lambda W, b, gain, beta: (W * gain, W @ beta)),
    },
)
def merged_norm(case, answer):
    """answer(W, b, gain, beta) -> (W', b') that compute W (gain ∘ n + beta) + b from n."""
    W, b = layer(case)
    gain, beta = case.array("gain", W.shape[1]), case.array("beta", W.shape[1])
    weight, bias = pair(answer(W, b, gain, beta), "W', b'")
    expect(weight, W * gain, "the matrix")
    expect(bias, W @ beta + b, "the bias")


@check(
    "the best scaling of W's rows towards T is, row by row, ⟨w, t⟩ / ⟨w, w⟩",
    stars=3,
    slips={
        "you took the mean of the ratios, which is not the least distance": (
            lambda W, T: (T / W).mean(axis=1)
        ),
        "you divided by ⟨t, t⟩": lambda W, T: (W * T).sum(axis=1) / (T * T).sum(axis=1),
        "you divided the lengths of the rows, whatever their directions": (
            lambda W, T: np.linalg.norm(T, axis=1) / np.linalg.norm(W, axis=1)
        ),
        "you scaled columns, not rows": (
            lambda W, T: (W * T).sum(axis=0) / (W * W).sum(axis=0)
        ),
        "you took one factor for the whole matrix": (
            lambda W, T: np.full(len(W), (W * T).sum() / (W * W).sum())
        ),
        "you forgot to divide by ⟨w, w⟩": lambda W, T: (W * T).sum(axis=1),
    },
)
def best_stretch(case, answer):
    """answer(W, T) -> l (out,) for which ‖l ∘ W − T‖ is least, W and T (out, in)."""
    n_out, n_in = case.size("out"), case.size("in")
    W, T = case.array("W", n_out, n_in), case.array("T", n_out, n_in)
    result = np.asarray(answer(W, T), dtype=float)
    best = (W * T).sum(axis=1) / (W * W).sum(axis=1)
    expect(result.shape, best.shape, "the shape of l")
    distance, least = (float(np.linalg.norm(x[:, None] * W - T)) for x in (result, best))
    label = f"with l = {result} the distance is {distance:.4g}, it could be {least:.4g}"
    expect(distance, least, label)
