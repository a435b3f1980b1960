"""Context-aware prompt tuning: a prompt made of solved examples, which may move only a little.

    [E[c] + m ∘ δ ; f(ids)]        δ: (n, width) zero,  ‖δ_i‖ ≤ ε after every update

c are the tokens of a context, such as examples with their answers, and E[c] their embeddings.
So at first the model reads the context and then the text, which is in-context learning. δ then
improves on the words of the context, and after every update each δ_i that is longer than ε is
shortened to ε: projected gradient descent, as in adversarial attacks, but towards a smaller
loss. Prompt tuning lets its vectors go anywhere, and with a few examples they overfit; staying
near real examples is what the paper finds to prevent that. m is 0 at the answers in the
context (types 0, 4, 8, …), which are right as they are, and 1 elsewhere. ε is one number for
the inputs in the context (type 2, 6, …) and one for the words of its template (types 1 and 3),
both for a width of 2048: here ε √(width / 2048), as in HF PEFT.

Trains n width parameters, of which those of answers stay 0. Like any prompt it changes the
output and cannot be merged. Only E[c] + m ∘ δ is saved: loaded, it is a plain prompt.

Blau et al. 2024, section 3, arXiv:2410.17222. The paper's loss also counts the answers in the
context, each further back with less weight, and so does HF PEFT's own; here, as in every other
method, the loss is that of the text.
"""

import math
from dataclasses import dataclass

from ...engine.backend import array, np, xp
from ...engine.tensor import no_grad
from ...model.layers import Parameter
from ...options import option
from ..base import Method
from ..formula import Term
from ..targets import room_for
from .prompt import Prompt, PromptDelta, check_tokens


@dataclass(frozen=True)
class CPT(Method):
    """Context-aware prompt tuning from the tokens of a context, each of one of four types.

    The default context is "a b c [sep] a b c [end]" in the words of the package's own model.
    """

    cpt_token_ids: tuple[int, ...] = option((3, 4, 5, 1, 3, 4, 5, 2), at_least=0)
    cpt_tokens_type_mask: tuple[int, ...] | None = option(None, at_least=0)  # None: all 1
    opt_projection_epsilon: float = option(0.1, above=0)  # of inputs
    opt_projection_format_epsilon: float = option(0.1, above=0)  # of the template

    name = "cpt"
    family = "prompt"
    paper = "Blau et al. 2024, arXiv:2410.17222"
    equation = "[E[c] + m ∘ δ ; f(ids)]"
    place = "in front of the embeddings"
    learning_rate = 0.01
    peft_type = "CPT"
    hf_config = "CPTConfig"

    def __post_init__(self):
        super().__post_init__()
        n, types = self.num_virtual_tokens, self.cpt_tokens_type_mask
        if types is not None and len(types) != n:
            raise ValueError(
                f"cpt_tokens_type_mask has {len(types)} types for the {n} tokens of "
                "cpt_token_ids; give one for each"
            )

    @property
    def num_virtual_tokens(self):
        """n, the number of tokens in the context."""
        return len(self.cpt_token_ids)

    def terms(self, config):
        check_tokens("cpt_token_ids", self.cpt_token_ids, config.vocab)
        return [Term({}, "n width", {"n": self.num_virtual_tokens, "width": config.width})]

    def make_deltas(self, model, rng):
        check_tokens("cpt_token_ids", self.cpt_token_ids, model.config.vocab)
        room_for(self.num_virtual_tokens, model.config.context)
        context = model.wte.weight.data[xp.asarray(self.cpt_token_ids)]
        return {"start": CPTDelta(context, self)}

    def after_step(self, adapter, step, steps, scale=1.0):
        for delta in adapter.deltas.values():
            delta.project()
        return {}

    def export_form(self):
        return Prompt(self.num_virtual_tokens)

    @classmethod
    def from_hf(cls, values, targets):
        of_the_loss = ("cpt_mask", "opt_loss_decay_factor", "opt_weighted_loss_type")
        unread = ("num_virtual_tokens", *of_the_loss)
        return {option: v for option, v in values.items() if option not in unread}


class CPTDelta(PromptDelta):
    """The context's embeddings, and how far they have moved."""

    def __init__(self, context, method):
        n, width = context.shape
        kinds = np.array(method.cpt_tokens_type_mask or [1] * n) % 4
        template, inputs = method.opt_projection_format_epsilon, method.opt_projection_epsilon
        epsilons = np.choose(kinds, [math.inf, template, inputs, template])  # inf: m is 0
        self.context = context  # E[c]
        self.delta_embedding = Parameter(np.zeros((n, width)))  # δ
        self.moves = array(kinds != 0, context.dtype)[:, None]  # m
        self.epsilon = array(epsilons * math.sqrt(width / 2048), context.dtype)

    def prompt(self):
        return self.delta_embedding * self.moves + self.context

    def project(self):
        """Shortens each δ_i that is longer than its ε."""
        delta = self.delta_embedding.data
        length = xp.linalg.norm(delta, axis=1)
        longer = length > self.epsilon
        delta *= xp.where(longer, self.epsilon / xp.where(longer, length, 1.0), 1.0)[:, None]

    def saved(self):
        with no_grad():
            return {"prompt_embeddings": self.prompt().data}
