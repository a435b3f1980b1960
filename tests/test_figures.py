"""Every figure is measured, written with its numbers, and drawn from them alone."""

import itertools

import pytest

from minipeft.__main__ import main
from minipeft.lab import figures
from minipeft.lab.compare import GRID
from minipeft.lab.figures import FIGURES, curves, hero
from minipeft.peft.methods import METHODS
from minipeft.text.words import DOWNSTREAM


@pytest.fixture(autouse=True)
def comparison(monkeypatch):
    """Made-up results of the long comparison and of the learning rates."""
    rows = [
        {"method": m, "task": t, "steps": steps, "seed": seed, "trainable": 100 * i + 100,
         "exact": 0.04 * i, "curve": [2.0 / (1 + n) for n in range(0, steps, 10)]}
        for (i, m), t, steps, seed in itertools.product(
            enumerate(METHODS), DOWNSTREAM, (30, 120), range(3))
    ]  # fmt: skip
    scores = [[t, m, lr, lr, 1.0] for t, m, lr in itertools.product(DOWNSTREAM, METHODS, GRID)]
    monkeypatch.setattr(hero, "long_comparison", lambda: rows)
    monkeypatch.setattr(curves, "long_comparison", lambda: rows)
    monkeypatch.setattr(curves, "shipped_rates", lambda: {"scores": scores, "rates": {}})


@pytest.mark.parametrize("name", ["hero", "curves", "memory", "storage"])
def test_a_figure_is_drawn_from_its_numbers(name, tmp_path):
    assert main(f"figures --only {name} --fast --out {tmp_path}".split()) == 0
    picture = (tmp_path / f"{name}.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    (tmp_path / f"{name}.png").unlink()
    assert main(f"figures --only {name} --redraw --out {tmp_path}".split()) == 0
    assert (tmp_path / f"{name}.png").read_bytes() == picture


def test_every_figure_says_what_it_shows(capsys):
    with pytest.raises(SystemExit):
        main(["figures", "--help"])
    text = capsys.readouterr().out
    assert all(
        f"{name}: {module.__doc__.splitlines()[0]}" in text for name, module in FIGURES.items()
    )


def test_the_hero_has_the_mean_of_the_tasks():
    found = hero.measure()["methods"]["lora"]["exact"]
    assert found["120"] == {
        str(seed): pytest.approx(0.04 * [*METHODS].index("lora")) for seed in range(3)
    }


def test_bfloat16_is_rounded_to_nearest_even():
    a = figures.merge.np.array([1.0, 1 + 2**-8, 1 + 3 * 2**-8, -3.1415927], dtype="float32")
    assert figures.merge.bfloat16(a).tolist() == [1.0, 1.0, 1 + 2**-6, -3.140625]


def test_a_missing_comparison_is_a_clear_error(tmp_path, monkeypatch, capsys):
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert main(["figures", "--only", "hero", "--out", str(tmp_path)]) == 2
    assert "minipeft compare --full" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
