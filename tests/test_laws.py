"""Every method keeps every law, over drawn sizes, ranks, targets and both shapes."""

import pytest
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st

import minipeft as mp
from laws.case import Case
from laws.contract import LAWS
from methods import SPECS
from strategies import by_turns, configs


@st.composite
def cases(draw, name, shape):
    """A Case of a method."""
    config = draw(configs((shape,)))
    assume(config.width > 2)  # the norm of one number is constant, of two a step: no slope
    method, seed = draw(SPECS[name].draw(config)), draw(st.integers(0, 99))
    rows, tokens = draw(st.integers(1, 3)), draw(st.sampled_from([4, 5, 2, 1]))
    return Case(config, method, seed, rows=rows, tokens=tokens)


EXAMPLES = {"dev": 1, "ci": 1, "thorough": 20}  # of every law, method and shape


def pytest_generate_tests(metafunc):
    """Every law for every method: on both shapes if thorough, else by turns on one of them."""
    if metafunc.function is test_law:
        cases = by_turns(metafunc.config, mp.METHODS, ("gpt2", "llama"), LAWS)
        ids = [f"{name}-{shape}-{law}" for name, shape, law in cases]
        metafunc.parametrize("name, shape, law", cases, ids=ids)


def test_law(name, shape, law, request):
    """A law holds for a method; or it does not, and the exemption says why."""
    exempt = law in SPECS[name].exempt
    count = EXAMPLES[request.config.getoption("--profile")] + 10 * exempt
    phases = [Phase.generate] if exempt else list(Phase)  # what must fail need not be shrunk

    @settings(max_examples=count, suppress_health_check=list(HealthCheck), phases=phases)
    @given(cases(name, shape))
    def check(case):
        LAWS[law](case)

    if exempt:
        with pytest.raises((AssertionError, ValueError)):
            check()
    else:
        check()
