"""Checks of lesson 5, bottleneck adapters: the network, its size, and when it is a matrix."""

from ..engine.backend import np
from .base import check, expect, pair, require


def network(case, width):
    """Returns D (m, width), b₁ (m,), U (width, m) and b₂ (width,) of a random adapter."""
    m = case.size("m")
    shapes = {"D": (m, width), "b1": (m,), "U": (width, m), "b2": (width,)}
    return [case.array(name, *shape) for name, shape in shapes.items()]


def change(h, D, b1, U, b2):
    """Returns U relu(D h + b₁) + b₂ for rows h (…, width)."""
    return np.maximum(h @ D.T + b1, 0.0) @ U.T + b2


@check(
    "an adapter gives h + U relu(D h + b₁) + b₂, and leaves h itself alone",
    slips={
        "you forgot the skip connection, h +": change,
        "you forgot relu": lambda h, D, b1, U, b2: h + (h @ D.T + b1) @ U.T + b2,
        "you forgot b₁": lambda h, D, b1, U, b2: h + change(h, D, 0 * b1, U, b2),
        "you forgot b₂": lambda h, D, b1, U, b2: h + change(h, D, b1, U, 0 * b2),
        "you put relu after U, where it belongs before": (
            lambda h, D, b1, U, b2: h + np.maximum((h @ D.T + b1) @ U.T + b2, 0.0)
        ),
    },
)
def bottleneck(case, answer):
    """answer(h, D, b1, U, b2) -> (tokens, width); each row of h (tokens, width) is a token."""
    tokens, width = case.size("tokens"), case.size("width")
    h, (D, b1, U, b2) = case.array("h", tokens, width), network(case, width)
    expect(answer(h, D, b1, U, b2), h + change(h, D, b1, U, b2))
    expect(answer(h, D, b1, 0 * U, 0 * b2), h, "with U = 0 and b₂ = 0")


@check(
    "each place with an adapter adds 2 m width + m + width parameters",
    stars=1,
    slips={
        "you forgot to share the budget among the places": (
            lambda budget, width, places: (budget - width) // (2 * width + 1)
        ),
        "you forgot the bias b₂ of `width` parameters": (
            lambda budget, width, places: budget // places // (2 * width + 1)
        ),
        "you forgot both biases": lambda budget, width, places: budget // (2 * width * places),
        "you counted one matrix where there are two": (
            lambda budget, width, places: (budget // places - width) // (width + 1)
        ),
        "you did not round down to a whole number": (
            lambda budget, width, places: (budget / places - width) / (2 * width + 1)
        ),
    },
)
def largest_bottleneck(case, answer):
    """answer(budget, width, places) -> the largest m that the budget of parameters allows."""
    width, places, m = case.size("width"), case.size("places"), case.size("m")
    cost = places * (2 * m * width + m + width)
    spare = case.size("spare", 0, places * (2 * width + 1) - 1)  # too few for m + 1
    label = f"for a budget of {cost + spare} parameters"
    expect(answer(cost + spare, width, places), m, label)


@check(
    "without its nonlinearity an adapter is a matrix, and W becomes (I + U D) W",
    stars=2,
    slips={
        "you put the adapter before W, where it comes after": (
            lambda W, b, D, b1, U, b2: (W + W @ U @ D, b + U @ b1 + b2)
        ),
        "you forgot the skip connection": (
            lambda W, b, D, b1, U, b2: (U @ D @ W, U @ (D @ b + b1) + b2)
        ),
        "you forgot that b passes through the adapter too": (
            lambda W, b, D, b1, U, b2: (W + U @ D @ W, b + U @ b1 + b2)
        ),
        "you forgot that b₁ passes through U": (
            lambda W, b, D, b1, U, b2: (W + U @ D @ W, b + U @ D @ b + b2)
        ),
    },
)
def merged(case, answer):
    """answer(W, b, D, b1, U, b2) -> (W', b') that compute W x + b and then the adapter."""
    n_out, n_in = case.size("out"), case.size("in")
    W, b = case.array("W", n_out, n_in), case.array("b", n_out)
    D, b1, U, b2 = network(case, n_out)
    weight, bias = pair(answer(W, b, D, b1, U, b2), "W', b'")
    identity = np.eye(n_out)
    expect(weight, (identity + U @ D) @ W, "the matrix")
    expect(bias, (identity + U @ D) @ b + U @ b1 + b2, "the bias")


@check(
    "halfway between two inputs an affine map is halfway between its outputs; relu is not",
    stars=3,
    slips={
        "your two inputs are the same": lambda D, b1, U, b2: (1e3 * D[0], 1e3 * D[0]),
        "both inputs lie on one side of every relu": (
            lambda D, b1, U, b2: (1e3 * D[0], 2e3 * D[0])
        ),
        "you gave outputs of D, where inputs of the adapter are asked": (
            lambda D, b1, U, b2: (1e3 * b1, -1e3 * b1)
        ),
    },
)
def witness(case, answer):
    """answer(D, b1, U, b2) -> inputs (h, k), each (width,), whose midpoint gives relu away.

    U > 0, so that no unit undoes what another does.
    """
    D, b1, U, b2 = network(case, case.size("width"))
    U = case.values["U"] = np.abs(U)
    h, k = (np.asarray(x, dtype=float) for x in pair(answer(D, b1, U, b2), "h, k"))
    for x in (h, k):
        expect(x.shape, b2.shape, "the shape of an input")
    finite = np.isfinite(h).all() and np.isfinite(k).all()
    require(finite, "h and k have to be finite numbers")
    middle = (h + k) / 2
    halfway = (h + change(h, D, b1, U, b2) + k + change(k, D, b1, U, b2)) / 2
    gap = float(np.abs(middle + change(middle, D, b1, U, b2) - halfway).max())
    scale = 1.0 + float(np.abs(halfway).max())
    require(
        gap > 1e-6 * scale, f"for h = {h} and k = {k} the midpoint is off by only {gap:.2g}"
    )
