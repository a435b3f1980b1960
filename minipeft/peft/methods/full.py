"""Full fine-tuning: trains every parameter of the base.

    W ← W + ΔW        for all parameters

The base itself stays as it is: what trains is a private copy, which takes its place while in
use, so switching back restores every bit. Every parameter costs a gradient and two moments of
AdamW. Merging makes the copy the base. Rows of one batch cannot use different copies.
"""

from dataclasses import dataclass

from ..base import Method, base_parameters
from ..formula import terms_of_shapes


@dataclass(frozen=True)
class Full(Method):
    """Full fine-tuning, which has no hyper-parameters."""

    name = "full"
    family = "full"
    idea = "nothing is frozen: the yardstick"
    equation = "W ← W + ΔW"
    place = "every parameter"
    mergeable = True
    learning_rate = 0.003
    peft_type = "FULL"

    def terms(self, config):
        return terms_of_shapes(list(config.parameter_shapes.values()))

    def count_new(self, config):
        return 0

    def base_parameters_to_copy(self, model):
        return dict(base_parameters(model))
