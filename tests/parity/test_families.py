"""Pretrained models and their adapters, against transformers and HF PEFT, family by family."""

import dataclasses
import json
import warnings

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="parity needs PyTorch: pip install '.[parity]'")
peft = pytest.importorskip("peft", reason="parity needs HF PEFT: pip install '.[parity]'")
transformers = pytest.importorskip("transformers")

from families import CONFIGS, random_model  # noqa: E402

import minipeft as mp  # noqa: E402
from minipeft.io.hf_configs import config_from_hf, same_model  # noqa: E402

transformers.logging.set_verbosity_error()
IDS = np.random.default_rng(0).integers(3, 97, (2, 24))
FUSED = ("gpt2", "phi3", "pythia")  # families that hold q, k and v as one matrix


def theirs(model, ids=IDS):
    with torch.no_grad():
        return model(torch.tensor(ids)).logits.numpy()


def ours(model, ids=IDS):
    with mp.no_grad():
        return model(ids).data


def difference(a, b):
    return float(np.abs(a - b).max() / np.abs(b).max())


@pytest.fixture(scope="module", params=CONFIGS)
def pair(request, tmp_path_factory):
    """(HF's model, its folder) of a family."""
    folder = tmp_path_factory.mktemp("hf")
    model = random_model(request.param)
    model.save_pretrained(folder)
    return model, folder


def test_logits_and_text_are_theirs(pair):
    model, folder = pair
    net = mp.from_pretrained(folder)
    assert difference(ours(net), theirs(model)) < 2e-6
    prompts = IDS[:, :9]
    text = model.generate(
        torch.tensor(prompts), attention_mask=torch.ones(prompts.shape, dtype=int),
        max_new_tokens=8, do_sample=False, eos_token_id=None,
    )  # fmt: skip
    assert mp.generate(net, prompts.tolist(), 8) == text[:, 9:].tolist()


def test_padding_on_the_left_changes_nothing(pair):
    net = mp.from_pretrained(pair[1])
    short = IDS[0, :5].tolist()
    together = mp.generate(net, [IDS[1, :13].tolist(), short], 6)
    assert together[1] == mp.generate(net, [short], 6)[0]


def test_transformers_loads_what_is_saved(pair, tmp_path):
    model, folder = pair
    net = mp.from_pretrained(folder)
    for name in ("as it came", "by its shape alone"):
        if name != "as it came":
            del net.pretrained
        saved = mp.save_pretrained(net, tmp_path / name)
        loaded = transformers.AutoModelForCausalLM.from_pretrained(saved).eval()
        assert difference(theirs(loaded), theirs(model)) < 1e-6
        again = mp.from_pretrained(saved)
        assert (ours(again) == ours(net)).all()
        before, after = dict(net.named_parameters()), dict(again.named_parameters())
        assert all((before[path].data == after[path].data).all() for path in before)


def test_a_merged_model_computes_what_the_attached_one_did(pair, tmp_path):
    net = mp.from_pretrained(pair[1])
    shake(mp.attach(net, mp.LoRA(r=4, target_modules="all-linear")))
    attached = ours(net)
    mp.merge(net)
    loaded = transformers.AutoModelForCausalLM.from_pretrained(
        mp.save_pretrained(net, tmp_path)
    )
    assert difference(theirs(loaded.eval()), attached) < 1e-5


def shake(adapter, seed=0):
    """Gives an adapter's parameters random values."""
    rng = np.random.default_rng(seed)
    for p in adapter.parameters():
        p.data += (0.1 * rng.standard_normal(p.shape)).astype(p.dtype)


QKV = ("q_proj", "k_proj", "v_proj")
METHODS = {
    "lora": mp.LoRA(r=3, lora_alpha=5.0, target_modules="all-linear"),
    "lora, q and v": mp.LoRA(r=2, target_modules=("q_proj", "v_proj")),
    "rslora": mp.RSLoRA(r=2, target_modules=(*QKV, "o_proj")),
    "lora and biases": mp.LoRA(r=2, target_modules=QKV, bias="all"),
    "lora of v and biases": mp.LoRA(r=2, target_modules=("v_proj", "o_proj"), bias="all"),
    "lora and modules": mp.LoRA(r=2, modules_to_save=("lm_head", "ln_f")),
    "dora": mp.DoRA(r=2, target_modules=(*QKV, "down_proj")),
    "ia3": mp.IA3(),
    "pissa": mp.PiSSA(r=2, target_modules=QKV),
    "prefix": mp.Prefix(num_virtual_tokens=3),
    "prompt": mp.Prompt(num_virtual_tokens=3),
    "norms": mp.NormTuning(),
}


@pytest.mark.parametrize("method", METHODS)
def test_adapters_go_to_hf_peft_and_come_back(pair, method, tmp_path):
    _, folder = pair
    net = mp.from_pretrained(folder)
    shake(mp.attach(net, METHODS[method]))
    window, virtual = net.config.window, method in ("prefix", "prompt")
    mp.export_adapter(net, "default", tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        there = peft.PeftModel.from_pretrained(fresh(folder), tmp_path).eval()
    with torch.no_grad():
        if not (virtual and window):  # transformers counts a window by other slots there
            logits = there(torch.tensor(IDS)).logits.numpy()[:, -24:]
            assert difference(ours(net), logits) < 5e-6
    back = mp.from_pretrained(folder)
    mp.import_adapter(back, tmp_path, "back")
    assert difference(ours(back), ours(net)) < 2e-6


def fresh(folder):
    return transformers.AutoModelForCausalLM.from_pretrained(folder).eval()


BESIDE = {  # {options of HF's LoraConfig: families}
    "bias": ("gpt2", "qwen2", "starcoder2", "pythia", "opt"),
    "modules_to_save": ("llama", "llama tied", "gpt2", "pythia", "granite"),
}


@pytest.mark.parametrize("option, family", [(o, f) for o, fs in BESIDE.items() for f in fs])
def test_what_trains_beside_lora_comes_from_hf_peft(option, family, tmp_path):
    model = random_model(family)
    model.save_pretrained(tmp_path / "base")
    how = {"bias": "all"} if option == "bias" else {"modules_to_save": ["lm_head"]}
    targets = [*TARGETS.get(family, ["q_proj", "v_proj"])]
    attached = peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules=targets, **how))
    noise = torch.Generator().manual_seed(2)
    for p in attached.parameters():
        if p.requires_grad:
            p.data += 0.1 * torch.randn(p.shape, generator=noise)
    attached.eval().save_pretrained(tmp_path / "adapter")
    net = mp.from_pretrained(tmp_path / "base")
    adapter = mp.import_adapter(net, tmp_path / "adapter")
    assert adapter.copies
    with torch.no_grad():
        logits = attached(torch.tensor(IDS)).logits.numpy()
    assert difference(ours(net), logits) < 5e-6
    mp.merge(net, "adapter")
    assert difference(ours(net), logits) < 5e-6


@pytest.mark.parametrize("family, table", [("gpt2", "wte"), ("granite", "embed_tokens")])
def test_a_table_that_their_tied_head_does_not_follow_is_refused(family, table, tmp_path):
    model = random_model(family)
    model.save_pretrained(tmp_path / "base")
    targets = TARGETS.get(family, ["q_proj"])
    how = peft.LoraConfig(r=2, target_modules=targets, modules_to_save=[table])
    attached = peft.get_peft_model(model, how).eval()
    before = theirs(attached)
    copy = next(p for n, p in attached.named_parameters() if "modules_to_save" in n)
    copy.data += 0.5 * torch.randn(copy.shape, generator=torch.Generator().manual_seed(2))
    head = dict(attached.named_modules())["base_model.model.lm_head"]
    assert not torch.equal(head.weight, copy) and difference(theirs(attached), before) > 0.1
    attached.save_pretrained(tmp_path / "adapter")
    net = mp.from_pretrained(tmp_path / "base")
    with pytest.raises(ValueError, match="name both, or only the head"):
        mp.import_adapter(net, tmp_path / "adapter")


@pytest.mark.parametrize("family", ["llama", "gpt2", "llama with biases"])
def test_their_adaption_prompt_comes_where_it_is_the_same_function(family, tmp_path):
    """On GPT-2 theirs leaves out c_proj, and a bias of o_proj counts twice there."""
    model = random_model(family)
    model.save_pretrained(tmp_path / "base")
    how = peft.AdaptionPromptConfig(adapter_len=3, adapter_layers=2, task_type="CAUSAL_LM")
    attached = peft.get_peft_model(model, how).eval()
    for name, p in attached.named_parameters():
        if "adaption_gate" in name:
            p.data += 0.5
    attached.save_pretrained(tmp_path / "adapter")
    net = mp.from_pretrained(tmp_path / "base")
    if family == "llama":
        mp.import_adapter(net, tmp_path / "adapter")
        assert difference(ours(net), theirs(attached)) < 5e-6
        return
    with pytest.raises(ValueError, match="the same LlamaAdapter on llama and mistral only"):
        mp.import_adapter(net, tmp_path / "adapter")


TARGETS = {
    "gpt2": ["c_attn"],
    "phi3": ["qkv_proj", "gate_up_proj"],
    "pythia": ["query_key_value"],
}
THEIRS = {
    "lora": lambda targets: peft.LoraConfig(r=4, target_modules=targets),
    "lora, a high rank": lambda targets: peft.LoraConfig(r=24, target_modules=targets),
    "dora": lambda targets: peft.LoraConfig(r=4, target_modules=targets, use_dora=True),
    "adalora": lambda targets: peft.AdaLoraConfig(
        init_r=4, target_r=2, tinit=1, tfinal=1, total_step=9, target_modules=targets
    ),
    "ia3": lambda targets: peft.IA3Config(target_modules=targets, feedforward_modules=[]),
    "oft": lambda targets: peft.OFTConfig(r=0, oft_block_size=4, target_modules=targets),
    "boft": lambda targets: peft.BOFTConfig(boft_block_size=4, target_modules=targets),
    "hra": lambda targets: peft.HRAConfig(r=4, target_modules=targets),
}
NOT_ON_GPT2 = ("oft", "boft", "hra")  # there
NO_PARTS = (mp.VeRA(r=4), mp.LoKr(r=2), mp.OFT(4), mp.RoAd(), mp.GraLoRA(2), mp.FourierFT(5),
            mp.WaveFT(5), mp.C3A(4))  # fmt: skip


@pytest.mark.parametrize(
    "family, method",
    [(f, m) for f in FUSED for m in THEIRS if f != "gpt2" or m not in NOT_ON_GPT2],
)
def test_adapters_of_fused_matrices_come_from_hf_peft(family, method, tmp_path):
    model = random_model(family)
    model.save_pretrained(tmp_path / "base")
    attached = peft.get_peft_model(model, THEIRS[method](TARGETS[family])).eval()
    noise = torch.Generator().manual_seed(2)
    for p in attached.parameters():
        if p.requires_grad:
            p.data += 0.1 * torch.randn(p.shape, generator=noise)
    attached.save_pretrained(tmp_path / "adapter")
    net = mp.from_pretrained(tmp_path / "base")
    mp.import_adapter(net, tmp_path / "adapter")
    with torch.no_grad():
        logits = attached(torch.tensor(IDS)).logits.numpy()
    assert difference(ours(net), logits) < 5e-6
    if method in (
        "lora",
        "lora, a high rank",
        "ia3",
    ):  # untrained since, it goes back as it came
        mp.export_adapter(net, "adapter", tmp_path / "back")
        from safetensors.numpy import load_file

        came, goes = (
            load_file(tmp_path / name / "adapter_model.safetensors")
            for name in ("adapter", "back")
        )
        assert came.keys() == goes.keys()
        assert all((came[name] == goes[name]).all() for name in came)


@pytest.mark.parametrize("method", NO_PARTS)
def test_what_has_no_form_on_a_fused_matrix_is_refused(method, tmp_path):
    random_model("pythia").save_pretrained(tmp_path / "base")
    net = mp.from_pretrained(tmp_path / "base")
    shake(mp.attach(net, dataclasses.replace(method, target_modules=QKV)))
    with pytest.raises(ValueError, match="query_key_value"):
        mp.export_adapter(net, "default", tmp_path / "out")
    assert not (tmp_path / "out").exists()


CHANGES = {  # {what a config.json says in another way: (family, its keys)}
    "yarn": ("llama", {"rope_parameters": {"rope_type": "yarn", "factor": 4.0}}),
    "linear rope": ("llama", {"rope_scaling": {"type": "linear", "factor": 2.0}}),
    "long rope": ("phi3", {"rope_scaling": {"type": "longrope", "short_factor": [1.0]}}),
    "another activation": ("llama", {"hidden_act": "gelu"}),
    "soft caps": ("llama", {"final_logit_softcapping": 30.0}),
    "part of the layers with a window": (
        "qwen2",
        {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 2},
    ),
    "kinds of layers": ("qwen3", {
        "use_sliding_window": True, "sliding_window": 8,
        "layer_types": ["full_attention", "sliding_attention", "full_attention"],
    }),
    "scores by layer": ("gpt2", {"scale_attn_by_inverse_layer_idx": True}),
    "unscaled scores": ("gpt2", {"scale_attn_weights": False}),
    "norms behind": ("opt", {"do_layer_norm_before": False}),
    "narrow embeddings": ("opt", {"word_embed_proj_dim": 16}),
    "weights in few bits": ("llama", {"quantization_config": {"quant_method": "gptq"}}),
    "part of a head": ("llama", {"partial_rotary_factor": 0.5}),
    "unknown": ("mistral", {"attention_sinks": 4}),
    "experts": ("mistral", {"model_type": "mixtral"}),
    "another family": ("llama", {"model_type": "gemma2"}),
    "no family": ("llama", {"model_type": "mamba"}),
}  # fmt: skip


@pytest.mark.parametrize("what", CHANGES)
def test_what_has_no_counterpart_is_refused_by_name(what, tmp_path):
    family, keys = CHANGES[what]
    random_model(family).save_pretrained(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text()) | keys
    for key in ("rope_parameters", "layer_types"):  # which newer versions write
        if key not in keys:
            values.pop(key, None)
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(ValueError) as error:
        mp.from_pretrained(tmp_path)
    text = str(error.value)
    assert "\n" not in text and "config.json" in text


OF_EACH = ("llama 3.1", "mistral", "qwen2, a window everywhere", "qwen3", "smollm3", "phi3",
           "granite", "starcoder2", "pythia", "gpt2", "opt")  # fmt: skip
ELSEWHERE = ("is_causal", "rope_theta", "partial_rotary_factor", "rotary_pct", "head_dim",
             "rotary_emb_base", "sliding_window", "use_sliding_window", "layer_types",
             "original_max_position_embeddings", "num_key_value_heads")  # fmt: skip


@pytest.mark.parametrize("name", OF_EACH)
def test_what_is_left_out_or_null_or_false_is_what_they_make_of_it(name):
    """Their class of configs fills in what a file leaves out; we read the same, or refuse."""
    whole = json.loads(CONFIGS[name]().to_json_string(use_diff=False))
    read = 0
    for key in {*whole, *ELSEWHERE} - {"model_type"}:
        for value in ("gone", None, False, 0, [], 0.5, 7):
            for dropped in (
                (key,),
                (key, "rope_parameters"),
                (key, "rope_parameters", "layer_types"),
            ):
                values = {k: v for k, v in whole.items() if k not in dropped}
                values |= {} if value == "gone" else {key: value}
                read += said_alike(values)
    assert read > 100


def said_alike(values):
    """Whether both read a config.json, which then must be the same to both."""
    try:
        config = config_from_hf(values)[1]
        kind, rest = values["model_type"], {**values}
        del rest["model_type"]
        theirs = transformers.AutoConfig.for_model(kind, **json.loads(json.dumps(rest)))
        filled = json.loads(theirs.to_json_string(use_diff=False))
    except Exception:  # either refuses it
        return False
    assert "is_causal" not in filled or filled["is_causal"] is True
    assert same_model(config_from_hf(filled)[1], config), values
    return True


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_halves_and_shards_are_read(dtype, tmp_path):
    model = random_model("llama").to(getattr(torch, dtype))
    model.save_pretrained(tmp_path, max_shard_size="20kB")
    assert (tmp_path / "model.safetensors.index.json").exists()
    net = mp.from_pretrained(tmp_path)
    assert net.wte.weight.dtype == "float32"
    exact = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    assert difference(ours(net), theirs(exact.eval())) < 2e-6


def test_both_read_what_is_saved_over_shards(tmp_path):
    """Where there is one file and an index of shards too, transformers takes the one file."""
    random_model("llama").save_pretrained(tmp_path, max_shard_size="20kB")
    index = (tmp_path / "model.safetensors.index.json").read_bytes()
    net = mp.from_pretrained(tmp_path)
    shake(mp.attach(net, mp.LoRA(r=2)))
    mp.merge(net)
    mp.save_pretrained(net, tmp_path)
    (tmp_path / "model.safetensors.index.json").write_bytes(index)  # as if it were left
    assert difference(theirs(fresh(tmp_path)), ours(net)) < 2e-6
    assert (ours(mp.from_pretrained(tmp_path)) == ours(net)).all()
