"""Ctrl-C as a wish to stop soon, so that nothing is lost."""

import contextlib
import signal
import threading


@contextlib.contextmanager
def ending_on_ctrl_c():
    """Inside the block the first Ctrl-C sets the event that is given; a second interrupts."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked  # signals reach the main thread only
        return

    def note(*_):
        asked.set()
        signal.signal(signal.SIGINT, before)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, before)
