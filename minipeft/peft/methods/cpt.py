"""Context-aware prompt tuning: a prompt made of solved examples, which may move only a little.

    [E[c] + m ∘ δ ; f(ids)]        δ: (n, width) zero        ‖δ_i‖ ≤ ε_i after every update

c is a context, such as a few examples with their answers, and E[c] are its embeddings. At first
the model reads the context and then the text, which is in-context learning. Training moves the
words of the context by δ, and after every update each δ_i that is longer than ε_i is shortened
to that length. This is projected gradient descent, as adversarial attacks use it to raise a
loss; here it lowers one. Prompt tuning may move its vectors anywhere, and so overfits a few
examples; the paper finds that staying near real examples prevents this. Where the context does
not say what the task is, so small a change cannot teach it.

Each token has a type: 1 and 3 are words of the template before and after the input, 2 is the
input, and 4 the answer (or any of these plus 4, 8, … in further examples). Template and input
have an ε each, given for a width of 2048 and scaled by √(width / 2048), as in HF PEFT. Answers
are right as they are: there m = 0, elsewhere m = 1.

Trains n width parameters, of which those of answers stay 0. Like any prompt it changes the
output and cannot be merged. Only E[c] + m ∘ δ is saved: after loading it is a plain prompt.

Blau et al. 2024, section 3, arXiv:2410.17222. Its loss, and HF PEFT's, also counts the answers
in the context, with weights that decay; here the loss is that of the text, as for all methods.
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
    """Context-aware prompt tuning from the tokens of a context, and the type of each.

    The default context is "a b c [sep] a b c [end]" in the words of the package's own model.
    """

    cpt_token_ids: tuple[int, ...] = option((3, 4, 5, 1, 3, 4, 5, 2), at_least=0)
    cpt_tokens_type_mask: tuple[int, ...] | None = option(None, at_least=0)  # None: all 1
    opt_projection_epsilon: float = option(0.1, above=0)  # of inputs
    opt_projection_format_epsilon: float = option(0.1, above=0)  # of the template

    name = "cpt"
    family = "prompt"
    paper = "Blau et al. 2024, arXiv:2410.17222"
    idea = "a prompt made of solved examples, which may move only a little"
    claim = "quality", "prompt"
    within = ("prompt: P kept near examples",)
    equation = "[E[c] + m ∘ δ ; f(ids)]"
    place = "in front of the embeddings"
    learning_rate = 0.001
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
