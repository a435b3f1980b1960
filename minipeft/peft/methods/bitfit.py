"""BitFit: train all biases, those of the norms too, and freeze every matrix.

    b ← b + Δb, every bias            GPT-2: L (11 D) + D parameters at ffn = 4 D

What trains is a private copy that takes the parameter's place while in use, so switching back
restores every bit, and only the copies are saved. Attaching changes nothing, merging makes the
copies the base, and nothing is slower for it. Rows of one batch cannot use different copies.

Ben-Zaken et al. 2021, section 3, arXiv:2106.10199
"""

from dataclasses import dataclass

from ..targets import Selective


@dataclass(frozen=True)
class BitFit(Selective):
    """Fine-tuning of all biases, which has no hyper-parameters."""

    name = "bitfit"
    paper = "Ben-Zaken et al. 2021, arXiv:2106.10199"
    idea = "the biases alone train"
    claim = "parameters", "full"
    within = ("full: all else frozen",)
    equation = "b ← b + Δb, every bias"
    place = "biases"
    learning_rate = 0.1
    peft_type = "BITFIT"

    def chooses(self, path, layers):
        return path.endswith(".bias")

    def base_parameters_to_copy(self, model):
        biases = super().base_parameters_to_copy(model)
        if not biases:
            raise ValueError(
                "BitFit trains biases, and this model has none, as is Llama's way; "
                "use NormTuning() or LoRA(r=1) for as few parameters"
            )
        return biases
