"""What a method of fine-tuning is made of: Method, Delta and Adapter.

A Method turns a frozen function f into Δ(f). It makes one Delta for each Site that it sits on;
or it names base parameters, and private copies of them are trained instead.
An Adapter is one method on one model, under a name: `attach` puts it there, `merge` adds it to
the weights.

He et al. 2022, "Towards a Unified View of Parameter-Efficient Transfer Learning",
arXiv:2110.04366
"""

from ..errors import unknown
from ..model.layers import Module
from ..options import Options
from .formula import Term


class Delta(Module):
    """One change at one site, which then computes delta(f, *args) in place of f(*args).

    `adds` says whether it is f plus something that does not depend on f. Two such changes
    commute. `made_for` lists the base parameters whose values it keeps, if any: it computes
    what it should only while the base has these.
    """

    adds = False
    made_for = ()

    def merged(self, site):
        """The site's parameters with this change added, {attribute: array}.

        Empty for a tied head whose change comes with that of the token table.
        Raises ValueError if no choice of parameters computes the same, which is the default.
        """
        raise ValueError("its change is not a change of weights")

    def saved(self):
        """The arrays that an adapter's file keeps, {name: array}: by default its parameters."""
        return {name: p.data for name, p in self.named_parameters()}

    def frozen(self):
        """The arrays that it computes with and that never train, {name: array}.

        Those need not be named that are made from the base or from a seed in the options,
        and come out the same everywhere. A checkpoint keeps them.
        """
        return {}

    def state(self):
        """The running averages that a resumed run needs, {name: array}."""
        return {}

    def hf_frozen(self):
        """Its frozen arrays that a file of HF PEFT repeats, {name: array}."""
        return {}


class Method(Options):
    """A way of fine-tuning: a dataclass of hyper-parameters.

    The class attributes say what the package has to know of it. Tables, plots, the command
    line, files and the exchange with HF PEFT are made from them.
    """

    name = ""  # on the command line and in every table: "lora"
    family = ""  # of which kind it is, one of methods.FAMILIES
    paper = ""  # author, year and arXiv id
    idea = ""  # in a line: what it changes about LoRA, about adapters or about prompts
    claim = ()  # what its paper says it buys, and over which method: see lab/claims.py
    contains = ()  # methods that it is at some setting: "name: the setting"
    within = ()  # methods that are it at some setting, likewise
    equation = ""  # what f(x) becomes
    place = ""  # where it sits
    mergeable = False  # whether some choice of the base's weights computes the same
    shared = ()  # names of arrays that several of its changes share
    learning_rate = 3e-3  # of AdamW, where no better one was measured
    peft_type = ""  # its name in an adapter's file
    edition = 1  # of what a file means; one more when the same numbers compute something else

    hf_config = ""  # its configuration class in HF PEFT, if it is there
    hf_prefix = ""  # how the names of its arrays begin in a file of HF PEFT
    hf_weights = ()  # its arrays that HF PEFT calls "….weight"
    hf_flag = ""  # an option that is true in a file, where one peft_type has several methods
    hf_lacks = ()  # options of ours that HF PEFT does not have
    hf_whole = False  # whether its arrays of a matrix cannot be split into those of its parts
    hf_on_gpt2 = True  # whether HF PEFT can put it on GPT-2's fused and transposed layers

    def terms(self, config):
        """The Terms whose sum is how many parameters it trains on a model of this Config.

        A method says this, or else `count`, which has then no equation to show.
        """
        if type(self).count is Method.count:
            raise NotImplementedError(f"{type(self).__name__} has neither terms nor count")
        return [Term({}, "count", {"count": self.count(config)})]

    def count(self, config):
        """How many parameters it trains on a model of this Config, without building either."""
        return sum(term.count for term in self.terms(config))

    def count_new(self, config):
        """How many of these parameters the base does not have itself."""
        return self.count(config)

    def make_deltas(self, model, rng):
        """The changes to make, {path of a Site: Delta}, initial values drawn from `rng`."""
        return {}

    def base_parameters_to_copy(self, model):
        """The base parameters of which private copies are trained, {path: Parameter}."""
        return {}

    def make_optimizer(self, adapter, betas, weight_decay):
        """The method's own optimiser for some of an adapter's parameters, or None for AdamW.

        An optimiser is what AdamW is: it has `parameters`, `steps`, `state` and `step`. AdamW
        updates the parameters of the adapter that it does not have.
        """
        return None

    def before_training(self, adapter, model, batches):
        """Called before the first update, to start from data; see `start_from_data`.

        batches: an iterable of (ids, labels), those of the run. It writes to the adapter's
        arrays in place, and leaves alone what has been trained.
        """

    def before_step(self, adapter, step, steps):
        """Called before update `step` = 1 … `steps`: may add to the gradients, or change them.

        Raises ValueError for a run that is too short for the method.
        """

    def after_step(self, adapter, step, steps, scale=1.0):
        """Called after that update, by the gradients still there times `scale`.

        Returns the rank of each target to note in the History, {path: rank}.
        """
        return {}

    def export_form(self):
        """The method as a saved file has it, without networks that only make its parameters."""
        return self

    def check_hf(self, model_type, config):
        """Raises ValueError if HF PEFT does not have the same method on such a model.

        model_type: the family in HF's words, "llama"; config: our Config of the model.
        """

    def to_hf(self, values, adapter):
        """The options of HF PEFT's configuration, given those that have the same name there.

        Raises ValueError where HF PEFT has no such form.
        """
        return values

    @classmethod
    def from_hf(cls, values, targets):
        """Our options, given those of HF PEFT's configuration.

        targets: {our path of each module that the file has arrays for: shape of the first}.
        """
        return values

    def hf_name(self, name):
        """What a file of HF PEFT calls an array of that name, behind the path of its module."""
        return f"{name}.weight" if name in self.hf_weights else name

    def hf_factor(self, name):
        """What an array of that name is multiplied by in a file of HF PEFT."""
        return 1.0

    def hf_copy(self, name, is_target):
        """What a file of HF PEFT calls a copied parameter, behind the path of its module."""
        return name

    def hf_frozen(self, adapter):
        """Arrays, frozen or shared, that a file of HF PEFT holds once, {name there: array}."""
        return {}


class Adapter:
    """A method attached to a model under a name."""

    def __init__(self, name, method, deltas, copies):
        self.name, self.method = name, method
        self.deltas = deltas  # {path: Delta}
        self.copies = copies  # {path: Parameter}
        self.modules = {}  # {path: Module} that holds its deltas and copies, once attached
        self.originals = {}  # {path: the base's Parameter}, while the copies are in use
        self.started = False  # whether its start from data was made, if the method has one

    def named_parameters(self):
        """(path, Parameter) for all that it trains; a shared one only once."""
        seen = set()
        for path, delta in self.deltas.items():
            for name, p in delta.named_parameters():
                if id(p) not in seen:
                    seen.add(id(p))
                    yield f"{path}.{name}", p
        yield from self.copies.items()

    def parameters(self):
        """The parameters that it trains."""
        return [p for _, p in self.named_parameters()]

    def saved(self):
        """The arrays that an adapter's file keeps, {path: array}, a shared one only once."""
        arrays = {}  # {id: (path, array)}
        for path, delta in self.deltas.items():
            for name, array in delta.saved().items():
                arrays.setdefault(id(array), (f"{path}.{name}", array))
        return dict(arrays.values()) | {path: p.data for path, p in self.copies.items()}

    @property
    def made_for(self):
        """The base parameters that its changes are made for, and right on no others."""
        lists = [delta.made_for for delta in self.deltas.values()]
        return [p for made_for in lists for p in made_for if p is not None]

    @property
    def count(self):
        """How many parameters it trains."""
        return sum(p.data.size for p in self.parameters())

    def __repr__(self):
        return f"Adapter({self.name!r}, {self.method}, {self.count:,} trainable parameters)"


def adapters(model):
    """The adapters attached to a model, {name: Adapter}, in order of attachment."""
    return vars(model).setdefault("adapters", {})


def in_use(model):
    """The adapters in use, innermost first: {name: mask of rows (B,), or None for all rows}."""
    return vars(model).setdefault("adapters_in_use", {})


def check_rows(model, parts):
    """Raises ValueError for micro-batches of a batch whose rows use different adapters."""
    if parts > 1 and any(rows is not None for rows in in_use(model).values()):
        raise ValueError(
            "adapters were chosen for the rows of a batch, so it must be read whole; "
            "use accumulate=1 and workers=1"
        )


def base_parameters(model):
    """[(path, Parameter)] of the base, as if every adapter were switched off."""
    originals, added = {}, set()
    for adapter in adapters(model).values():
        originals |= adapter.originals
        added |= {id(p) for delta in adapter.deltas.values() for p in delta.parameters()}
    named = [(path, p) for path, p in model.named_parameters() if id(p) not in added]
    named = [(path, originals.get(path, p)) for path, p in named]
    return [(path, p) for path, p in named if p is not None]  # a tied head has none of its own


def find(model, name):
    """Returns the adapter of that name. Raises ValueError, listing the names, if none has."""
    if name not in adapters(model):
        raise ValueError(unknown("adapter", name, adapters(model) or ["none attached"]))
    return adapters(model)[name]


def precision(model):
    """The floating-point dtype of the base."""
    return base_parameters(model)[0][1].dtype
