"""Tokenizers: text and back, in a stream, from and to files, and what is refused."""

import json
import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chats import CHATML, WHY, byte_level, metadata, sentencepiece
from minipeft.text.byte_level import PRE
from minipeft.text.tokenizer import Tokenizer, load_tokenizer, tokenizer_of_gguf
from planted import planted

TEXT = st.lists(
    st.text(max_size=6) | st.sampled_from([" the", "Hello", "\n\n", "123", "'ll", "🎉🎉", "한"])
).map("".join)
KINDS = {"bytes": byte_level, "words": lambda: byte_level("llama-bpe"), "▁": sentencepiece}
every_pre = pytest.mark.parametrize("pre", PRE)
every_kind = pytest.mark.parametrize("kind", KINDS)


@every_pre
@given(text=TEXT)
def test_what_is_encoded_is_decoded(pre, text):
    tokenizer = byte_level(pre)
    wanted = unicodedata.normalize("NFC", text) if PRE[pre].nfc else text
    assert tokenizer.decode(tokenizer.encode(text)) == wanted


def joined(lists):
    return [item for items in lists for item in items]


def check_stream(tokenizer, ids, skip_special):
    whole = tokenizer.decode(ids, skip_special)
    parts = list(tokenizer.stream(iter(ids), skip_special))
    assert "".join(parts) == whole
    assert all(parts) and not any(part.endswith("\ufffd") for part in parts[:-1])


@every_kind
@given(data=st.data(), skip_special=st.booleans())
def test_a_stream_joined_is_what_is_decoded(kind, data, skip_special):
    """Also of ids that are half characters, or no characters at all."""
    tokenizer = KINDS[kind]()
    some = st.integers(0, tokenizer.vocab - 1)
    written = TEXT.map(tokenizer.encode)
    ids = data.draw(st.lists(written | some.map(lambda i: [i])).map(joined))
    check_stream(tokenizer, ids, skip_special)


@every_kind
@given(text=TEXT)
def test_a_stream_of_text_has_no_half_character(kind, text):
    tokenizer = KINDS[kind]()
    text = text.replace("\ufffd", "")
    assert "\ufffd" not in "".join(tokenizer.stream(tokenizer.encode(text)))


def test_a_stream_does_not_wait_for_its_end():
    tokenizer = byte_level()
    ids = tokenizer.encode("Hello the 🎉 end")
    came, parts = [], {}
    for part in tokenizer.stream(came.append(i) or i for i in ids):
        parts[len(came)] = part
    assert parts[1] == "Hello" and len(parts) > 5 and max(parts) == len(ids)
    assert " 🎉" in "".join(parts.values()) and list(parts.values()).count("🎉") == 1


STREAMS = [
    ('not text.endswith("\\ufffd") and not self.is_byte(i) and text != before', "True"),
    ('not text.endswith("\\ufffd") and not self.is_byte(i) and text != before',
     'not text.endswith("\\ufffd") and text != before'),
    ('not text.endswith("\\ufffd") and not self.is_byte(i) and text != before',
     'not text.endswith("\\ufffd") and not self.is_byte(i)'),
    ("yield rest", "pass"),
    ("text = self.decode(told + waiting, skip_special)", "text = before + "
     "self.decode(waiting, skip_special)"),
]  # fmt: skip


@pytest.mark.parametrize(("right", "wrong"), STREAMS)
def test_a_planted_bug_of_the_stream_is_caught(right, wrong):
    bytes_, pieces = byte_level(), sentencepiece()
    half = bytes_.encode("é")[:1]
    runs = [bytes_.encode("the é"), [3, *half], half]
    with planted("text.tokenizer", right, wrong), pytest.raises(AssertionError):
        for ids in runs:
            check_stream(bytes_, ids, True)
        b = [pieces.inner.token_to_id(f"<0x{i:02X}>") for i in (0xC3, 0xA9, 0xFF)]
        a = pieces.encode("a b")
        for ids in (b, [*a, *b, *a], [1, *a], [a[0], 1, *a]):
            check_stream(pieces, ids, True)


def test_special_tokens_are_recognised_and_added_only_if_asked():
    tokenizer = byte_level("llama-bpe")  # whose texts begin with a token
    ids = tokenizer.encode("the<|im_end|>the")
    assert ids[1] == tokenizer.inner.token_to_id("<|im_end|>") and len(ids) == 3
    assert tokenizer.encode("the", add_special=True) == [
        tokenizer.bos,
        *tokenizer.encode("the"),
    ]
    assert tokenizer.decode(ids) == "the<|im_end|>the"
    assert tokenizer.decode(ids, skip_special=True) == "thethe"
    assert byte_level().encode("the", add_special=True) == byte_level().encode("the")
    assert tokenizer.special_in("a<|im_end|>b") == "<|im_end|>"
    assert tokenizer.special_in("<think>") is None, "an added token that is not special"
    assert len(tokenizer.encode("<think>")) == 1


@pytest.mark.parametrize(
    ("pre", "text", "parts"),
    [
        ("gpt-2", "It's 1234  to\n\nI", ["It", "'s", " 1234", " ", " to", "\n", "\n", "I"]),
        ("smollm", " 1234 x²", [" ", "1", "2", "3", "4", " x", "²"]),
        ("starcoder", "a 12", ["a", " ", "1", "2"]),
        ("llama-bpe", "I'LL 12345\n\n x", ["I", "'LL", " ", "123", "45", "\n\n", " x"]),
        ("qwen2", "é 12!\n\n", ["é", " ", "1", "2", "!\n\n"]),  # put together first
        ("tekken", "HelloWorld 12/", ["Hello", "World", " ", "1", "2", "/"]),
        ("gpt-4o", "HelloWorld'S 1234", ["Hello", "World'S", " ", "123", "4"]),
        ("default", "a+b 12345", ["a", "+", "b", " ", "123", "45"]),
    ],
)  # fmt: skip
def test_a_text_is_split_as_the_name_says(pre, text, parts):
    library = pytest.importorskip("tokenizers", reason=WHY)
    inner = byte_level(pre).inner
    text = inner.normalizer.normalize_str(text) if inner.normalizer else text
    decode = library.decoders.ByteLevel().decode
    assert [decode([p]) for p, _ in inner.pre_tokenizer.pre_tokenize_str(text)] == parts


def test_a_word_of_the_vocabulary_is_a_token_whatever_the_merges():
    values = metadata("llama-bpe")
    values["tokenizer.ggml.tokens"] += ["xyz"]
    values["tokenizer.ggml.token_type"] += [1]
    assert len(tokenizer_of_gguf(values).encode("xyz")) == 1
    assert (
        len(tokenizer_of_gguf(values | {"tokenizer.ggml.pre": "smaug-bpe"}).encode("xyz")) == 3
    )


def test_where_an_answer_ends():
    assert byte_level().stop == {2}
    source = "{{ '<|im_end|>' }}"
    tokenizer = Tokenizer(byte_level().inner, CHATML | {"eos_token": "</s>"}, source)
    ends = {tokenizer.inner.token_to_id(token) for token in ("</s>", "<|im_end|>")}
    assert tokenizer.stop == ends
    more = tokenizer_of_gguf(metadata(eot_token_id=5, eom_token_id=6))
    assert more.stop == {2, 5, 6}
    assert Tokenizer(byte_level().inner).stop == frozenset()


def test_saved_is_loaded(tmp_path):
    tokenizer = Tokenizer(byte_level("llama-bpe").inner, CHATML, "{{ '<|end|>' }}é", ends=[7])
    (tmp_path / "generation_config.json").write_text('{"temperature": 0.5, "eos_token_id": 1}')
    again = load_tokenizer(tokenizer.save(tmp_path))
    text = "Hello world <|im_end|> 12é\n"
    assert again.encode(text) == tokenizer.encode(text)
    for name in ("vocab", "bos", "eos", "stop", "named", "chat_template", "special"):
        assert getattr(again, name) == getattr(tokenizer, name), name
    assert json.loads((tmp_path / "generation_config.json").read_text())["temperature"] == 0.5


def write(folder, **files):
    """Write the small tokenizer's folder, and JSON files over it."""
    byte_level().save(folder)
    for name, values in files.items():
        (folder / f"{name}.json").write_text(json.dumps(values))
    return folder


def test_what_a_folder_may_say(tmp_path):
    templates = [{"name": "tools", "template": "t"}, {"name": "default", "template": "d"}]
    config = {"bos_token": {"content": "<s>", "special": True}, "chat_template": templates}
    eos = {"eos_token": "</s>", "bos_token": "<|im_start|>"}
    ends = {"eos_token_id": [6, 3]}
    write(tmp_path, tokenizer_config=config, special_tokens_map=eos, generation_config=ends)
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.named == {"bos_token": "<s>", "eos_token": "</s>"}
    assert tokenizer.chat_template == "d"
    assert tokenizer.stop == {3, 6, tokenizer.eos}
    (tmp_path / "chat_template.jinja").write_text("j", encoding="utf-8")
    assert load_tokenizer(tmp_path).chat_template == "j"


def test_a_folder_that_cuts_and_pads_does_neither_here(tmp_path):
    inner = byte_level("gpt-2").inner
    inner.enable_truncation(2)
    inner.enable_padding(length=100)
    inner.save(str(tmp_path / "tokenizer.json"))
    ids = load_tokenizer(tmp_path).encode("one two three")
    assert load_tokenizer(tmp_path).decode(ids) == "one two three"
    inner.no_truncation()
    inner.no_padding()


def test_a_folder_beside_a_gguf_file_says_more(tmp_path):
    path = tmp_path / "model.gguf"
    assert load_tokenizer(path, metadata()).named["bos_token"] == "<|im_start|>"
    write(tmp_path, tokenizer_config={"bos_token": "<s>"})
    assert load_tokenizer(path, metadata()).named["bos_token"] == "<s>"


def test_no_tokenizer_is_told_with_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no tokenizer.json in .*save_pretrained"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("tokenizer", "{", "is no tokenizer"),
        ("tokenizer", "{}", "is no tokenizer"),
        ("tokenizer", '{"model": {"type": "BPE"}, "version": "9"}', "is no tokenizer"),
        (
            "tokenizer",
            '{"model": {"type": "BPE", "continuing_subword_prefix": "x"}}',
            "continuing_subword_prefix is not supported",
        ),
        ("tokenizer_config", "[]", "holds no JSON object"),
        ("tokenizer_config", '{"eos_token": "<no>"}', "not have the eos_token '<no>'"),
        ("tokenizer_config", '{"eos_token": 3}', "a token must be a string, got 3"),
        ("tokenizer_config", '{"chat_template": 3}', "must be text, got int"),
        ("tokenizer_config", '{"chat_template": [{"name": "x"}]}', 'not one called "default"'),
        ("tokenizer_config", '{"chat_template": [3]}', 'not one called "default"'),
        ("generation_config", '{"eos_token_id": 99999}', "99999 is no token id"),
        ("generation_config", '{"eos_token_id": "2"}', "'2' is no token id"),
    ],
)
def test_a_folder_that_is_wrong_is_refused(tmp_path, name, content, words):
    write(tmp_path)
    (tmp_path / f"{name}.json").write_text(content)
    with pytest.raises(ValueError, match=words) as error:
        load_tokenizer(tmp_path)
    assert "\n" not in str(error.value) and str(tmp_path) in str(error.value)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"model": "llama"}, "'gpt2', got 'llama'; put the model's tokenizer.json beside"),
        ({"model": None}, "got None"),
        ({"pre": "deepseek-llm"}, "unknown tokenizer.ggml.pre 'deepseek-llm'.*tokenizer.json"),
        ({"pre": None}, "unknown tokenizer.ggml.pre"),
        ({"pre": ["smollm"]}, "unknown tokenizer.ggml.pre"),
        ({"tokens": None}, "no list tokenizer.ggml.tokens"),
        ({"tokens": ["a", "b", "a"]}, "'a' twice"),
        ({"merges": ["a zzz"]}, "merges 'a zzz'"),
        ({"merges": ["ab"]}, "merges 'ab'"),
        ({"merges": 3}, "no list tokenizer.ggml.merges"),
        ({"token_type": [1]}, "a token_type for each token"),
        ({"token_type": 1}, "a token_type for each token"),
        ({"eos_token_id": 99999}, "99999 is no token id"),
        ({"bos_token_id": -1}, "-1 is no token id"),
        ({"bos_token_id": "x"}, "'x' is no token id"),
    ],
)
def test_metadata_that_are_wrong_are_refused(values, words):
    with pytest.raises(ValueError, match=words):
        tokenizer_of_gguf(metadata(**values))


def test_a_template_that_is_no_text_is_refused():
    with pytest.raises(ValueError, match="must be text, got int"):
        tokenizer_of_gguf(metadata() | {"tokenizer.chat_template": 3})


@pytest.mark.parametrize("ids", [[99999], [-1], ["a"], [1.5], [True]])
def test_what_is_no_id_is_refused(ids):
    with pytest.raises(ValueError, match="is no token id"):
        byte_level().decode(ids)


def test_what_is_no_text_is_refused():
    with pytest.raises(ValueError, match=r"half a character, '.ud83c' at place 1"):
        byte_level().encode("a\ud83c")
    with pytest.raises(ValueError, match="must be a string, got bytes"):
        byte_level().encode(b"a")


def test_without_tokenizers_it_says_what_to_install(monkeypatch, tmp_path):
    values = metadata()
    write(tmp_path)
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    for use in (lambda: tokenizer_of_gguf(values), lambda: load_tokenizer(tmp_path)):
        with pytest.raises(ValueError, match=r"tokenizers: pip install 'minipeft\[llm\]'"):
            use()
