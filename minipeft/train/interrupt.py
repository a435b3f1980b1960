"""Ctrl-C: the first one ends a run after the step at hand, so that nothing is lost."""

import contextlib
import signal
import threading


@contextlib.contextmanager
def first_ctrl_c():
    """Inside the block the first Ctrl-C only sets the Event that is yielded.

    A second one raises KeyboardInterrupt, as everywhere else.
    """
    pressed = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield pressed  # as signals reach the main thread only
        return

    def on_first(*_):
        pressed.set()
        signal.signal(signal.SIGINT, usual_handler)

    usual_handler = signal.signal(signal.SIGINT, on_first)
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, usual_handler)
