"""The comparison on a pretrained language model: each method learns the same conversations.

A ModelExperiment is a few plain values, and `measure_model` turns it into the same row of
results as `experiment.measure` does on words. What is measured differs in two places: an answer
is right if it holds the keywords that the held-out file names, and forgetting is the loss on a
text that has nothing to do with the conversations.
"""

import functools
import hashlib
import re
import statistics
import warnings
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from ..engine.backend import np, to_numpy
from ..engine.functional import IGNORE
from ..engine.tensor import no_grad
from ..errors import unknown
from ..io.pretrained import model_path
from ..peft.attach import attach, detach
from ..peft.merge import merge, unmerge
from ..train.data import Examples
from ..train.fit import Settings, evaluate
from .command_line import names_of_targets, with_targets
from .comparison_table import COMPARED
from .experiment import base_bytes, evenly, file_bytes, tape_bytes, tens, train
from .tune import SLOWER, chat_of, read_data

# what no conversation of a shop is about
UNRELATED = (
    "The river rises in the hills north of the village, where three springs meet under a "
    "row of old beeches. For the first mile it is so narrow that a child can step across "
    "it. Then the valley opens, and the water slows down and turns brown. In spring it "
    "floods the meadows, and herons stand in the grass. People used to build their mills "
    "here, because the current was strong enough to turn a wheel in every season but the "
    "driest. Two of them are still standing. One has become a museum, and the other grinds "
    "wheat for a bakery in the town. Further down, the river passes under a stone bridge "
    "with five arches. It was finished in the year of a great frost, when the mortar would "
    "not set, and the masons had to keep fires burning on both banks through the night. "
    "Below the bridge the tide can be felt. Twice a day the stream stops, thinks for a "
    "moment, and runs the other way."
)


@dataclass(frozen=True)
class ModelExperiment:
    """Says which method learns which conversations on which model, for how many steps."""

    model: str
    data: str
    heldout: str | None
    method: str
    steps: int
    lr: float
    seed: int = 0
    batch_size: int = 8
    bits: str | None = None
    system: str | None = None
    answers: str = "all"
    skip_long: bool = False
    targets: str | None = None
    virtual_tokens: int = 0  # the most that a method of the comparison takes, the same for all

    def __post_init__(self):
        if self.method not in COMPARED:
            raise ValueError(unknown("method", self.method, COMPARED))
        Settings(self.steps, self.batch_size, self.lr, seed=self.seed)  # raises if impossible


def on_targets(name, targets):
    """Returns the method of a name, `with_targets` as an option gives them, or None."""
    method = COMPARED[name]()
    return method if targets is None else with_targets(method, names_of_targets(targets))


def default_rate(method):
    """Returns the learning rate of a method on a language model, where none is given."""
    return getattr(COMPARED[method], "learning_rate", 3e-3) * SLOWER


def measure_model(experiment):
    """Runs an experiment; returns a JSON object: sizes in bytes, seconds, nats a token."""
    e = experiment
    before = untrained(replace(e, method="lora", steps=1, lr=1.0))  # which change nothing
    chat, data, test, questions = prepared(e)
    model = chat.model
    adapter = attach(model, on_targets(e.method, e.targets), rng=e.seed)
    history = train(model, data, e, e.data)
    written, right = judged(chat, questions)
    row = asdict(e) | before | {
        "kind": "model",
        "task": Path(e.data).stem,
        "trainable": adapter.count,
        "percent": 100 * adapter.count / model.config.size,
        "exact": statistics.fmean(right),
        "loss": evaluate(model, test).loss,
        "base_bytes": base_bytes(model),
        "old": unrelated_loss(chat),
        "seconds_per_step": statistics.median(history.seconds),
        "tape_bytes": tape_bytes(model, data, e),
        "file_bytes": file_bytes(model, adapter.name),
        "mergeable": adapter.method.mergeable and e.bits is None,
        "examples": some(questions, written, right),
        "curve": tens(history.loss),
    }  # fmt: skip
    row["merge_difference"] = merge_difference(chat, adapter) if row["mergeable"] else None
    detach(model, adapter.name)
    row["old_detached"] = unrelated_loss(chat)
    row["detached_is_base"] = row["old_detached"] == before["old_before"]
    return row


def prepared(e):
    """Returns (Chat, training Examples, held-out Examples, held-out conversations)."""
    chat = chat_of(e.model, e.system)
    how = dict(answers=e.answers, truncate=e.skip_long, virtual_tokens=e.virtual_tokens)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what is left out, which the command has told
        train, test, heldout = chat.data(*read_data(e.data, e.heldout), e.seed, **how)
    chat.read_model(e.bits)
    return chat, train, test, with_keywords(heldout)


@functools.cache
def untrained(e):
    """Returns what the model itself scores, the same for all methods."""
    chat, _, test, questions = prepared(e)
    return {
        "exact_before": statistics.fmean(judged(chat, questions)[1]),
        "loss_before": evaluate(chat.model, test).loss,
        "old_before": unrelated_loss(chat),
    }


def with_keywords(conversations):
    """Returns [(messages before the answer, keywords of a right answer, a right answer)].

    The keywords are those that the line of a conversation names, or else the answer itself.
    """
    found = []
    for conversation in conversations:
        words = conversation.about.get("keywords")
        if not isinstance(words, list) or not all(isinstance(w, str) and w for w in words):
            words = [conversation[-1]["content"]]
        found.append((list(conversation[:-1]), words, conversation[-1]["content"]))
    return found


def judged(chat, questions):
    """Returns (the greedy answers, whether each holds all of its keywords).

    An answer may have ten tokens more than the longest of the right ones.
    """
    longest = max(len(chat.tokenizer.encode(right)) for *_, right in questions)
    written = chat.answers([said for said, *_ in questions], longest + 10)
    pairs = zip(written, questions, strict=True)
    return written, [all(holds(answer, w) for w in words) for answer, (_, words, _) in pairs]


def holds(answer, word):
    """Returns whether an answer has a word in it, not as a part of a longer one.

    >>> holds("Within 47 days.", "47"), holds("Within 470 days.", "47")
    (True, False)
    """
    return re.search(rf"(?<!\w){re.escape(word)}(?!\w)", answer, re.IGNORECASE) is not None


def some(questions, written, right, n=3):
    """Returns [[question, answer, right?], …] of n conversations, evenly spread."""
    return [
        [questions[i][0][-1]["content"], written[i], bool(right[i])]
        for i in evenly(n, len(questions))
    ]


def unrelated_loss(chat):
    """Returns the loss on a text that is about something else, in nats a token."""
    most = chat.model.config.context // 2  # which leaves room for virtual tokens
    ids = np.array([chat.tokenizer.encode(UNRELATED)[: most + 1]])
    labels = ids[:, 1:].copy()
    labels[:, :8] = IGNORE  # what the text is about is not yet clear
    return evaluate(chat.model, Examples(ids[:, :-1], labels)).loss


def merge_difference(chat, adapter):
    """Returns the largest change of a logit of the unrelated text by merging."""
    ids = [chat.tokenizer.encode(UNRELATED)[: min(64, chat.model.config.context // 2)]]
    with no_grad():
        attached = to_numpy(chat.model(ids).data)
        receipt = merge(chat.model, adapter.name)
        merged = to_numpy(chat.model(ids).data)
    unmerge(receipt)
    return float(np.abs(merged - attached).max())


def identity(path):
    """Returns a digest of a file's content, or of the names and sizes in a model's folder."""
    path = model_path(path)
    if path.is_file():
        found = hashlib.sha256()
        with path.open("rb") as file:
            while part := file.read(1 << 20):
                found.update(part)
        return found.hexdigest()
    files = sorted(p for p in path.iterdir() if p.is_file())
    return {p.name: [p.stat().st_size, p.stat().st_mtime_ns] for p in files}
