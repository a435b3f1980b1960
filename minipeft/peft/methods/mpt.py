"""Multitask prompt tuning: one prompt for all tasks, times a low-rank matrix for each task.

    [P ∘ (U_k V_k) ; f(ids)]        P: (n, width)    U_k: (n, r), V_k: (r, width), task k

∘ multiplies element by element. P holds what the tasks have in common; a task adds U_k and V_k,
which strengthen or weaken each vector of P (U) and each of its dimensions (V), with r = 1 each
by one factor. Prompt tuning learns all n width numbers for every task; here a new task costs
r (n + width) and starts from a P that other tasks have trained, for which the paper finds it
better than prompt tuning and sometimes than full fine-tuning. Trains n width + K r (n + width)
parameters for K tasks. Like any prompt it changes the output and cannot be merged.

An adapter computes the prompt of one task, `task`. To train K tasks on one P, set `task` of the
Delta before each batch; a file keeps the method's. (HF PEFT's model takes the task with each
batch.) P starts as in `prompt`, U and V from N(0, 0.02²) as in HF PEFT.

Wang et al. 2023, section 3, arXiv:2303.02861, with n = 100 and r = 1. There the source tasks
also learn from prompts of single tasks (distillation), which would be another loss.
"""

from dataclasses import dataclass

from ...model.layers import Parameter
from ...options import option
from ..formula import Term
from .prompt import Prompt, PromptDelta


@dataclass(frozen=True)
class MPT(Prompt):
    """Multitask prompt tuning of num_tasks tasks at rank num_ranks; it computes `task`."""

    num_ranks: int = option(1, at_least=1)  # r
    num_tasks: int = option(1, at_least=1)  # K
    task: int = option(0, at_least=0)

    name = "mpt"
    paper = "Wang et al. 2023, arXiv:2303.02861"
    idea = "a prompt shared by all tasks, times a low-rank matrix for each"
    claim = "quality", "prompt"
    contains = ("prompt: U V all ones",)
    equation = "[P ∘ (U_k V_k) ; f(ids)]"
    learning_rate = 1
    peft_type = "MULTITASK_PROMPT_TUNING"
    hf_config = "MultitaskPromptTuningConfig"
    hf_lacks = (*Prompt.hf_lacks, "task")

    def __post_init__(self):
        super().__post_init__()
        if self.task >= self.num_tasks:
            raise ValueError(
                f"task = {self.task}, but num_tasks = {self.num_tasks}; tasks count from 0"
            )

    def terms(self, config):
        values = {"n": self.num_virtual_tokens, "width": config.width, "r": self.num_ranks}
        each = Term({"task": self.num_tasks}, "r (n + width)", values)
        return [*super().terms(config), each]

    def make_deltas(self, model, rng):
        return {"start": MPTDelta(self.vectors(model, rng), self, rng)}

    @classmethod
    def from_hf(cls, values, targets):
        return {o: v for o, v in values.items() if o != "prompt_tuning_init_task"}


class MPTDelta(PromptDelta):
    """The virtual tokens of one task: P ∘ (U_k V_k)."""

    def __init__(self, vectors, method, rng):
        super().__init__(vectors)
        (n, width), tasks, r = vectors.shape, method.num_tasks, method.num_ranks
        self.prefix_task_cols = Parameter(0.02 * rng.standard_normal((tasks, n, r)))  # U
        self.prefix_task_rows = Parameter(0.02 * rng.standard_normal((tasks, r, width)))  # V
        self.task = method.task

    def prompt(self):
        of_task = self.prefix_task_cols[self.task] @ self.prefix_task_rows[self.task]
        return self.prompt_embeddings * of_task
