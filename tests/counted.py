"""Arrays that count the FLOPs of every matrix product in which one of them takes part."""

import contextlib
from unittest import mock

from minipeft.engine import tensor as autograd
from minipeft.engine.backend import np
from minipeft.model import gradient_checkpointing as recompute
from minipeft.train import batch_gradient

counts = {"forward": 0, "backward": 0}
phases = ["forward"]


class Counted(np.ndarray):
    """An array whose results are Counted too; a product adds 2 · size · inner to `counts`."""

    def __array_ufunc__(self, ufunc, method, *inputs, out=None, **options):
        plain = [x.view(np.ndarray) if isinstance(x, Counted) else x for x in inputs]
        if out is not None:
            options["out"] = tuple(
                x.view(np.ndarray) if isinstance(x, Counted) else x for x in out
            )
        y = getattr(ufunc, method)(*plain, **options)
        if ufunc is np.matmul:
            real = 4 if np.iscomplexobj(y) else 1  # products of real numbers in one of these
            counts[phases[-1]] += 2 * y.size * plain[0].shape[-1] * real
        if out is not None:
            return out[0]
        return y if y is None else np.asarray(y).view(Counted)

    def __array_function__(self, function, types, args, options):
        y = super().__array_function__(function, types, args, options)
        return y.view(Counted) if isinstance(y, np.ndarray) else y


def counted(net):
    """The model, its arrays and those of its adapters Counted."""
    for adapter in vars(net).get("adapters", {}).values():
        for delta in adapter.deltas.values():
            for name, thing in vars(delta).items():
                if isinstance(thing, np.ndarray):
                    setattr(delta, name, thing.view(Counted))
                elif isinstance(thing, tuple) and all(isinstance(a, np.ndarray) for a in thing):
                    setattr(delta, name, tuple(a.view(Counted) for a in thing))
    for p in net.parameters():
        p.data = p.data.view(Counted)
    return net


@contextlib.contextmanager
def counting():
    """{"forward": FLOPs, "backward": FLOPs} of the block; backward is inside `gradients`."""
    real = autograd.gradients

    def gradients(*args):
        phases.append("backward")
        try:
            return real(*args)
        finally:
            phases.pop()

    before = dict(counts)
    with contextlib.ExitStack() as stack:
        for module in (batch_gradient, autograd, recompute):
            stack.enter_context(mock.patch.object(module, "gradients", gradients))
        found = {}
        yield found
    found.update({phase: counts[phase] - before[phase] for phase in counts})
