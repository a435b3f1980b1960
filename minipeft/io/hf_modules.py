"""What Hugging Face's model calls our modules, and what HF PEFT does not do on it."""

from ..errors import Refusal
from ..peft.targets import in_layers, matches, targeted
from .checkpoint import hf_name
from .families import FAMILIES
from .hf_configs import family_of
from .hf_fused import check_splits, part_of


class HFModules:
    """What HF's model calls the modules of a model; several here may be one there.

    Raises ValueError if HF has no model of this shape.
    """

    def __init__(self, model):
        self.config = model.config
        told = vars(model).get("pretrained", {}).get("config", {})
        self.model_type = told.get("model_type") or family_of(model.config)
        self.family = FAMILIES[self.model_type]
        self.there = {path: self.family.module(path) for path, _ in model.named_modules()}
        self.there["lm_head"] = "lm_head"  # whatever a file of weights calls it
        self.here = {}
        for path in model.config.target_shapes:
            self.here.setdefault(self.there[path], []).append(path)

    def parts(self, path):
        """Returns the paths here of all modules that are one there, with a module's own."""
        found = self.here.get(self.there[path], [path])
        return found if path in found else [path]

    def targets(self, names, layers):
        """Returns the paths here of matrices whose path there is, or ends in, one of the names.

        Those in blocks of these numbers only, if any. Raises ValueError for names that are a
        regular expression.
        """
        paths = in_layers(self.config.target_shapes, layers)
        if isinstance(names, str) and names != "all-linear":
            raise ValueError(
                f"target_modules is the pattern {names!r}; expected a list of names"
            )
        if names == "all-linear":
            return [*targeted(paths, names)]
        return [p for p in paths if any(matches([self.there[p]], name) for name in names)]

    def named(self, names):
        """Returns the paths here of the modules that hold parameters and have a name there."""
        owners = dict.fromkeys(p.rpartition(".")[0] for p in self.config.parameter_shapes)
        owners |= {"lm_head": None}
        found = [o for o in owners if any(matches([self.there[o]], name) for name in names)]
        if not found:
            raise ValueError(f"modules_to_save names {', '.join(names)}, which are not here")
        return tuple(found)

    def own_part(self, key, array):
        """Returns the part of an array there that belongs to a parameter of an adapter here."""
        module, _, name = key.rpartition(".")
        paths = self.parts(module)
        if len(paths) == 1:
            return array
        how = self.sizes(paths), self.family, self.config.heads
        return part_of(array, name, paths.index(module), *how)

    def sizes(self, paths):
        """Returns how many rows the weights of modules have."""
        return [self.config.target_shapes[path][0] for path in paths]

    def name(self, adapter, key):
        """Returns the name in HF PEFT's file of an array that an adapter saves."""
        module, _, name = key.rpartition(".")
        stem, _, number = name.rpartition("_")
        if name in adapter.method.shared:  # which HF PEFT holds once, beside the model
            return f"base_model.{name}"
        if stem in adapter.method.shared:  # one of several
            return f"base_model.{stem}.{number}"
        if key in adapter.copies:
            check_copy(self.family, key)
            name = adapter.method.hf_copy(name, module in adapter.deltas)
        return hf_name(f"{self.there[module]}.{name}", adapter.method.export_form())


def check_form(adapter, modules):
    """Raises ValueError for an adapter that has no form on HF's model."""
    check_tied(modules.config, adapter)
    for path in adapter.deltas:
        if len(modules.parts(path)) > 1:
            check_splits(adapter.method, modules.there[path])


def check_tied(config, adapter):
    """Raises Refusal for a copy of the token table that a tied head would follow.

    In HF PEFT it does not: the head goes on with the original.
    """
    if (
        config.tied
        and "wte.weight" in adapter.copies
        and "lm_head.weight" not in adapter.copies
    ):
        raise Refusal(
            "modules_to_save names the token table without the head, which is tied to it: HF "
            "PEFT's head would stay as it was, the head here follows; name both, or only the "
            "head"
        )


def check_copy(family, key):
    """Raises ValueError for a copied parameter that HF's model holds in another form."""
    of_matrix = key.startswith("blocks.") and key.endswith("_proj.weight")
    if (of_matrix and (family.transposed or family.fused)) or key.startswith("wpe."):
        raise Refusal(
            f"HF's {family.architecture} holds {key} in another form; leave its module out of "
            "modules_to_save"
        )


def check_there(method, modules):
    """Raises ValueError if HF PEFT does not have a method, or not on such a model."""
    if not method.hf_config:
        raise Refusal(f"HF PEFT has no {method}; save_adapter can save it")
    if modules.family.transposed and not method.hf_on_gpt2:
        kind = type(method).__name__
        raise Refusal(f"HF PEFT has no {kind} for GPT-2; save_adapter can save it")
    method.check_hf(modules.model_type, modules.config)
