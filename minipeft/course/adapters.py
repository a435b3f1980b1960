"""Checks of lesson 5, bottleneck adapters: the network, its size, and when it is a matrix."""

from ..engine.backend import np
from .base import check, expect, require


def network(draw, width):
    """D (m, width), b₁ (m,), U (width, m) and b₂ (width,) of an adapter."""
    m = draw.size("m")
    shapes = {"D": (m, width), "b1": (m,), "U": (width, m), "b2": (width,)}
    return [draw.array(name, *shape) for name, shape in shapes.items()]


def adapted(h, D, b1, U, b2):
    """h + U relu(D h + b₁) + b₂ for rows h (…, width)."""
    return h + np.maximum(h @ D.T + b1, 0.0) @ U.T + b2


@check("an adapter gives h + U relu(D h + b₁) + b₂, and leaves h itself alone")
def bottleneck(draw, answer):
    """answer(h, D, b1, U, b2) for h (tokens, width): rows, as everywhere in the package."""
    tokens, width = draw.size("tokens"), draw.size("width")
    h, parts = draw.array("h", tokens, width), network(draw, width)
    before = h.copy()
    got = answer(h, *parts)
    require((h == before).all(), "your function wrote into h, which the skip connection needs")
    expect(got, adapted(h, *parts))
    expect(answer(h, *parts[:2], 0 * parts[2], 0 * parts[3]), h, "with U = 0 and b₂ = 0")


@check("an adapter costs 2 m width + m + width numbers, at every place again")
def widest(draw, answer):
    """answer(budget, width, places) -> the largest m whose adapters cost no more than that."""
    width, places, m = draw.size("width"), draw.size("places"), draw.size("m")
    least = places * (2 * m * width + m + width)
    over = draw.size("over", 0, places * (2 * width + 1) - 1)
    expect(answer(least + over, width, places), m, f"{least + over} numbers to spend")


@check("without its nonlinearity an adapter is a matrix, and W becomes (I + U D) W")
def fold(draw, answer):
    """answer(W, b, D, b1, U, b2) -> (W', b') that compute W x + b and then the adapter."""
    n_out, n_in = draw.size("out"), draw.size("in")
    W, b = draw.array("W", n_out, n_in), draw.array("b", n_out)
    D, b1, U, b2 = network(draw, n_out)
    before = W.copy(), b.copy()
    folded, bias = answer(W, b, D, b1, U, b2)
    kept = (W == before[0]).all() and (b == before[1]).all()
    require(kept, "your function wrote into W or b; a merge makes new arrays")
    one = np.eye(n_out)
    expect(folded, (one + U @ D) @ W, "the matrix")
    expect(bias, (one + U @ D) @ b + U @ b1 + b2, "the bias")


@check("halfway between two inputs an affine map is halfway between its outputs; relu is not")
def witness(draw, answer):
    """answer(D, b1, U, b2) -> inputs (h, k), each (width,), whose midpoint gives relu away.

    U > 0, so that what one unit does is not undone by another.
    """
    parts = network(draw, draw.size("width"))
    parts[2] = draw.drawn["U"] = np.abs(parts[2])
    h, k = (np.asarray(x, dtype=float) for x in answer(*parts))
    for x in (h, k):
        expect(x.shape, parts[3].shape, "the shape of an input")
    middle = adapted((h + k) / 2, *parts)
    halfway = (adapted(h, *parts) + adapted(k, *parts)) / 2
    gap = float(np.abs(middle - halfway).max())
    scale = 1.0 + float(np.abs(halfway).max())
    require(
        gap > 1e-6 * scale, f"for h = {h} and k = {k} the midpoint is off by only {gap:.2g}"
    )
