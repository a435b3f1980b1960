"""Attaches adapters to a model, chooses which are in use, and detaches them.

The base's own parameters are never written to. Where a method trains a base parameter, a
private copy takes its place in its module while in use; afterwards the original, the same
object, is put back.
"""

import contextlib

from ..engine.backend import dtype, np
from ..errors import to_python
from ..model.layers import Parameter
from .base import Adapter, Method, adapters, base_parameters, find, in_use, precision


def attach(model, method, name="default", rng=0):
    """Attaches a method to a model under a name, uses it, and freezes everything else.

    Returns the Adapter. `rng`, a seed or a NumPy Generator, draws the initial values. Raises
    ValueError, and changes nothing, for a name already taken, target modules that match
    nothing, or a rank that does not fit.
    """
    adapter = prepare(model, method, name, rng)
    install(model, adapter)
    use(model, name)
    return adapter


def prepare(model, method, name, rng=0):
    """Returns the Adapter that `attach` would install; the model stays as it is."""
    check_name(model, name)
    if not isinstance(method, Method):
        raise TypeError(f"attach takes a method such as LoRA(r=8), got {method!r}")
    with disabled(model), dtype(precision(model)):
        deltas = method.make_deltas(model, np.random.default_rng(to_python(rng)))
        originals = method.base_parameters_to_copy(model)
        copies = {path: Parameter(p.data) for path, p in originals.items()}
    adapter = Adapter(name, method, deltas, copies)
    if not adapter.parameters():
        raise ValueError(f"{method} finds nothing to train in this model")
    return adapter


def check_name(model, name):
    """Raises ValueError for what cannot name a new adapter."""
    if not isinstance(name, str) or not name:
        raise ValueError(f"an adapter's name is a non-empty string, got {name!r}")
    if name in adapters(model):
        raise ValueError(f"{name!r} is already attached; detach it or choose another name")


def install(model, adapter):
    """Puts a prepared adapter on the model and freezes the base, without using the adapter."""
    if not adapters(model):
        model.trained_before = [p for _, p in base_parameters(model) if p.requires_grad]
    for _, p in base_parameters(model):
        p.requires_grad = False
    for p in adapter.parameters():
        p.requires_grad = False
    modules = dict(model.named_modules())
    owners = [path.rpartition(".")[0] for path in adapter.copies]
    adapter.modules = {path: modules[path] for path in (*adapter.deltas, *owners)}
    for path, delta in adapter.deltas.items():
        adapter.modules[path].deltas[adapter.name] = delta
    adapters(model)[adapter.name] = adapter


def detach(model, name="default"):
    """Takes an adapter off the model, as if it had never been there. Returns the Adapter.

    With the last adapter gone, the base parameters that were trainable before the first one
    came are trainable again.
    """
    adapter = find(model, name)
    use(model, others(model, name))
    for path in adapter.deltas:
        del adapter.modules[path].deltas[name]
    del adapters(model)[name]
    if not adapters(model):
        for p in model.trained_before:
            p.requires_grad = True
    return adapter


def others(model, name):
    """The adapters in use, without one of them."""
    return {key: rows for key, rows in in_use(model).items() if key != name}


def use(model, names=None, *, rows=None):
    """Chooses which adapters the model computes with and trains: one, several, or none.

        use(model, "french")                            one adapter
        use(model, ["prefix", "lora"])                  both, the first innermost
        use(model, rows=["french", None, "german"])     one, or none, for each row of a batch
        use(model, None)                                the base

    Adapters in use are trainable, everything else is frozen. No array is copied: the time grows
    with the number of sites, not with their size, nor with the number of other adapters.
    """
    wanted = rows_by_name(names, rows)
    chosen = [(find(model, name), mask) for name, mask in wanted.items()]
    check_compatible(chosen)
    for name in in_use(model):
        adapter = adapters(model)[name]
        swap(adapter.modules, adapter.originals)
        adapter.originals = {}
        for path in adapter.deltas:
            adapter.modules[path].active = []
        for p in adapter.parameters():
            p.requires_grad = False
    for adapter, mask in chosen:
        adapter.originals = swap(adapter.modules, adapter.copies)
        for path, delta in adapter.deltas.items():
            adapter.modules[path].active.append((delta, mask))
        for p in adapter.parameters():
            p.requires_grad = True
    model.adapters_in_use = wanted


def rows_by_name(names, rows):
    """The arguments of `use` as {adapter's name: mask of rows (B,), or None for all rows}."""
    if rows is not None and names is not None:
        raise ValueError(f"use takes names, or a name for each of the rows, got {names!r} too")
    if rows is not None:
        rows = to_python(rows)
        chosen = dict.fromkeys(name for name in rows if name is not None)
        return {name: np.array([row == name for row in rows]) for name in chosen}
    if isinstance(names, dict):
        return names
    names = () if names is None else to_python(names)
    return dict.fromkeys(names if isinstance(names, tuple) else [names])


def check_compatible(chosen):
    """Raises ValueError for adapters that cannot be used together.

    These are two with copies of one base parameter, and one with copies for some rows only.
    """
    owner = {}
    for adapter, rows in chosen:
        if rows is not None and adapter.copies:
            raise ValueError(
                f"{adapter.name!r} trains base parameters themselves, which all rows of a "
                "batch share; run its rows as a batch of their own"
            )
        for path in adapter.copies:
            if path in owner:
                both = f"{owner[path]!r} and {adapter.name!r}"
                raise ValueError(f"{both} both replace {path}; use one at a time")
            owner[path] = adapter.name


def swap(modules, parameters):
    """Sets the module attributes at these paths to {path: Parameter}; returns the old ones."""
    before = {}
    for path, p in parameters.items():
        module, _, attribute = path.rpartition(".")
        before[path] = getattr(modules[module], attribute)
        setattr(modules[module], attribute, p)
    return before


@contextlib.contextmanager
def disabled(model):
    """Inside the block the model is its base, bit for bit."""
    before = in_use(model)
    use(model, None)
    try:
        yield model
    finally:
        use(model, before)
