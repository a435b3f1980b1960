"""What is saved and what comes back: names as in HF PEFT, the same bits, on the right base."""

import json

import pytest
from safetensors import safe_open

import minipeft as mp
from methods import SPECS
from minipeft.engine.backend import np, to_numpy, xp
from minipeft.engine.tensor import no_grad
from minipeft.peft.base import adapters, in_use
from strategies import batch, model

SIZES = dict(vocab=11, context=16, width=8, layers=2, heads=4, kv_heads=2, ffn=6, init_std=0.3)
SHAPES = {"gpt2": mp.Config.gpt2(**SIZES), "llama": mp.Config.llama(**SIZES)}
METHODS = {name: spec.small for name, spec in SPECS.items()}
ON = [(name, shape) for name, spec in SPECS.items() for shape in spec.shapes]
every_method = pytest.mark.parametrize("name", [name for name, s in ON if s == "llama"])
both_shapes = pytest.mark.parametrize("shape", SHAPES)


def attached(name, shape="llama", seed=0):
    """(model, adapter with random weights)."""
    net = model(SHAPES[shape], precision="float32")
    adapter = mp.attach(net, METHODS[name], "saved", rng=seed)
    rng = np.random.default_rng(seed)
    for p in adapter.parameters():
        p.data = xp.asarray(rng.standard_normal(p.shape), dtype=p.dtype)
    return net, adapter


def logits(net):
    """Logits of some batch."""
    with no_grad():
        return to_numpy(net(batch(net.config)[0]).data)


def contents(folder, file="adapter_model.safetensors"):
    """{(name, shape)} in a file."""
    with safe_open(folder / file, framework="numpy") as arrays:
        return {(key, tuple(arrays.get_slice(key).get_shape())) for key in arrays.keys()}


@pytest.mark.parametrize("name, shape", ON)
def test_what_is_loaded_computes_and_is_saved_as_what_was(name, shape, tmp_path):
    net, adapter = attached(name, shape)
    one, two = tmp_path / "one", tmp_path / "two"
    assert mp.save_adapter(net, "saved", one) == one
    fresh = model(SHAPES[shape], precision="float32")
    loaded = mp.load_adapter(fresh, one)
    assert loaded.name == "one" and list(in_use(fresh)) == ["one"]
    assert (logits(fresh) == logits(net)).all()
    assert loaded.method == adapter.method.export_form()
    mp.save_adapter(fresh, "one", two)
    for file in ("adapter_model.safetensors", "adapter_config.json"):
        assert (one / file).read_bytes() == (two / file).read_bytes()


@every_method
def test_the_config_has_the_words_of_hf_peft(name, tmp_path):
    net, adapter = attached(name)
    mp.save_adapter(net, "saved", tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["peft_type"] == "minipeft." + adapter.method.export_form().peft_type
    assert config["task_type"] == "CAUSAL_LM" and config["inference_mode"] is True
    assert config["base"]["fingerprint"] == mp.fingerprint(net)


def test_methods_of_one_peft_type_are_told_apart(tmp_path):
    for name in ("lora", "rslora", "dora"):
        mp.save_adapter(attached(name)[0], "saved", tmp_path / name)
        fresh = model(SHAPES["llama"], precision="float32")
        assert type(mp.load_adapter(fresh, tmp_path / name).method) is mp.METHODS[name]


def refused(net, folder, message, name=None):
    """Loading must raise, and change nothing."""
    named = dict(net.named_parameters())
    bits = {path: (to_numpy(p.data).tobytes(), p.requires_grad) for path, p in named.items()}
    used, tree = dict(in_use(net)), repr(net)
    with pytest.raises(ValueError, match=message):
        mp.load_adapter(net, folder, name)
    after = dict(net.named_parameters())
    assert after.keys() == named.keys() and all(after[path] is named[path] for path in named)
    assert bits == {p: (to_numpy(q.data).tobytes(), q.requires_grad) for p, q in after.items()}
    assert in_use(net) == used and repr(net) == tree


@every_method
def test_another_base_is_refused(name, tmp_path):
    mp.save_adapter(attached(name)[0], "saved", tmp_path)
    refused(
        model(SHAPES["llama"], seed=1, precision="float32"), tmp_path, "trained on another base"
    )
    nearly = model(SHAPES["llama"], precision="float32")
    p = nearly.parameters()[-1]
    p.data.reshape(-1)[0] += 1e-3
    refused(
        nearly,
        tmp_path,
        "another base: base.fingerprint is .* there and .* here; load it on its own",
    )


@every_method
@pytest.mark.parametrize("change", [dict(width=16), dict(layers=1), dict(ffn=7, vocab=12)])
def test_a_base_of_another_shape_is_refused(name, change, tmp_path):
    mp.save_adapter(attached(name)[0], "saved", tmp_path)
    other = model(SHAPES["llama"].with_(**change), precision="float32")
    mp.attach(other, mp.LoRA(r=1), "mine")
    refused(other, tmp_path, "numbers|base|does not fit")


def test_a_merged_base_is_another_until_it_is_unmerged(tmp_path):
    net, _ = attached("lora")
    mp.save_adapter(net, "saved", tmp_path)
    receipt = mp.merge(net, "saved")
    refused(net, tmp_path, "with nothing merged into it", "again")
    mp.unmerge(receipt)
    mp.load_adapter(net, tmp_path, "again")


def test_a_name_that_is_taken_is_refused_before_anything_is_read(tmp_path):
    net, _ = attached("lora")
    refused(net, tmp_path, "'saved' is already attached", "saved")


def test_loading_beside_another_leaves_that_as_it_was(tmp_path):
    mp.save_adapter(attached("ia3")[0], "saved", tmp_path)
    net, lora = attached("lora")
    before = logits(net)
    mp.load_adapter(net, tmp_path, "second")
    assert list(adapters(net)) == ["saved", "second"] and list(in_use(net)) == ["second"]
    mp.use(net, "saved")
    assert (logits(net) == before).all()
    assert all(p.requires_grad for p in lora.parameters())


@both_shapes
@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_a_model_comes_back_in_its_precision_without_its_adapters(shape, precision, tmp_path):
    net = model(SHAPES[shape], precision=precision)
    plain = logits(net)
    mp.attach(net, mp.LoRA(r=2), "beside")
    mp.save_model(net, tmp_path)
    again = mp.load_model(tmp_path)
    assert again.wte.weight.dtype == precision and not adapters(again)
    assert again.config == net.config and mp.fingerprint(again) == mp.fingerprint(net)
    assert (logits(again) == plain).all()


def test_a_crash_between_the_two_files_of_a_save_is_no_harm(tmp_path):
    for name, seed in (("lora", 0), ("dora", 1)):
        net, adapter = attached(name, seed=seed)
        mp.save_adapter(net, "saved", tmp_path / name)
    (tmp_path / "dora" / "adapter_config.json").replace(tmp_path / "dora" / "gone")
    (tmp_path / "lora" / "adapter_config.json").replace(
        tmp_path / "dora" / "adapter_config.json"
    )
    fresh = model(SHAPES["llama"], precision="float32")
    with pytest.warns(UserWarning, match="from another save"):
        assert mp.load_adapter(fresh, tmp_path / "dora").method == adapter.method
    assert (logits(fresh) == logits(net)).all()


def test_a_run_does_not_go_on_upon_another_base(tmp_path):
    path, examples = tmp_path / "run.safetensors", mp.Examples(*batch(SHAPES["llama"]))
    for seed in (0, 1):
        net = model(SHAPES["llama"], seed, "float32")
        mp.attach(net, mp.LoRA(r=2))
        if seed == 0:
            mp.fit(net, examples, 4, 2, checkpoint=path, until=2)
            continue
        with pytest.raises(ValueError, match=r"holds another run: base.frozen is "):
            mp.fit(net, examples, 4, 2, checkpoint=path)


def test_the_shipped_base_has_the_checksum_it_carries():
    assert len(mp.fingerprint(mp.load_base())) == 64


def test_a_file_whose_numbers_meant_something_else_is_refused(tmp_path, monkeypatch):
    """Such as one of the first VeRA here, which drew other frozen matrices."""
    net = attached("vera")[0]
    mp.save_adapter(net, "saved", tmp_path)
    monkeypatch.setattr(mp.VeRA, "edition", mp.VeRA.edition + 1)
    with pytest.raises(ValueError, match="it is of edition 2 of VeRA, here is edition 3"):
        mp.load_adapter(model(SHAPES["llama"]), tmp_path)
