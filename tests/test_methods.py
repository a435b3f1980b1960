"""What each spec says of its method's counts, files and options holds."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open

import minipeft as mp
from methods import SPECS
from spec import COUNTED, FILED
from strategies import configs, model

COUNTS = [(n, *count) for n, spec in SPECS.items() for count in spec.counts]
SAVED = [(n, *pair) for n, spec in SPECS.items() for pair in spec.saved]
WRONG = [(n, i) for n, spec in SPECS.items() for i in range(len(spec.wrong))]


def named(value):
    """How a method is called in the name of a test."""
    return str(value) if isinstance(value, mp.peft.base.Method) else None


def on(spec):
    """The shape of model on which a method's files are pinned: Llama's, if it can be."""
    return spec.shapes[-1]


@pytest.mark.parametrize("name, method, config, number", COUNTS, ids=named)
def test_it_trains_as_many_as_were_counted_by_hand(name, method, config, number):
    assert method.count(config) == number
    if config.width == COUNTED.width:
        assert mp.attach(model(config), method).count == number


@pytest.mark.parametrize("name, method, layout", SAVED, ids=named)
def test_names_and_shapes_in_a_file(name, method, layout, tmp_path):
    config = FILED[on(SPECS[name])]
    base = model(config)
    mp.attach(base, method, "a")
    path = mp.save_adapter(base, "a", tmp_path) / "adapter_model.safetensors"
    with safe_open(path, framework="numpy") as file:
        found = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}
    start = "base_model.model."
    short = {key.removeprefix(start).removeprefix("blocks.0."): s for key, s in found.items()}
    assert short == layout
    assert all(key.startswith(start) == ("." in key) for key in found)
    loaded = mp.load_adapter(model(config), tmp_path)
    assert type(loaded.method) is type(method.export_form())
    assert loaded.method == method.export_form()


@pytest.mark.parametrize("name, i", WRONG)
def test_wrong_options_are_refused(name, i):
    with pytest.raises(ValueError):
        SPECS[name].wrong[i]()


@pytest.mark.parametrize("name", SPECS)
@settings(max_examples=5, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_what_is_drawn_fits(name, data):
    spec = SPECS[name]
    config = data.draw(configs(spec.shapes))
    method = data.draw(spec.draw(config))
    assert type(method) is spec.method
    assert mp.attach(model(config), method).count == method.count(config)
