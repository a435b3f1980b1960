"""Starts from data: initial values that a method takes from a few batches.

    start_from_data(model, batches)

EVA and CorDA begin with what the layers read, LoRA-GA with the gradients of their weights.
Attached, such a method is at LoRA's start. `fit` calls `start_from_data` before the first
update, with the batches that it will train on. Call it yourself to train in another way, or to
start from other data. It changes no output, but for rounding. It is done once for an adapter,
and leaves alone what has been trained.
"""

import contextlib
from itertools import islice

from ..engine.backend import to_list, xp
from ..model.transaction import changing
from .base import Method, adapters, in_use


def start_from_data(model, batches):
    """Lets the adapters in use whose methods start from data do so.

    batches: an iterable of (ids, labels) as in `Transformer.loss`. A start that fails or is
    interrupted leaves the adapter as it was. Raises ValueError if there is no batch, and
    FloatingPointError if what is computed of them is not finite.
    """
    with changing(model):
        for name in in_use(model):
            adapter = adapters(model)[name]
            by_default = type(adapter.method).before_training is Method.before_training
            if by_default or adapter.started:
                continue
            arrays = [p.data for p in adapter.parameters()]
            arrays += [a for delta in adapter.deltas.values() for a in delta.frozen().values()]
            before = [a.copy() for a in arrays]
            try:
                adapter.method.before_training(adapter, model, batches)
                adapter.started = True
            except BaseException:
                for a, kept in zip(arrays, before, strict=True):
                    a[...] = kept
                raise


def untrained(adapter):
    """Returns the low-rank changes of an adapter whose B is zero still, {path: Delta}."""
    trained = to_list([(delta.lora_B.data != 0).any() for delta in adapter.deltas.values()])
    items = zip(adapter.deltas.items(), trained, strict=True)
    return {path: delta for (path, delta), is_trained in items if not is_trained}


def first_batches(batches, n):
    """Returns the first n of some batches, or all if they are fewer; ValueError if none."""
    found = list(islice(batches, n))
    if not found:
        raise ValueError("a start from data needs batches of (ids, labels), and there are none")
    return found


@contextlib.contextmanager
def probing(model, probes):
    """Inside the block functions act at sites, {path: function}, around all that is in use."""
    modules = dict(model.named_modules())
    before = {path: modules[path].active for path in probes}
    try:
        for path, probe in probes.items():
            modules[path].active = [*before[path], (probe, None)]
        yield
    finally:
        for path, active in before.items():
            modules[path].active = active


def check_finite(path, array):
    """Raises FloatingPointError if what was found at a module is infinite or NaN."""
    if not bool(xp.isfinite(array).all()):
        raise FloatingPointError(
            f"what {path} reads or would learn is not finite, so no start can be made of it; "
            "look at the base and at the data"
        )
