"""The training loop, with checkpoints to resume from, and the evaluation of a model.

`fit` trains all trainable parameters: those of a bare base, or of the adapters in use.
What is random at step t, the batch and the dropout masks, is drawn from (seed, t). So the same
arguments give the same bits, and a run that was interrupted and resumed from its checkpoint
ends with the same bits as an uninterrupted one.
"""

import contextlib
import json
import math
import time
import warnings
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from itertools import count

from tqdm import tqdm

from ..engine.backend import np, to_list, to_numpy, xp
from ..engine.functional import IGNORE, cross_entropy
from ..engine.optimizer import clip_scale, grad_norm, learning_rate
from ..engine.tensor import Tensor, no_grad
from ..errors import check_known, check_whole
from ..io.arrays import read_arrays, write_arrays
from ..io.files import as_path, check_writable, error_context, json_object, locked
from ..io.identity import adapters_identity, config_identity, data_identity, difference, digest
from ..io.safetensors import Safetensors
from ..model.gradient_checkpointing import recomputing
from ..model.transaction import changing, computing
from ..model.validation import check_labels
from ..options import Options, option
from ..peft.base import adapters, base_parameters, in_use
from ..peft.data_start import start_from_data
from .batch_gradient import batch_gradient, labelled_states, micro_batch_gradient
from .data_parallel import parallel_map
from .history import History, Score
from .interrupt import first_ctrl_c
from .optimizers import make_optimizers

EVALUATED = 256 * 64  # tokens that `evaluate` reads at a time
SAVE_AFTER, SAVE_SHARE = 10, 0.05  # seconds between checkpoints, share of time for them


def fit(model, data, steps=300, batch_size=32, lr=1e-3, *,
        checkpoint=None, save_every=100, until=None, label="fit", **options):  # fmt: skip
    """Train the model on `data`, Examples or a Task, with AdamW. Returns a History.

    The learning rate rises to `lr` in a warm-up, then falls as half a cosine to zero. Methods
    that start from data do so before the first update: see `start_from_data`.
    options: other fields of `Settings`, such as seed and warmup; accumulate and recompute need
    less memory, workers uses more cores.
    checkpoint: a file, written every `save_every` steps, between them where steps are slow (see
    `Run.is_due`), and at the end. If it exists, the run is resumed from it.
    until: stop after this step, to be resumed later.
    label: the name on the progress bar; None shows no bar.

    Ctrl-C ends the run after the current step, keeps what was learnt, and warns that it did; a
    second Ctrl-C raises KeyboardInterrupt at once, between two updates. While the run lasts, no
    other thread may use the model, and no other run the checkpoint.
    Raises FloatingPointError, with the step, if the loss, a gradient, or in the end a weight is
    not finite; the model then has the weights that last gave a finite loss. Raises ValueError
    if nothing is trainable or the checkpoint is of another run, and TypeError for other data.
    """
    check_known("option of fit", options, Settings.__dataclass_fields__)
    (save_every,) = check_whole(1, save_every=save_every)
    settings = Settings(steps, batch_size, lr, **options)
    last = settings.steps
    last = last if until is None else min(*check_whole(0, until=until), last)
    with changing(model), locked(checkpoint) if checkpoint else contextlib.nullcontext():
        run = Run(model, getattr(data, "train", data), settings)
        if checkpoint:
            run.resume(checkpoint)
        run.go_on(last, label, checkpoint, save_every)
        run.check_weights()
        if checkpoint:
            run.save(checkpoint)
    return run.history


@dataclass(frozen=True)
class Settings(Options):
    """The settings of a training run."""

    steps: int = option(at_least=1)
    batch_size: int = option(at_least=1)
    lr: float = option(above=0)  # the highest learning rate, reached after the warm-up
    warmup: int = option(20, at_least=0)  # steps
    clip: float | None = option(1.0, above=0)  # largest norm of the gradients; None: any
    betas: tuple[float, float] = option((0.9, 0.999), at_least=0, below=1)  # AdamW's
    weight_decay: float = option(0.01, at_least=0)
    accumulate: int = option(1, at_least=1)  # micro-batches per worker, to need less memory
    workers: int = option(1, at_least=1)  # processes that share a batch: see `data_parallel`
    recompute: bool = False  # gradient checkpointing, to need less memory
    seed: int = option(0, at_least=0)

    @classmethod
    def field_label(cls):
        return "option of fit"


class Run:
    """The state of a training run: trainable parameters, optimisers, history, and a backup.

    The backup, `last_good`, holds the weights that last gave a finite loss.
    """

    def __init__(self, model, data, settings):
        if not hasattr(data, "batch"):
            raise TypeError(f"fit learns from Examples or a Task, got {data!r}")
        self.model, self.data, self.settings = model, data, settings
        self.trainable = {path: p for path, p in model.named_parameters() if p.requires_grad}
        if not self.trainable:
            raise ValueError("nothing trains in this model; attach a method, or `use` one")
        self.parameters = list(self.trainable.values())
        self.adapters = [adapters(model)[name] for name in in_use(model)]
        self.last_good = {path: p.data.copy() for path, p in self.trainable.items()}
        self.optimizers = make_optimizers(model, settings.betas, settings.weight_decay)
        self.history = History()
        self.saved, self.saving = time.monotonic(), 0.0  # when last, and how long that took
        model.zero_grad()

    def paths(self, optimizer):
        """Returns the path in the model of each parameter of an optimiser."""
        path = {id(p): path for path, p in self.trainable.items()}
        return [path[id(p)] for p in optimizer.parameters]

    @property
    def done(self):
        """How many steps have been done."""
        return self.optimizers[0].steps

    @contextlib.contextmanager
    def workers(self):
        """Yields a `map` of `micro_batch_gradient` that uses the workers of the settings.

        Inside the block, blocks of the model are recomputed if the settings say so.
        """
        s, f = self.settings, partial(micro_batch_gradient, self.model)
        checkpointing = recomputing(self.model) if s.recompute else contextlib.nullcontext()
        with checkpointing, parallel_map(f, self.parameters, s.workers) as map_micro_batches:
            yield map_micro_batches

    def go_on(self, last, label, checkpoint, save_every):
        """Do all steps up to `last`, with a progress bar and checkpoints, or until Ctrl-C."""
        steps, silent = self.settings.steps, label is None or None  # None: if on a terminal
        bar = tqdm(desc=label, initial=self.done, total=steps, disable=silent, leave=False)
        no_warnings = np.errstate(over="ignore", invalid="ignore", under="ignore")  # see `step`
        with bar, no_warnings, first_ctrl_c() as stop:
            if self.done == 0 < last:
                self.start()
            with self.workers() as map_micro_batches:
                while self.done < last and not stop.is_set():
                    self.step(map_micro_batches)
                    bar.update()
                    bar.set_postfix(loss=f"{self.history.loss[-1]:.3f}", refresh=False)
                    if checkpoint and self.is_due(save_every):
                        self.save(checkpoint)
        if self.done < last:
            self.history.stopped = f"interrupted after step {self.done} of {steps}"
            warnings.warn(f"Ctrl-C: {self.history.stopped}; what follows goes on", stacklevel=3)

    def is_due(self, save_every):
        """Returns whether to save now: every so many steps, or ten seconds after last time.

        Where saving takes long, that is later, so that it takes no more than 5 % of the time.
        """
        wait = max(SAVE_AFTER, self.saving / SAVE_SHARE)
        return self.done % save_every == 0 or time.monotonic() - self.saved >= wait

    def start(self):
        """Let the methods that start from data do so, with the first batches of the run."""
        size, seed = self.settings.batch_size, self.settings.seed
        start_from_data(self.model, (self.data.batch(i, size, seed) for i in count()))
        for path, p in self.trainable.items():
            self.last_good[path][...] = p.data

    def step(self, map_micro_batches=None):
        """Do one step: a batch forward and backward, one update, one record in the history.

        Every gradient is None afterwards, also if the step raises an error.
        """
        start, s = time.perf_counter(), self.settings
        ids, labels = self.data.batch(self.done, s.batch_size, s.seed)
        split, seed = s.accumulate * s.workers, (s.seed, 1, self.done)
        try:
            loss = batch_gradient(self.model, ids, labels, split, seed, map_micro_batches)
            for adapter in self.adapters:
                adapter.method.before_step(adapter, self.done + 1, s.steps)
            loss, norm = to_list([loss, grad_norm(self.parameters)])
            if not math.isfinite(loss + norm):
                self.raise_not_finite(loss, norm)
            lr = learning_rate(self.done, s.steps, s.lr, s.warmup)
            scale = clip_scale(norm, s.clip)
            self.update(lr, scale)
        finally:
            for p in self.parameters:
                p.grad = None
        self.history.add(loss, lr, norm, time.perf_counter() - start)

    def update(self, lr, scale):
        """Update all weights once; an update that is interrupted leaves them as they were."""
        written = []
        try:
            for optimizer in self.optimizers:
                backup = [self.last_good[path] for path in self.paths(optimizer)]
                optimizer.step(lr, scale, backup)
                written += zip(optimizer.parameters, backup, strict=True)
            for adapter in self.adapters:
                ranks = adapter.method.after_step(
                    adapter, self.done, self.settings.steps, scale
                )
                self.history.add_ranks(ranks, adapter.name if len(self.adapters) > 1 else "")
        except BaseException:
            for p, saved in written:
                p.data[...] = saved
            raise

    def raise_not_finite(self, loss, norm):
        """Raises FloatingPointError with the step.

        If the loss is not finite, the model gets the weights that last gave a finite one.
        """
        if not math.isfinite(loss):
            self.restore()
        raise FloatingPointError(
            f"the loss is {loss} and the gradient's norm {norm} at step {self.done}; "
            "the weights are those that last gave a finite loss. "
            "Try a lower learning rate or a longer warm-up"
        )

    def restore(self):
        """Give the model the weights that last gave a finite loss."""
        for path, p in self.trainable.items():
            p.data[...] = self.last_good[path]

    def check_weights(self):
        """Raises FloatingPointError if a weight is not finite.

        The model then gets the weights from before the last update, which gave a finite loss.
        """
        if not all(to_list([xp.isfinite(p.data).all() for p in self.parameters])):
            self.restore()
            raise FloatingPointError(
                f"step {self.done} made a weight that is not finite; the weights are those "
                "before it. Try a lower learning rate or a longer warm-up"
            )

    def save(self, path):
        """Write weights, moments, settings and history to one file, atomically.

        Raises FloatingPointError instead if a weight is not finite.
        """
        start = time.monotonic()
        self.check_weights()
        run = {"identity": self.identity, "steps": self.done, "history": asdict(self.history)}
        run["skipped"] = [getattr(optimizer, "skipped", []) for optimizer in self.optimizers]
        write_arrays(path, self.state(), {"run": json.dumps(run)})
        self.saved = time.monotonic()
        self.saving = self.saved - start

    def resume(self, path):
        """Restore the checkpoint in a file, if it exists.

        Raises ValueError, and changes nothing, if it is damaged or of a run with other
        settings, data or base. Raises OSError if the file could not be written later.
        """
        check_writable(path)
        if not as_path(path).exists():
            return
        state = self.state()
        with Safetensors(path) as file:
            run = json_object(file.metadata.get("run", "{}"), path)
            self.check_identity(path, run)
            arrays = read_arrays(file, like=state)
        with error_context(path):
            steps, history = run["steps"], History(**run["history"] | {"stopped": ""})
            skipped = [list(counts) for counts in run["skipped"]]
            if type(steps) is not int or not 0 <= steps == len(history.loss):
                raise ValueError(f"it holds {steps!r} steps and {len(history.loss)} losses")
        for name, a in state.items():
            a[...] = xp.asarray(arrays[name])
        for optimizer, counts in zip(self.optimizers, skipped, strict=True):
            optimizer.steps, optimizer.skipped = steps, counts
        self.history = history
        if steps == self.settings.steps:
            warnings.warn(f"{path} holds a finished run; remove it to train anew", stacklevel=3)

    def check_identity(self, path, run):
        """Raises ValueError if what a checkpoint says of its run is not true of this one."""
        if "identity" not in run:
            raise ValueError(
                f"{path} says nothing of the data and adapters of its run, as files of older "
                "versions do; remove it to train anew"
            )
        if differs := difference(run["identity"], self.identity):
            raise ValueError(
                f"{path} holds another run: {differs}; use the same, or another file"
            )

    def state(self):
        """Returns the arrays of a checkpoint, {name: array}, the run's own and not copies.

        They are the weights, their backup, the moments of the optimisers, and what a method
        has beside its parameters: frozen arrays and running averages.
        """
        arrays = {f"weights/{path}": p.data for path, p in self.trainable.items()}
        arrays |= {f"good/{path}": array for path, array in self.last_good.items()}
        for optimizer in self.optimizers:
            paths = self.paths(optimizer)
            for kind, values in optimizer.state.items():
                arrays |= {f"{kind}/{p}": a for p, a in zip(paths, values, strict=True)}
        for adapter in self.adapters:
            for path, delta in adapter.deltas.items():
                for key, array in (delta.frozen() | delta.state()).items():
                    arrays[f"{adapter.name}/{path}/{key}"] = array
        return arrays

    @cached_property
    def identity(self):
        """Returns what must be equal for a checkpoint to be resumed, as JSON values.

        It is the settings, the data, the adapters in use, and the frozen base.
        """
        s = self.settings
        frozen = [
            (f"{path}{end}", array)
            for path, p in base_parameters(self.model)
            for end, array in ({} if p.requires_grad else p.arrays).items()
        ]
        config = config_identity(self.model.config) | {"dropout": self.model.config.dropout}
        return json.loads(json.dumps(asdict(s))) | {
            "data": data_identity(self.data, s.batch_size, s.seed),
            "adapters": adapters_identity(self.model),
            "base": {"config": config, "frozen": digest(frozen)},
        }


def evaluate(model, examples, batch_size=256):
    """Returns the Score of a model on Examples: mean loss in nats, and share of exact answers.

    An answer is exact if the most likely token is the right one at every label, [end] included,
    given the right tokens before it. Exactly then greedy decoding generates that answer. Rows
    without a label have no answer and do not count.
    Raises TypeError for anything but Examples, and ValueError for bad ids or labels.
    """
    (batch_size,) = check_whole(1, batch_size=batch_size)
    if not hasattr(examples, "labels"):
        kind = "Examples, such as Task('gerund').examples('test')"
        raise TypeError(f"evaluate takes {kind}, got {examples!r}")
    check_labels(examples.labels, examples.ids.shape, model.config.vocab)
    size = max(1, min(batch_size, EVALUATED // examples.ids.shape[1]))
    nats, exact, answers, tokens = 0.0, 0, 0, 0
    with computing(model), no_grad():
        starts = range(0, len(examples), size)
        for start in tqdm(starts, "evaluate", delay=2, leave=False, disable=None):
            rows = np.arange(start, min(start + size, len(examples)))
            labels, loss, right = answers_of(model, *examples.take(rows))
            labelled = labels != IGNORE
            asked = labelled.any(axis=1)
            nats += loss
            exact += int((right | ~labelled).all(axis=1)[asked].sum())
            answers += int(asked.sum())
            tokens += int(labelled.sum())
    return Score(nats / tokens, exact / answers)


def answers_of(model, ids, labels):
    """Returns (labels (B, M), Σ −log p in nats, (B, M) booleans: the most likely is right).

    Only tokens with a label have logits, those of a chunk of them at a time.
    """
    x, rows, columns = labelled_states(model, ids, labels)
    labels = labels[rows, columns]  # (B, M)
    step = max(1, EVALUATED * 64 // (len(ids) * model.config.vocab))
    nats, right = 0.0, []
    for start in range(0, columns.shape[1], step):
        here = np.s_[:, start : start + step]
        chunk = xp.asarray(rows), xp.asarray(columns[here])
        logits = model.lm_head(Tensor(x.data[chunk]))
        nats += cross_entropy(logits, labels[here], count=1).item()
        right.append(to_numpy(xp.argmax(logits.data, axis=-1)) == labels[here])
    return labels, nats, np.concatenate(right, axis=1)
