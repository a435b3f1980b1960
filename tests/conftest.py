"""Hypothesis profiles: `dev` by default, `ci` derandomised, `thorough` many more examples.

pytest --profile ci            pytest --profile thorough
"""

from hypothesis import HealthCheck, settings
from threadpoolctl import threadpool_limits

from minipeft.engine.backend import np, xp
from minipeft.train.data_parallel import IDLE

CALM = dict(
    deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
settings.register_profile("dev", max_examples=12, **CALM)
settings.register_profile("ci", max_examples=12, derandomize=True, **CALM)
settings.register_profile("thorough", max_examples=150, **CALM)


if xp is not np:  # the course, the figures and the ledger compute on the host
    host = "arguments checks figures kit ledger lessons mark readme shape_array"
    collect_ignore = [f"test_{name}.py" for name in host.split()]


def pytest_addoption(parser):
    parser.addoption("--profile", default="dev", choices=("dev", "ci", "thorough"))


def pytest_configure(config):
    IDLE.append("execnet")  # which runs the tests on several cores
    threadpool_limits(1)  # the models are too small for more
    settings.load_profile(config.getoption("--profile"))
