"""Every figure is measured, written with its numbers, and drawn from them alone."""

import itertools
import json
from pathlib import Path

import pytest
from matplotlib.text import Text

from minipeft.__main__ import main
from minipeft.lab import figures
from minipeft.lab.compare import GRID
from minipeft.lab.figures import (
    FIGURES,
    attention,
    curves,
    data,
    forgetting,
    hero,
    merge,
    ranks,
    spectrum,
    storage,
)
from minipeft.peft.methods import METHODS
from minipeft.text.words import DOWNSTREAM

FIGURES_THERE = Path(__file__).parents[1] / "figures"


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


def crowd():
    """Made-up numbers of the hero, for every method, after 300 and 1200 steps."""
    methods = {
        name: {
            "trainable": 100 + 150 * (i * 7 % len(METHODS)),
            "exact": {
                steps: {"0": less - 0.004 * (i % 11), "1": less - 0.003 * (i % 11)}
                for steps, less in (("300", 0.9), ("1200", 0.985))
            },
        }
        for i, name in enumerate(METHODS)
    }
    methods["full"] = {"trainable": 10**6, "exact": {"300": {"0": 0.95}, "1200": {"0": 0.99}}}
    return {"tasks": ["cipher"], "methods": methods}


def test_the_hero_stays_readable_with_every_method():
    numbers = crowd()
    (axes,) = hero.draw(numbers).axes
    axes.figure.draw_without_rendering()
    names = [text for text in axes.texts if text.get_text()]
    shown = {text.get_text() for text in names}
    methods = numbers["methods"]
    scores = hero.scores_of(methods, "1200")
    sizes = {name: point["trainable"] for name, point in methods.items()}
    assert shown >= {*hero.front(sizes, scores), *hero.best_of_families(scores)}
    boxes = [text.get_window_extent().padded(-0.1) for text in names]  # may touch
    assert not any(one.overlaps(two) for one, two in itertools.combinations(boxes, 2))
    points = [a.get_xydata()[0] for a in axes.lines if len(a.get_xdata()) == 1]
    assert len(points) == len({tuple(point) for point in points}) == len(METHODS)
    assert hero.in_words(numbers).startswith("Exact match")
    assert f"for {len(METHODS)} methods" in hero.in_words(numbers)


def test_the_staircase_has_the_methods_that_no_smaller_one_beats():
    sizes = {"a": 1, "b": 2, "c": 2, "d": 3, "e": 4}
    scores = {"a": 0.5, "b": 0.6, "c": 0.7, "d": 0.7, "e": 0.9}
    assert hero.front(sizes, scores) == ["a", "c", "e"]


def test_the_hero_says_which_method_is_enough():
    methods = {
        "full": {"trainable": 1000, "exact": {"5": {"0": 1.0}}},
        "lora": {"trainable": 50, "exact": {"5": {"0": 0.995, "1": 0.985}}},
        "ia3": {"trainable": 10, "exact": {"5": {"0": 0.5}}},
    }
    said = "lora reaches 0.99 with 5 % of the parameters, full fine-tuning 1.00"
    assert hero.message(methods, "5") == said
    methods["lora"]["exact"]["5"] = {"0": 0.6}
    assert hero.message(methods, "5").startswith("No method comes near full fine-tuning")


def numbers_of(name):
    return json.loads((FIGURES_THERE / f"{name}.json").read_text(encoding="utf-8"))


def test_a_title_changes_with_the_numbers():
    runs = {"full": [[1e-4, 0.5, 0.9], [1e-3, 0.9, 0.5]], "lora": [[1e-3, 0.7, 0.9]]}
    assert "\nLoRA forgets less than full" in forgetting.message("cipher", runs)
    runs["lora"] = [[1e-3, 0.7, 0.2], [1e-2, 0.1, 0.0]]  # the last one learns less: left out
    assert "\nfull fine-tuning forgets less than LoRA" in forgetting.message("cipher", runs)
    runs["lora"] = [[1e-3, 0.7, 0.69]]
    assert "forget as much" in forgetting.message("cipher", runs)
    runs["lora"] = [[1e-3, 0.4, 0.2]]
    assert "too differently" in forgetting.message("cipher", runs)

    exact = {method: {"16": [0.1], "4096": [0.2]} for method in data.METHODS}
    exact["ia3"] = {"16": [0.5, 0.3], "4096": [0.1]}
    exact["lora"]["4096"] = [0.9]
    said = data.message({"task": "cipher", "exact": exact})
    assert said == "cipher: ia3 is best with 16 words, lora with 4,096"

    found = {kind: {"lora": [1e-9, 0.0], "ia3": [1e-9, 0.0]} for kind in merge.TYPES}
    assert merge.message(found).startswith("Merging changes at most 0 of the letters")
    found["nf4"]["ia3"] = [0.1, 0.04]
    assert merge.message(found).endswith("bfloat16, up to 0.04 of them in nf4")

    tasks = {"elicit": {"exact": {"1": 0.95, "16": 1}}, "cipher": {"exact": {"1": 0, "16": 0}}}
    said = "Slots needed to reach 0.9:\nelicit 1, cipher more than 16"
    assert attention.message({"tasks": tasks}) == said

    left = {"1": [5.0, 5.0], "8": [0.5, 0.0]}
    assert "at most\n0.5 above" in ranks.message({"distance and floor": left})
    left["8"] = [1e-4, 0.0]
    assert "lands on the floor" in ranks.message({"distance and floor": left})
    right = {"task": "cipher", "exact": {"1": [1.0, 0.2], "2": [1.0, 0.99], "10": [0.99, 0.99]}}
    assert ranks.message_of_task(right).startswith("cipher: from rank 2 on every seed")
    right["exact"]["10"] = [0.5, 1.0]
    assert "at no rank" in ranks.message_of_task(right)

    methods = {
        "full": {"change": [2.0, 1.0, 0.5], "known": [0.9, 0.7, 0.1]},
        "lora": {"change": [2.0, 1e-9, 0.0], "known": [0.2, 0.3, 0.9]},
    }
    found = {"weight": [3.0, 2.0, 1.0], "methods": methods}
    assert spectrum.message(found) == "Directions that change, of 3:\nfull 3, lora 1"
    assert spectrum.message_of_intruders(found).endswith("\nfull 1, lora 2")

    found = {"full": {"bytes": 100, "seconds": 1e-3}, "lora": {"bytes": 7, "seconds": 5e-4}}
    found = {"methods": found, "tasks": 50, "seconds to read a model": 9e-3}
    assert storage.message(found).endswith("7 % of the bytes of 50 models")
    assert "at least 9 times" in storage.message_of_time(found)


def test_the_titles_of_the_curves_change_with_the_numbers():
    losses = {method: [1.0] * 30 for method in curves.METHODS}
    losses |= {"ia3": [2.0] * 15 + [0.1] * 15, "prefix": [0.5] * 15 + [3.0] * 15}
    grid = {method: [[0.001, 0.5], [0.01, 0.5]] for method in curves.METHODS}
    numbers = {"task": "cipher", "loss": losses, "rate and exact": grid}
    said = "cipher: ia3 ends with\nthe lowest loss, prefix with the highest"
    assert curves.message_of_losses(numbers) == said
    assert curves.message_of_rates(numbers) == "The best learning rate of all is 0.001"
    grid["lora"] = [[0.001, 0.5], [0.01, 0.6]]
    said = "The best learning rate is 0.001 for full,\n0.01 for lora"
    assert curves.message_of_rates(numbers) == said


SHIPPED = [name for name in FIGURES if name not in ("places", "family_tree", "hero")]


@pytest.mark.parametrize("name", SHIPPED)
def test_every_axis_and_title_says_something_and_nothing_is_clipped(name):
    """Of the numbers that ship; titles of panels side by side do not meet."""
    figure = FIGURES[name].draw(numbers_of(name))
    figure.draw_without_rendering()
    panels = [axes for axes in figure.axes if axes.get_title() or axes.get_xlabel()]
    titles = [axes.title.get_window_extent() for axes in panels]
    assert not any(one.overlaps(two) for one, two in itertools.combinations(titles, 2))
    for axes in panels:
        assert axes.get_title() or axes.get_title("left")
        assert axes.get_xlabel() or figure.get_supxlabel()
        names = axes.get_yticklabels()[0].get_text()
        assert axes.get_ylabel() or figure.get_supylabel() or names
    texts = [part for axes in panels for part in (axes.title, axes.yaxis.label)]
    for text in filter(Text.get_text, texts):
        box = text.get_window_extent()
        assert figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1, text.get_text()
        assert figure.bbox.y0 <= box.y0 and box.y1 <= figure.bbox.y1, text.get_text()


def test_bfloat16_is_rounded_to_nearest_even():
    a = figures.merge.np.array([1.0, 1 + 2**-8, 1 + 3 * 2**-8, -3.1415927], dtype="float32")
    assert figures.merge.bfloat16(a).tolist() == [1.0, 1.0, 1 + 2**-6, -3.140625]


def test_a_missing_comparison_is_a_clear_error(tmp_path, monkeypatch, capsys):
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert main(["figures", "--only", "hero", "--out", str(tmp_path)]) == 2
    assert "minipeft compare --full" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
