"""The command line: bad input is one line and exit code 2, before anything is computed."""

import json

import pytest

from minipeft import pretrain
from minipeft.__main__ import COMMANDS, main

BAD = {
    "comprae": "did you mean 'compare'",
    "compare --taks gerund": "did you mean '--tasks'",
    "compare --tasks cypher": "did you mean 'cipher'",
    "compare --methods lorra": "did you mean 'lora'",
    "compare --seeds 0": "--seeds",
    "compare --steps many": "many",
    "compare --steps 0": "steps",
    "compare --lr -1": "learning rate",
    "compare --lr nan": "learning rate",
    "compare --jobs none": "--jobs",
    "compare --fast --full": "not allowed",
    "compare --words": "--words",
    "pretrain --steps 0": "steps",
    "pretrain --sed 1": "did you mean '--seed'",
}


@pytest.mark.parametrize("line", BAD)
def test_bad_input_is_one_line_and_exit_2(line, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    try:
        code = main(line.split())
    except SystemExit as end:
        code = end.code
    out, err = capsys.readouterr()
    assert code == 2 and out == ""
    assert BAD[line] in err and err.count("\n") == 1
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("command", COMMANDS)
def test_help(command, capsys):
    with pytest.raises(SystemExit) as end:
        main([command, "--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    assert len(text.splitlines()) > 8


def test_no_command_prints_help(capsys):
    assert main([]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in COMMANDS)


def test_compare_end_to_end(capsys, tmp_path):
    line = f"compare --fast --tasks elicit --methods prompt --steps 2 --jobs 1 --out {tmp_path}"
    assert main(line.split()) == 0
    assert f"wrote {tmp_path}/compare.json" in capsys.readouterr().out
    assert json.loads((tmp_path / "compare.json").read_text())["rows"][0]["method"] == "prompt"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["compare.json", "compare.png"]


def test_pretrain_end_to_end(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(pretrain, "FAST", 2)
    assert main(f"pretrain --fast --out {tmp_path}".split()) == 0
    assert "shipped" in capsys.readouterr().out
    files = sorted(p.name for p in tmp_path.iterdir())
    assert files == ["config.json", "metrics.json", "model.safetensors", "vocabulary.json"]
