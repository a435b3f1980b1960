"""What the pages show works: the example, the commands, the links, and the generated parts."""

import re
import shlex

import pytest

from minipeft.__main__ import COMMANDS, main
from tools import readme

PAGES = {page: (readme.ROOT / page).read_text(encoding="utf-8") for page in readme.PAGES}
README = PAGES["README.md"]
SHOWN = dict.fromkeys(re.findall(r"`python -m minipeft ([^`]*)`", README))
QUICK = [line for line in SHOWN if line.split()[0] in ("explain", "count", "ledger")]


def test_the_example_prints_what_is_shown(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code = readme.example_code(README)
    assert len(code.splitlines()) == 12
    exec(code, {})
    shown = re.search(r"```text\n(.*?)```", README, re.S)[1]
    assert readme.same_output(shown, capsys.readouterr().out)
    assert {p.name for p in (tmp_path / "gerund-adapter").iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }


def test_outputs_are_the_same_to_two_percentage_points():
    assert readme.same_output("10 words: 95.0%\n", "10 words: 96.9%\n")
    assert not readme.same_output("10 words: 95.0%\n", "10 words: 92.9%\n")
    assert not readme.same_output("10 words: 95.0%\n", "11 words: 95.0%\n")
    assert not readme.same_output("95.0%\n", "95.0%\n0.0%\n")


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 150


def test_every_command_is_shown():
    assert {line.split()[0] for line in SHOWN} == COMMANDS.keys()


@pytest.mark.parametrize("line", QUICK)
def test_a_command_runs_as_printed(line, capsys):
    assert main(shlex.split(line)) == 0
    assert capsys.readouterr().out


@pytest.mark.parametrize("page", [*PAGES, "lessons/README.md"])
def test_links_lead_somewhere(page):
    path = readme.ROOT / page
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", path.read_text(encoding="utf-8")):
        name, _, heading = target.partition("#")
        file = path.parent / name if name else path
        assert file.exists(), target
        if heading:
            titles = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.M)
            assert heading in [title.lower().replace(" ", "-") for title in titles], target


def test_every_part_stands_once_between_its_markers():
    begun = [name for text in PAGES.values() for name in re.findall(r"<!-- begin (\w+)", text)]
    ended = [name for text in PAGES.values() for name in re.findall(r"<!-- end (\w+)", text)]
    assert begun == ended and sorted(begun) == sorted(readme.PARTS)


def test_a_part_is_rewritten_and_nothing_else():
    page = "Hand.\n<!-- begin one -->\nold\n<!-- end one -->\nHand.\n"
    new = readme.written(page, {"one": lambda: "new", "two": lambda: "not here"})
    assert new == page.replace("old", "new")


@pytest.mark.parametrize("stale", [False, True])
def test_check_finds_what_is_out_of_date(stale, tmp_path, monkeypatch, capsys):
    page = tmp_path / "page.md"
    page.write_text(f"<!-- begin one -->\n{'old' if stale else 'new'}\n<!-- end one -->\n")
    monkeypatch.setattr(readme, "ROOT", tmp_path)
    monkeypatch.setattr(readme, "PAGES", ["page.md"])
    monkeypatch.setattr(readme, "PARTS", {"one": lambda: "new"})
    before = page.read_text()
    monkeypatch.setattr("sys.argv", ["readme.py", "--check"])
    assert readme.main() == stale
    assert page.read_text() == before
    assert ("page.md" in capsys.readouterr().err) == stale
    monkeypatch.setattr("sys.argv", ["readme.py"])
    assert readme.main() == 0 and "new" in page.read_text()
