"""Norm tuning: train the gains and biases of all norms and freeze everything else.

    γ ← γ + Δγ, β ← β + Δβ, every norm        GPT-2: 4 D L + 2 D      Llama: 2 D L + D

What trains is a private copy that takes the parameter's place while in use, so switching back
restores every bit, and only the copies are saved. Attaching changes nothing, merging makes the
copies the base, and nothing is slower for it. Rows of one batch cannot use different copies.

Zhao et al. 2023, section 3, arXiv:2312.11420
"""

from dataclasses import dataclass

from ..targets import Selective


@dataclass(frozen=True)
class NormTuning(Selective):
    """Fine-tuning of the gains and biases of all norms, which has no hyper-parameters."""

    name = "norms"
    paper = "Zhao et al. 2023, arXiv:2312.11420"
    idea = "the gains and biases of the norms alone train"
    claim = "parameters", "lora"
    within = ("full: all else frozen",)
    equation = "γ ← γ + Δγ, β ← β + Δβ, every norm"
    place = "norms"
    learning_rate = 0.1
    peft_type = "LN_TUNING"
    hf_config = "LNTuningConfig"

    def chooses(self, path, layers):
        owner = path.split(".")[-2]
        return owner.startswith("ln_") or owner.endswith("_norm")  # of queries and keys

    def to_hf(self, values, adapter):
        return values | {"target_modules": [path.rpartition(".")[0] for path in adapter.copies]}

    def hf_copy(self, name, is_target):
        return f"ln_tuning_layers.{name}"
