"""The diagram of where methods attach is measured, and shows all of them."""

import pytest

from minipeft.lab import plots
from minipeft.lab.figures import places
from minipeft.peft.methods import METHODS

MATRICES = {f"attn.{m}_proj" for m in "qkvo"} | {"mlp.up_proj", "mlp.down_proj"}


@pytest.fixture(scope="module")
def measured():
    return places.measure()


@pytest.fixture
def where(measured):
    """{method: {place: what}}."""
    return {name: there for _, _, there, names in measured["rows"] for name in names}


def test_every_method_has_one_row(measured):
    names = [name for row in measured["rows"] for name in row[3]]
    assert sorted(names) == sorted(METHODS)
    assert all(METHODS[name].family == row[0] for row in measured["rows"] for name in row[3])


def test_methods_are_where_their_papers_put_them(where):
    assert where["lora"] == dict.fromkeys(MATRICES, "f")
    assert where["ia3"] == dict.fromkeys(["attn.k_proj", "attn.v_proj", "mlp.down_proj"], "f")
    assert where["adapter"] == {"attn": "f", "mlp": "f"}
    assert where["pfeiffer"] == {"mlp": "f"}
    assert where["prompt"] == {"start": "f"} and where["prefix"] == {"cache": "f"}
    assert where["llama-adapter"] == {"attn.attend": "f"}
    assert where["head"] == {"lm_head": "W"}
    assert where["norms"] == dict.fromkeys(["ln_1", "ln_2", "ln_f"], "γβ")
    assert where["bitfit"] == dict.fromkeys(MATRICES, "b") | dict.fromkeys(where["norms"], "β")
    assert set(where["full"]) == MATRICES | set(where["norms"]) | {"wte", "lm_head"}


def test_methods_that_leave_blocks_out_say_so(measured):
    notes = {name: row[1] for row in measured["rows"] for name in row[3]}
    assert notes.pop("last-k") == "last block" and notes["lora"] == ""


def test_a_path_without_a_place_is_an_error():
    assert places.place("blocks.12.mlp.gate_proj") == "mlp.up_proj"
    assert places.place("blocks.0") == ""
    with pytest.raises(ValueError, match=r"no place for blocks\.0\.attic"):
        places.place("blocks.0.attic")


def assert_nothing_is_clipped(figure):
    figure.draw_without_rendering()
    whole = figure.bbox
    for text in figure.axes[0].texts:
        box = text.get_window_extent()
        assert whole.x0 <= box.x0 and box.x1 <= whole.x1, text.get_text()
        assert whole.y0 <= box.y0 and box.y1 <= whole.y1, text.get_text()


def names_in(figure):
    """The methods that have a row below the model."""
    rows = [text.get_text() for text in figure.axes[0].texts if text.get_position()[1] < 0]
    return {*METHODS} & {*" ".join(rows).replace(",", " ").split()}


def test_the_picture_names_every_method_and_nothing_is_clipped(measured):
    figure = places.draw(measured)
    assert_nothing_is_clipped(figure)
    assert names_in(figure) == {*METHODS}


def lit_boxes(figure):
    """How many boxes of the model are coloured."""
    light = plots.to_rgb(places.LIT)
    return sum(patch.get_facecolor()[:3] == light for patch in figure.axes[0].patches)


def test_a_few_methods_are_shown_alone_and_their_places_lit():
    figure = places.lit("lora", "ia3", "prefix", "lora")
    assert_nothing_is_clipped(figure)
    assert names_in(figure) == {"lora", "ia3", "prefix"}
    assert lit_boxes(figure) == len(MATRICES | {"cache"})
    assert figure.get_figwidth() * 100 <= 900 and figure.get_figheight() < 5
    one = places.lit("head")
    assert_nothing_is_clipped(one)
    assert names_in(one) == {"head"} and lit_boxes(one) == 1


def test_methods_that_are_not_there_are_refused():
    with pytest.raises(ValueError, match="did you mean 'dora'"):
        places.lit("dorra")
    with pytest.raises(ValueError, match="got none"):
        places.lit()
