"""Trains the backbone: a small transformer, from scratch, on the nine pretraining tasks.

minipeft pretrain --out minipeft/base        makes the one that ships with the package
"""

from dataclasses import asdict
from importlib.resources import files
from pathlib import Path

from threadpoolctl import threadpool_limits
from tqdm import tqdm

from ..engine.backend import np
from ..io.checkpoint import save_model
from ..io.files import check_writable, read_json, write_json
from ..model.config import Config
from ..model.transformer import Transformer
from ..text.words import DOWNSTREAM, PRETRAINING, TOKENS, Task, mixture
from ..train.fit import Settings, evaluate, fit
from .outputs import CHECKPOINT, METRICS, check_backbone_folder

BACKBONE = Config.gpt2(
    vocab=len(TOKENS), context=64, width=80, layers=3, heads=4, position="rope", init_std=0.05
)
TRAINING = dict(
    steps=6000, batch_size=64, lr=3e-3, warmup=100, betas=(0.9, 0.99), weight_decay=0.1
)
FAST = 60  # steps of a trial run


def pretrain(out, seed=0, steps=TRAINING["steps"], words=None):
    """Trains the backbone and writes it, its vocabulary and its metrics to the folder `out`.

    Returns the metrics, or None if interrupted: the same call then goes on where it stopped.
    words: how many test words of each task to score (None: all). BLAS has one thread, so that
    the result does not depend on the number of cores.
    """
    out, settings = Path(out), TRAINING | {"steps": steps, "seed": seed}
    Settings(**settings)  # raises ValueError for an impossible one, before anything is written
    check_backbone_folder(out)
    check_writable(out / CHECKPOINT, out / "model.safetensors")
    model = Transformer(BACKBONE, rng=seed)
    with threadpool_limits(1):
        history = fit(
            model,
            mixture(),
            **settings,
            checkpoint=out / CHECKPOINT,
            save_every=250,
            label="pretrain",
        )
        if history.stopped:
            return None
        scores = scores_on_test_words(model, words)
    save_model(model, out)
    write_json(out / "vocabulary.json", {"tokens": TOKENS})
    metrics = {
        "command": f"minipeft pretrain --seed {seed} --steps {steps}",
        "settings": settings,
        "parameters": model.config.size,
        "numpy": np.__version__,
        "test": scores,
    }
    write_json(out / METRICS, metrics)
    (out / CHECKPOINT).unlink(missing_ok=True)
    return metrics


def scores_on_test_words(model, words=None):
    """Returns {task: {"loss": nats per letter, "exact": share of words right}}, all tasks.

    words: how many test words of each task (None: all).
    """
    return {
        name: asdict(evaluate(model, Task(name).examples("test", words)))
        for name in tqdm((*PRETRAINING, *DOWNSTREAM), "score", disable=None, leave=False)
    }


def shipped_metrics():
    """Returns the metrics of the backbone that ships with the package."""
    return read_json(files("minipeft") / "base" / METRICS)


def report(metrics, shipped):
    """Returns a table of exact match on test words, for this backbone and the shipped one."""
    lines = [f"{'exact match on test words':<28}{'this run':>10}{'shipped':>10}"]
    for name, score in metrics["test"].items():
        kind = "new" if name in DOWNSTREAM else ""
        exact, expected = score["exact"], shipped["test"][name]["exact"]
        lines.append(f"{name:<22}{kind:<6}{exact:>10.3f}{expected:>10.3f}")
    return "\n".join(lines)


def arguments(parser):
    """Adds the options of `minipeft pretrain` to its parser."""
    text = "folder to write to (default: %(default)s)"
    parser.add_argument("--out", default="backbone", help=text)
    text = "seed of the initial weights and of the batches (default: %(default)s)"
    parser.add_argument("--seed", type=int, default=0, help=text)
    text = "steps of AdamW (default: %(default)s)"
    parser.add_argument("--steps", type=int, default=TRAINING["steps"], help=text)
    parser.add_argument("--fast", action="store_true", help=f"a trial run of {FAST} steps")


def main(options):
    """Runs `minipeft pretrain`."""
    steps, words = (FAST, 100) if options.fast else (options.steps, None)
    metrics = pretrain(options.out, options.seed, steps, words)
    if metrics is None:
        raise KeyboardInterrupt
    print(report(metrics, shipped_metrics()))
    print(f"wrote {options.out}/ (config, model, vocabulary, metrics)")
