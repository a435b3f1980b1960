"""One experiment: a method is fine-tuned on a task, and everything about it is measured.

An Experiment is a few plain values, and `measure` is a function of them alone. So experiments
can run in any order, on any machine.
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
class Experiment:
    """Says which method learns which task, for how many steps, at which rate, from which seed.

    split and words: the model is scored on so many words of this split of the task, and on a
    quarter as many of each pretraining task ("old task").
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


def measure(experiment):
    """Runs an experiment; returns a JSON object: sizes in bytes, seconds, nats a letter."""
    task, packed, words = experiment.task, experiment.packed, experiment.words
    model, test = backbone(packed), dataset(task, experiment.split, words)
    before, plain = untrained(packed, task, experiment.split, words)
    adapter = attach(model, COMPARED[experiment.method](), rng=experiment.seed)
    history = train(model, dataset(task, "train"), experiment, task)
    after = evaluate(model, test)
    row = asdict(experiment) | {
        "trainable": adapter.count,
        "percent": 100 * adapter.count / model.config.size,
        "exact_before": before.exact,
        "exact": after.exact,
        "loss_before": before.loss,
        "loss": after.loss,
        "base_bytes": base_bytes(model),
        "old_before": old_tasks(packed, words),
        "old": remembered(model, words),
        "seconds_per_step": statistics.median(history.seconds),
        "tape_bytes": tape_bytes(model, dataset(task, "train"), experiment),
        "file_bytes": file_bytes(model, adapter.name),
        "mergeable": adapter.method.mergeable,
        "merge_difference": merge_difference(model, adapter, test),
        "examples": answers(model, experiment),
        "curve": tens(history.loss),
    }
    detach(model, adapter.name)
    row["old_detached"] = remembered(model, words)
    row["detached_is_base"] = bool((logits(model, test) == plain).all())
    return row


def tune(experiment):
    """Trains, and no more; returns the Score as a dict, which is enough to choose a rate."""
    model = backbone(experiment.packed)
    attach(model, COMPARED[experiment.method](), rng=experiment.seed)
    try:
        train(model, dataset(experiment.task, "train"), experiment, experiment.task)
    except FloatingPointError:
        return {"loss": float("inf"), "exact": 0.0}  # this rate is too high
    test = dataset(experiment.task, experiment.split, experiment.words)
    return asdict(evaluate(model, test))


def train(model, data, e, what):
    """Calls `fit`; returns its History. All methods see the same batches in the same order.

    e: the experiment. what: what is learnt, named in errors.
    """
    try:
        history = fit(model, data, e.steps, e.batch_size, e.lr, seed=e.seed, label=None)
    except (ValueError, FloatingPointError) as error:
        raise type(error)(f"{e.method} on {what}: {error}") from None
    if history.stopped:
        raise KeyboardInterrupt(history.stopped)
    return history


# What many experiments share is computed once in each process.


@functools.cache
def dataset(task, split, words=None):
    """Returns the Examples of so many words (default: all) of a split of a task."""
    return Task(task).examples(split, words)


@functools.cache
def untrained(packed, task, split, words):
    """Returns the backbone's own Score on a task, and its first logits."""
    model, test = backbone(packed), dataset(task, split, words)
    return evaluate(model, test), logits(model, test)


@functools.cache
def old_tasks(packed, words):
    """Returns the backbone's own exact match on the pretraining tasks."""
    return remembered(backbone(packed), words)


def backbone(packed):
    """Returns the shipped backbone, with the weights of its Linears in nf4 if `packed`."""
    model = load_base()
    if packed:
        quantize(model)
    return model


def remembered(model, words):
    """Returns the exact match on the pretraining tasks, the mean over all of them."""
    some = max(1, words // 4)
    scores = [evaluate(model, dataset(name, "test", some)) for name in PRETRAINING]
    return statistics.fmean(score.exact for score in scores)


def logits(model, data):
    """Returns the logits of the first 32 examples, as a NumPy array."""
    with no_grad():
        return to_numpy(model(data.take(np.arange(min(32, len(data))))[0]).data)


def tape_bytes(model, data, e):
    """Returns the bytes that the tape of one training step holds, without the parameters."""
    loss = chunked_loss(model, *data.batch(0, e.batch_size, e.seed))
    return sum(a.nbytes for a in tape_arrays(loss, model.parameters()))


def base_bytes(model):
    """Returns the bytes of all arrays that hold the base."""
    return sum(a.nbytes for _, p in base_parameters(model) for a in p.arrays.values())


def file_bytes(model, name):
    """Returns the size of the file that holds the adapter's parameters."""
    with tempfile.TemporaryDirectory() as folder:
        return (save_adapter(model, name, folder) / "adapter_model.safetensors").stat().st_size


def merge_difference(model, adapter, data):
    """Returns the largest change of any logit by merging; None if the method cannot merge."""
    if not adapter.method.mergeable:
        return None
    attached = logits(model, data)
    receipt = merge(model, adapter.name)
    merged = logits(model, data)
    unmerge(receipt)
    return float(np.abs(merged - attached).max())


def answers(model, experiment, n=3):
    """Returns what the model writes for n words of the split: [[lemma, answer, right?], …]."""
    task = experiment.task
    pairs = Task(task).pairs(experiment.split)
    pairs = [pairs[i] for i in evenly(n, len(pairs))]
    written = generate(model, [encode(task, lemma) for lemma, _ in pairs], 30, stop=END)
    answers = map(decode, written)
    return [[lemma, a, a == right] for (lemma, right), a in zip(pairs, answers, strict=True)]


def evenly(n, count):
    """Returns n places in a list of `count`, evenly spread; all if it has fewer."""
    return [(2 * i + 1) * count // (2 * n) for i in range(min(n, count))]


def tens(losses):
    """Returns the mean of every ten losses, to four decimals: a curve a tenth as long."""
    parts = (losses[i : i + 10] for i in range(0, len(losses), 10))
    return [round(statistics.fmean(part), 4) for part in parts]
