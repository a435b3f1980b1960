"""The command line: `minipeft compare`, `minipeft pretrain`, …; also `python -m minipeft`.

Bad input is one line on standard error and exit code 2.
"""

import argparse
import importlib
import sys

from . import __version__
from .errors import unknown

COMMANDS = {
    "count": "how many numbers a method trains, on a model of any size",
    "compare": "fine-tune the backbone by every method and show them side by side",
    "explain": "what a method would change in a model, and at what cost",
    "figures": "the project's pictures, each with its numbers beside it",
    "ledger": "where the bytes and FLOPs of fine-tuning go, for a model that is not built",
    "pretrain": "make the backbone from scratch",
}


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose complaint is one line that names the nearest option."""

    def error(self, message):
        """Exit with the message and code 2."""
        known = [name for action in self._actions for name in action.option_strings]
        start = "unrecognized arguments: "
        if message.startswith(start):
            message = unknown("option", message.removeprefix(start).split()[0], known)
        self.exit(2, f"{self.prog}: {message}\n")


def main(arguments=None):
    """Run one command of the command line; returns its exit code."""
    parser = Parser(prog="minipeft", description=__doc__.split("\n")[0], allow_abbrev=False)
    parser.add_argument("--version", action="version", version=__version__)
    parser.set_defaults(parser=parser)
    commands = parser.add_subparsers(dest="command", metavar="command", parser_class=Parser)
    for name, text in COMMANDS.items():
        module = importlib.import_module(f".lab.{name}", __package__)
        plain, about = argparse.RawDescriptionHelpFormatter, module.__doc__
        command = commands.add_parser(
            name, help=text, description=about, allow_abbrev=False, formatter_class=plain
        )
        module.arguments(command)
        command.set_defaults(run=module.main, parser=command)
    given = sys.argv[1:] if arguments is None else arguments
    if given and not given[0].startswith("-") and given[0] not in COMMANDS:
        parser.exit(2, f"minipeft: {unknown('command', given[0], COMMANDS)}\n")
    options, rest = parser.parse_known_args(given)
    if rest:
        options.parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if not options.command:
        parser.print_help()
        return 0
    return run(options)


def run(options):
    """Run a command; returns its exit code."""
    try:
        options.run(options)
        sys.stdout.flush()
        return 0
    except BrokenPipeError:  # whoever read the output has read enough
        sys.stdout = None
        return 0
    except (MemoryError, OverflowError) as error:
        text = f"this is larger than what the machine can count or hold ({error})"
        print(f"minipeft {options.command}: {text}; use smaller numbers", file=sys.stderr)
        return 2
    except (ValueError, OSError, FloatingPointError) as error:
        print(f"minipeft {options.command}: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        text = "interrupted; what is finished was kept, and the same command goes on from there"
        print(f"minipeft {options.command}: {text}", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
