"""Merges an adapter's change into the weights of the base, and takes it out again."""

from dataclasses import dataclass
from statistics import fmean

from ..engine.backend import dtype, xp
from ..model.layers import Module, Parameter, TiedHead
from ..model.quantize import QuantizedParameter, relative_error
from ..model.transaction import all_or_nothing
from .attach import check_compatible, detach, disabled, install, swap, train_base, use
from .base import Adapter, adapters, base_parameters, find, in_use, precision


@dataclass(frozen=True)
class Receipt:
    """What `merge` returns and `unmerge` takes."""

    model: Module
    adapter: Adapter
    before: dict  # {path: Parameter} that merging replaced
    after: dict  # {path: Parameter} that it put there
    used: dict  # what was in use
    lost: dict  # {path: share of the change lost to rounding}, for weights quantised again
    bits: int  # `sum_of_bits` of the base after merging

    def __repr__(self):
        parts = [f"Receipt: {self.adapter.name!r} is merged into {len(self.after)} parameters"]
        packed = [path for path, p in self.before.items() if isinstance(p, QuantizedParameter)]
        if self.lost:
            share = 100 * fmean(self.lost.values())
            parts.append(f"{len(packed)} packed again, which loses {share:.1f} % of the change")
        elif packed:
            before = sum(self.before[path].nbytes for path in packed)
            after = sum(self.after[path].data.nbytes for path in packed)
            parts.append(f"{len(packed)} unpacked for it, {before:,} bytes are now {after:,}")
        return "; ".join(parts)


@all_or_nothing
def merge(model, name="default", *, requantize=False):
    """Merges an adapter into the base's weights, so that it costs no time at inference.

    Returns a Receipt. The adapter leaves the model. The merged weights are new arrays, and the
    Receipt keeps the old ones, so `unmerge` restores every bit. A change of the head or of the
    token table unties the two, and the model's Config then says so. After the last adapter the
    base trains as it did before the first came, its merged weights too.

    Raises ValueError, and changes nothing, if the method's change is not one of weights, if a
    merged weight is not finite, or if the logits would change: for an adapter that is in use
    for some rows of a batch only, one whose change comes after another that it does not commute
    with, and one that changes weights which another was made for, as DoRA is.

    A quantised weight (see `quantize`) is unpacked, which loses nothing but the memory that it
    saved. With `requantize` it is packed again, which rounds away much of the change, because
    most of it is smaller than a quantisation step. The Receipt says how much.
    """
    adapter, used = find(model, name), in_use(model)
    after, lost = merged_parameters(model, adapter), {}
    check_merge(model, adapter, after)
    check_order(model, adapter)
    check_made_for(model, adapter, after)
    if requantize:
        after, lost = repacked(dict(base_parameters(model)), after)
    detach(model, name)
    before = swap(dict(model.named_modules()), after)
    tie(model)
    if not adapters(model):
        train_base(model)
    return Receipt(model, adapter, before, after, used, lost, sum_of_bits(model))


def sum_of_bits(model):
    """The sum of the bits of every base parameter as whole numbers, which training changes."""
    arrays = [a for _, p in base_parameters(model) for a in p.arrays.values()]
    return sum(int(a.reshape(-1).view(f"u{a.itemsize}").sum(dtype="uint64")) for a in arrays)


def tie(model):
    """Makes the model's Config say whether its head is the token table."""
    free = "lm_head.weight" in dict(base_parameters(model))
    model.config = model.config.with_(tied=not free)


def repacked(base, after):
    """(merged weights packed as the base's are, share of each change that rounding loses).

    ‖rounded − merged‖ / ‖merged − before‖ in Frobenius norms: 1 is as if nothing were merged.
    """
    packed = {
        path: p
        for path, p in base.items()
        if path in after and isinstance(p, QuantizedParameter)
    }
    rounded = {path: p.requantized(after[path].data) for path, p in packed.items()}
    lost = {
        path: relative_error(rounded[path].data - p.data, after[path].data - p.data)
        for path, p in packed.items()
    }
    return after | rounded, lost


def merged_parameters(model, adapter):
    """The base's parameters after merging an adapter, {path: Parameter}, those that change."""
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
        for path, head in sites.items():  # a change of the table alone is none of the head
            tied = isinstance(head, TiedHead) and head.weight is None
            if tied and "wte" in adapter.deltas and path not in adapter.deltas:
                arrays[f"{path}.weight"] = head.table.data
        return {path: Parameter(a, requires_grad=False) for path, a in arrays.items()}


def check_merge(model, adapter, after):
    """Raises ValueError for merged weights that cannot take their place.

    They do not exist, are not finite, or another adapter's copy would hide them.
    """
    base = dict(base_parameters(model))
    for path, p in after.items():
        problem = None
        if path not in base and path != "lm_head.weight":  # merging unties a tied head
            problem = f"needs {path}, which this model does not have"
        elif not bool(xp.isfinite(p.data).all()):
            problem = f"would make {path} infinite or NaN"
        if problem:
            raise ValueError(f"merging {adapter.name!r} {problem}; keep it attached")
    changed = set(after) | {f"{path}.weight" for path in adapter.deltas}
    if "lm_head.weight" in changed - base.keys():  # a head that was the table so far
        changed.add("wte.weight")
    for other in adapters(model).values():
        hidden = sorted(other.copies.keys() & changed) if other is not adapter else []
        if hidden:
            raise ValueError(
                f"{other.name!r} has its own copy of {hidden[0]}, which would hide what is "
                f"merged; detach {other.name!r} first"
            )


def check_order(model, adapter):
    """Raises ValueError if merging would put an adapter's change into other rows or order.

    What is merged applies to all rows of a batch, and before all that is attached.
    """
    name, used = adapter.name, in_use(model)
    if used.get(name) is not None:
        raise ValueError(
            f"{name!r} is in use for some rows of a batch only, and merging would change all; "
            f"use(model, {name!r}) first"
        )
    for path, delta in adapter.deltas.items():
        changes = [d for d, _ in adapter.modules[path].active]
        before = changes[: changes.index(delta)] if delta in changes else []
        if before and not all(d.adds for d in (*before, delta)):
            raise ValueError(
                f"at {path} other adapters act before {name!r}, and merging would reverse "
                f"that; use(model, [{name!r}, …]) with it first, or merge them first"
            )


def check_made_for(model, adapter, changed):
    """Raises ValueError if another adapter was made for a base parameter that changes.

    changed: the paths of those that change.
    """
    old = {path: p for path, p in base_parameters(model) if path in changed}
    for other in adapters(model).values():
        for path, p in old.items():
            if other is not adapter and any(p is q for q in other.made_for):
                raise ValueError(
                    f"{other.name!r} ({other.method}) was made for {path} as it is; detach "
                    f"{other.name!r} before it changes"
                )


def unmerge(receipt):
    """Undoes a merge: every weight gets back its bits, and the adapter is attached as before.

    If it was in use, it is in use again, as the innermost. Raises ValueError, and changes
    nothing, if that was done already, if a later merge has to be undone first, if the base was
    trained since, or if the adapter cannot be used together with those in use now.
    """
    return undo_merge(receipt.model, receipt)


@all_or_nothing
def undo_merge(model, receipt):
    """`unmerge`, whose model is the first argument."""
    adapter, name = receipt.adapter, receipt.adapter.name
    check_unmerge(model, receipt)
    now, order = in_use(model), list(receipt.used)
    if name in order:
        now = {name: None} | now
        now = {key: now[key] for key in order} if now.keys() == set(order) else now
    there = adapters(model) | {name: adapter}
    check_compatible([(there[key], rows) for key, rows in now.items()])
    use(model, None)
    swap(dict(model.named_modules()), receipt.before)
    tie(model)
    install(model, adapter)
    use(model, now)


def check_unmerge(model, receipt):
    """Raises ValueError if a merge cannot be undone now."""
    name, now = receipt.adapter.name, dict(base_parameters(model))
    if all(p is now.get(path) for path, p in receipt.before.items()):
        raise ValueError(f"the merge of {name!r} was undone already")
    for path, p in receipt.after.items():
        if now.get(path) is not p:
            raise ValueError(
                f"{path} was replaced since {name!r} was merged, as by a later merge; undo "
                "that first"
            )
    if sum_of_bits(model) != receipt.bits:
        raise ValueError(
            f"the base was changed since {name!r} was merged, and would be neither what it is "
            "nor what it was; attach a method before training, or keep it merged"
        )
    if name in adapters(model):
        raise ValueError(f"another {name!r} was attached since; detach it first")
    check_made_for(model, receipt.adapter, receipt.after)
