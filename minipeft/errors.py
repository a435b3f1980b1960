"""Error messages that say what was given, what was expected and what to do."""

import difflib


def unknown(kind, given, options):
    """One line for a name that does not exist, with the nearest ones that do.

    >>> unknown("method", "lorra", ["lora", "prefix"])
    "unknown method 'lorra'; did you mean 'lora'? There are: lora, prefix"
    """
    options = [str(option) for option in options]
    folded = {option.lower(): option for option in reversed(options)}
    near = difflib.get_close_matches(str(given).lower(), folded, n=3, cutoff=0.5)
    near = [folded[name] for name in near]
    hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else "."
    return f"unknown {kind} {str(given)!r}{hint} There are: {', '.join(options)}"


def check_known(kind, given, options):
    """Raise ValueError for the first of the given names that is none of the options."""
    for name in given:
        if name not in options:
            raise ValueError(unknown(kind, name, options))


def check_whole(least, /, **numbers):
    """Raise ValueError for the first of the named numbers that is no whole number ≥ least."""
    for name, number in numbers.items():
        if type(number) is not int or number < least:
            raise ValueError(f"{name} must be a whole number ≥ {least}, got {number!r}")


def check_flag(**values):
    """Raise ValueError for the first of the named values that is neither True nor False."""
    for name, value in values.items():
        if type(value) is not bool:
            raise ValueError(f"{name} must be True or False, got {value!r}")
