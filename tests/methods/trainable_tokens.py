"""Trainable tokens."""

from hypothesis import strategies as st

import minipeft as mp
from laws.equations import OnMatrix
from spec import COUNTED, GPT2, Bug, Files, Row, Spec
from theirs import with_peft

TWO = mp.TrainableTokens((3, 1))
BOTH = ("wte", "lm_head")


def equation(method, a, w):
    """The table with the rows of P in place of those of the tokens"""
    w = w.copy()
    tokens = method.token_indices or range(max(len(w) - 10, 0), len(w))
    w[list(tokens)] = a.trainable_tokens_delta
    return w


@st.composite
def tokens(draw, config):
    """Some tokens, in one table or in both."""
    ids = st.lists(st.integers(0, config.vocab - 1), min_size=1, max_size=4, unique=True)
    tables = st.sampled_from([("wte",), ("lm_head",), BOTH])
    return mp.TrainableTokens(draw(st.none() | ids.map(tuple)), draw(tables))


class OnTables(OnMatrix):
    """The same of every table; a head that is tied to the token table has its rows."""

    def check(self, case, net, adapter):
        assert not net.config.tied or "lm_head" in adapter.deltas
        super().check(case, net, adapter)


BUGS = (
    Bug("trainable tokens: the tied head keeps its rows",
        'model.config.tied and "wte" in own', 'False and "wte" in own', 13, TWO, GPT2),
    Bug("trainable tokens: the rows of other tokens",
        "np.arange(len(table))[:, None] == np.array(tokens)",
        "np.arange(len(table))[:, None] == np.sort(np.array(tokens))", 13, TWO),
    Bug("trainable tokens: the rows added to the old ones",
        "return self.trainable_tokens_delta - self.start",
        "return self.trainable_tokens_delta", 1, TWO),
    Bug("trainable tokens: the rows start at zero",
        "Parameter(self.start.copy())", "Parameter(0.0 * self.start)", 1, TWO),
)  # fmt: skip

ROWS = {
    "trainable tokens": Row(
        mp.TrainableTokens((7, 2, 3)),
        with_peft("TrainableTokensConfig", token_indices=[7, 2, 3]),
    ),
    "trainable tokens, both tables": Row(
        mp.TrainableTokens((7, 2, 3), BOTH),
        with_peft(
            "TrainableTokensConfig",
            token_indices=[7, 2, 3],
            target_modules=["embed_tokens", "lm_head"],
        ),
        recorded=False,
    ),
    "trainable tokens, GPT-2": Row(
        mp.TrainableTokens((7, 2, 3)),
        with_peft("TrainableTokensConfig", token_indices=[7, 2, 3]),
        "gpt2",
        tied=True,
        files=Files(same=False),
    ),
}

SPEC = Spec(
    mp.TrainableTokens,
    draw=tokens,
    small=TWO,
    equation=OnTables(equation, rank=lambda method: len(method.token_indices or range(10))),
    bugs=BUGS,
    rows=ROWS,
    counts=(
        (TWO, COUNTED, 2 * 8),
        (mp.TrainableTokens(), COUNTED, 10 * 8),
        (mp.TrainableTokens((1,), ("lm_head",)), COUNTED, 8),
        (mp.TrainableTokens((1,), BOTH), COUNTED, 8),  # tied: one table
    ),
    saved=(
        (TWO, {"wte.trainable_tokens_delta": (2, 8)}),
        (
            mp.TrainableTokens((3,), BOTH),
            {f"{path}.trainable_tokens_delta": (1, 8) for path in BOTH},
        ),
    ),
    wrong=(
        lambda: mp.TrainableTokens(()),
        lambda: mp.TrainableTokens((1, 1)),
        lambda: mp.TrainableTokens((-1,)),
        lambda: mp.TrainableTokens((1.5,)),
        lambda: mp.TrainableTokens((1,), ("q_proj",)),
        lambda: mp.TrainableTokens((1,), ()),
        lambda: mp.TrainableTokens((COUNTED.vocab,)).count(COUNTED),
    ),
    exchanged=True,
)
