"""Folding an adapter into the weights of the base, and taking it out again."""

from dataclasses import dataclass

from ..backend import dtype, xp
from ..nn import Module, Parameter
from .attaching import detach, disabled, install, put, use
from .base import Adapter, adapters, base_parameters, find, in_use, precision


@dataclass(frozen=True)
class Receipt:
    """What `merge` returns and `unmerge` takes."""

    model: Module
    adapter: Adapter
    before: dict  # {path: Parameter} that merging replaced
    after: dict  # {path: Parameter} that it put there
    used: dict  # what was in use


def merge(model, name="default"):
    """Fold an adapter into the base's weights, so that it costs nothing. Returns a Receipt.

    The adapter leaves the model. The merged weights are new arrays and the Receipt keeps the
    old ones, so `unmerge` restores every bit. Raises ValueError, and changes nothing, if the
    method's change is not one of weights, or if a merged weight is not finite.
    """
    adapter, used = find(model, name), in_use(model)
    after = folded(model, adapter)
    check_merge(model, adapter, after)
    detach(model, name)
    return Receipt(model, adapter, put(dict(model.named_modules()), after), after, used)


def folded(model, adapter):
    """What the base's parameters become when an adapter is merged, {path: Parameter}."""
    sites = dict(model.named_modules())
    arrays = {path: p.data for path, p in adapter.copies.items()}
    with disabled(model), dtype(precision(model)):
        for path, delta in adapter.deltas.items():
            try:
                merged = delta.merged(sites[path])
            except ValueError as reason:
                raise ValueError(
                    f"{adapter.name!r} at {path} cannot be merged: {reason}; keep it attached"
                ) from None
            arrays |= {f"{path}.{attribute}": array for attribute, array in merged.items()}
        return {path: Parameter(a, requires_grad=False) for path, a in arrays.items()}


def check_merge(model, adapter, after):
    """Refuse weights that do not exist, are not finite, or that another adapter would hide."""
    base = dict(base_parameters(model))
    for path, p in after.items():
        problem = None
        if path not in base:
            problem = f"needs {path}, which this model does not have"
        elif not bool(xp.isfinite(p.data).all()):
            problem = f"would make {path} infinite or NaN"
        if problem:
            raise ValueError(f"merging {adapter.name!r} {problem}; keep it attached")
    for other in adapters(model).values():
        hidden = sorted(other.copies.keys() & after.keys()) if other is not adapter else []
        if hidden:
            raise ValueError(
                f"{other.name!r} has its own copy of {hidden[0]}, which would hide what is "
                f"merged; detach {other.name!r} first"
            )


def unmerge(receipt):
    """Undo a merge: every weight gets back its bits, and the adapter is attached as before.

    Merges are undone in reverse order; another order is a ValueError and changes nothing.
    """
    model, adapter = receipt.model, receipt.adapter
    now = dict(base_parameters(model))
    for path, p in receipt.after.items():
        if now.get(path) is not p:
            raise ValueError(
                f"{path} was changed since {adapter.name!r} was merged; "
                "undo the later merge first"
            )
    if adapter.name in adapters(model):
        raise ValueError(f"another {adapter.name!r} was attached since; detach it first")
    used = in_use(model)
    use(model, None)
    put(dict(model.named_modules()), receipt.before)
    install(model, adapter)
    use(model, used | {key: receipt.used[key] for key in receipt.used if key == adapter.name})
