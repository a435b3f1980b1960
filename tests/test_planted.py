"""Each planted bug is caught by the law that it names, and the real code is not."""

import pytest

from bugs import BUGS
from planted import caught, check, law_name, planted, table

every_bug = pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.what)


@every_bug
def test_a_planted_bug_is_caught(bug):
    assert caught(bug), f"law {bug.law}, {law_name(bug)}, let it pass"


def test_the_laws_have_nothing_against_the_real_code():
    for bug in {(bug.law, bug.config, bug.method): bug for bug in BUGS}.values():
        check(bug)


def test_there_are_enough_bugs_and_every_law_catches_some():
    assert len(BUGS) >= 92
    assert {bug.law for bug in BUGS} == set(range(1, 22))
    assert len({bug.what for bug in BUGS}) == len(BUGS)


def test_a_bug_that_is_not_caught_would_show(monkeypatch):
    monkeypatch.setattr("bugs.BUGS", BUGS[:1])
    assert "**none**" not in table()
    monkeypatch.setattr("planted.check", lambda bug, seed: None)
    assert "**none**" in table()


def test_planting_leaves_no_trace_and_refuses_what_is_not_there():
    bug = BUGS[0]
    with pytest.raises(RuntimeError), planted(bug.module, bug.right, bug.wrong):
        raise RuntimeError
    check(bug)
    with (
        pytest.raises(LookupError, match=r"minipeft\.model\.layers: .* is there 0 times"),
        planted("model.layers", "'no such text'", "''"),
    ):
        pass
