"""A loss in pieces, the derivative of each taken as soon as it is there."""

from .autograd import Tensor, gradients, needs_gradient, record
from .backend import xp


def piecewise(loss_of, x, pieces):
    """The sum over pieces, indices that split x, of the scalars loss_of(x[piece], piece).

    The gradients of a piece are computed with it, in the forward pass, as if g were 1; backward
    multiplies them by g. Of all that a piece made only they are kept: one of x, and one of each
    parameter that trains. So a loss over many words holds the probabilities of few tokens at a
    time, and none until backward.  x (B, T, D) -> an array without axes
    """
    total, dx, others = None, None, {}
    for piece in pieces:
        part = Tensor(x.data[piece], requires_grad=needs_gradient(x))
        loss = loss_of(part, piece)
        total = loss.data if total is None else total + loss.data
        for leaf, g in gradients(loss).items() if loss.requires_grad else ():
            if leaf is not part.node:
                others[leaf] = others[leaf] + g if leaf in others else g
            else:
                dx = xp.empty_like(x.data) if dx is None else dx
                dx[piece] = g
    edges = [(x, dx), *((Tensor(None, node=leaf), dw) for leaf, dw in others.items())]
    return record(total, *((operand, lambda g, d=d: g * d) for operand, d in edges))
