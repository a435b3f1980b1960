"""Multitask prompt tuning."""

from hypothesis import strategies as st

import minipeft as mp
from laws.equations import BeforeTokens
from methods.prefix import IN_FLOAT32, NO_NEUTRAL
from methods.prompt import left
from spec import COUNTED, Bug, Row, Spec
from strategies import FEW
from theirs import PROMPT, of_task, prompt_learning


def vectors(method, a):
    """P (n, width), element by element times the sum of r outer products of the task"""
    rows, columns = a.prefix_task_cols[method.task], a.prefix_task_rows[method.task]
    return a.prompt_embeddings * sum(
        rows[:, i, None] * columns[None, i] for i in range(method.num_ranks)
    )


class Scaled(BeforeTokens):
    """A prompt that is not its P alone, so P in place of tokens says nothing."""

    def in_place_of_tokens(self, base, net, own, ids):
        """Nothing; test_methods_prompts has the case that U V is 1 everywhere."""


@st.composite
def drawn(draw, config):
    """One to three tasks, any of them in use."""
    tasks = draw(FEW)
    return mp.MPT(
        draw(FEW),
        draw(st.sampled_from([None, (1, 4)])),
        num_ranks=draw(FEW),
        num_tasks=tasks,
        task=draw(st.integers(0, tasks - 1)),
    )


def theirs(k, **options):
    """HF PEFT's multitask prompt tuning, for task k."""
    put = prompt_learning("MultitaskPromptTuningConfig", **options)
    return lambda model: of_task(k)(put(model))


NAMES = PROMPT | {
    f"start.prefix_task_{name}": f"prompt_encoder.prefix_task_{name}"
    for name in ("cols", "rows")
}
SECOND = mp.MPT(2, num_tasks=2, task=1)
BUGS = (
    Bug("MPT: the matrix of another task",
        "self.prefix_task_cols[self.task] @ self.prefix_task_rows[self.task]",
        "self.prefix_task_cols[0] @ self.prefix_task_rows[self.task]", 13, SECOND),
    Bug("MPT: the matrix added, not multiplied", "self.prompt_embeddings * of_task",
        "self.prompt_embeddings + of_task", 13, SECOND),
    Bug("MPT: the count of one task only", '{"task": self.num_tasks}', '{"task": 1}', 3,
        SECOND),
)  # fmt: skip

ROWS = {
    "mpt": Row(
        mp.MPT(4),
        theirs(0, num_virtual_tokens=4),
        names=NAMES,
        padding=("right",),
        files=IN_FLOAT32,
        opened=of_task(0),
    ),
    "mpt, three tasks, GPT-2": Row(
        mp.MPT(4, num_ranks=2, num_tasks=3),
        theirs(0, num_virtual_tokens=4, num_ranks=2, num_tasks=3),
        "gpt2",
        tied=True,
        names=NAMES,
        padding=("right",),
        files=IN_FLOAT32,
        opened=of_task(0),
    ),
}

SPEC = Spec(
    mp.MPT,
    draw=drawn,
    small=mp.MPT(2, num_tasks=2),
    equation=Scaled(vectors, "prompt", left),
    bugs=BUGS,
    rows=ROWS,
    counts=(
        (mp.MPT(3), COUNTED, 3 * 8 + 3 + 8),
        (mp.MPT(3, num_ranks=2, num_tasks=4), COUNTED, 3 * 8 + 4 * 2 * (3 + 8)),
    ),
    saved=(
        (
            SECOND,
            {
                "prompt_embeddings": (2, 8),
                "prefix_task_cols": (2, 2, 1),
                "prefix_task_rows": (2, 1, 8),
            },
        ),
    ),
    wrong=(
        lambda: mp.MPT(num_ranks=0),
        lambda: mp.MPT(num_tasks=2, task=2),
        lambda: mp.MPT(task=-1),
    ),
    exempt={1: NO_NEUTRAL},
    exchanged=True,
)
