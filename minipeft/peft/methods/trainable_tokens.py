"""Trainable tokens: the rows of a few tokens in the token table train, and no others.

    W[t] ← W[t] + ΔW[t], t in token_indices        row by row

For tokens that pretraining never saw, such as the marks of a chat or the name of a task, whose
rows are noise until somebody trains them. What trains is the rows P themselves, (k, width),
which start as they are in the table, so attaching changes nothing: k width parameters, where
the whole table has vocab width. All other tokens keep their vectors bit for bit.

As a change of the whole table it is S (P − E), E being the rows at first and S: (vocab, k)
one-hot. That is LoRA of rank k on the table, with a frozen B that picks rows: a text without
these tokens is read as before, which no other LoRA on the table promises. Merges exactly:
W + S (P − E). A tied head is the same table and follows. An untied head has another table, in
which `target_modules=("wte", "lm_head")` trains the same rows, k width more, so that the model
can also write the new tokens.

No paper; as in Hugging Face's PEFT since version 0.15 (2025), which puts P in place of the rows
"""

from dataclasses import dataclass

from ...engine.backend import array, np, xp
from ...engine.functional import linear
from ...engine.ops import matmul
from ...errors import unknown
from ...model.layers import Parameter
from ...options import option
from ..base import Delta, Method
from ..formula import Term
from ..targets import TABLES, matrices, weight


@dataclass(frozen=True)
class TrainableTokens(Method):
    """Training of the rows of token_indices in the named tables (default: the last ten)."""

    token_indices: tuple[int, ...] | None = option(None, at_least=0)  # None: the last ten
    target_modules: tuple[str, ...] = ("wte",)

    name = "trainable-tokens"
    family = "selective"
    paper = "Hugging Face 2025, PEFT 0.15"
    idea = "LoRA on the token table with a frozen one-hot factor: a few rows train"
    within = ("lora: on the token table, A one-hot",)
    equation = "W[t] ← W[t] + ΔW[t], t in token_indices"
    place = "rows of the token table"
    mergeable = True
    learning_rate = 0.1
    peft_type = "TRAINABLE_TOKENS"
    hf_config = "TrainableTokensConfig"
    hf_prefix = "trainable_tokens_"

    def __post_init__(self):
        super().__post_init__()
        for name in self.target_modules:
            if name not in TABLES:
                raise ValueError(unknown("table in target_modules", name, TABLES))
        given = [*(self.token_indices or ())]
        if not self.target_modules or self.token_indices == () or len({*given}) < len(given):
            raise ValueError(
                f"{self} needs at least one table in target_modules, and at least one token in "
                "token_indices, each once"
            )

    def tables(self, config):
        """The tables with rows that train; a tied head has those of "wte"."""
        own = [name for name in TABLES if name in self.target_modules]
        tied = "lm_head.weight" not in config.parameter_shapes
        return ["wte"] if tied and "wte" in own else own

    def tokens(self, config):
        """The ids of the tokens that train. Raises ValueError for one that is not there."""
        last = tuple(range(max(config.vocab - 10, 0), config.vocab))
        tokens = last if self.token_indices is None else self.token_indices
        if max(tokens) >= config.vocab:
            raise ValueError(
                f"token_indices has {max(tokens)}, and the tokens are 0 … {config.vocab - 1}; "
                "name others"
            )
        return tokens

    def terms(self, config):
        values = {"k": len(self.tokens(config)), "width": config.width}
        return [Term({"table": len(self.tables(config))}, "k width", values)]

    def make_deltas(self, model, rng):
        tokens, modules = self.tokens(model.config), matrices(model)
        own = self.tables(model.config)
        deltas = {path: KINDS[path](modules[path], tokens) for path in own}
        if model.config.tied and "wte" in own:
            deltas["lm_head"] = HeadTokensDelta(model.lm_head, tokens, deltas["wte"])
        return deltas

    def to_hf(self, values, adapter):
        (tokens,) = {delta.tokens for delta in adapter.deltas.values()}
        own = [path for path, delta in adapter.deltas.items() if not delta.follows]
        return values | {"token_indices": list(tokens), "target_modules": own}

    def hf_frozen(self, adapter):  # HF PEFT writes the rows of a tied head once more
        head = adapter.deltas.get("lm_head")
        if head is None or not head.follows:
            return {}
        rows = head.trainable_tokens_delta.data
        return {"base_model.model.lm_head.trainable_tokens_delta": rows}


class TokensDelta(Delta):
    """A change of some rows of the token table: f(t) + (S (P − E))[t], (B, T) -> (B, T, D)."""

    adds = True

    def __init__(self, layer, tokens, follows=None):
        table = weight(layer).data
        self.tokens, self.made_for, self.follows = tokens, (weight(layer),), follows is not None
        self.start = table[xp.asarray(tokens)]  # E
        self.trainable_tokens_delta = (  # P
            follows.trainable_tokens_delta if self.follows else Parameter(self.start.copy())
        )
        chosen = np.arange(len(table))[:, None] == np.array(tokens)
        self.selection = array(chosen, table.dtype)  # S

    def change(self):
        """P − E, (k, width)."""
        return self.trainable_tokens_delta - self.start

    def __call__(self, f, ids):
        return f(ids) + matmul(self.selection[ids], self.change())

    def merged(self, layer):
        if self.follows and layer.weight is None:  # the head is the table, which has it
            return {}
        return {"weight": weight(layer).data + self.selection @ self.change().data}


class HeadTokensDelta(TokensDelta):
    """The same change of the head's weight: f(x) + S (P − E) x, (…, D) -> (…, V)."""

    def __call__(self, f, x):
        return f(x) + linear(linear(x, self.change()), self.selection)


KINDS = {"wte": TokensDelta, "lm_head": HeadTokensDelta}
