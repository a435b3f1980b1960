"""The training loop, and the evaluation of what it has learnt.

`fit` trains whatever requires a gradient: a bare base, or the adapters in use.
Everything random at step t is drawn from (seed, t), so a run is a function of its arguments:
the same seed gives the same bits, and a run resumed from its checkpoint ends where the
uninterrupted one does.
"""

import contextlib
import json
import math
import signal
import threading
import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from tqdm import tqdm

from ..engine.backend import np, numbers, to_numpy, xp
from ..engine.functional import IGNORE, cross_entropy
from ..engine.optimizer import AdamW, clip_scale, grad_norm, learning_rate
from ..engine.tensor import no_grad
from ..errors import check_known, check_whole
from ..io.files import blaming, check_places, checksum, json_object, read_arrays, write_arrays
from ..model.gradient_checkpointing import recomputing
from ..model.validation import check_labels
from ..options import Options, option
from ..peft.base import adapters, base_parameters, in_use
from .batch_gradient import batch_gradient, part_gradient
from .data_parallel import side_by_side
from .history import History, Score


def fit(model, data, steps=300, batch_size=32, lr=1e-3, *,
        checkpoint=None, save_every=100, until=None, label="fit", **options):  # fmt: skip
    """Train on `data` (Examples or a Task) by AdamW, warm-up and cosine. Returns a History.

    options: other fields of Settings, such as seed or warmup; to fit into memory, accumulate or
    recompute, and for a second core workers.  label: None for no progress bar.
    checkpoint: a file from which the run goes on if it exists, written every `save_every` steps
    and at the end.  until: stop after this step, to go on later from the checkpoint.

    Ctrl-C ends after the step at hand, with what was learnt; a second one at once, perhaps in
    the middle of an update. A loss or gradient that is not finite raises FloatingPointError
    with the step; the last weights of finite loss are kept.
    """
    check_known("option of fit", options, Settings.__dataclass_fields__)
    check_whole(1, save_every=save_every)
    check_whole(0, until=0 if until is None else until)
    run = Run(model, getattr(data, "train", data), Settings(steps, batch_size, lr, **options))
    if checkpoint is not None:
        run.resume(checkpoint)
    last = steps if until is None else min(until, steps)
    silent = label is None or None  # None: shown on a terminal only
    bar = tqdm(desc=label, initial=run.done, total=steps, disable=silent, leave=False)
    heard = np.errstate(over="ignore", invalid="ignore")  # by `give_up`, in better words
    with bar, heard, first_ctrl_c() as stop, run.reading() as map_parts:
        while run.done < last and not stop.is_set():
            run.step(map_parts)
            bar.update()
            bar.set_postfix(loss=f"{run.history.loss[-1]:.3f}", refresh=False)
            if checkpoint is not None and run.done % save_every == 0:
                run.save(checkpoint)
    if run.done < last:
        run.history.stopped = f"interrupted after step {run.done} of {steps}"
    if checkpoint is not None:
        run.save(checkpoint)
    return run.history


@contextlib.contextmanager
def first_ctrl_c():
    """Inside the block the first Ctrl-C sets the event that is given; a second interrupts."""
    pressed = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield pressed  # signals reach the main thread only
        return

    def note(*_):
        pressed.set()
        signal.signal(signal.SIGINT, before)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, before)


@dataclass(frozen=True)
class Settings(Options):
    """How to train."""

    steps: int = option(at_least=1)
    batch_size: int = option(at_least=1)
    lr: float = option(above=0)  # the highest learning rate, reached after warm-up
    warmup: int = option(20, at_least=0)  # steps
    clip: float | None = option(1.0, above=0)  # the largest norm of a gradient; None: no limit
    betas: tuple[float, float] = option((0.9, 0.999), at_least=0, below=1)
    weight_decay: float = option(0.01, at_least=0)
    accumulate: int = option(1, at_least=1)  # micro-batches: the same gradient in less memory
    workers: int = option(1, at_least=1)  # processes that share a batch: see `data_parallel`
    recompute: bool = False  # gradient checkpointing
    seed: int = option(0, at_least=0)

    @classmethod
    def describe(cls):
        return "option of fit"


class Run:
    """A run under way: what trains, its optimiser, its history, and the last good weights."""

    def __init__(self, model, data, settings):
        if not hasattr(data, "batch"):
            raise TypeError(f"fit learns from Examples or a Task, got {data!r}")
        self.model, self.data, self.settings = model, data, settings
        self.named = {path: p for path, p in model.named_parameters() if p.requires_grad}
        if not self.named:
            raise ValueError("nothing trains in this model; attach a method, or `use` one")
        self.parameters = list(self.named.values())
        self.adapters = [adapters(model)[name] for name in in_use(model)]
        self.good = {path: p.data.copy() for path, p in self.named.items()}
        self.optimizers = make_optimizers(model, settings.betas, settings.weight_decay)
        self.history = History()
        model.zero_grad()

    def paths(self, optimizer):
        """The path in the model of each parameter of an optimiser."""
        path = {id(p): path for path, p in self.named.items()}
        return [path[id(p)] for p in optimizer.parameters]

    @property
    def done(self):
        """How many steps have been taken."""
        return self.optimizers[0].steps

    @contextlib.contextmanager
    def reading(self):
        """Inside the block, what reads the parts of a batch as the settings ask."""
        less = recomputing(self.model) if self.settings.recompute else contextlib.nullcontext()
        read = partial(part_gradient, self.model)
        with less, side_by_side(read, self.parameters, self.settings.workers) as map_parts:
            yield map_parts

    def step(self, map_parts=None):
        """One batch forward and backward, one update, one line in the history.

        No gradient is left, whatever happens.
        """
        began, s = time.perf_counter(), self.settings
        ids, labels = self.data.batch(self.done, s.batch_size, s.seed)
        parts, seed = s.accumulate * s.workers, (s.seed, 1, self.done)
        try:
            loss = batch_gradient(self.model, ids, labels, parts, seed, map_parts)
            for adapter in self.adapters:
                adapter.method.before_step(adapter, self.done + 1, s.steps)
            loss, norm = numbers([loss, grad_norm(self.parameters)])
            if not math.isfinite(loss + norm):
                self.give_up(loss, norm)
            lr = learning_rate(self.done, s.steps, s.lr, s.warmup)
            scale = clip_scale(norm, s.clip)
            for optimizer in self.optimizers:
                before = [self.good[path] for path in self.paths(optimizer)]
                optimizer.step(lr, scale, before)
            for adapter in self.adapters:
                ranks = adapter.method.after_step(adapter, self.done, s.steps, scale)
                self.history.note(ranks, adapter.name if len(self.adapters) > 1 else "")
        finally:
            for p in self.parameters:
                p.grad = None
        self.history.add(loss, lr, norm, time.perf_counter() - began)

    def give_up(self, loss, norm):
        """Go back to the weights that last gave a finite loss; raise with the step."""
        if not math.isfinite(loss):
            for path, p in self.named.items():
                p.data[...] = self.good[path]
        raise FloatingPointError(
            f"the loss is {loss} and the gradient's norm {norm} at step {self.done}; "
            "the weights are those that last gave a finite loss. "
            "Try a lower learning rate or a longer warm-up"
        )

    def save(self, path):
        """Write weights, moments, settings and history to one file, whole or not at all."""
        arrays = self.state()
        about = {"settings": self.setup(), "steps": self.done, "history": asdict(self.history)}
        write_arrays(path, arrays, {"run": json.dumps(about)})

    def resume(self, path):
        """Go on from a file that `save` wrote, if it exists; ValueError if of another run."""
        check_places(path)
        if not Path(path).exists():
            return
        state = self.state()
        arrays, metadata = read_arrays(path, like=state)
        about = json_object(metadata.get("run", "{}"), path)
        with blaming(path):
            given = dict(about["settings"])
            steps, history = about["steps"], History(**about["history"] | {"stopped": ""})
            if type(steps) is not int or not 0 <= steps == len(history.loss):
                raise ValueError(f"it holds {steps!r} steps and {len(history.loss)} losses")
        for key, wanted in self.setup().items():
            if (found := given.get(key)) != wanted:
                raise ValueError(
                    f"{path} holds a run with {key} = {found!r}, this one has {wanted!r}; "
                    "use the same settings, or another file"
                )
        for name, a in state.items():
            a[...] = xp.asarray(arrays[name])
        for optimizer in self.optimizers:
            optimizer.steps = steps
        self.history = history

    def state(self):
        """The arrays that a run is made of, {name: array}.

        These are the weights, the last good ones, the optimisers' moments, and what a method
        keeps beside its parameters.
        """
        arrays = {f"weights/{path}": p.data for path, p in self.named.items()}
        arrays |= {f"good/{path}": array for path, array in self.good.items()}
        for optimizer in self.optimizers:
            paths = self.paths(optimizer)
            for kind, values in optimizer.state.items():
                arrays |= {f"{kind}/{p}": a for p, a in zip(paths, values, strict=True)}
        for adapter in self.adapters:
            for path, delta in adapter.deltas.items():
                for key, array in delta.state().items():
                    arrays[f"{adapter.name}/{path}/{key}"] = array
        return arrays

    def setup(self):
        """The settings as JSON values, the number of examples, and a checksum of the base."""
        frozen = {
            f"{path}{end}": to_numpy(array)
            for path, p in base_parameters(self.model)
            for end, array in ({} if p.requires_grad else p.arrays).items()
        }
        settings = json.loads(json.dumps(asdict(self.settings)))
        return settings | {"examples": len(self.data), "base": checksum(frozen, {})}


def make_optimizers(model, betas=(0.9, 0.999), weight_decay=0.01):
    """The optimiser of each adapter in use, by its method; AdamW for all else that trains."""
    how = {"betas": betas, "weight_decay": weight_decay}
    rest = {id(p): p for p in model.parameters() if p.requires_grad}
    made = []
    for name in in_use(model):
        adapter = adapters(model)[name]
        trained = {id(p) for p in adapter.parameters()}
        mine = [rest.pop(key) for key in list(rest) if key in trained]
        made.append(adapter.method.make_optimizer(mine, **how) or AdamW(mine, **how))
    return [*made, AdamW(rest.values(), **how)] if rest else made


def evaluate(model, examples, batch_size=256):
    """The Score of a model on Examples.

    An answer counts if the likeliest token is right at each of its places, [end] included,
    given the right ones before: exactly then greedy decoding writes that answer.
    """
    check_whole(1, batch_size=batch_size)
    if not hasattr(examples, "labels"):
        kind = "Examples, such as Task('gerund').examples('test')"
        raise TypeError(f"evaluate takes {kind}, got {examples!r}")
    check_labels(examples.labels, examples.ids.shape, model.config.vocab)
    nats, right, tokens = 0.0, 0, 0
    with no_grad():
        starts = range(0, len(examples), batch_size)
        for start in tqdm(starts, "evaluate", delay=2, leave=False, disable=None):
            rows = np.arange(start, min(start + batch_size, len(examples)))
            ids, labels = examples.take(rows)
            logits, asked = model(ids), labels != IGNORE
            nats += cross_entropy(logits, labels, count=1).item()
            best = to_numpy(xp.argmax(logits.data, axis=-1))
            right += int(((best == labels) | ~asked).all(axis=1).sum())
            tokens += int(asked.sum())
    return Score(nats / tokens, right / len(examples))
