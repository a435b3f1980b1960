"""What all methods share: attaching changes to a frozen model, choosing among them, merging them.

A method turns a frozen function f into Δ(f). Its `build` gives one Delta for each Site that it sits on;
its `trains` names base parameters of which it trains private copies instead. An Adapter is one method
attached under one name. The base's own parameters are never written to: a copy, or a merged weight,
takes their place in the module, and they are put back, the same objects, when it leaves.

He et al. 2022, "Towards a Unified View of Parameter-Efficient Transfer Learning", arXiv:2110.04366
"""

import contextlib
from dataclasses import fields

from ..backend import dtype, np
from ..errors import unknown
from ..nn import Module, Parameter


class Delta(Module):
    """One change at one site, called as delta(f, *args): what the site now computes in place of f."""

    def merged(self, site):
        """The site's parameters with this change folded in, {attribute: array}.

        Raises ValueError if no choice of parameters computes the same, which is the default.
        """
        raise ValueError("its change is not a change of weights")

    def saved(self):
        """The arrays that an adapter file keeps, {name: array}: all parameters unless some fold away."""
        return {name: p.data for name, p in self.named_parameters()}


class Method:
    """A way of fine-tuning: hyper-parameters, and where its changes sit. Subclasses are dataclasses."""

    family = ""  # of which kind it is: full, selective, lora, adapter or prompt
    peft_type = ""  # its name in an adapter's file
    folds = False  # whether merging is possible

    def count(self, config):
        """How many numbers it trains on a model of this Config, without building either."""
        raise NotImplementedError

    def folded(self):
        """The method as a saved file has it, without networks that fold away."""
        return self

    def build(self, model, rng):
        """The changes to make, {path of a Site: Delta}, with initial values drawn from `rng`."""
        return {}

    def trains(self, model):
        """Paths of the base parameters that are trained themselves, as private copies."""
        return []

    @classmethod
    def from_dict(cls, values):
        """The method with these hyper-parameters; an unknown one is an error that lists near ones."""
        names = [field.name for field in fields(cls)]
        for key in values:
            if key not in names:
                raise ValueError(unknown(f"option of {cls.__name__}", key, names))
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


class Adapter:
    """A method attached to a model under a name."""

    def __init__(self, name, method, deltas, copies):
        self.name, self.method = name, method
        self.deltas = deltas  # {path: Delta}
        self.copies = copies  # {path: Parameter}
        self.replaced = {}  # {path: the base's Parameter}, while the copies are in use

    def named_parameters(self):
        """(path, Parameter) for all that this adapter trains."""
        for path, delta in self.deltas.items():
            yield from ((f"{path}.{name}", p) for name, p in delta.named_parameters())
        yield from self.copies.items()

    def parameters(self):
        """All that this adapter trains."""
        return [p for _, p in self.named_parameters()]

    def saved(self):
        """The arrays that an adapter file keeps, {path: array}."""
        arrays = {
            f"{path}.{name}": array
            for path, delta in self.deltas.items()
            for name, array in delta.saved().items()
        }
        return arrays | {path: p.data for path, p in self.copies.items()}

    @property
    def count(self):
        """How many numbers it trains."""
        return sum(p.data.size for p in self.parameters())

    def __repr__(self):
        return f"Adapter({self.name!r}, {self.method}, {self.count:,} trainable numbers)"


def adapters(model):
    """The adapters attached to a model, {name: Adapter}, in the order in which they came."""
    return vars(model).setdefault("adapters", {})


def in_use(model):
    """The adapters now in use, {name: None, or the rows of a batch that see it}, innermost first."""
    return vars(model).setdefault("adapters_in_use", {})


def base_parameters(model):
    """(path, Parameter) of the base as it is with every adapter switched off."""
    originals = {path: p for a in adapters(model).values() for path, p in a.replaced.items()}
    foreign = {
        id(p)
        for a in adapters(model).values()
        for d in a.deltas.values()
        for p in d.parameters()
    }
    return [
        (path, originals.get(path, p))
        for path, p in model.named_parameters()
        if id(p) not in foreign
    ]


def attach(model, method, name="default", rng=0):
    """Put a method on a model under a name, use it, and freeze everything else. Returns the Adapter.

    `rng`: a seed or a numpy Generator, for the initial values. Nothing is changed if anything is
    wrong: a name already taken, target modules that match nothing, a rank that does not fit.
    """
    adapter = prepare(model, method, name, rng)
    install(model, adapter)
    use(model, name)
    return adapter


def prepare(model, method, name, rng=0):
    """The Adapter that `attach` would put on the model, which stays as it is."""
    if not isinstance(name, str) or not name:
        raise ValueError(f"an adapter's name is a non-empty string, got {name!r}")
    if name in adapters(model):
        raise ValueError(
            f"an adapter named {name!r} is already attached; detach it or choose another name"
        )
    if not isinstance(method, Method):
        raise TypeError(f"attach takes a method such as LoRA(r=8), got {method!r}")
    with disabled(model), dtype(precision(model)):
        deltas = method.build(model, np.random.default_rng(rng))
        base = dict(base_parameters(model))
        copies = {path: Parameter(base[path].data) for path in method.trains(model)}
    adapter = Adapter(name, method, deltas, copies)
    if not adapter.parameters():
        raise ValueError(f"{method} finds nothing to train in this model")
    return adapter


def install(model, adapter):
    """Put a prepared adapter on the model, freezing the base, without using it."""
    if not adapters(model):
        model.trained_before = [p for _, p in base_parameters(model) if p.requires_grad]
    for _, p in base_parameters(model):
        p.requires_grad = False
    sites = dict(model.named_modules())
    for path, delta in adapter.deltas.items():
        sites[path].deltas[adapter.name] = delta
    adapters(model)[adapter.name] = adapter


def detach(model, name="default"):
    """Take an adapter off, leaving the model as if it had never been there. Returns the Adapter.

    When the last one goes, the base parameters that trained before the first came train again.
    """
    adapter = find(model, name)
    use(model, others(model, name))
    sites = dict(model.named_modules())
    for path in adapter.deltas:
        del sites[path].deltas[name]
    del adapters(model)[name]
    if not adapters(model):
        for p in model.trained_before:
            p.requires_grad = True
    return adapter


def others(model, name):
    """What is in use, without one name."""
    return {key: rows for key, rows in in_use(model).items() if key != name}


def find(model, name):
    """The adapter of that name, or a ValueError that lists those there are."""
    if name not in adapters(model):
        raise ValueError(unknown("adapter", name, adapters(model) or ["none attached"]))
    return adapters(model)[name]


def use(model, names=None, *, rows=None):
    """Choose what the model computes and trains: one adapter, several at once, or the bare base (None).

        use(model, "french")             use(model, ["prefix", "lora"])         use(model, None)
        use(model, rows=["french", None, "german"])      one adapter (or none) for each row of a batch

    Several at once are applied in the given order, the first innermost. What is in use trains, all else
    is frozen. Takes time proportional to the number of sites, however large the model.
    """
    if rows is not None:
        names = {
            key: np.array([row == key for row in rows])
            for key in dict.fromkeys(rows)
            if key is not None
        }
    elif names is None or isinstance(names, str):
        names = [] if names is None else [names]
    wanted = names if isinstance(names, dict) else dict.fromkeys(names)
    chosen = [(find(model, name), wanted[name]) for name in wanted]
    check_compatible(chosen)
    current = [adapters(model)[name] for name in in_use(model)]
    sites = dict(model.named_modules())
    for adapter in current:
        put(sites, adapter.replaced)
        adapter.replaced = {}
        for path in adapter.deltas:
            sites[path].active = []
    for adapter in adapters(model).values():
        for p in adapter.parameters():
            p.requires_grad = False
    for adapter, only in chosen:
        adapter.replaced = put(sites, adapter.copies)
        for path, delta in adapter.deltas.items():
            sites[path].active.append((delta, only))
        for p in adapter.parameters():
            p.requires_grad = True
    model.adapters_in_use = wanted


def check_compatible(chosen):
    """Refuse two adapters that replace the same parameters, and rows for one that replaces any."""
    owner = {}
    for adapter, rows in chosen:
        if rows is not None and adapter.copies:
            raise ValueError(
                f"{adapter.name!r} trains base parameters themselves, which all rows of a batch share; "
                "run its rows as a batch of their own"
            )
        for path in adapter.copies:
            if path in owner:
                raise ValueError(
                    f"{owner[path]!r} and {adapter.name!r} both replace {path}; use one at a time"
                )
            owner[path] = adapter.name


def put(modules, parameters):
    """Set module attributes to these Parameters, {path: Parameter}; return those that were there."""
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


def precision(model):
    """The floating-point type of the base."""
    return base_parameters(model)[0][1].dtype
