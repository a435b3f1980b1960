"""What is exported for HF PEFT is imported; tests/parity/test_exchange.py opens it there."""

import json

import pytest
from safetensors.numpy import load_file, save_file

import minipeft as mp
from methods import SPECS
from minipeft.engine.backend import np, to_numpy, xp
from strategies import model
from test_checkpoint import SHAPES, attached, contents, logits

THERE = [name for name, spec in SPECS.items() if spec.exchanged]
NOT_ON_GPT2 = [n for n in THERE if n == "llama-adapter" or not SPECS[n].small.hf_on_gpt2]
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


@pytest.mark.parametrize(
    "change",
    [{"bias": True}, {"head_width": 16}, {"qkv_bias": True}, {"qk_norm": True}],
    ids=str,
)
def test_a_prompt_that_hf_peft_reads_otherwise_is_refused_both_ways(change, tmp_path):
    """There the biases of attention would count twice, or there is no such method."""
    nets = [
        model(SHAPES["llama"].with_(**c), precision="float32") for c in ({}, change, change)
    ]
    for net in nets[:2]:
        mp.attach(net, mp.LlamaAdapter(3, per_head=False), "a")
    folder = mp.export_adapter(nets[0], "a", tmp_path / "a")
    with pytest.raises(ValueError, match="the same LlamaAdapter on llama and mistral only"):
        mp.export_adapter(nets[1], "a", tmp_path / "b")
    assert not (tmp_path / "b").exists()
    with pytest.raises(ValueError, match="the same LlamaAdapter on llama and mistral only"):
        mp.import_adapter(nets[2], folder)
    assert not mp.adapters(nets[2])


@pytest.mark.parametrize("name", NOT_ON_GPT2)
def test_what_hf_peft_does_not_put_on_gpt2_is_refused_both_ways(name, tmp_path):
    net = model(SHAPES["gpt2"].with_(kv_heads=4), precision="float32")
    mp.attach(net, SPECS[name].small, "a")
    with pytest.raises(ValueError, match=r"HF PEFT (has no|computes the same)"):
        mp.export_adapter(net, "a", tmp_path / "a")
    llama, _ = attached(name)
    folder = mp.export_adapter(llama, "saved", tmp_path / "b")
    path = folder / "adapter_model.safetensors"
    there = {"model.model.layers": "model.transformer.h", "self_attn": "attn"}
    there |= dict.fromkeys(("q_proj", "k_proj", "v_proj"), "c_attn")
    arrays = {}
    for key, array in load_file(path).items():
        for ours, theirs in there.items():
            key = key.replace(ours, theirs)
        arrays[key] = array
    save_file(arrays, path)
    mp.detach(net, "a")
    with pytest.raises(ValueError, match=r"HF PEFT (has no|computes the same)"):
        mp.import_adapter(net, folder)
    assert not mp.adapters(net)


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


def test_gpt2s_queries_and_values_are_parts_of_one_matrix(tmp_path):
    net = model(SHAPES["gpt2"].with_(kv_heads=4), precision="float32")
    adapter = mp.attach(net, mp.LoRA(r=2, lora_alpha=6.0), "q and v")
    for i, p in enumerate(adapter.parameters()):
        p.data = p.data + 0.1 * (i + 1)
    folder = mp.export_adapter(net, "q and v", tmp_path)
    found = load_file(folder / "adapter_model.safetensors")
    config = json.loads((folder / "adapter_config.json").read_text())
    whole = "base_model.model.transformer.h.0.attn.c_attn.lora_{}.weight"
    a, b = (found[whole.format(letter)] for letter in "AB")
    width = net.config.width
    assert a.shape == (4, width) and b.shape == (3 * width, 4)
    assert not b[width : 2 * width].any() and not b[:width, 2:].any()
    assert config["r"] == 2 and config["alpha_pattern"].popitem()[1] == 12.0
    assert set(config["rank_pattern"].values()) == {4}
    for name, rows in (("q", np.s_[:width]), ("v", np.s_[2 * width :])):
        delta = adapter.deltas[f"blocks.0.attn.{name}_proj"]
        np.testing.assert_allclose(3.0 * b[rows] @ a, to_numpy(delta.change()), rtol=1e-5)


GPT2 = SHAPES["gpt2"].with_(kv_heads=4)
NEOX = GPT2.with_(position="rope", mlp="gelu-erf", parallel=True, tied=False)


@pytest.mark.parametrize("config", [GPT2, NEOX], ids=["gpt2", "gpt_neox"])
@pytest.mark.parametrize("targets", [("q_proj",), ("v_proj", "up_proj"), ("up_proj",)], ids=str)
def test_a_part_of_a_matrix_may_have_only_a_bias(config, targets, tmp_path):
    net = model(config, precision="float32")
    adapter = mp.attach(net, mp.LoRA(r=2, target_modules=targets, bias="all"), "a")
    rng = np.random.default_rng(0)
    for p in adapter.parameters():
        p.data = xp.asarray(rng.standard_normal(p.shape), dtype=p.dtype)
    folder = mp.export_adapter(net, "a", tmp_path)
    fresh = model(config, precision="float32")
    mp.import_adapter(fresh, folder)
    np.testing.assert_allclose(logits(fresh), logits(net), rtol=1e-4, atol=1e-5)
    names = {name.split(".", 5)[-1] for name, _ in contents(folder) if ".bias" in name}
    whole = "c_attn" if config is GPT2 else "query_key_value"
    inside = {n for n in names if whole in n}
    base = "" if targets == ("up_proj",) else "base_layer."
    assert inside == {f"{'attn' if config is GPT2 else 'attention'}.{whole}.{base}bias"}


def test_the_parts_of_a_fused_matrix_may_be_smaller_than_its_rank(tmp_path):
    """Three changes of rank 4 are one of rank 12 there; k has 4 rows."""
    config = SHAPES["llama"].with_(rotary=0.5, head_width=4, kv_heads=1)  # a Phi-3
    net = model(config, precision="float32")
    adapter = mp.attach(net, mp.PiSSA(r=2, target_modules=("q_proj", "k_proj", "v_proj")), "a")
    for p in adapter.parameters():
        p.data = p.data + 0.1
    folder = mp.export_adapter(net, "a", tmp_path / "a")
    ranks = json.loads((folder / "adapter_config.json").read_text())["rank_pattern"]
    assert {*ranks.values()} == {12} and config.target_shapes["blocks.0.attn.k_proj"][0] == 4
    fresh = model(config, precision="float32")
    mp.import_adapter(fresh, folder, "b")
    np.testing.assert_allclose(logits(fresh), logits(net), rtol=1e-4, atol=1e-5)
    mp.export_adapter(fresh, "b", tmp_path / "b")
    assert contents(folder) == contents(tmp_path / "b")
    again = model(config, precision="float32")
    mp.load_adapter(again, mp.save_adapter(fresh, "b", tmp_path / "c"))
    assert (logits(again) == logits(fresh)).all()


@pytest.mark.parametrize("r", [9, 10**9])
def test_a_rank_above_that_of_a_matrix_comes_from_there_if_the_file_holds_it(r, tmp_path):
    net = model(SHAPES["llama"], precision="float32")
    adapter = mp.attach(net, mp.LoRA(r=2, target_modules=("k_proj",)), "a")
    for p in adapter.parameters():
        p.data = p.data + 0.1
    folder = mp.export_adapter(net, "a", tmp_path)
    path, file = folder / "adapter_config.json", folder / "adapter_model.safetensors"
    values = json.loads(path.read_text())
    path.write_text(json.dumps(values | {"r": r, "lora_alpha": r * values["lora_alpha"] / 2}))
    wide = {}
    for key, a in load_file(file).items():
        axis = 0 if "lora_A" in key else 1
        wide[key] = np.concatenate([a, *[0 * a] * 4], axis=axis).take(range(9), axis=axis)
    save_file(wide, file)
    fresh = model(SHAPES["llama"], precision="float32")
    if r == 9:
        mp.import_adapter(fresh, folder)
        np.testing.assert_allclose(logits(fresh), logits(net), rtol=1e-4, atol=1e-5)
        return
    with pytest.raises(ValueError, match=f"r = {r} is more than"):
        mp.import_adapter(fresh, folder)


def test_one_bias_of_which_a_part_trains_is_refused(tmp_path):
    net = model(GPT2, precision="float32")
    mp.attach(net, mp.LoRA(r=2, target_modules=("q_proj",), bias="lora_only"), "a")
    with pytest.raises(ValueError, match=r"c_attn is one matrix .* use bias='all'"):
        mp.export_adapter(net, "a", tmp_path)
    assert not list(tmp_path.iterdir())


def test_parts_that_are_scaled_differently_are_refused(tmp_path):
    net = model(SHAPES["gpt2"].with_(kv_heads=4), precision="float32")
    mp.attach(net, mp.LoRA(r=2, alpha_pattern={"q_proj": 4.0}), "a")
    with pytest.raises(ValueError, match=r"c_attn.*scaled by different"):
        mp.export_adapter(net, "a", tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_model_that_hf_does_not_have_is_refused(tmp_path):
    net = model(SHAPES["llama"].with_(position="learned"), precision="float32")
    mp.attach(net, mp.LoRA(r=2))
    with pytest.raises(ValueError, match=r"no model of this shape.*learned"):
        mp.export_adapter(net, "default", tmp_path)


@pytest.mark.parametrize("shape", ["gpt2", "llama"])
def test_a_table_without_its_tied_head_does_not_go_there_or_come(shape, tmp_path):
    """HF PEFT's head keeps the original table, ours would follow the copy."""
    config = SHAPES[shape].with_(tied=True, kv_heads=SHAPES[shape].heads)
    net = model(config, precision="float32")
    mp.attach(net, mp.LoRA(r=2, modules_to_save=("wte",)), "table")
    with pytest.raises(ValueError, match=r"tied to it: .* name both, or only the head"):
        mp.export_adapter(net, "table", tmp_path / "table")
    assert not (tmp_path / "table").exists()
    mp.use(net, None)
    mp.attach(net, mp.LoRA(r=2, modules_to_save=("wte", "lm_head")), "both")
    folder = mp.export_adapter(net, "both", tmp_path / "both")
    mp.import_adapter(model(config, precision="float32"), folder)
    keep_only_the_table(folder)
    fresh = model(config, precision="float32")
    with pytest.raises(ValueError, match=r"name both, or only the head$"):
        mp.import_adapter(fresh, folder)
    assert not mp.adapters(fresh)


def keep_only_the_table(folder):
    """Take the head's copy out of a folder, as if HF PEFT had trained the table alone."""
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text())
    config["modules_to_save"].remove("lm_head")
    path.write_text(json.dumps(config))
    arrays = load_file(folder / "adapter_model.safetensors")
    kept = {name: a for name, a in arrays.items() if "lm_head" not in name}
    save_file(kept, folder / "adapter_model.safetensors")


def test_a_file_that_does_not_fit_leaves_the_model_as_it_was(tmp_path):
    folder = mp.export_adapter(attached("lora")[0], "saved", tmp_path)
    other = model(SHAPES["llama"].with_(layers=1), precision="float32")
    with pytest.raises(ValueError, match=r"layers\.1"):
        mp.import_adapter(other, folder)
    assert not mp.adapters(other)
