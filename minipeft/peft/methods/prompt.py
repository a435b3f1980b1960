"""Prompt tuning: trainable vectors in front of the token embeddings.

    [P ; f(ids)]          P: (n, width), U(±½) or the embeddings of `init_ids`, repeated to n

The model reads them like tokens: they take positions 0 … n − 1, and their logits are dropped.
Trains n width parameters, whatever the depth, yet every sequence is n tokens longer in every
layer. Attaching changes the output. No weight computes the same, so it cannot be merged.

Lester et al. 2021, section 2, arXiv:2104.08691
"""

from dataclasses import dataclass

from ...engine.backend import np, xp
from ...engine.ops import broadcast, concat
from ...model.layers import Parameter
from ...options import option
from ..base import Delta, Method
from ..formula import Term
from ..targets import room_for


@dataclass(frozen=True)
class Prompt(Method):
    """Prompt tuning with a number of virtual tokens, at random or from given tokens."""

    num_virtual_tokens: int = option(8, at_least=1)
    init_ids: tuple[int, ...] | None = None  # tokens whose embeddings to start from

    name = "prompt"
    family = "prompt"
    paper = "Lester et al. 2021, arXiv:2104.08691"
    idea = "vectors in front of the embeddings"
    claim = "parameters", "full"
    equation = "[P ; f(ids)]"
    place = "in front of the embeddings"
    learning_rate = 1
    peft_type = "PROMPT_TUNING"
    hf_config = "PromptTuningConfig"
    hf_lacks = ("init_ids",)

    def terms(self, config):
        return [Term({}, "n width", {"n": self.num_virtual_tokens, "width": config.width})]

    def make_deltas(self, model, rng):
        return {"start": PromptDelta(self.vectors(model, rng))}

    def vectors(self, model, rng):
        """P at first, (n, width)."""
        n, table = self.num_virtual_tokens, model.wte.weight.data
        room_for(n, model.config.context)
        if self.init_ids is None:
            return rng.uniform(-0.5, 0.5, (n, table.shape[1]))
        check_tokens("init_ids", self.init_ids, len(table))
        return table[xp.asarray(np.resize(self.init_ids, n))]


def check_tokens(option, ids, vocab):
    """Raises ValueError for an option whose ids are none, or not of the vocabulary."""
    if not ids or min(ids) < 0 or max(ids) >= vocab:
        raise ValueError(
            f"{option} must be tokens of the vocabulary (0 … {vocab - 1}), got {ids}"
        )


class PromptDelta(Delta):
    """The virtual tokens, put in front of the embeddings of every row."""

    def __init__(self, vectors):
        self.prompt_embeddings = Parameter(vectors)

    def prompt(self):
        """P (n, width)."""
        return self.prompt_embeddings

    def __call__(self, f, x, attention_mask):
        x, attention_mask, cache = f(x, attention_mask)
        prompt = self.prompt()
        n, width = prompt.shape
        x = concat([broadcast(prompt, (len(x), n, width)), x], axis=1)
        if attention_mask is not None:
            virtual = np.ones((len(attention_mask), n), bool)
            attention_mask = np.concatenate([virtual, attention_mask], axis=1)
        return x, attention_mask, cache
