"""Import and export adapters of Hugging Face PEFT, for all families of models in `families`.

    from here to HF PEFT:  mp.export_adapter(model, "default", folder)
                           PeftModel.from_pretrained(hf_model, folder)
    from HF PEFT to here:  peft_model.save_pretrained(folder)
                           mp.import_adapter(model, folder)

The arrays are the same, except for a factor or an axis that the file of a method states. The
paths of modules differ: blocks.0.attn.q_proj is model.layers.0.self_attn.q_proj in HF's Llama.
A configuration lists the target modules, and those with another r or α, by their full paths, so
that no pattern of names has to be translated.

HF PEFT's files have no fingerprint of their base: that it is the right one cannot be checked.
"""

import hashlib
from dataclasses import asdict, replace

from ..engine.backend import np, to_numpy, xp
from ..errors import Refusal, unknown
from ..model.transaction import all_or_nothing
from ..peft.attach import check_name, install, prepare, use
from ..peft.base import base_parameters, find
from ..peft.methods import METHODS
from ..peft.targets import Targeted, any_rank, first_match, matches
from .arrays import SEAL, read_arrays, sealed_config, write_arrays
from .checkpoint import OURS, method_from_config
from .files import as_path, error_context, json_text, write_bytes
from .hf_fused import common_form, fused
from .hf_modules import HFModules, check_form, check_there
from .safetensors import Safetensors

EXCHANGED = {method.peft_type: method for method in METHODS.values() if method.hf_config}
# options in HF PEFT's configurations that do not change what the arrays in the file compute
WITHOUT_EFFECT = (
    "auto_mapping", "base_model_name_or_path", "corda_config", "encoder_dropout",
    "encoder_num_layers", "encoder_reparameterization_type", "eva_config", "exclude_modules",
    "fan_in_fan_out", "feedforward_modules", "inference_mode", "init_ia3_weights",
    "init_lora_weights", "init_weights", "layers_pattern", "layers_to_transform",
    "lora_ga_config", "megatron_core", "module_dropout", "num_attention_heads", "num_layers",
    "num_transformer_submodules", "peft_version", "prompt_tuning_init",
    "prompt_tuning_init_text", "qalora_group_size", "rank_dropout", "revision",
    "save_projection", "target_modules", "task_type", "token_dim", "tokenizer_kwargs",
    "tokenizer_name_or_path", "total_step",
)  # fmt: skip
# values of init_lora_weights that leave the weights of the base as they are
BASE_UNCHANGED = (True, False, "gaussian", "orthogonal", "eva")


def export_adapter(model, name, folder):
    """Write one adapter in HF PEFT's format, for `PeftModel.from_pretrained`.

    Returns the folder's Path. Raises ValueError if there is no adapter of that name, if HF PEFT
    does not have its method, or if HF has no model of this shape.
    """
    adapter, modules, folder = find(model, name), HFModules(model), as_path(folder)
    check_there(adapter.method.export_form(), modules)
    arrays = hf_arrays(model, adapter, modules)
    with any_rank(adapter.count):
        config = json_text(hf_config(adapter, modules, arrays))
    seal = {SEAL: hashlib.sha256(config).hexdigest()}
    write_arrays(folder / "adapter_model.safetensors", arrays, seal)
    write_bytes(folder / "adapter_config.json", config)
    return folder


@all_or_nothing
def import_adapter(model, folder, name=None):
    """Attach an adapter that HF PEFT saved in a folder, and use it. Returns the Adapter.

    Its name is that of the folder unless given. Raises ValueError, and leaves the model as it
    was, if the files do not fit the model, or need what this package does not have.
    """
    folder, modules = as_path(folder), HFModules(model)
    name = folder.resolve().name if name is None else name
    check_name(model, name)
    path = folder / "adapter_model.safetensors"
    with Safetensors(path) as file:
        values, entries = sealed_config(file, folder / "adapter_config.json"), file.entries
        with error_context(path), any_rank(file.count):
            method = method_from_hf(values, entries, modules)
            check_there(method, modules)
            if method.count(model.config) > most_parameters(file, modules):
                raise ValueError(
                    f"it holds fewer parameters than {method} trains on this model"
                )
            adapter = prepare(model, method, name)
            arrays = hf_arrays(model, adapter, modules, tables=entries, common=True)
            like = {
                key: np.empty(a.shape, entries.get(key, ("float32",))[0])
                for key, a in arrays.items()
            }
        loaded = read_arrays(file, like)
    trained = {key: modules.name(adapter, key) for key in adapter.saved()}
    for key, p in adapter.named_parameters():
        array = modules.own_part(key, loaded[trained[key]])
        array = array / method.hf_factor(key.split(".")[-1])
        p.data = xp.asarray(array.reshape(p.shape), dtype=p.dtype)
    arrays |= method.hf_frozen(adapter)
    repeated = loaded.keys() - {*trained.values()}
    check_repeated(path, loaded, {key: arrays[key] for key in repeated})
    install(model, adapter)
    use(model, name)
    return adapter


def check_repeated(path, loaded, arrays):
    """Raises ValueError if a file does not have the arrays that are here: frozen, or shared."""
    for key, array in arrays.items():
        if not alike(loaded[key], to_numpy(array)):
            raise ValueError(
                f"{path}: {key} is frozen, and not equal to that of this model; "
                "load it on its own base"
            )


def alike(found, ours):
    """Returns whether two frozen arrays are equal, but for rounding where both are floats."""
    if found.dtype.kind != "f" or not found.size:
        return np.array_equal(found, ours)
    return bool(abs(found - ours).max() <= 1e-5 * abs(ours).max())


def hf_arrays(model, adapter, modules, tables=(), common=False):
    """Returns {name: array} as in HF PEFT's file: trained arrays, and frozen ones it repeats.

    tables: of a file that comes from there, the names in it; the token tables are among the
    arrays if they are among those, as are frozen arrays, which each module may have a copy of.
    common: of a matrix that is one there, the parts have a change in common, as what comes from
    there has.
    """
    method, of_modules = adapter.method, {}
    check_form(adapter, modules)
    for key, array in adapter.saved().items():
        module, _, name = key.rpartition(".")
        of_modules.setdefault(module, {})[name] = array * method.hf_factor(name)
    arrays = {}
    for module, named in of_modules.items():
        paths = modules.parts(module)
        changed = [of_modules.get(path) for path in paths]
        if len(paths) > 1:
            if module != next(p for p in paths if p in of_modules):
                continue  # it was written with the first of its parts
            how = method, modules.there[module], changed, modules.sizes(paths)
            named = whole(*how, modules, common)
            module = next((p for p in paths if p in adapter.deltas), module)
        arrays |= {modules.name(adapter, f"{module}.{n}"): array for n, array in named.items()}
    for path, delta in adapter.deltas.items():
        for name, array in delta.hf_frozen().items():
            arrays[modules.name(adapter, f"{path}.{name}")] = array
    for name, array in method.hf_frozen(adapter).items():
        last = name.split(".")[-1]
        copies = [modules.name(adapter, f"{path}.{last}") for path in adapter.deltas]
        there = tables if tables else (name,)
        arrays |= {n: array for n in (name, *copies) if n in there}
    base = dict(base_parameters(model))
    for path in ("wte", "lm_head"):
        name = f"base_model.model.{modules.there[path]}.base_layer.weight"
        if name in tables:
            arrays[name] = base.get(f"{path}.weight", base["wte.weight"]).data
    return arrays


def whole(method, there, changed, sizes, modules, common):
    """Returns the arrays of a matrix that is one there, given those of its parts here."""
    family, heads = modules.family, modules.config.heads
    if not common:
        return fused(method, there, changed, sizes, family, heads)
    return common_form(changed, family, heads)


def hf_config(adapter, modules, arrays):
    """Returns the configuration of an adapter as HF PEFT writes it, given its arrays there."""
    method, transposed = adapter.method.export_form(), modules.family.transposed
    values, there = asdict(method), modules.there
    if isinstance(method, Targeted):
        paths = list(adapter.deltas)
        values |= {"target_modules": paths, "fan_in_fan_out": transposed}
        shapes = modules.config.target_shapes
        methods = {path: method.for_module(path, shapes[path]) for path in paths}
        values |= patterns(method, with_sums(methods, modules, arrays))
    if method.hf_flag:
        values[method.hf_flag] = True
    values = method.to_hf(values, adapter)
    if values.get("modules_to_save"):
        owners = [path.rpartition(".")[0] for path in adapter.copies]
        saved = [o for o in owners if any(matches([o], n) for n in values["modules_to_save"])]
        values["modules_to_save"] = saved
    for option in ("target_modules", "feedforward_modules", "modules_to_save"):
        if option in values:
            values[option] = list(dict.fromkeys(there[path] for path in values[option]))
    for option in values:
        if option.endswith("_pattern"):
            values[option] = {there[path]: value for path, value in values[option].items()}
    values = {option: v for option, v in values.items() if option not in method.hf_lacks}
    extra = {"base_model_name_or_path": None, "inference_mode": True, "task_type": "CAUSAL_LM"}
    return values | extra | {"peft_type": method.peft_type}


def with_sums(methods, modules, arrays):
    """Returns {path: method}, with the rank of the whole where HF has one matrix of several.

    Its α is such that the whole is scaled as each part is.
    """
    found = dict(methods)
    for path, method in methods.items():
        name = f"base_model.model.{modules.there[path]}.lora_A.weight"
        if name in arrays and hasattr(method, "scaling") and len(modules.parts(path)) > 1:
            rank = len(arrays[name])
            alike = {methods[p].scaling for p in modules.parts(path) if p in methods}
            if len(alike) > 1:
                raise ValueError(
                    f"the parts of {modules.there[path]}, which is one matrix in HF's model, "
                    "are scaled by different α / r; give them the same"
                )
            unit = replace(method, r=rank, lora_alpha=1.0).scaling
            found[path] = replace(method, r=rank, lora_alpha=method.scaling / unit)
    return found


def most_parameters(file, modules):
    """Returns how many parameters an adapter in a file can have here.

    An array of a matrix that is one there is copied to each of its parts here.
    """
    most = max(map(len, modules.here.values()))
    return file.count * most


def patterns(method, methods):
    """Returns rank_pattern and alpha_pattern, {path: value} of modules with another r or α.

    methods: {path: the method with the r and α that it has at that module}.
    """
    alpha = "lora_alpha" if hasattr(method, "lora_alpha") else "alpha"
    values = {}
    for pattern, option in (("rank_pattern", "r"), ("alpha_pattern", alpha)):
        if hasattr(method, pattern):
            of_modules = {path: getattr(m, option) for path, m in methods.items()}
            default = getattr(method, option)
            values[pattern] = {path: v for path, v in of_modules.items() if v != default}
    return values


def method_from_hf(values, entries, modules):
    """Returns the Method of HF PEFT's configuration and {name of an array: (type, shape)}.

    Raises ValueError for an option that changes the result and that this package does not have.
    """
    peft_type, init = values.get("peft_type"), values.get("init_lora_weights", True)
    if str(peft_type).startswith(OURS):
        raise Refusal("it was written by save_adapter, which load_adapter reads")
    if peft_type not in EXCHANGED:
        raise ValueError(unknown("peft_type", peft_type, EXCHANGED))
    if init not in BASE_UNCHANGED:
        raise Refusal(
            f"it is for a base that init_lora_weights={init!r} has changed; save it there with "
            "path_initial_model_for_weight_conversion, for the base as it was"
        )
    options = {o: v for o, v in values.items() if o not in WITHOUT_EFFECT and not is_unused(v)}
    targets = targets_in(entries, modules)
    if not targets and issubclass(EXCHANGED[peft_type], Targeted):  # it has shared arrays only
        names, layers = values.get("target_modules") or (), values.get("layers_to_transform")
        targets = modules.targets(names, layers)
    if targets:
        options["target_modules"] = tuple(targets)
    options = EXCHANGED[peft_type].from_hf(options, targets)
    if options.get("modules_to_save"):
        options["modules_to_save"] = modules.named(options["modules_to_save"])
    for pattern in {"rank_pattern", "alpha_pattern"} & options.keys():
        keys = {path: first_match(options[pattern], modules.there[path]) for path in targets}
        options[pattern] = {
            p: options[pattern][key] for p, key in keys.items() if key is not None
        }
    return method_from_config(options)[0].export_form()


def targets_in(entries, modules):
    """Returns {path here of a module that a file has arrays for: shape of the first of them}.

    Raises ValueError for arrays of a module that this model does not have.
    """
    targets = {}
    prefixes = {f".{method.hf_prefix}" for method in EXCHANGED.values() if method.hf_prefix}
    for name, (_, shape) in entries.items():
        path = name.removeprefix("base_model.model.")
        end = min((path.find(prefix) for prefix in prefixes if prefix in path), default=-1)
        if path == name or end < 0:
            continue
        module = path[:end]
        if module not in modules.here:
            raise ValueError(f"it changes {module}, which this model does not have")
        for part in modules.here[module]:
            targets.setdefault(part, shape)
    return targets


def is_unused(value):
    """Returns whether a value in HF PEFT's configuration means that an option is not used."""
    return value is None or value is False or value in ({}, [], "none")
