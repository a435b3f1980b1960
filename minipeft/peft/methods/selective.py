"""Selective fine-tuning: train a few of the base's own parameters and freeze the others.

    W ← W + ΔW        for the chosen parameters

    BitFit      all biases, those of the norms too    GPT-2: L (11 D) + D at ffn = 4 D
    norms       gains and biases of all norms         GPT-2: 4 D L + 2 D;  Llama: 2 D L + D
    last k      all of the last k blocks              GPT-2: k (12 D² + 13 D)
    head        the weight of the head                V D

What trains is a private copy that takes the parameter's place while in use, so switching back
restores every bit, and only the copies are saved. Attaching changes nothing, merging makes the
copies the base, and nothing is slower for it. A head that is tied to the token table gets a
weight of its own: the table stays, and merging unties the two. The rows of one batch cannot use
different copies.

The last blocks and the head need no tape below them: all earlier layers are read only.

Ben-Zaken et al. 2021 (BitFit), section 3, arXiv:2106.10199; Zhao et al. 2023 (norms),
arXiv:2312.11420; Lee et al. 2019 (last layers), arXiv:1911.03090; Alain & Bengio 2016 (linear
probe), arXiv:1610.01644
"""

import math
from dataclasses import dataclass

from ...errors import check_whole
from ..base import Method, base_parameters
from ..targets import weight


@dataclass(frozen=True)
class Selective(Method):
    """Fine-tuning of those base parameters that `chooses` picks by their path."""

    family = "selective"
    mergeable = True

    def chooses(self, path, layers):
        """Whether a parameter trains, given its path and the model's number of layers."""
        raise NotImplementedError

    def chosen(self, config):
        """{path: shape} of what trains in a model of this Config."""
        shapes, layers = config.parameters, config.layers
        return {path: shapes[path] for path in shapes if self.chooses(path, layers)}

    def count(self, config):
        return sum(map(math.prod, self.chosen(config).values()))

    def base_parameters_to_copy(self, model):
        layers = len(model.blocks)
        return {path: p for path, p in base_parameters(model) if self.chooses(path, layers)}


@dataclass(frozen=True)
class BitFit(Selective):
    """Fine-tuning of all biases.

        b ← b + Δb, every bias

    It has no hyper-parameters.
    """

    peft_type = "BITFIT"

    def chooses(self, path, layers):
        return path.endswith(".bias")

    def base_parameters_to_copy(self, model):
        found = super().base_parameters_to_copy(model)
        if not found:
            raise ValueError(
                "BitFit trains biases, and this model has none, as is Llama's way; "
                "use NormTuning() or LoRA(r=1) for as few numbers"
            )
        return found


@dataclass(frozen=True)
class NormTuning(Selective):
    """Fine-tuning of the gains and biases of all norms.

        γ ← γ + Δγ, β ← β + Δβ, every norm

    It has no hyper-parameters.
    """

    peft_type = "LN_TUNING"

    def chooses(self, path, layers):
        return path.split(".")[-2].startswith("ln_")


@dataclass(frozen=True)
class LastK(Selective):
    """Fine-tuning of the last k blocks.

        W ← W + ΔW, last k blocks

    All that is in them trains.
    """

    k: int = 1

    peft_type = "LAST_K"

    def __post_init__(self):
        super().__post_init__()
        check_whole(1, k=self.k)

    def check(self, layers):
        """Raise ValueError if the model has fewer than k blocks."""
        if self.k > layers:
            raise ValueError(f"k = {self.k}, but the model has {layers} blocks; use fewer")

    def chooses(self, path, layers):
        self.check(layers)
        place, number = path.split(".")[:2]
        return place == "blocks" and int(number) >= layers - self.k


@dataclass(frozen=True)
class Head(Selective):
    """Fine-tuning of the head's weight only.

        W ← W + ΔW, head

    It has no hyper-parameters.
    """

    peft_type = "HEAD"

    def chosen(self, config):
        return {"lm_head.weight": (config.vocab, config.width)}

    def base_parameters_to_copy(self, model):
        return {"lm_head.weight": weight(model.lm_head)}
