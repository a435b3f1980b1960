"""P-tuning: prompt tuning whose vectors are made by a small network during training.

    [P ; f(ids)]      P = W₃ relu(W₂ relu(W₁ E + b₁) + b₂) + b₃      E: (n, width) from N(0, 1)

The vectors share the network's weights, which makes training more stable than n free vectors.
The network reads nothing of the input, so P is a constant once trained, and only P is saved:
the file holds a plain prompt of n width parameters, and loading gives prompt tuning. With h
hidden units and d the width it trains n d + (d h + h) + (h h + h) + (h d + d) parameters.
Attaching changes the output, and no weight computes the same, so it cannot be merged.

Liu et al. 2021, section 3.2, arXiv:2103.10385. As in HF PEFT the MLP has three layers and h = d
unless given, and the virtual tokens all come first; the paper also has an LSTM below the MLP.
"""

from dataclasses import dataclass

from ...engine.functional import linear
from ...engine.ops import relu
from ...engine.tensor import no_grad
from ...model.layers import Parameter, kaiming_uniform
from ...options import option
from ..base import Method
from ..formula import Term
from ..targets import room_for
from .prompt import Prompt, PromptDelta


@dataclass(frozen=True)
class PTuning(Method):
    """P-tuning by an MLP, encoder_hidden_size wide inside (default: as wide as the model)."""

    num_virtual_tokens: int = option(8, at_least=1)
    encoder_hidden_size: int | None = option(None, at_least=1)

    name = "p-tuning"
    family = "prompt"
    paper = "Liu et al. 2021, arXiv:2103.10385"
    idea = "a small network makes the prompt"
    claim = "quality", "prompt"
    within = ("prompt: P made by a network",)
    equation = "[P ; f(ids)]"
    place = "in front of the embeddings"
    learning_rate = 0.03
    peft_type = "P_TUNING"
    hf_config = "PromptEncoderConfig"

    def hidden(self, width):
        """h, the width inside the network."""
        return width if self.encoder_hidden_size is None else self.encoder_hidden_size

    def terms(self, config):
        d, h = config.width, self.hidden(config.width)
        values = {"n": self.num_virtual_tokens, "d": d, "h": h}
        return [Term({}, "n d + (d h + h) + (h h + h) + (h d + d)", values)]

    def make_deltas(self, model, rng):
        room_for(self.num_virtual_tokens, model.config.context)
        return {"start": PTuningDelta(model.start.width, self, rng)}

    def export_form(self):
        return Prompt(self.num_virtual_tokens)


class PTuningDelta(PromptDelta):
    """The network, and the virtual tokens that it makes."""

    def __init__(self, width, method, rng):
        h = method.hidden(width)
        self.embedding = Parameter(rng.standard_normal((method.num_virtual_tokens, width)))
        for i, n_out, n_in in ((1, h, width), (2, h, h), (3, width, h)):
            setattr(self, f"w_{i}", Parameter(kaiming_uniform(rng, n_out, n_in)))
            setattr(self, f"b_{i}", Parameter(kaiming_uniform(rng, n_out, n_in)[:, 0]))

    def prompt(self):
        hidden = relu(linear(self.embedding, self.w_1, self.b_1))
        hidden = relu(linear(hidden, self.w_2, self.b_2))
        return linear(hidden, self.w_3, self.b_3)

    def saved(self):
        with no_grad():
            return {"prompt_embeddings": self.prompt().data}
