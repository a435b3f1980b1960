"""Ordered pairs of methods in use together: nothing done to one changes the other.

The profile `thorough` checks all pairs; the others an eighth of them, drawn with a seed.
"""

import pytest

import minipeft as mp
from laws.case import Case
from laws.several import check_pair
from minipeft.engine.backend import np

# wide enough for the defaults of every method
SIZES = dict(vocab=11, context=40, width=32, layers=1, heads=4, kv_heads=2, ffn=24)
CONFIG = mp.Config.gpt2(**SIZES)


SHARE = {"dev": 8, "ci": 8, "thorough": 1}  # one pair of so many


@pytest.mark.parametrize("first", mp.METHODS)
def test_two_methods_leave_each_other_right(first, request):
    order = np.random.default_rng(list(mp.METHODS).index(first)).permutation(list(mp.METHODS))
    for second in order[:: SHARE[request.config.getoption("--profile")]]:
        try:
            check_pair(Case(CONFIG, mp.METHODS[first]()), mp.METHODS[second]())
        except AssertionError as complaint:
            raise AssertionError(f"{first} below {second}: {complaint}") from None
