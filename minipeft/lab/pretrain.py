"""Making the backbone: a small transformer trained from scratch on the pretraining tasks.

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

BACKBONE = Config.gpt2(
    vocab=len(TOKENS), context=64, width=80, layers=3, heads=4, position="rope", init_std=0.05
)
TRAINING = dict(
    steps=6000, batch_size=64, lr=3e-3, warmup=100, betas=(0.9, 0.99), weight_decay=0.1
)
FAST = 60  # steps of a trial run
CHECKPOINT = "run.safetensors"  # removed when the run is complete


def pretrain(out, seed=0, steps=TRAINING["steps"], words=None):
    """Train the backbone; write it, its vocabulary and metrics to `out`; return the metrics.

    Goes on where an interrupted run in the same folder stopped; returns None if interrupted.
    One BLAS thread, so that a machine gives the same bits however many cores it lends.
    words: how many test words of each task to score (None: all).
    """
    out, settings = Path(out), TRAINING | {"steps": steps, "seed": seed}
    Settings(**settings)  # raises if any of them is impossible
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
        scores = measure(model, words)
    save_model(model, out)
    write_json(out / "vocabulary.json", {"tokens": TOKENS})
    metrics = {
        "command": f"minipeft pretrain --seed {seed} --steps {steps}",
        "settings": settings,
        "parameters": model.config.size,
        "numpy": np.__version__,
        "test": scores,
    }
    write_json(out / "metrics.json", metrics)
    (out / CHECKPOINT).unlink(missing_ok=True)
    return metrics


def measure(model, limit=None):
    """Scores of a backbone on test words, {task: {"loss": nats a letter, "exact": share}}."""
    return {
        name: asdict(evaluate(model, Task(name).examples("test", limit)))
        for name in tqdm((*PRETRAINING, *DOWNSTREAM), "score", disable=None, leave=False)
    }


def shipped_metrics():
    """The metrics beside the backbone that ships with the package."""
    return read_json(files("minipeft") / "base" / "metrics.json")


def report(metrics, shipped):
    """A table of exact match on test words, this backbone's beside the shipped one's."""
    lines = [f"{'exact match on test words':<28}{'this run':>10}{'shipped':>10}"]
    for name, score in metrics["test"].items():
        kind = "new" if name in DOWNSTREAM else ""
        line = (
            f"{name:<22}{kind:<6}{score['exact']:>10.3f}{shipped['test'][name]['exact']:>10.3f}"
        )
        lines.append(line)
    return "\n".join(lines)


def arguments(parser):
    """What `minipeft pretrain` understands."""
    parser.add_argument(
        "--out", default="backbone", help="folder to write to (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of weights and batches")
    parser.add_argument(
        "--steps", type=int, default=TRAINING["steps"], help="steps (default: %(default)s)"
    )
    parser.add_argument(
        "--fast", action="store_true", help=f"{FAST} steps only, to see that it runs"
    )


def main(options):
    """Run `minipeft pretrain`."""
    steps, words = (FAST, 100) if options.fast else (options.steps, None)
    metrics = pretrain(options.out, options.seed, steps, words)
    if metrics is None:
        raise KeyboardInterrupt
    print(report(metrics, shipped_metrics()))
    print(f"wrote {options.out}/ (config, model, vocabulary, metrics)")
