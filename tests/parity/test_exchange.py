"""Folders of adapters go to HF PEFT and come from it, and compute the same there and here."""

import json

import pytest
from hf import assert_close, difference, hf_logits, hf_model, peft
from pairs import Pair
from rows import ROWS, exact_softmax
from safetensors.numpy import load_file

import minipeft as mp
from minipeft.engine.tensor import no_grad
from minipeft.io.hf_adapters import EXCHANGED
from strategies import batch, model

HERE_ONLY = ("llama-adapter, last layer, per head",)  # HF PEFT itself has one gate a layer
SHARED = [
    name
    for name, row in ROWS.items()
    if row.saved and row.ours.peft_type in EXCHANGED and name not in HERE_ONLY
]
ONE_WAY = ("vera", "pissa")  # whose files from HF's side need what is not here
SIDES = "ours", "theirs"
each = pytest.mark.parametrize("seed", [None, 0])


def limit(row):
    """How far logits may be off: HF PEFT takes virtual tokens from a file in float32."""
    return 1e-6 if ROWS[row].ours.family == "prompt" else 1e-12


def off(ours, theirs):
    """The difference of the logits of both."""
    ids, _ = batch(ours.config, B=3, T=6)
    with no_grad():
        return difference(ours(ids).data, hf_logits(theirs, ids))


def opened(pair, folder, seed):
    """HF PEFT's model from a folder and the base of a pair."""
    fresh = hf_model(model(pair.config, seed or 0))
    return exact_softmax(peft.PeftModel.from_pretrained(fresh, folder).to(fresh.dtype).eval())


@pytest.mark.parametrize("row", SHARED)
@each
def test_hf_peft_opens_what_is_exported(row, seed, tmp_path):
    pair = Pair(ROWS[row], "float64", seed).shake()
    folder = mp.export_adapter(pair.ours, "default", tmp_path)
    assert off(pair.ours, opened(pair, folder, seed)) <= limit(row)


@pytest.mark.parametrize("row", [row for row in SHARED if row not in ONE_WAY])
@each
def test_what_hf_peft_saves_is_imported(row, seed, tmp_path):
    pair = Pair(ROWS[row], "float64", seed).shake()
    for name, p in pair.theirs.named_parameters():
        if "ranknum" in name:  # to which `adalora` in rows.py gave another value than HF's own
            p.data += 1e-5
    pair.theirs.save_pretrained(tmp_path)
    fresh = model(pair.config, seed or 0)
    mp.import_adapter(fresh, tmp_path, "default")
    assert off(fresh, pair.theirs) <= limit(row)


@pytest.mark.parametrize("row", [row for row in SHARED if row not in ONE_WAY])
def test_exported_is_the_file_that_hf_peft_would_write(row, tmp_path):
    """The same tensors under the same names, and a configuration of words that HF has."""
    pair = Pair(ROWS[row], "float64", None).shake()
    mp.export_adapter(pair.ours, "default", tmp_path / "ours")
    pair.theirs.save_pretrained(tmp_path / "theirs")
    ours, theirs = (load_file(tmp_path / side / "adapter_model.safetensors") for side in SIDES)
    theirs = {name: a for name, a in theirs.items() if "base_layer" not in name}
    assert_close(ours, theirs, 1e-12 if row != "adalora" else 1e-5)  # its factor
    if row == "p-tuning":  # which goes as the prompt that its network makes
        return
    said = [peft.PeftConfig.from_pretrained(tmp_path / side).to_dict() for side in SIDES]
    assert said[0].keys() == said[1].keys()


def test_a_base_that_hf_peft_has_changed_is_refused(tmp_path):
    pair = Pair(ROWS["pissa"], "float64", None)
    pair.theirs.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="init_lora_weights='pissa'"):
        mp.import_adapter(model(pair.config), tmp_path)


def test_veras_matrices_of_pytorchs_generator_are_refused(tmp_path):
    pair = Pair(ROWS["vera"], "float64", None)
    pair.theirs.save_pretrained(tmp_path)
    fresh = model(pair.config)
    with pytest.raises(ValueError, match=r"vera_[AB] is frozen"):
        mp.import_adapter(fresh, tmp_path)
    assert not mp.adapters(fresh)


@pytest.mark.parametrize("option", ["use_qalora", "lora_bias", "alora_invocation_tokens"])
def test_an_option_that_is_not_here_is_refused(option, tmp_path):
    pair = Pair(ROWS["lora"], "float64", None)
    pair.theirs.save_pretrained(tmp_path)
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {option: [1]}))
    with pytest.raises(ValueError, match=f"unknown option of LoRA '{option}'"):
        mp.import_adapter(model(pair.config), tmp_path)
