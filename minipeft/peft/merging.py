"""Folding an adapter into the weights of the base, and taking it out again."""

from dataclasses import dataclass

from ..backend import dtype, xp
from ..nn import Module, Parameter
from .base import (
    Adapter,
    adapters,
    base_parameters,
    detach,
    disabled,
    find,
    in_use,
    install,
    precision,
    put,
    use,
)


@dataclass(frozen=True)
class Receipt:
    """What `merge` returns and `unmerge` takes: the adapter, and the parameters before and after."""

    model: Module
    adapter: Adapter
    before: dict
    after: dict
    used: dict


def merge(model, name="default"):
    """Fold an adapter into the base's weights, so that it costs nothing at inference. Returns a Receipt.

    The adapter leaves the model; the merged weights are new arrays, and the Receipt keeps the old ones,
    so `unmerge` restores every bit. Raises ValueError, and changes nothing, if the method's change is not
    one of weights, or if a merged weight is not finite.
    """
    adapter, used = find(model, name), in_use(model)
    with disabled(model), dtype(precision(model)):
        sites, base = dict(model.named_modules()), dict(base_parameters(model))
        after = {
            path: Parameter(p.data, requires_grad=False) for path, p in adapter.copies.items()
        }
        for path, delta in adapter.deltas.items():
            try:
                arrays = delta.merged(sites[path])
            except ValueError as reason:
                raise ValueError(
                    f"{name!r} at {path} cannot be merged: {reason}; keep it attached"
                ) from None
            for attribute, array in arrays.items():
                after[f"{path}.{attribute}"] = Parameter(array, requires_grad=False)
    for path, p in after.items():
        if path not in base:
            raise ValueError(
                f"{name!r} changes {path}, which this model does not have; keep it attached"
            )
        if not bool(xp.isfinite(p.data).all()):
            raise ValueError(
                f"merging {name!r} would make {path} infinite or NaN; keep it attached"
            )
    for other in adapters(model).values():
        hidden = next(
            (path for path in other.copies if path in after and other is not adapter), None
        )
        if hidden:
            raise ValueError(
                f"{other.name!r} has its own copy of {hidden}, which would hide what is merged; "
                f"detach {other.name!r} first"
            )
    detach(model, name)
    return Receipt(model, adapter, put(dict(model.named_modules()), after), after, used)


def unmerge(receipt):
    """Undo a merge: every weight gets back the bits it had, and the adapter is attached as before.

    Merges are undone in reverse order; another order is a ValueError and changes nothing.
    """
    model, adapter = receipt.model, receipt.adapter
    now = dict(base_parameters(model))
    for path, p in receipt.after.items():
        if now.get(path) is not p:
            raise ValueError(
                f"{path} was changed since {adapter.name!r} was merged; undo the later merge first"
            )
    if adapter.name in adapters(model):
        raise ValueError(
            f"another adapter named {adapter.name!r} was attached since; detach it first"
        )
    used = in_use(model)
    use(model, None)
    put(dict(model.named_modules()), receipt.before)
    install(model, adapter)
    use(model, used | {key: receipt.used[key] for key in receipt.used if key == adapter.name})
