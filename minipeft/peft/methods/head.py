"""Fine-tuning of the head alone: a linear probe of what the frozen model has computed.

    W ← W + ΔW, head        V D parameters

A head that is tied to the token table gets a weight of its own: the table stays, and merging
unties the two. No tape is kept below the head.

What trains is a private copy that takes the parameter's place while in use, so switching back
restores every bit, and only the copies are saved. Attaching changes nothing, merging makes the
copies the base, and nothing is slower for it. Rows of one batch cannot use different copies.

Alain & Bengio 2016, section 3, arXiv:1610.01644
"""

from dataclasses import dataclass

from ..targets import Selective, weight


@dataclass(frozen=True)
class Head(Selective):
    """Fine-tuning of the head's weight only, which has no hyper-parameters."""

    name = "head"
    paper = "Alain & Bengio 2016, arXiv:1610.01644"
    idea = "the output matrix alone trains"
    within = ("full: all else frozen",)
    equation = "W ← W + ΔW, head"
    place = "head"
    learning_rate = 0.1
    peft_type = "HEAD"

    def chosen(self, config):
        return {"lm_head.weight": (config.vocab, config.width)}

    def base_parameters_to_copy(self, model):
        return {"lm_head.weight": weight(model.lm_head)}
