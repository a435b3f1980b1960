"""Which modules a method is put on, by name, and what its hyper-parameters may be."""

from ..errors import unknown
from ..nn import Linear, Site


def linears(model):
    """The Linear layers of the base, {path: Linear}."""
    return {path: m for path, m in model.named_modules() if isinstance(m, Linear)}


def targeted(layers, targets):
    """Those of {path: anything} that target_modules names; 'all-linear' is all but the head.

    Raises ValueError if any name matches nothing, with the names that it might have meant.
    """
    if targets == "all-linear":
        return {path: m for path, m in layers.items() if path.split(".")[-1] != "lm_head"}
    return matching(layers, (targets,) if isinstance(targets, str) else targets)


def matching(modules, names):
    """Those of {path: module} whose path is, or ends in, a name; each name must match one."""
    found = set()
    for name in names:
        hits = {path for path in modules if f".{path}".endswith(f".{name}")}
        if not hits:
            known = sorted({path.split(".")[-1] for path in modules})
            raise ValueError(unknown("target module", name, known))
        found |= hits
    if not found:
        raise ValueError("no target modules were named; name some, or use 'all-linear'")
    return {path: m for path, m in modules.items() if path in found}


def sites(model):
    """All places where a function may be replaced, {path: Site}."""
    return {path: m for path, m in model.named_modules() if isinstance(m, Site)}


def at_least_1(**numbers):
    """Raise ValueError unless every hyper-parameter given is a whole number ≥ 1."""
    for name, number in numbers.items():
        if not isinstance(number, int) or isinstance(number, bool) or number < 1:
            raise ValueError(f"{name} must be a whole number ≥ 1, got {number!r}")


def room_for(slots, context):
    """Raise ValueError if so many virtual tokens leave no room for real ones."""
    if slots >= context:
        raise ValueError(f"{slots} virtual tokens fill a context of {context}; use fewer")
