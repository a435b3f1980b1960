"""Configurations of methods in the words of HF PEFT, written and read.

Where a method sits is said by every module's path, and where r or α differ, by module too: so
it is the same whatever the names and patterns were that chose it.
"""

import re
from dataclasses import asdict

from ..errors import unknown
from ..peft.targets import Targeted, first_match
from .checkpoint import method_of

EXCHANGED = (
    "LORA", "ADALORA", "VERA", "LOHA", "LOKR", "IA3", "LN_TUNING", "PREFIX_TUNING",
    "PROMPT_TUNING", "P_TUNING", "ADAPTION_PROMPT",
)  # fmt: skip
IN_GPT2 = tuple(kind for kind in EXCHANGED if kind not in ("LOHA", "LOKR", "ADAPTION_PROMPT"))
OURS = ("layers_to_transform", "init_ids", "init_std", "per_head", "loraplus_lr_ratio")
# what a configuration of HF's says that changes nothing of what its tensors compute
IDLE = (
    "auto_mapping", "base_model_name_or_path", "exclude_modules", "fan_in_fan_out",
    "feedforward_modules", "inference_mode", "init_ia3_weights", "init_lora_weights",
    "init_weights",
    "layers_pattern", "layers_to_transform", "megatron_core", "module_dropout",
    "num_attention_heads", "num_layers", "num_transformer_submodules", "peft_version",
    "qalora_group_size", "rank_dropout", "revision", "save_projection", "target_modules",
    "task_type", "token_dim", "total_step", "encoder_dropout", "encoder_num_layers",
    "encoder_reparameterization_type", "prompt_tuning_init", "prompt_tuning_init_text",
    "tokenizer_kwargs", "tokenizer_name_or_path",
)  # fmt: skip
STARTS = (True, False, "gaussian", "orthogonal", "eva")  # those that leave the base as it is
ADDED = re.compile(r"base_model\.model\.(.+)\.(lora_|vera_|hada_|lokr_|ia3_).*")


def in_words_of_hf(adapter, theirs, config):
    """The configuration of an adapter as HF PEFT writes it; ValueError if it has no such."""
    method, in_gpt2 = adapter.method.export_form(), theirs["ln_f"] == "transformer.ln_f"
    kind, named = method.peft_type, type(method).__name__
    if kind not in EXCHANGED or getattr(method, "per_head", False):
        raise ValueError(f"HF PEFT has no {method}; save_adapter can save it")
    if in_gpt2 and kind not in IN_GPT2:
        raise ValueError(f"HF PEFT has no {named} for GPT-2; save_adapter can save it")
    values = {option: v for option, v in asdict(method).items() if option not in OURS}
    if isinstance(method, Targeted):
        own = {theirs[p]: method.for_module(p, config.matrices[p]) for p in adapter.deltas}
        values |= by_module(own, method)
        values["fan_in_fan_out"] = in_gpt2
    if kind == "ADAPTION_PROMPT":
        values["adapter_layers"] = len(adapter.deltas)
    if kind == "ADALORA":
        values["total_step"] = method.tinit + method.tfinal + 1
    if method.hf_flag in ("use_dora", "use_rslora"):
        values[method.hf_flag] = True
    about = {"base_model_name_or_path": None, "inference_mode": True, "task_type": "CAUSAL_LM"}
    return values | about | {"peft_type": kind}


def by_module(own, method):
    """Options that name modules, from {HF's path: the method as it is there}."""
    values = {"target_modules": list(own)}
    if hasattr(method, "feedforward_modules"):
        values["feedforward_modules"] = [p for p, m in own.items() if m.feedforward_modules]
    for table, option in patterns(method):
        usual = getattr(method, option)
        at = {p: getattr(m, option) for p, m in own.items()}
        values[table] = {p: value for p, value in at.items() if value != usual}
    return values


def patterns(method):
    """(table of patterns, option that it changes) for those tables that a method has."""
    alpha = "lora_alpha" if hasattr(method, "lora_alpha") else "alpha"
    pairs = ("rank_pattern", "r"), ("alpha_pattern", alpha)
    return [(table, option) for table, option in pairs if hasattr(method, table)]


def method_in_words_of_hf(values, tensors, theirs):
    """The Method that a configuration of HF's and {tensor's name: (type, shape)} describe.

    Raises ValueError for an option that changes the result and has no counterpart here.
    """
    kind, start = values.get("peft_type"), values.get("init_lora_weights", True)
    if kind not in EXCHANGED:
        raise ValueError(unknown("peft_type", kind, EXCHANGED))
    if start not in STARTS:
        raise ValueError(f"it is for a base that init_lora_weights={start!r} has changed")
    kept = {option: v for option, v in values.items() if option not in IDLE and not off(v)}
    if kind == "ADALORA":
        kept.pop("r", None)  # which is LoRA's, and idle
    if kind == "ADAPTION_PROMPT":
        kept["per_head"] = False
    targets = targets_in(tensors, theirs)
    if targets:
        kept["target_modules"] = tuple(targets)
    if kind == "IA3":
        kept["feedforward_modules"] = tuple(p for p, shape in targets.items() if shape[0] == 1)
    for table in {"rank_pattern", "alpha_pattern"} & kept.keys() if kind != "ADALORA" else ():
        keys = {path: first_match(kept[table], theirs[path]) for path in targets}
        kept[table] = {path: kept[table][key] for path, key in keys.items() if key is not None}
    return method_of(kept)[0].export_form()


def targets_in(tensors, theirs):
    """{our path of each module that a file has tensors for: shape of the first of them}."""
    ours, targets = {module: path for path, module in theirs.items()}, {}
    for name, (_, shape) in tensors.items():
        if match := ADDED.fullmatch(name):
            if match[1] not in ours:
                raise ValueError(f"it changes {match[1]}, which has no counterpart here")
            targets.setdefault(ours[match[1]], shape)
    return targets


def off(value):
    """Whether a value in a configuration of HF's says that an option is not used."""
    return value is None or value is False or value in ({}, [], "none")
