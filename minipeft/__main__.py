"""The command line: `minipeft compare`, `minipeft count`, …; also `python -m minipeft`.

Exit codes: 0 success, 2 bad input, with one line on standard error, 130 interrupted by Ctrl-C.
"""

import argparse
import contextlib
import importlib
import sys
import textwrap
import warnings

from . import __version__
from .errors import unknown

GO_ON = ("compare", "pretrain", "tune")  # what keeps finished work when it is interrupted
COMMANDS = {
    "chat": "talk to a pretrained language model, with adapters or without",
    "count": "how many parameters a method trains, on a model of any size",
    "compare": "fine-tune the backbone by every method and compare the results",
    "explain": "what a method would change in a model, and at what cost",
    "figures": "the project's figures, each with its data in a file beside it",
    "ledger": "the bytes and FLOPs of a training step, for a model of any size",
    "mark": "mark students' answers to the lessons, each in a process of its own",
    "merge": "add an adapter to a pretrained model's weights, and write the result",
    "pretrain": "train the backbone from scratch",
    "tune": "fine-tune a pretrained language model on conversations",
}


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose error message is one line, with the nearest option's name."""

    def error(self, message):
        """Print the message to standard error and exit with code 2."""
        known = [name for action in self._actions for name in action.option_strings]
        prefix = "unrecognized arguments: "
        if message.startswith(prefix):
            message = unknown("option", message.removeprefix(prefix).split()[0], known)
        self.exit(2, f"{self.prog}: {message}\n")


def main(arguments=None):
    """Run the command that the arguments name, by default sys.argv. Returns its exit code.

    An error that the user can mend becomes one line on standard error, without a traceback.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a letter that its encoding lacks becomes "?"
            stream.reconfigure(errors="replace")
    sys.excepthook = sys.__excepthook__  # see errors.one_line
    arguments = sys.argv[1:] if arguments is None else arguments
    name = next((word for word in arguments if not word.startswith("-")), "")
    try:
        options = parse(arguments)
        if options is not None:
            with plain_warnings():
                options.run(options)
        if sys.stdout is not None:
            sys.stdout.flush()
        return 0
    except BrokenPipeError:  # the reader of the output, such as `head`, has stopped reading
        sys.stdout = None
        return 0
    except (MemoryError, OverflowError) as error:
        text = f"this is larger than what the machine can count or hold in memory ({error})"
        return complain(name, f"{text}; use smaller sizes", 2)
    except (ValueError, OSError, FloatingPointError) as error:
        return complain(name, error, 2)
    except KeyboardInterrupt:
        kept = "; finished work was kept, and the same command continues from it"
        return complain(name, f"interrupted{kept if name in GO_ON else ''}", 130)


@contextlib.contextmanager
def plain_warnings():
    """Inside the block a warning is printed as one line, without the code that gave it."""
    usual = warnings.formatwarning
    warnings.formatwarning = lambda message, *_, **__: f"minipeft: {message}\n"
    try:
        yield
    finally:
        warnings.formatwarning = usual


def complain(name, error, code):
    """Print an error of a command as one line to standard error. Returns the exit code."""
    if sys.stderr is not None:
        text = textwrap.shorten(str(error), 1000, placeholder=" …")
        print(f"minipeft {name}: {text}", file=sys.stderr)
    return code


def parse(arguments):
    """Returns the parsed options, or None if there is no command: then the help was printed."""
    about = (__doc__ or "The command line").partition("\n")[0]  # no docstrings under -OO
    parser = Parser(prog="minipeft", description=about, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=__version__)
    parser.set_defaults(parser=parser)
    commands = parser.add_subparsers(dest="command", metavar="command", parser_class=Parser)
    for name, summary in COMMANDS.items():
        room = "course" if name == "mark" else "lab"
        module = importlib.import_module(f".{room}.{name}", __package__)
        command = commands.add_parser(
            name,
            help=summary,
            description=module.__doc__,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.arguments(command)
        command.set_defaults(run=module.main, parser=command)
    if arguments and not arguments[0].startswith("-") and arguments[0] not in COMMANDS:
        parser.exit(2, f"minipeft: {unknown('command', arguments[0], COMMANDS)}\n")
    options, extra = parser.parse_known_args(arguments)
    if extra:
        options.parser.error(f"unrecognized arguments: {' '.join(extra)}")
    if not options.command:
        parser.print_help()
        return None
    return options


if __name__ == "__main__":
    sys.exit(main())
