"""Calls a learner's function as a law asks for it, and refuses what is not an answer.

A function gets copies of the arguments, each time anew. It must return a plain value, the same
when it is called again, and must not write into its arrays. While it runs, no function of
minipeft may be called from it but those that the exercise names.

What can be noticed from inside the same process has limits: a function that copies the code
of the package, or reaches into this module, is not caught here.
"""

import os
import sys
import tracemalloc
from _thread import start_new_thread
from sys import setprofile

from ..engine.backend import np
from .plain import CheckFailed, alike, arrays_in, plain

PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
LIBRARIES = tuple(os.path.dirname(module.__file__) + os.sep for module in (os, np))
ESCAPES = {setprofile, start_new_thread, os._exit, os.abort, os.system}  # from being watched
ESCAPES |= {getattr(os, name) for name in ("fork", "posix_spawn") if hasattr(os, name)}


class Ended(Exception):
    """The process in which an answer was tried has ended, and the text says why."""


class Answer:
    """A learner's function as a law calls it: `answer(W, A, B, alpha)`.

    ask: a function (arguments, probe, memory) -> plain value, which raises CheckFailed, or
    Ended where no further call makes sense.
    """

    def __init__(self, ask):
        self.ask = ask
        self.calls = []  # (arguments, probe, what came of it)
        self.is_open = True  # it has done nothing yet but return None
        self.ended = ""  # why it cannot be called any more

    def __call__(self, *arguments, probe=None, memory=None):
        """Returns what the function returns, as a plain value.

        probe: a function (answer, *arguments) of this package that calls the answer in its
        place and returns plain values, for a lesson in which arguments or results are not.
        memory: the bytes that it may hold at a time.
        """
        if self.ended:
            raise CheckFailed(self.ended)
        try:
            result = self.ask(arguments, probe, memory)
            if result is not None and not alike(result, self.ask(arguments, probe, memory)):
                raise CheckFailed("your function gave two results for the same arguments")
        except Ended as ended:
            self.ended = str(ended)
            raise CheckFailed(self.ended) from None
        except CheckFailed as failed:
            result = failed
        if result is None:
            raise CheckFailed("your function returned None")
        self.is_open = False
        if memory is None:  # a large case takes long, and shows no other slip
            self.calls.append((arguments, probe, result))
        if isinstance(result, CheckFailed):
            raise result
        return result


def asking(function, uses=None):
    """Returns `ask` for an Answer: it calls the function in this process.

    uses: names in the package, 'engine.tensor' or 'engine.tensor.record', that the function may
    call; None for all of them, unwatched.
    """

    def ask(arguments, probe, memory):
        given = plain(arguments)
        before = arrays_in(given)

        def run():
            call_answer = of_the_learner(function)
            return probe(call_answer, *given) if probe else call_answer(*given)

        try:
            result = watched(run, uses, memory)
        except (CheckFailed, KeyboardInterrupt):
            raise
        except BaseException as error:  # SystemExit too
            raised = f"{type(error).__name__}: {error}".removesuffix(": ")
            raise CheckFailed(f"your function raised {raised}") from None
        for now, array in zip(before, arrays_in(arguments), strict=True):
            if now.shape != array.shape or now.tobytes() != array.tobytes():
                name = name_of_argument(function, arguments, array)
                raise CheckFailed(f"your function wrote into {name}; make a new array instead")
        return plain(result)

    return ask


def of_the_learner(function):
    """Returns the function in a frame that counts as the learner's, though it is written here.

    Otherwise a function of the package, given as the answer, would be called by the package.
    """

    def answer(*arguments):
        result = function(*arguments)
        return None if result is Ellipsis else result

    return answer


LEARNER = of_the_learner(None).__code__


def name_of_argument(function, arguments, array):
    """Returns what the learner calls the argument that holds an array."""
    code = getattr(function, "__code__", None)
    names = code.co_varnames[: code.co_argcount] if code else ()
    for i, argument in enumerate(arguments):
        if any(array is held for held in arrays_in(argument)):
            return names[i] if i < len(names) else f"argument {i + 1}"
    return "its arguments"


def watched(run, uses, memory):
    """Returns run(); CheckFailed if it called what it may not, or held too many bytes."""
    if uses is None:
        return run()
    refused = []

    def profile(frame, event, called):
        name = ""
        if event == "call":
            name = name_in_package(frame.f_code)
            if name and (from_inside(frame.f_back) or allowed(name, uses)):
                return
        elif event == "c_call" and called in ESCAPES and not name_in_package(frame.f_code):
            name = called.__name__
        if name:
            refused.append(name)
            raise CheckFailed(f"your function calls {name}; write it without")

    usual = sys.getprofile()
    setprofile(profile)
    try:
        return within(memory, run)
    finally:
        setprofile(usual)
        if refused:  # raised here, as the function may have caught it
            raise CheckFailed(f"your function calls {refused[0]}; write it without")


def within(memory, run):
    """Returns run(); raises CheckFailed if it held more bytes at a time than `memory`."""
    if memory is None:
        return run()
    was_tracing = tracemalloc.is_tracing()
    tracemalloc.start()
    tracemalloc.reset_peak()
    held, _ = tracemalloc.get_traced_memory()
    try:
        result = run()
        peak = tracemalloc.get_traced_memory()[1] - held
    finally:
        if not was_tracing:
            tracemalloc.stop()
    if peak > memory:
        text = f"your function held {peak:,} bytes at a time, as it made a large matrix"
        raise CheckFailed(f"{text}; it takes fewer than {memory:,}")
    return result


def name_in_package(code):
    """Returns 'engine.tensor.record' for the code of that function; "" outside of minipeft."""
    if not code.co_filename.startswith(PACKAGE):
        return ""
    path = code.co_filename[len(PACKAGE) :].removesuffix(".py")
    return f"{path.replace(os.sep, '.')}.{code.co_name}"


def from_inside(caller):
    """Returns whether a call comes from the package's own code, not from the learner's.

    Frames of the standard library and of NumPy in between belong to whoever called those.
    """
    while caller and is_of_a_library(caller.f_code):
        caller = caller.f_back
    return bool(caller and caller.f_code is not LEARNER and name_in_package(caller.f_code))


def allowed(name, uses):
    """Returns whether a function may be called; importing a module always may."""
    if name.endswith(".<module>") or name == f"course.answers.{LEARNER.co_name}":
        return True
    return any(f"{name}.".startswith(f"{use}.") for use in uses)


def is_of_a_library(code):
    """Returns whether a function is of the standard library or of NumPy.

    The package may be installed inside of the folder of the standard library.
    """
    return code.co_filename.startswith(LIBRARIES) and not name_in_package(code)
