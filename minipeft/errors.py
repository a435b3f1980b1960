"""Error messages that say what was given, what was expected and what to do."""

import difflib


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


def check_whole(least, /, **numbers):
    """Raises ValueError for the first of the numbers that is not a whole number ≥ least."""
    for name, number in numbers.items():
        if type(number) is not int or number < least:
            raise ValueError(f"{name} must be a whole number ≥ {least}, got {number!r}")


def check_flag(**values):
    """Raises ValueError for the first of the values that is neither True nor False."""
    for name, value in values.items():
        if type(value) is not bool:
            raise ValueError(f"{name} must be True or False, got {value!r}")
