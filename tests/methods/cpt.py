"""Context-aware prompt tuning."""

from dataclasses import replace

from hypothesis import strategies as st

import minipeft as mp
from laws.case import close
from laws.equations import BeforeTokens, changes
from methods.prefix import IN_FLOAT32, NO_NEUTRAL
from methods.prompt import left
from minipeft.engine.backend import np, to_numpy
from spec import COUNTED, Bug, Row, Spec
from theirs import prompt_learning


def vectors(method, a):
    """E[c] + δ, but E[c] alone for answers"""
    types = method.cpt_tokens_type_mask or [1] * len(a.context)
    rows = zip(a.context, a.delta_embedding, types, strict=True)
    return np.stack([e + (d if kind % 4 else 0.0) for e, d, kind in rows])


class InBall(BeforeTokens):
    """Such vectors, and what an update leaves of δ: the nearest in the ball of radius ε."""

    def check(self, case, net, adapter):
        super().check(case, net, adapter)
        ((_, delta, arrays),) = changes(adapter)
        free, ball = arrays.delta_embedding.copy(), case.method
        delta.epsilon = delta.epsilon * 1e-4
        width, types = free.shape[1], ball.cpt_tokens_type_mask or [1] * len(free)
        words = ball.opt_projection_format_epsilon
        of_type = [np.inf, words, ball.opt_projection_epsilon, words]
        ball.after_step(adapter, 1, 1)
        for row, d, kind in zip(to_numpy(delta.delta_embedding.data), free, types, strict=True):
            radius = 1e-4 * of_type[kind % 4] * (width / 2048) ** 0.5
            wanted = d * min(1.0, radius / max(np.linalg.norm(d), 1e-300))
            close(row, wanted, 1e-14, "δ after an update")


WIDE = dict(opt_projection_epsilon=1e3, opt_projection_format_epsilon=2e3)
TYPES = mp.CPT((1, 3, 2, 3), (1, 2, 3, 4), **WIDE)


@st.composite
def contexts(draw, config):
    """A context of one to three tokens, one of which may move, in so large a ball."""
    ids = draw(st.lists(st.integers(0, config.vocab - 1), min_size=1, max_size=3))
    types = st.lists(st.integers(0, 8), min_size=len(ids), max_size=len(ids))
    types = st.none() | types.filter(lambda types: any(t % 4 for t in types)).map(tuple)
    return mp.CPT(tuple(ids), draw(types), **WIDE)


BUGS = (
    Bug("CPT: the answers in the context move too", "kinds != 0", "kinds >= 0", 13, TYPES),
    Bug("CPT: one ε for inputs and for the template", "[math.inf, template, inputs, template]",
        "[math.inf, template, template, template]", 13, TYPES),
    Bug("CPT: what is too long becomes of length 1, not ε",
        "self.epsilon / xp.where(longer, length, 1.0)", "1.0 / xp.where(longer, length, 1.0)",
        13, TYPES),
    Bug("CPT: saved without the context",
        'return {"prompt_embeddings": self.prompt().data}',
        'return {"prompt_embeddings": self.delta_embedding.data}', 8, TYPES),
)  # fmt: skip

CONTEXT = dict(cpt_token_ids=[1, 7, 2, 7, 3])


def carry(pair):
    """The context's embeddings, which HF PEFT rounds to float32."""
    import torch

    (delta,) = pair.adapter.deltas.values()
    encoder = pair.theirs.prompt_encoder.default
    encoder.embedding.weight.data = torch.tensor(delta.context).to(pair.theirs.dtype)


def after_updates(theirs):
    """Projects δ of HF PEFT's model after an update, not before it is read next.

    So numbers that no update has led to are read as they are, but for answers. HF's ε is in
    float32; here it is exact.
    """
    import torch

    encoder = theirs.prompt_encoder.default

    class AfterUpdates(type(encoder)):
        def get_epsilon(self):
            mask = torch.tensor(self.config.cpt_tokens_type_mask) % 4
            inputs, words = (
                getattr(self.config, f"opt_projection_{kind}")
                for kind in ("epsilon", "format_epsilon")
            )
            sizes = torch.tensor([0.0, words, inputs, words], dtype=theirs.dtype)
            return sizes[mask] * (self.config.token_dim / 2048) ** 0.5

        def get_projection(self):
            mask = torch.tensor(self.config.cpt_tokens_type_mask) % 4 != 0
            return self.delta_embedding.weight.data * mask[:, None]

    encoder.__class__ = AfterUpdates
    return theirs


def project(pair, step):
    """HF PEFT's own projection."""
    encoder = pair.theirs.prompt_encoder.default
    encoder.delta_embedding.weight.data = super(type(encoder), encoder).get_projection()


def theirs(**options):
    """HF PEFT's method with projections after updates."""
    put = prompt_learning("CPTConfig", **options)
    return lambda model: after_updates(put(model))


NAMES = {"start.delta_embedding": "prompt_encoder.delta_embedding.weight"}
AS_A_PROMPT = replace(IN_FLOAT32, config=False)  # it goes as the prompt that it has become
SMALL_BALL = dict(opt_projection_epsilon=0.3, opt_projection_format_epsilon=0.1)
ROWS = {
    "cpt": Row(
        mp.CPT((1, 7, 2, 7, 3), **WIDE),
        prompt_learning("CPTConfig", **CONTEXT, **WIDE),
        names=NAMES,
        carry=carry,
        padding=("right",),
        files=AS_A_PROMPT,
    ),
    "cpt, small ball, GPT-2": Row(
        mp.CPT((1, 7, 2, 7, 3), (1, 2, 3, 4, 1), **SMALL_BALL),
        theirs(**CONTEXT, cpt_tokens_type_mask=[1, 2, 3, 4, 1], **SMALL_BALL),
        "gpt2",
        tied=True,
        names=NAMES,
        carry=carry,
        after_step=project,
        padding=("right",),
        files=AS_A_PROMPT,
        recorded=False,
    ),
}

SPEC = Spec(
    mp.CPT,
    draw=contexts,
    small=TYPES,
    equation=InBall(vectors, "prompt", left),
    bugs=BUGS,
    rows=ROWS,
    counts=((mp.CPT(), COUNTED, 8 * 8), (TYPES, COUNTED, 4 * 8)),
    saved=((TYPES, {"prompt_embeddings": (4, 8)}),),
    wrong=(
        lambda: mp.CPT((-1,)),
        lambda: mp.CPT(()).count(COUNTED),
        lambda: mp.CPT((1, 2), (1,)),
        lambda: mp.CPT(opt_projection_epsilon=0.0),
        lambda: mp.CPT(cpt_token_ids=5),
    ),
    exempt={1: NO_NEUTRAL},
    exchanged=True,
)
