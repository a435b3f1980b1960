"""Checks of arguments, whose messages say what was given, what was expected and what to do."""

import difflib
import importlib
import os
import sys


class Refusal(ValueError):
    """What this package does not compute, or a file of another kind; the text says what to do.

    Of any other error about a file, `error_context` says that the file should be saved again.
    """


def unknown(kind, given, options):
    """Returns a message of one line for a name that does not exist, with the nearest that do.

    >>> unknown("method", "lorra", ["lora", "prefix"])
    "unknown method 'lorra'; did you mean 'lora'? There are: lora, prefix"
    """
    options = [str(option) for option in options]
    lower = {option.lower(): option for option in reversed(options)}
    nearest = difflib.get_close_matches(str(given).lower(), lower, n=3, cutoff=0.5)
    nearest = [lower[name] for name in nearest]
    hint = f"; did you mean {' or '.join(map(repr, nearest))}?" if nearest else "."
    return f"unknown {kind} {str(given)!r}{hint} There are: {', '.join(options)}"


def check_known(kind, given, options):
    """Raises ValueError for the first of the given names that is not among the options."""
    for name in given:
        if name not in options:
            raise ValueError(unknown(kind, name, options))


def to_python(value):
    """Returns NumPy's scalars and arrays as Python's types, and lists and sets as tuples.

    What is inside of them, or of a dict, is converted too.

    >>> to_python([{2, 1}, (3.0, True)])
    ((1, 2), (3.0, True))
    """
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, dict):
        return {to_python(key): to_python(item) for key, item in value.items()}
    if isinstance(value, (set, frozenset)):
        value = sorted(value, key=lambda item: (type(item).__name__, item))
    return tuple(map(to_python, value)) if isinstance(value, (list, tuple)) else value


def check_whole(least, /, **numbers):
    """Returns the numbers as Python's; ValueError for the first not whole or below `least`."""
    for name, number in numbers.items():
        numbers[name] = to_python(number)
        if type(numbers[name]) is not int or numbers[name] < least:
            raise ValueError(f"{name} must be a whole number ≥ {least}, got {number!r}")
    return list(numbers.values())


def check_flag(**values):
    """Raises ValueError for the first of the values that is neither True nor False."""
    for name, value in values.items():
        if type(to_python(value)) is not bool:
            raise ValueError(f"{name} must be True or False, got {value!r}")


def needed(module, what):
    """Returns a module of the extra `llm`; where it is missing, ValueError says what to do."""
    try:
        return importlib.import_module(module)
    except ImportError:
        message = f"{what} needs {module}: pip install 'minipeft[llm]'"
    raise ValueError(message)


def one_line(kind, error, traceback):
    """An excepthook: prints an error as one line, and ends the process with code 2.

    It is in place while the command line imports the package; Ctrl-C has code 130.
    """
    stopped = issubclass(kind, KeyboardInterrupt)
    print(
        "minipeft:", "interrupted" if stopped else " ".join(str(error).split()), file=sys.stderr
    )
    os._exit(130 if stopped else 2)


def is_command_line():
    """Returns whether this process is `minipeft …` or `python -m minipeft …`."""
    module = sys.orig_argv[sys.orig_argv.index("-m") + 1 :] if "-m" in sys.orig_argv else []
    return module[:1] == ["minipeft"] or os.path.basename(sys.argv[0]) == "minipeft"
