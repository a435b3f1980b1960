"""Full fine-tuning: every parameter of the base trains.

    W ← W + ΔW        for all parameters

The base itself stays: what trains is a private copy that takes its place while in use, so
switching back restores every bit. Trains all numbers of the base, and each costs a gradient and
two moments of AdamW. Merging makes the copy the base. Rows of one batch cannot use different
copies.
"""

from dataclasses import dataclass

from ..base import Method, base_parameters


@dataclass(frozen=True)
class Full(Method):
    """Full fine-tuning, which has no hyper-parameters."""

    family = "full"
    peft_type = "FULL"
    mergeable = True

    def count(self, config):
        return config.size

    def base_parameters_to_copy(self, model):
        return dict(base_parameters(model))
