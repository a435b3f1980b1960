"""What is exported for HF PEFT is imported; tests/parity/test_exchange.py opens it there."""

import json

import pytest
from safetensors.numpy import load_file

import minipeft as mp
from methods import SPECS
from minipeft.engine.backend import xp
from strategies import model
from test_checkpoint import SHAPES, attached, contents, logits

THERE = [name for name, spec in SPECS.items() if spec.exchanged]
NOT_THERE = [n for n, spec in SPECS.items() if not spec.exchanged and "llama" in spec.shapes]


@pytest.mark.parametrize("name", THERE)
def test_what_is_exported_is_imported(name, tmp_path):
    net, _ = attached(name)
    folder = mp.export_adapter(net, "saved", tmp_path / "one")
    fresh = model(SHAPES["llama"], precision="float32")
    loaded = mp.import_adapter(fresh, folder)
    assert loaded.name == "one" and list(mp.in_use(fresh)) == ["one"]
    assert abs(logits(fresh) - logits(net)).max() <= SPECS[name].exchange_limit
    mp.export_adapter(fresh, "one", tmp_path / "two")
    assert contents(folder) == contents(tmp_path / "two")


def test_modules_have_hfs_names(tmp_path):
    net, _ = attached("lora")
    folder = mp.export_adapter(net, "saved", tmp_path)
    assert (
        "base_model.model.model.layers.1.self_attn.v_proj.lora_B.weight",
        (4, 2),
    ) in contents(folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    assert "model.layers.1.self_attn.v_proj" in config["target_modules"]


def test_one_gate_a_layer_goes_there_and_one_a_head_does_not(tmp_path):
    net = model(SHAPES["llama"], precision="float32")
    mp.attach(net, mp.LlamaAdapter(3), "saved")
    with pytest.raises(ValueError, match=r"one gate a layer.*LlamaAdapter\(.*save_adapter"):
        mp.export_adapter(net, "saved", tmp_path)
    mp.attach(net, mp.LlamaAdapter(3, per_head=False), "one gate")
    mp.adapters(net)["one gate"].parameters()[1].data += 0.5
    fresh = model(SHAPES["llama"], precision="float32")
    mp.import_adapter(fresh, mp.export_adapter(net, "one gate", tmp_path))
    assert (logits(fresh) == logits(net)).all()


def test_ranks_and_alphas_go_by_module(tmp_path):
    net = model(SHAPES["llama"], precision="float32")
    method = mp.LoRA(
        r=2,
        target_modules="all-linear",
        layers_to_transform=(1,),
        rank_pattern={"attn.*": 3},
        alpha_pattern={"q_proj": 5.0},
    )
    adapter = mp.attach(net, method)
    for p in adapter.parameters():
        p.data = xp.ones_like(p.data)
    fresh = model(SHAPES["llama"], precision="float32")
    mp.import_adapter(fresh, mp.export_adapter(net, "default", tmp_path))
    assert (logits(fresh) == logits(net)).all()


@pytest.mark.parametrize("name", NOT_THERE)
def test_what_hf_peft_does_not_have_is_refused(name, tmp_path):
    net, _ = attached(name)
    with pytest.raises(ValueError, match="HF PEFT has no"):
        mp.export_adapter(net, "saved", tmp_path)
    assert not list(tmp_path.iterdir())


def test_gpt2s_queries_have_no_form_and_its_other_matrices_do(tmp_path):
    net = model(SHAPES["gpt2"].with_(kv_heads=4), precision="float32")
    mp.attach(net, mp.LoRA(r=2), "q and v")
    with pytest.raises(ValueError, match="c_attn"):
        mp.export_adapter(net, "q and v", tmp_path)
    mp.attach(net, mp.LoRA(r=2, target_modules=("o_proj", "up_proj")), "rest")
    found = load_file(mp.export_adapter(net, "rest", tmp_path) / "adapter_model.safetensors")
    assert "base_model.model.transformer.h.0.attn.c_proj.lora_A.weight" in found


def test_a_model_that_hf_does_not_have_is_refused(tmp_path):
    base = mp.load_base()
    mp.attach(base, mp.LoRA())
    with pytest.raises(ValueError, match=r"layer, rope, gelu.*Config.llama"):
        mp.export_adapter(base, "default", tmp_path)


def test_a_file_that_does_not_fit_leaves_the_model_as_it_was(tmp_path):
    folder = mp.export_adapter(attached("lora")[0], "saved", tmp_path)
    other = model(SHAPES["llama"].with_(layers=1), precision="float32")
    with pytest.raises(ValueError, match=r"layers\.1"):
        mp.import_adapter(other, folder)
    assert not mp.adapters(other)
