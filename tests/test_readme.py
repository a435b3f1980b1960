"""What the README shows works: its example, its commands, its links."""

import re
import shlex
from pathlib import Path

import pytest

from minipeft.__main__ import COMMANDS, main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SHOWN = dict.fromkeys(re.findall(r"`python -m minipeft ([^`]*)`", README))
QUICK = [line for line in SHOWN if line.split()[0] in ("explain", "count", "ledger")]


def test_the_example_runs_as_printed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code = re.search(r"<!-- example -->\n```python\n(.*?)```", README, re.S).group(1)
    assert len(code.splitlines()) == 12
    exec(code, {})
    learnt, base = map(float, re.findall(r"exact=([0-9.]+)", capsys.readouterr().out))
    assert learnt > 0.8 and base == 0.0
    assert {p.name for p in (tmp_path / "gerund-adapter").iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }


def test_every_command_is_shown():
    assert {line.split()[0] for line in SHOWN} == COMMANDS.keys()


@pytest.mark.parametrize("line", QUICK)
def test_a_command_runs_as_printed(line, capsys):
    assert main(shlex.split(line)) == 0
    assert capsys.readouterr().out


def test_links_lead_somewhere():
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
