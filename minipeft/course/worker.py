"""Runs the functions of a submission in a process of its own, for `minipeft mark`.

The marker writes one JSON object a line to the standard input, and reads one from the standard
output for each:

    {"load": source}                            -> {"names": functions} or {"failed": why}
    {"function", "arguments", "probe", "uses", "memory"}  -> {"value"} or {"failed": why}

each with the number of the request, so that nothing else is taken for a reply.

The marker draws the cases and compares the values. What is right is never computed here, so
there is nothing that a submission could read or replace to pass: all that it can send is an
answer.
"""

import importlib
import json
import os
import sys
import types

from .answers import asking
from .plain import CheckFailed, from_json, to_json


def main(memory):
    """Answers requests until there are no more; `memory` is the limit in bytes."""
    requests, replies = streams_of_our_own()
    limit_memory(memory)
    module = None
    for line in requests:
        request = json.loads(line)
        try:
            if "load" in request:
                module = loaded(request["load"])
                reply = {"names": [name for name, f in vars(module).items() if callable(f)]}
            else:
                reply = {"value": to_json(called(module, request))}
        except CheckFailed as failed:
            reply = {"failed": str(failed)}
        except BaseException as error:  # SystemExit and KeyboardInterrupt too
            reply = {"failed": f"your code raised {type(error).__name__}: {error}"}
        replies.write(json.dumps(reply | {"number": request["number"]}) + "\n")
        replies.flush()


def streams_of_our_own():
    """Returns standard input and output, which for the submission lead nowhere from now on."""
    ours = [os.dup(number) for number in (0, 1)]
    nowhere = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(nowhere, number)
    return [
        open(number, mode, encoding="utf-8") for number, mode in zip(ours, "rw", strict=True)
    ]


def limit_memory(nbytes):
    """Lets this process have so many bytes, where the system can limit them."""
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (nbytes, nbytes))
    except (ImportError, ValueError, OSError):
        pass


def loaded(source):
    """Returns a new module, in which the source was run."""
    module = sys.modules["submission"] = types.ModuleType("submission")
    exec(compile(source, "<submission>", "exec"), vars(module))
    return module


def called(module, request):
    """Returns what a function of the module returns for the arguments of a request."""
    probe = request["probe"]
    if probe:  # "autograd.taped_linear"
        lesson, name = probe.split(".")
        probe = getattr(importlib.import_module(f".{lesson}", __package__), name)
    ask = asking(getattr(module, request["function"]), request["uses"])
    return ask(from_json(request["arguments"]), probe, request["memory"])
