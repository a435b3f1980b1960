"""One fine-tuning run, measured: everything that `compare` tells about a method on a task.

A Trial is a few plain values and `measure` a function of it alone: trials run anywhere, in any
order.
"""

import functools
import statistics
import tempfile
from dataclasses import asdict, dataclass

from ..engine.backend import np, to_numpy
from ..engine.tensor import no_grad
from ..errors import unknown
from ..io.checkpoint import load_base, save_adapter
from ..model.generate import generate
from ..model.quantize import quantize
from ..peft.attach import attach, detach
from ..peft.base import base_parameters
from ..peft.merge import merge, unmerge
from ..text.words import END, PRETRAINING, Task, decode, encode
from ..train.batch_gradient import chunked_loss
from ..train.fit import Settings, evaluate, fit
from .comparison_table import COMPARED
from .saved_tensors import tape_arrays


@dataclass(frozen=True)
class Trial:
    """A method on a task: for how many steps, at which learning rate, from which seed.

    words: how many words of the split to score; old tasks are scored on a quarter as many each.
    """

    task: str
    method: str
    steps: int
    lr: float
    seed: int = 0
    batch_size: int = 16
    split: str = "test"
    words: int = 300

    def __post_init__(self):
        Task(self.task)
        if self.method not in COMPARED:
            raise ValueError(unknown("method", self.method, COMPARED))
        Settings(self.steps, self.batch_size, self.lr, seed=self.seed)  # raises if impossible

    @property
    def packed(self):
        """Whether the backbone is held in nf4."""
        return self.method == "qlora"


def backbone(packed):
    """The shipped backbone, the weights of its Linears in nf4 if asked for."""
    model = load_base()
    if packed:
        quantize(model)
    return model


def tune(trial):
    """Train; return the Score on the trial's split, a dict: enough to choose a rate by."""
    model, task = backbone(trial.packed), Task(trial.task)
    attach(model, COMPARED[trial.method](), rng=trial.seed)
    try:
        train(model, task, trial)
    except FloatingPointError:
        return {"loss": float("inf"), "exact": 0.0}  # this rate is too high
    return asdict(evaluate(model, task.examples(trial.split, trial.words)))


def train(model, task, trial):
    """`fit` as every trial calls it: all methods see the same batches in the same order."""
    how = dict(seed=trial.seed, label=None)  # one bar for all trials is enough
    try:
        history = fit(model, task, trial.steps, trial.batch_size, trial.lr, **how)
    except (ValueError, FloatingPointError) as error:
        raise type(error)(f"{trial.method} on {trial.task}: {error}") from None
    if history.stopped:
        raise KeyboardInterrupt(history.stopped)
    return history


def measure(trial):
    """All that is told about a trial, a JSON object: sizes in bytes, seconds, nats a letter."""
    model, task = backbone(trial.packed), Task(trial.task)
    examples = task.examples(trial.split, trial.words)
    before, plain = evaluate(model, examples), logits(model, examples)
    adapter = attach(model, COMPARED[trial.method](), rng=trial.seed)
    history = train(model, task, trial)
    after = evaluate(model, examples)
    row = asdict(trial) | {
        "trainable": adapter.count,
        "percent": 100 * adapter.count / model.config.size,
        "exact_before": before.exact,
        "exact": after.exact,
        "loss_before": before.loss,
        "loss": after.loss,
        "base_bytes": base_bytes(model),
        "old_before": old_tasks(trial.packed, trial.words),
        "old": remembered(model, trial.words),
        "seconds_per_step": statistics.median(history.seconds),
        "tape_bytes": tape_bytes(model, task.train, trial),
        "file_bytes": file_bytes(model, adapter.name),
        "mergeable": adapter.method.mergeable,
        "merge_difference": merge_difference(model, adapter, examples),
        "examples": answers(model, trial),
        "curve": tens(history.loss),
    }
    detach(model, adapter.name)
    row["old_detached"] = remembered(model, trial.words)
    row["detached_is_base"] = bool((logits(model, examples) == plain).all())
    return row


def tens(losses):
    """The means of ten losses each, to four decimals: a curve of a tenth of the size."""
    parts = (losses[i : i + 10] for i in range(0, len(losses), 10))
    return [round(statistics.fmean(part), 4) for part in parts]


def logits(model, examples):
    """Logits of the first 32 examples, as a NumPy array."""
    with no_grad():
        return to_numpy(model(examples.take(np.arange(min(32, len(examples))))[0]).data)


def remembered(model, words):
    """Exact match on the pretraining tasks, the mean of all."""
    scores = [
        evaluate(model, Task(name).examples("test", max(1, words // 4))) for name in PRETRAINING
    ]
    return statistics.fmean(score.exact for score in scores)


@functools.cache
def old_tasks(packed, words):
    """Exact match of the backbone on the pretraining tasks."""
    return remembered(backbone(packed), words)


def tape_bytes(model, examples, trial):
    """Bytes that the tape of one training step holds, the parameters themselves left out."""
    loss = chunked_loss(model, *examples.batch(0, trial.batch_size, trial.seed))
    return sum(a.nbytes for a in tape_arrays(loss, model.parameters()))


def base_bytes(model):
    """Bytes of all that the base is held in."""
    return sum(a.nbytes for _, p in base_parameters(model) for a in p.arrays.values())


def file_bytes(model, name):
    """Size of the file that keeps the adapter's numbers."""
    with tempfile.TemporaryDirectory() as folder:
        return (save_adapter(model, name, folder) / "adapter_model.safetensors").stat().st_size


def merge_difference(model, adapter, examples):
    """The largest change of any logit by merging; None for a method that cannot merge."""
    if not adapter.method.mergeable:
        return None
    attached = logits(model, examples)
    receipt = merge(model, adapter.name)
    merged = logits(model, examples)
    unmerge(receipt)
    return float(np.abs(merged - attached).max())


def answers(model, trial, n=3):
    """What the model writes for a few words of the split: [[lemma, answer, right?], …]."""
    pairs = Task(trial.task).pairs(trial.split)
    pairs = [pairs[(2 * i + 1) * len(pairs) // (2 * n)] for i in range(n)]
    written = generate(model, [encode(trial.task, lemma) for lemma, _ in pairs], 30, stop=END)
    answers = map(decode, written)
    return [[lemma, a, a == right] for (lemma, right), a in zip(pairs, answers, strict=True)]
