"""Attaches adapters to a model, chooses which are in use, and detaches them.

The base's own parameters are never written to. Where a method trains a base parameter, a
private copy takes its place in its module while in use; afterwards the original, the same
object, is put back.
"""

import contextlib

from ..engine.backend import dtype, np
from ..errors import to_python
from ..model.layers import Parameter
from ..model.transaction import all_or_nothing, changing, snapshot, undo
from .base import Adapter, Method, adapters, base_parameters, find, in_use, precision


@all_or_nothing
def attach(model, method, name="default", rng=0):
    """Attaches a method to a model under a name, uses it, and freezes everything else.

    Returns the Adapter. `rng`, a seed or a NumPy Generator, draws the initial values. An
    Adapter that was detached from the model can be attached again, under its own name, in place
    of a method. Raises ValueError, and changes nothing, for a name already taken, target
    modules that match nothing, or a rank that does not fit.
    """
    if isinstance(method, Adapter):
        adapter = detached(model, method, name)
    else:
        adapter = prepare(model, method, name, rng)
    install(model, adapter)
    use(model, adapter.name)
    return adapter


def detached(model, adapter, name):
    """Returns an Adapter that can be attached again; ValueError if it is not of this model."""
    check_name(model, adapter.name)
    if name not in ("default", adapter.name):
        raise ValueError(f"{adapter.name!r} keeps its name; leave out name={name!r}")
    modules = dict(model.named_modules())
    base = {id(p) for _, p in base_parameters(model)}
    if not adapter.modules or any(modules.get(k) is not m for k, m in adapter.modules.items()):
        raise ValueError(
            f"{adapter.name!r} was never attached to this model; save_adapter there, and "
            "load_adapter here"
        )
    if any(id(p) not in base for p in adapter.made_for):
        raise ValueError(
            f"{adapter.name!r} was made for other weights than the model has now; unmerge what "
            "was merged since"
        )
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


def check_unused(model):
    """Raises ValueError while adapters are in use, as a file of the base would lack them."""
    names = [*in_use(model)]
    names += [name for name, a in adapters(model).items() if a.originals and name not in names]
    if names:
        raise ValueError(
            f"{', '.join(map(repr, names))} would be missing from the file; merge it first, or "
            "use(model, None) to save the base alone"
        )


def check_name(model, name):
    """Raises ValueError for what cannot name a new adapter."""
    if not isinstance(name, str) or not name:
        raise ValueError(f"an adapter's name is a non-empty string, got {name!r}")
    if not name.isprintable():  # nor can what is no text be a file's name
        raise ValueError(f"an adapter's name is text that can be printed, got {name!r}")
    if name in adapters(model):
        raise ValueError(f"{name!r} is already attached; detach it or choose another name")


def install(model, adapter):
    """Puts a prepared adapter on the model and freezes the base, without using the adapter."""
    if not adapters(model):
        model.trained_before = [path for path, p in base_parameters(model) if p.requires_grad]
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


@all_or_nothing
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
        train_base(model)
    return adapter


def train_base(model):
    """Makes those base parameters trainable that were so before the first adapter came.

    A head that merging untied from the token table trains if the table does.
    """
    trained = {*model.trained_before}
    trained |= {"lm_head.weight"} if "wte.weight" in trained else set()
    for path, p in base_parameters(model):
        p.requires_grad = path in trained


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
    before = [adapters(model)[name] for name in in_use(model)]
    touched = [*before, *(adapter for adapter, _ in chosen)]
    owners = [model, *touched, *(m for a in touched for m in a.modules.values())]
    noted = None
    try:
        with changing(model):
            noted = snapshot(owners, [p for a in touched for p in a.parameters()])
            switch(before, chosen)
            model.adapters_in_use = wanted
    except BaseException:
        undo(noted)
        raise


def switch(before, chosen):
    """Takes some adapters out of use, and puts others into use: pairs (Adapter, rows)."""
    for adapter in before:
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
    """Inside the block the model is its base, bit for bit.

    Afterwards those adapters are in use again that were before, and that are still attached.
    """
    before = in_use(model)

    def switch_back():
        use(model, {name: rows for name, rows in before.items() if name in adapters(model)})

    with changing(model):
        try:
            try:
                use(model, None)
                yield model
            finally:
                switch_back()
        except BaseException:
            switch_back()  # again, in case that Ctrl-C was pressed in the first
            raise
