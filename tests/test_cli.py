"""The command line: bad input is one line and exit code 2, before anything is computed."""

import json
import os
import re
import subprocess
import sys
import types
import warnings

import pytest

from minipeft.__main__ import COMMANDS, main, plain_warnings
from minipeft.engine.backend import np, xp
from minipeft.lab import pretrain

BAD = {
    "comprae": "did you mean 'compare'",
    "compare --taks gerund": "did you mean '--tasks'",
    "--versoin": "did you mean '--version'",
    "compare --tasks cypher": "did you mean 'cipher'",
    "compare --tasks ,": "unknown task ''",
    "compare --tasks ": "unknown task ''",
    "compare --methods ": "unknown method ''",
    "compare --steps ": "--steps takes whole numbers",
    "compare --steps ²": "--steps takes whole numbers",
    "compare --seed -1": "seed must be a whole number ≥ 0, got -1",
    "compare --tune --lr 1": "not allowed",
    "compare --out /dev/null/x": "/dev/null/x/compare.json cannot be written",
    "compare --methods lorra": "did you mean 'lora'",
    "compare --seeds 0": "--seeds",
    "compare --steps many": "many",
    "compare --steps 0": "steps",
    "compare --lr -1": "lr must be",
    "compare --lr nan": "lr must be",
    "compare --jobs none": "--jobs",
    "compare --fast --full": "not allowed",
    "compare --words": "--words",
    "compare --data my.jsonl": "--data is of the comparison on a language model; give --model",
    "compare --heldout my.jsonl": "--heldout is of the comparison on a language model",
    "compare --batch 4": "--batch is of the comparison on a language model",
    "compare --quantize nf4": "--quantize is of the comparison on a language model",
    "compare --skip-long": "--skip-long is of the comparison on a language model",
    "compare --answers last": "--answers is of the comparison on a language model",
    "compare --system x": "--system is of the comparison on a language model",
    "explain --method lorra": "did you mean 'lora'",
    "explain --target q_proj": "did you mean '--targets'",
    "explain --r two": "--r",
    "explain --r 0": "r must be a whole number",
    "explain --set r": "NAME=VALUE",
    "explain --set lora_alpha=many": "lora_alpha must be a finite number, got 'many'",
    "explain --set lora_alpa=2": "did you mean 'lora_alpha'",
    "explain --set layers_to_transform=first": "layers_to_transform",
    'explain --set rank_pattern={"(":2}': "rank_pattern",
    "explain --base nowhere": "nowhere",
    "figures --only heroo": "did you mean 'hero'",
    "figures --only ": "unknown figure ''",
    "figures --out /dev/null/x": "/dev/null/x/hero.json cannot be written",
    "figures --redraw --out nowhere": "nowhere/hero.json",
    "ledger gpt2 --method frozn": "did you mean 'frozen'",
    "ledger gpt2 --plot /dev/null/x": "/dev/null/x cannot be written",
    "ledger gpt2 --plot x.nothing": "'nothing' is not supported",
    "pretrain --steps 0": "steps",
    "pretrain --seed -1": "seed must be a whole number ≥ 0, got -1",
    "pretrain --out /dev/null/x": "/dev/null/x/run.safetensors cannot be written",
    "pretrain --sed 1": "did you mean '--seed'",
}


HOST = xp is np  # the ledger runs there only


@pytest.mark.parametrize("line", [line for line in BAD if HOST or line[:6] != "ledger"])
def test_bad_input_is_one_line_and_exit_2(line, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    try:
        code = main(line.split(" "))
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


def test_explain_end_to_end(capsys):
    assert main("explain --method lora --targets q_proj,v_prj".split()) == 0
    text = capsys.readouterr().out
    assert "'v_prj' matches nothing; did you mean 'v_proj'" in text
    assert "3 × 1,280" in text and "trains 3,840 parameters" in text and "would refuse" in text
    assert main(["explain", "--method", "pfeiffer", "--set", "m=4"]) == 0
    assert "m=4" in (text := capsys.readouterr().out) and "attach would accept" in text
    assert main(["explain", "--targets", "q_proj,v_prj", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["parameters"] == sum(row["parameters"] for row in found["rows"]) == 3840
    assert "v_proj" in found["unmatched"]["v_prj"] and found["refused"]


def test_a_folder_in_place_of_a_file_is_heard_of_before_the_work(capsys, tmp_path):
    for place in ("compare.json", "compare.png", "compare.partial.json"):
        (tmp_path / place / "compare.png").mkdir(parents=True)
        assert main(["compare", "--out", str(tmp_path / place)]) == 2
        assert "compare.png cannot be written (a folder" in capsys.readouterr().err
        assert main(["compare", "--out", str(tmp_path)]) == 2
        assert f"{place} cannot be written (a folder" in capsys.readouterr().err
        (tmp_path / place / "compare.png").rmdir()
        (tmp_path / place).rmdir()


def test_compare_end_to_end(capsys, tmp_path):
    line = f"compare --fast --tasks elicit --methods prompt --steps 2 --jobs 1 --out {tmp_path}"
    assert main(line.split()) == 0
    assert f"wrote {tmp_path}/compare.json" in capsys.readouterr().out
    assert json.loads((tmp_path / "compare.json").read_text())["rows"][0]["method"] == "prompt"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["compare.json", "compare.png"]


def test_a_comparison_that_fails_on_the_way_is_one_line(tmp_path):
    line = f"compare --fast --methods lora,prompt --lr 1e30 --steps 3 --jobs 2 --out {tmp_path}"
    command = [sys.executable, "-m", "minipeft", *line.split()]
    found = subprocess.run(command, capture_output=True, text=True)
    assert found.returncode == 2 and found.stdout == ""
    assert found.stderr.startswith("minipeft compare: ") and found.stderr.count("\n") == 1
    assert re.search(r"(lora|prompt) on gerund: the loss is .* at step \d; ", found.stderr)
    assert not any(tmp_path.iterdir())


def test_a_reader_may_stop_reading():
    command = [sys.executable, "-m", "minipeft", "count", "--model", "gpt2"]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    child.stdout.close()
    assert (child.stderr.read(), child.wait()) == ("", 0)
    child.stderr.close()


def test_pretrain_end_to_end(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(pretrain, "FAST", 2)
    assert main(f"pretrain --fast --out {tmp_path}".split()) == 0
    assert "shipped" in capsys.readouterr().out
    files = sorted(p.name for p in tmp_path.iterdir())
    assert files == ["config.json", "metrics.json", "model.safetensors", "vocabulary.json"]


COUNT = "count --model gpt2 --method lora"
EDGES = {  # {what is odd: (flags of Python, words of the command, environment, exit code)}
    "an encoding of Windows": ([], "explain", {"PYTHONIOENCODING": "cp1252"}, 0),
    "an encoding without Greek": ([], "compare --help", {"PYTHONIOENCODING": "ascii"}, 0),
    "no docstrings": (["-OO"], COUNT, {}, 0),
    "no docstrings, help": (["-OO"], "figures --help", {}, 0),
    "no home": ([], COUNT, {"HOME": "", "MPLCONFIGDIR": "/proc/nowhere"}, 0),
    "no such backend of matplotlib": ([], COUNT, {"MPLBACKEND": "nowhere"}, 2),
    "no such backend": ([], COUNT, {"MINIPEFT_BACKEND": "nowhere"}, 2),
    "a value in many brackets": ([], f"explain --set r={'[' * 9999}", {}, 2),
    "a number of many digits": ([], f"explain --set r={'9' * 9999}", {}, 2),
}


@pytest.mark.parametrize("what", EDGES)
def test_odd_surroundings_are_an_answer_or_one_line(what):
    flags, words, environment, code = EDGES[what]
    command = [sys.executable, *flags, "-m", "minipeft", *words.split()]
    found = subprocess.run(command, capture_output=True, env=os.environ | environment)
    lines = [line for line in found.stderr.splitlines() if b"Matplotlib" not in line]
    assert found.returncode == code, found.stderr
    assert b"Traceback" not in found.stderr
    assert len(lines) == (code == 2) or "home" in what, found.stderr
    assert bool(found.stdout) == (code == 0)


@pytest.mark.parametrize("closed, code", [(">&-", 0), ("2>&-", 0), (">&- 2>&-", 0)])
def test_closed_output(closed, code):
    line = f"{sys.executable} -m minipeft {COUNT} {closed}"
    found = subprocess.run(["sh", "-c", line], capture_output=True)
    assert found.returncode == code and b"Traceback" not in found.stderr


@pytest.mark.parametrize("name", ["config.json", "adapter_config.json"])
def test_pretrain_writes_over_no_other_model(name, tmp_path, capsys):
    (tmp_path / name).write_text("{}")
    assert main(f"pretrain --fast --out {tmp_path}".split()) == 2
    assert f"holds another model or adapter ({name})" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_warning_is_one_line_without_the_code_behind_it():
    usual, about = warnings.formatwarning, ("it is so", UserWarning, "fit.py", 181)
    with plain_warnings():
        assert warnings.formatwarning(*about, line="warnings.warn(…)") == "minipeft: it is so\n"
    assert warnings.formatwarning is usual


@pytest.mark.parametrize("command", COMMANDS)
def test_only_a_command_that_goes_on_says_so(command, monkeypatch, capsys):
    def stopped(options):
        raise KeyboardInterrupt

    options = types.SimpleNamespace(run=stopped)
    monkeypatch.setattr("minipeft.__main__.parse", lambda arguments: options)
    assert main([command]) == 130
    goes_on = command in ("compare", "pretrain", "tune")
    assert ("the same command continues" in capsys.readouterr().err) == goes_on
