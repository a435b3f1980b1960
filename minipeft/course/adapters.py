"""Checks of lesson 5, bottleneck adapters: the network, its size, and when it is a matrix."""

from ..engine.backend import np
from .base import call, check, expect, pair, require


def network(case, width):
    """Returns D (m, width), b₁ (m,), U (width, m) and b₂ (width,) of a random adapter."""
    m = case.size("m")
    shapes = {"D": (m, width), "b1": (m,), "U": (width, m), "b2": (width,)}
    return [case.array(name, *shape) for name, shape in shapes.items()]


def adapter(h, D, b1, U, b2):
    """Returns h + U relu(D h + b₁) + b₂ for rows h (…, width)."""
    return h + np.maximum(h @ D.T + b1, 0.0) @ U.T + b2


@check("an adapter gives h + U relu(D h + b₁) + b₂, and leaves h itself alone")
def bottleneck(case, answer):
    """answer(h, D, b1, U, b2) -> (tokens, width); each row of h (tokens, width) is a token."""
    tokens, width = case.size("tokens"), case.size("width")
    h, (D, b1, U, b2) = case.array("h", tokens, width), network(case, width)
    expect(call(answer, h=h, D=D, b1=b1, U=U, b2=b2), adapter(h, D, b1, U, b2))
    expect(answer(h, D, b1, 0 * U, 0 * b2), h, "with U = 0 and b₂ = 0")


@check("each place with an adapter adds 2 m width + m + width parameters")
def largest_bottleneck(case, answer):
    """answer(budget, width, places) -> the largest m that the budget of parameters allows."""
    width, places, m = case.size("width"), case.size("places"), case.size("m")
    cost = places * (2 * m * width + m + width)
    spare = case.size("spare", 0, places * (2 * width + 1) - 1)  # too few for m + 1
    label = f"for a budget of {cost + spare} parameters"
    expect(answer(cost + spare, width, places), m, label)


@check("without its nonlinearity an adapter is a matrix, and W becomes (I + U D) W")
def merged(case, answer):
    """answer(W, b, D, b1, U, b2) -> (W', b') that compute W x + b and then the adapter."""
    n_out, n_in = case.size("out"), case.size("in")
    W, b = case.array("W", n_out, n_in), case.array("b", n_out)
    D, b1, U, b2 = network(case, n_out)
    weight, bias = pair(call(answer, W=W, b=b, D=D, b1=b1, U=U, b2=b2), "W', b'")
    identity = np.eye(n_out)
    expect(weight, (identity + U @ D) @ W, "the matrix")
    expect(bias, (identity + U @ D) @ b + U @ b1 + b2, "the bias")


@check("halfway between two inputs an affine map is halfway between its outputs; relu is not")
def witness(case, answer):
    """answer(D, b1, U, b2) -> inputs (h, k), each (width,), whose midpoint gives relu away.

    U > 0, so that no unit undoes what another does.
    """
    D, b1, U, b2 = network(case, case.size("width"))
    U = case.values["U"] = np.abs(U)
    h, k = (np.asarray(x, dtype=float) for x in pair(answer(D, b1, U, b2), "h, k"))
    for x in (h, k):
        expect(x.shape, b2.shape, "the shape of an input")
    midpoint = adapter((h + k) / 2, D, b1, U, b2)
    halfway = (adapter(h, D, b1, U, b2) + adapter(k, D, b1, U, b2)) / 2
    gap = float(np.abs(midpoint - halfway).max())
    scale = 1.0 + float(np.abs(halfway).max())
    require(
        gap > 1e-6 * scale, f"for h = {h} and k = {k} the midpoint is off by only {gap:.2g}"
    )
