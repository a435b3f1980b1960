"""Folders of adapters go to HF PEFT and come from it, and compute the same there and here."""

import dataclasses
import json

import pytest
from hf import assert_close, difference, hf_logits, hf_model, peft, torch
from pairs import CONFIGS, Pair
from safetensors.numpy import load_file
from safetensors.torch import load_file as torch_file
from safetensors.torch import save_file

import minipeft as mp
from laws.case import shake
from methods import ROWS, SPECS
from minipeft.engine.backend import to_numpy
from minipeft.engine.tensor import no_grad
from strategies import batch, model

EXCHANGED = [name for spec in SPECS.values() if spec.exchanged for name in spec.rows]
EXPORTED = [name for name in EXCHANGED if ROWS[name].files.exported]
IMPORTED = [name for name in EXCHANGED if ROWS[name].files.imported]
SIDES = "ours", "theirs"
SEEDS = "projection_prng_key", "random_seed"
each = pytest.mark.parametrize("seed", [None, 0])


def off(ours, theirs):
    """The difference of the logits of both."""
    ids, _ = batch(ours.config, B=3, T=6)
    with no_grad():
        return difference(ours(ids).data, hf_logits(theirs, ids))


def opened(pair, folder, seed):
    """HF PEFT's model from a folder and the base of a pair."""
    fresh = hf_model(model(pair.config, seed or 0))
    theirs = peft.PeftModel.from_pretrained(fresh, folder).to(fresh.dtype).eval()
    return pair.row.opened(theirs)


@pytest.mark.parametrize("row", EXPORTED)
@each
def test_hf_peft_opens_what_is_exported(row, seed, tmp_path):
    pair = Pair(ROWS[row], "float64", seed).shake()
    folder = mp.export_adapter(pair.ours, "default", tmp_path)
    assert off(pair.ours, opened(pair, folder, seed)) <= ROWS[row].files.logits


@pytest.mark.parametrize("row", IMPORTED)
@each
def test_what_hf_peft_saves_is_imported(row, seed, tmp_path):
    pair = Pair(ROWS[row], "float64", seed).shake()
    pair.row.files.before(pair)
    pair.row.files.save(pair, tmp_path)
    fresh = model(pair.config, seed or 0)
    mp.import_adapter(fresh, tmp_path, "default")
    assert off(fresh, pair.theirs) <= ROWS[row].files.logits


@pytest.mark.parametrize("row", IMPORTED)
def test_exported_is_the_file_that_hf_peft_would_write(row, tmp_path):
    """The same tensors under the same names, and a configuration of words that HF has."""
    pair = Pair(ROWS[row], "float64", None).shake()
    mp.export_adapter(pair.ours, "default", tmp_path / "ours")
    pair.row.files.save(pair, tmp_path / "theirs")
    ours, theirs = (load_file(tmp_path / side / "adapter_model.safetensors") for side in SIDES)
    theirs = pair.row.files.both(theirs)
    assert_close(ours, theirs, ROWS[row].files.tensors)
    words = json.loads((tmp_path / "ours" / "adapter_config.json").read_text())
    known = {field.name for field in dataclasses.fields(getattr(peft, pair.row.ours.hf_config))}
    assert words.keys() <= known  # HF PEFT warns of others
    if ROWS[row].files.config:
        said = [peft.PeftConfig.from_pretrained(tmp_path / side).to_dict() for side in SIDES]
        assert said[0].keys() == said[1].keys()


@pytest.mark.parametrize("method", [mp.FourierFT(300), mp.WaveFT(300), mp.C3A(8)], ids=str)
def test_targets_too_small_for_an_option_have_their_own(method, tmp_path):
    """Where 300 coefficients are more than there are entries, or 8 does not divide a side."""
    ours = model(CONFIGS["llama"])
    shake(mp.attach(ours, method), seed=0)
    folder = mp.export_adapter(ours, "default", tmp_path)
    theirs = peft.PeftModel.from_pretrained(hf_model(model(CONFIGS["llama"])), folder)
    assert off(ours, ROWS[method.name].opened(theirs.to(torch.float64).eval())) <= 1e-12
    fresh = model(CONFIGS["llama"])
    mp.import_adapter(fresh, folder)
    assert off(fresh, theirs) <= 1e-12


def test_a_base_that_hf_peft_has_changed_is_refused(tmp_path):
    pair = Pair(ROWS["pissa"], "float64", None)
    pair.theirs.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="init_lora_weights='pissa'"):
        mp.import_adapter(model(pair.config), tmp_path)


@pytest.mark.parametrize("row", ["vera", "pvera", "randlora", "shira"])
def test_random_arrays_of_another_seed_are_refused(row, tmp_path):
    pair = Pair(ROWS[row], "float64", None)
    pair.theirs.save_pretrained(tmp_path)
    path = tmp_path / "adapter_config.json"
    values = json.loads(path.read_text())
    values |= {option: 9 for option in values if option in SEEDS}
    path.write_text(json.dumps(values))
    fresh = model(pair.config)
    with pytest.raises(ValueError, match=r"(A|B|indices) is frozen"):
        mp.import_adapter(fresh, tmp_path)
    assert not mp.adapters(fresh)


@pytest.mark.parametrize("row", ["vera", "pvera", "randlora"])
def test_random_arrays_that_a_file_lacks_are_drawn_again(row, tmp_path):
    pair = Pair(ROWS[row], "float64", None).shake()
    next(iter(pair.theirs.peft_config.values())).save_projection = False
    pair.theirs.save_pretrained(tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    kept = {k: a for k, a in torch_file(path).items() if not k.endswith(("_A", "_B"))}
    save_file(kept, path)
    fresh = model(pair.config)
    mp.import_adapter(fresh, tmp_path, "default")
    assert off(fresh, pair.theirs) <= 1e-12


@pytest.mark.parametrize("layers", [None, 1, [0]])
@pytest.mark.parametrize("names", ["all-linear", ["q_proj", "down_proj"]])
def test_a_file_of_one_vector_is_for_the_targets_of_its_configuration(names, layers, tmp_path):
    if names == "all-linear" and layers is not None:
        return  # HF PEFT takes layers only with a list
    options = dict(target_modules=names, layers_to_transform=layers)
    base = model(CONFIGS["llama"])
    theirs = peft.get_peft_model(
        hf_model(base), peft.UniLoraConfig(theta_d_length=40, **options)
    )
    theirs = theirs.double().eval()
    with torch.no_grad():
        theirs.base_model.unilora_theta_d["default"].normal_()
    theirs.save_pretrained(tmp_path)
    mp.import_adapter(base, tmp_path, "default")
    assert off(base, theirs) <= 1e-12


@pytest.mark.parametrize("option", ["use_qalora", "lora_bias", "alora_invocation_tokens"])
def test_an_option_that_is_not_here_is_refused(option, tmp_path):
    pair = Pair(ROWS["lora"], "float64", None)
    pair.theirs.save_pretrained(tmp_path)
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {option: [1]}))
    with pytest.raises(ValueError, match=f"unknown option of LoRA '{option}'"):
        mp.import_adapter(model(pair.config), tmp_path)


@pytest.mark.parametrize("row", EXPORTED)
def test_hf_peft_refuses_a_folder_of_save_adapter(row, tmp_path):
    """The names in it are not HF's; read with warnings only, it would be the bare base."""
    pair = Pair(ROWS[row], "float64", None).shake()
    mp.save_adapter(pair.ours, "default", tmp_path)
    with pytest.raises((KeyError, ValueError), match="minipeft"):
        opened(pair, tmp_path, None)


@pytest.mark.parametrize("row", ["lora", "ia3", "prefix"])
def test_an_adapter_in_bfloat16_is_imported_exactly(row, tmp_path):
    pair = Pair(ROWS[row], "float64", None).shake()
    pair.theirs.to(torch.bfloat16).save_pretrained(tmp_path)
    fresh = model(pair.config, 0)
    mp.import_adapter(fresh, tmp_path, "default")
    mp.use(fresh, None)
    for name, p in mp.adapters(fresh)["default"].named_parameters():
        bits = to_numpy(p.data).astype("float32").view("uint32")
        assert (bits & 0xFFFF == 0).all() and (to_numpy(p.data) != 0).any(), name
    found = torch_file(tmp_path / "adapter_model.safetensors")
    kept = mp.export_adapter(fresh, "default", tmp_path / "again")
    for name, a in load_file(kept / "adapter_model.safetensors").items():
        assert (a == found[name].double().numpy()).all()
