"""What takes more than two seconds tells how far it is, on a terminal and nowhere else."""

import io
import itertools
import sys

import pytest

import minipeft as mp
from minipeft.train.data import Examples
from strategies import model

CONFIG = mp.Config.gpt2(vocab=9, context=16, width=4, layers=1, heads=2)
DATA = Examples([[1, 2, 3]] * 4, [[2, 3, 4]] * 4)
LONG = {
    "generate": lambda net: mp.generate(net, [[1, 2]], 6),
    "evaluate": lambda net: mp.evaluate(net, DATA, batch_size=1),
    "fit": lambda net: mp.fit(net, DATA, steps=4, batch_size=2),
}


class Terminal(io.StringIO):
    """Written to as if somebody looked at it."""

    def isatty(self):
        """It is one."""
        return True


@pytest.mark.parametrize("name", LONG)
@pytest.mark.parametrize("seconds", [0, 3])
@pytest.mark.parametrize("output", [Terminal, io.StringIO])
def test_progress_is_told_on_a_terminal(name, output, seconds, monkeypatch):
    shown, clock = output(), itertools.count(0, seconds)
    monkeypatch.setattr(sys, "stderr", shown)
    monkeypatch.setattr("tqdm.std.time", lambda: next(clock))
    LONG[name](model(CONFIG))
    long = seconds or name == "fit"  # which shows its loss from the first step
    assert (f"{name}: " in shown.getvalue()) == (output is Terminal and bool(long))
