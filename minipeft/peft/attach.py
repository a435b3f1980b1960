"""Putting adapters on a model, choosing among them, and taking them off.

The base's own parameters are never written to: a private copy takes a parameter's place in its
module while in use, and the original, the same object, is put back afterwards.
"""

import contextlib

from ..engine.backend import dtype, np
from ..model.layers import Parameter
from .base import Adapter, Method, adapters, base_parameters, find, in_use, precision


def attach(model, method, name="default", rng=0):
    """Put a method on a model under a name, use it, freeze all else. Returns the Adapter.

    `rng`, a seed or a NumPy Generator, draws the initial values. Raises, and changes nothing,
    for a name already taken, target modules that match nothing, or a rank that does not fit.
    """
    adapter = prepare(model, method, name, rng)
    install(model, adapter)
    use(model, name)
    return adapter


def prepare(model, method, name, rng=0):
    """The Adapter that `attach` would put on the model, which stays as it is."""
    check_name(model, name)
    if not isinstance(method, Method):
        raise TypeError(f"attach takes a method such as LoRA(r=8), got {method!r}")
    with disabled(model), dtype(precision(model)):
        deltas = method.make_deltas(model, np.random.default_rng(rng))
        originals = method.base_parameters_to_copy(model)
        copies = {path: Parameter(p.data) for path, p in originals.items()}
    adapter = Adapter(name, method, deltas, copies)
    if not adapter.parameters():
        raise ValueError(f"{method} finds nothing to train in this model")
    return adapter


def check_name(model, name):
    """Refuse what cannot name a new adapter."""
    if not isinstance(name, str) or not name:
        raise ValueError(f"an adapter's name is a non-empty string, got {name!r}")
    if name in adapters(model):
        raise ValueError(f"{name!r} is already attached; detach it or choose another name")


def install(model, adapter):
    """Put a prepared adapter on the model, freezing the base, without using it."""
    if not adapters(model):
        model.trained_before = [p for _, p in base_parameters(model) if p.requires_grad]
    for _, p in base_parameters(model):
        p.requires_grad = False
    for p in adapter.parameters():
        p.requires_grad = False
    modules = dict(model.named_modules())
    owners = [path.rpartition(".")[0] for path in adapter.copies]
    adapter.places = {path: modules[path] for path in (*adapter.deltas, *owners)}
    for path, delta in adapter.deltas.items():
        adapter.places[path].deltas[adapter.name] = delta
    adapters(model)[adapter.name] = adapter


def detach(model, name="default"):
    """Take an adapter off, as if it had never been there. Returns the Adapter.

    When the last one goes, the base parameters that trained before the first came train again.
    """
    adapter = find(model, name)
    use(model, others(model, name))
    for path in adapter.deltas:
        del adapter.places[path].deltas[name]
    del adapters(model)[name]
    if not adapters(model):
        for p in model.trained_before:
            p.requires_grad = True
    return adapter


def others(model, name):
    """What is in use, without one name."""
    return {key: rows for key, rows in in_use(model).items() if key != name}


def use(model, names=None, *, rows=None):
    """Choose what the model computes and trains: one adapter, several, or the bare base.

        use(model, "french")                            one adapter
        use(model, ["prefix", "lora"])                  both, the first innermost
        use(model, rows=["french", None, "german"])     one, or none, for each row of a batch
        use(model, None)                                the base

    What is in use trains, all else is frozen. No array is copied: the time it takes grows with
    the number of sites, not with their size, nor with how many other adapters there are.
    """
    wanted = asked_for(names, rows)
    chosen = [(find(model, name), only) for name, only in wanted.items()]
    check_compatible(chosen)
    for name in in_use(model):
        adapter = adapters(model)[name]
        put(adapter.places, adapter.replaced)
        adapter.replaced = {}
        for path in adapter.deltas:
            adapter.places[path].active = []
        for p in adapter.parameters():
            p.requires_grad = False
    for adapter, only in chosen:
        adapter.replaced = put(adapter.places, adapter.copies)
        for path, delta in adapter.deltas.items():
            adapter.places[path].active.append((delta, only))
        for p in adapter.parameters():
            p.requires_grad = True
    model.adapters_in_use = wanted


def asked_for(names, rows):
    """What `use` was asked for, {adapter's name: rows that see it (B,), or None for all}."""
    if rows is not None:
        given = dict.fromkeys(name for name in rows if name is not None)
        return {name: np.array([row == name for row in rows]) for name in given}
    if isinstance(names, dict):
        return names
    return dict.fromkeys([names] if isinstance(names, str) else names or [])


def check_compatible(chosen):
    """Refuse two adapters with copies of one parameter, and rows for one that has copies."""
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


def put(modules, parameters):
    """Set the module attributes at these paths to {path: Parameter}; return what was there."""
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
