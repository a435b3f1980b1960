"""Talks to a pretrained language model, with adapters or without.

minipeft chat smollm2 --adapter support --adapter pirate

The answer appears word by word. A conversation begins with the system message that the adapter
in use was tuned with, if any, or else with --system. Commands, each on its own line:

    /use NAME [NAME …]   answer with these adapters, the first innermost
    /base                answer with the base alone
    /new                 forget the conversation
    /help, /quit         Ctrl-C quits, too

If the input is not a terminal, each line of it is a message.
"""

import sys

from ..engine.backend import np
from ..errors import check_whole, unknown
from ..io.checkpoint import load_adapter
from ..model.generate import Sampling, check_options, stream
from ..peft.attach import use
from ..peft.base import adapters, in_use
from .tune import add_text_options, check_adapter, load_chat, system_of

HELP = "/use NAME [NAME …], /base, /new, /quit"
COMMANDS = ("/use", "/base", "/new", "/help", "/quit")


class Dialogue:
    """A conversation that goes on: what was said, and how the model answers."""

    def __init__(self, chat, write, systems=(), **how):
        self.chat, self.write, self.how, self.said = chat, write, how, []
        self.usual, self.systems = chat.system, dict(systems)  # {adapter: its system message}

    def answer(self, text):
        """Write the model's answer to a message piece by piece, and remember both."""
        theirs = [self.systems.get(name) for name in in_use(self.chat.model)]
        self.chat.system = next((s for s in theirs if s is not None), self.usual)
        said = [*self.said, {"role": "user", "content": text}]
        prompt, tokenizer = self.chat.prompt(said), self.chat.tokenizer
        steps = stream(self.chat.model, [prompt], stop=self.chat.stop, **self.how)
        pieces = []
        for piece in tokenizer.stream((step[0] for step in steps), skip_special=True):
            self.write(piece)
            pieces.append(piece)
        self.write("\n")
        self.said = [*said, {"role": "assistant", "content": "".join(pieces).strip() or "…"}]

    def command(self, line):
        """Does what a line that begins with / says; returns False for /quit.

        Raises ValueError for an unknown command or adapter.
        """
        name, *words = line.split()
        model = self.chat.model
        if name == "/use":
            if not words:
                raise ValueError(f"/use needs a name; there are: {', '.join(adapters(model))}")
            use(model, words)
        elif name == "/base":
            use(model, None)
        elif name == "/new":
            self.said = []
        elif name == "/help":
            self.write(f"{HELP}; adapters: {', '.join(adapters(model)) or 'none'}\n")
        elif name != "/quit":
            raise ValueError(unknown("command", name, COMMANDS))
        if name in ("/use", "/base"):
            self.write(f"[{', '.join(in_use(model)) or 'base'}]\n")
        return name != "/quit"


def talk(dialogue, lines):
    """Answers each line, or does what it says, until /quit or the end of the lines."""
    for line in lines:
        line = line.strip()
        if not line:
            continue
        try:
            if not line.startswith("/"):
                dialogue.answer(line)
            elif not dialogue.command(line):
                return
        except ValueError as error:  # such as an unknown name, or a context that is full
            dialogue.write(f"[{error}]\n")


def typed_lines():
    """Yields the lines of the input, with a prompt on a terminal, until it ends."""
    on_terminal = sys.stdin is not None and sys.stdin.isatty()
    while sys.stdin is not None:
        if on_terminal:
            print("> ", end="", flush=True)
        line = sys.stdin.readline()
        if not line:
            return
        yield line


def arguments(parser):
    """Adds the options of `minipeft chat`."""
    add_text_options(parser)
    text = "folder of an adapter that `minipeft tune` wrote; may be repeated"
    parser.add_argument("--adapter", action="append", default=[], metavar="DIR", help=text)
    text = "most tokens of an answer (default: %(default)s)"
    parser.add_argument("--max-new", type=int, default=200, help=text)
    text = "0 takes the most likely token, more is more varied (default: %(default)s)"
    parser.add_argument("--temperature", type=float, default=0.0, help=text)
    parser.add_argument("--top-k", type=int, help="draw from so many tokens only")
    parser.add_argument("--top-p", type=float, help="draw from tokens of this probability")
    text = "above 1: avoid what was said already (default: %(default)s)"
    parser.add_argument("--repetition-penalty", type=float, default=1.0, help=text)
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")


def main(options):
    """Runs `minipeft chat`."""
    for folder in options.adapter:  # complain before a model is read
        check_adapter(folder, options.quantize)
    how = Sampling(
        options.temperature, options.top_k, options.top_p, options.repetition_penalty
    )._asdict()
    check_options(options.max_new, Sampling(**how), None, 0)
    check_whole(0, seed=options.seed)
    chat = load_chat(options.model, options.quantize, options.system)
    systems = {}
    for folder in options.adapter:
        systems[load_adapter(chat.model, folder).name] = system_of(folder)
    rng = np.random.default_rng(options.seed)
    dialogue = Dialogue(chat, write, systems, rng=rng, max_new=options.max_new, **how)
    if options.adapter:
        write(f"[{', '.join(in_use(chat.model))}]\n")
    try:
        talk(dialogue, typed_lines())
    except KeyboardInterrupt:  # which ends a conversation as /quit does
        write("\n")


def write(text):
    """Print a piece of text at once."""
    print(text, end="", flush=True)
