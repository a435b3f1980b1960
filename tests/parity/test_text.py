"""The same ids, text and chats as transformers, and a real model's ids by llama.cpp's rules.

MINIPEFT_SMOLLM2 is the path of SmolLM2-135M-Instruct as a GGUF file; without it the tests of
the real model are skipped. MINIPEFT_STRINGS is how many strings are compared, 3,000 by default.
"""

import functools
import itertools
import json
import os
import random
from pathlib import Path

import pytest
from hf import reason, transformers

gguf = pytest.importorskip("gguf", reason=reason)
regex = pytest.importorskip("regex", reason=reason)

from transformers.integrations.gguf import gguf_tokenizer_mapping  # noqa: E402

from chats import TEMPLATES, byte_level, chat, metadata, sentencepiece, talk  # noqa: E402
from minipeft.text.byte_level import PRE  # noqa: E402
from minipeft.text.chat_template import ChatTemplate, template_of  # noqa: E402
from minipeft.text.conversations import tokenize_conversation  # noqa: E402
from minipeft.text.tokenizer import Tokenizer, load_tokenizer, tokenizer_of_gguf  # noqa: E402

SMOLLM2 = os.environ.get("MINIPEFT_SMOLLM2", "")
STRINGS = int(os.environ.get("MINIPEFT_STRINGS", "3000"))
real = pytest.mark.skipif(not SMOLLM2, reason="MINIPEFT_SMOLLM2 gives no GGUF file")
PARTS = [
    "the", "Hello", " world", "don't", "I'LL", "we've", "  ", "\n", "\n\n", "\t", " \n ",
    "\r\n", "0", "12", "3456", "3.14", "½", "²", "٣", "Ⅷ", "!", "...", "?!", "—", "«",
    "_", "$", "+=", "def f(x):\n    return x", "café", "cafe\u0301", "ñ", "straße",
    "Москва", "ελ", "日本語", "한국어", "ไทย", "हिन्दी", "العربية", "🎉", "👩‍👩‍👧",
    "🇫🇷", "\u00a0", "\u2003", "\u3000", "\u200b", "<|im_start|>", "<|im_end|>",
    "<|endoftext|>", "<|im_", "end|>", "http://a.b/c?d=1", "\x07", "{'a': [1, 2]}",
    "AbCdEf", "x" * 30, "9" * 30, "\ufeff", "\U00010348", "\ufffd",
]  # fmt: skip


def strings(count, seed=0):
    """Varied strings: parts in any order, some characters changed to any other."""
    rng = random.Random(seed)
    for _ in range(count):
        text = "".join(rng.choices(PARTS, k=rng.randint(1, 12)))
        for _ in range(rng.randint(0, 3)):
            at, letter = rng.randrange(len(text)), rng.choice([rng.randint(1, 0x17F), 0x20])
            text = text[:at] + chr(letter) + text[at + 1 :]
        yield text


def conversations(system=True):
    yield talk("hello")
    yield talk("hello", "Hello world")
    yield talk("12", "3 ", " four", "five\n", "é🎉")
    yield talk("What is <b>\n\nthis?", "code:\n```\nx = 1\n```", "it's", "'ll do")
    if system:
        yield talk("a", "b", system="You are\nhelpful.")


@functools.cache
def theirs(style, folder):
    chat(style)[0].save(folder)
    return transformers.AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return tmp_path_factory.mktemp("tokenizers")


@pytest.mark.parametrize("pre", PRE)
def test_transformers_reads_what_is_saved(pre, tmp_path):
    """Also beside a model's config.json, whose model_type suggests another class."""
    tokenizer = byte_level(pre)
    tokenizer.save(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "vocab_size": 9}))
    auto = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert (auto.bos_token_id, auto.eos_token_id) == (tokenizer.bos, tokenizer.eos)
    for text in strings(300):
        ids = tokenizer.encode(text)
        assert auto.encode(text, add_special_tokens=False) == ids, text
        assert auto.encode(text) == tokenizer.encode(text, add_special=True), text
        assert auto.decode(ids) == tokenizer.decode(ids)
        assert auto.decode(ids, skip_special_tokens=True) == tokenizer.decode(ids, True)


def test_what_transformers_saves_is_read(tmp_path):
    """With its own file for the template, and tokens as it writes them."""
    tokenizer, _ = chat("llama3")
    tokenizer.save(tmp_path / "one")
    auto = transformers.AutoTokenizer.from_pretrained(tmp_path / "one")
    auto.save_pretrained(tmp_path / "two")
    assert (tmp_path / "two" / "chat_template.jinja").is_file()
    again = load_tokenizer(tmp_path / "two")
    assert again.named == tokenizer.named and again.chat_template == tokenizer.chat_template
    assert again.stop == tokenizer.stop
    assert all(again.encode(text) == tokenizer.encode(text) for text in strings(300))


def test_a_sentencepiece_folder_is_read(tmp_path):
    sentencepiece().save(tmp_path)
    auto, ours = transformers.AutoTokenizer.from_pretrained(tmp_path), load_tokenizer(tmp_path)
    for text in strings(300):
        ids = ours.encode(text)
        assert auto.encode(text, add_special_tokens=False) == ids, text
        assert auto.decode(ids) == ours.decode(ids)


@pytest.mark.parametrize("prompt", [False, True])
@pytest.mark.parametrize("style", TEMPLATES)
def test_a_chat_is_written_and_tokenised_as_by_transformers(style, prompt, folders):
    tokenizer, template = chat(style)
    auto = theirs(style, folders / style)
    for messages in conversations(system=style != "mistral"):
        text = template.render(messages, add_generation_prompt=prompt)
        options = dict(add_generation_prompt=prompt, return_dict=False)
        assert text == auto.apply_chat_template(messages, tokenize=False, **options)
        assert tokenizer.encode(text) == auto.apply_chat_template(messages, **options)


def test_what_is_learnt_is_what_generation_marks(folders):
    tokenizer, template = chat("marked")
    auto = theirs("marked", folders / "marked")
    for messages in conversations():
        if messages[-1]["role"] == "assistant":
            found = auto.apply_chat_template(
                messages, return_dict=True, return_assistant_tokens_mask=True
            )
            ids, learn = tokenize_conversation(tokenizer, template, messages)
            assert found["input_ids"] == ids
            assert found["assistant_masks"] == list(map(int, learn))


EXTRAS = [
    "{{ messages | tojson(indent=2) }}{{ '<é>' | tojson }}",
    "{%- for m in messages %}\n    {%- if loop.first %}{% continue %}{% endif %}\n  {{ m }}\n"
    "{% endfor %}\n",
    "  {% set ns = namespace(found=false) %}\n  {% for m in messages %}\n  {% set ns.found = "
    "m.content %}\n{% endfor %}{{ ns.found }}\n",
    "{{ strftime_now('%Y') }}{{ bos_token }}{{ pad_token }}{{ tools }}{{ documents is none }}",
    "{% macro f(x) %}{{ x.role | upper }} {% endmacro %}{% for m in messages %}{{ f(m) }}"
    "{% endfor %}{{ messages | map(attribute='content') | join('|') | trim }}",
    "{{ messages[0]['content'][::-1] }}{{ messages[-1].content.split('e') }}{{ 7 // 2 * 3 }}",
    "{% generation %}\n  a\n{% endgeneration %}\nb",
    "{{ messages[0].content.replace('h', 'j') | default('x') }}{{ missing }}{{ dict(a=1) }}",
]


@pytest.mark.parametrize("source", EXTRAS)
def test_the_language_is_that_of_transformers(source, tmp_path):
    tokenizer = Tokenizer(byte_level().inner, byte_level().named, source)
    tokenizer.save(tmp_path)
    auto = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for messages in conversations():
        text = auto.apply_chat_template(messages, tokenize=False)
        assert template_of(tokenizer).render(messages) == text


def test_patterns_are_those_of_transformers():
    """Which has those of the models' own files, for the names that it knows."""
    known = gguf_tokenizer_mapping.GGUF_PRE_TOKENIZER_SPLITS
    same = set(known) & set(PRE)
    assert same == set(PRE) - {"gpt-2", "phi-2", "smollm", "starcoder", "default"}
    for name in same:
        assert PRE[name].patterns == (known[name],), name


def pre_tokenized(pre, text):
    """The pieces of a text, by the patterns, with the `regex` library."""
    pieces = [text]
    for pattern in PRE[pre].patterns:
        cut = []
        for piece in pieces:
            at = 0
            for match in regex.finditer(pattern, piece):
                cut += [piece[at : match.start()], match.group()]
                at = match.end()
            cut.append(piece[at:])
        pieces = [piece for piece in cut if piece]
    return pieces


class LlamaCpp:
    """llama.cpp's byte-level BPE again, in plain Python: special tokens, pieces, merges."""

    def __init__(self, values):
        get = {key.removeprefix("tokenizer.ggml."): value for key, value in values.items()}
        self.ids = {token: i for i, token in enumerate(get["tokens"])}
        self.ranks = {merge: rank for rank, merge in enumerate(get["merges"])}
        kinds = zip(get["tokens"], get["token_type"], strict=True)
        special = sorted((t for t, kind in kinds if kind in (3, 4)), key=len, reverse=True)
        self.special = regex.compile("(" + "|".join(map(regex.escape, special)) + ")")
        self.pre = get["pre"]
        kept = [*range(33, 127), *range(161, 173), *range(174, 256)]  # GPT-2's letters of bytes
        others = [b for b in range(256) if b not in kept]
        self.letters = {b: chr(b) for b in kept} | {
            b: chr(256 + i) for i, b in enumerate(others)
        }

    def encode(self, text):
        ids = []
        for i, part in enumerate(self.special.split(text)):
            if i % 2:
                ids.append(self.ids[part])
            else:
                for piece in pre_tokenized(self.pre, part):
                    ids += self.merged("".join(self.letters[b] for b in piece.encode()))
        return ids

    def knows(self, text):
        """llama.cpp leaves out a byte that has no token too, but does not merge across it."""
        return all(self.letters[b] in self.ids for b in text.encode())

    @functools.cache  # noqa: B019
    def merged(self, piece):
        if PRE[self.pre].whole and piece in self.ids:
            return [self.ids[piece]]
        parts = list(piece)
        while len(parts) > 1:
            pairs = [f"{a} {b}" for a, b in itertools.pairwise(parts)]
            best = min(range(len(pairs)), key=lambda i: self.ranks.get(pairs[i], 1e9))
            if pairs[best] not in self.ranks:
                break
            parts[best : best + 2] = ["".join(parts[best : best + 2])]
        return [self.ids[part] for part in parts]


@pytest.mark.parametrize("pre", [name for name in PRE if not PRE[name].nfc])
def test_ids_are_those_of_the_rules_of_llama_cpp(pre):
    values = metadata(pre)
    ours, again = tokenizer_of_gguf(values), LlamaCpp(values)
    for text in strings(300):
        assert ours.encode(text) == again.encode(text), (text, pre_tokenized(pre, text))


@functools.cache
def real_metadata():
    fields = gguf.GGUFReader(SMOLLM2).fields
    return {key: field.contents() for key, field in fields.items() if key.startswith("token")}


@real
def test_a_real_models_ids_are_those_of_the_rules_of_llama_cpp():
    ours, again = tokenizer_of_gguf(real_metadata()), LlamaCpp(real_metadata())
    texts = list(strings(STRINGS, seed=1))
    assert len(set(texts)) > 0.9 * STRINGS
    known = [text for text in texts if again.knows(text)]  # each of its bytes
    assert len(known) > 0.9 * STRINGS
    for text in known:
        ids = ours.encode(text)
        assert ids == again.encode(text), text
        assert "".join(ours.stream(ids)) == ours.decode(ids)


@real
def test_a_real_models_ids_are_those_of_transformers():
    """Transformers can read a GGUF file; told to split digits as the model does, it agrees.

    Without that it splits the text as GPT-2 does, since it does not know the rule's name.
    """
    from tokenizers import pre_tokenizers

    path = Path(SMOLLM2)
    auto = transformers.AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    encode = functools.partial(auto.encode, add_special_tokens=False)
    ours, inner = tokenizer_of_gguf(real_metadata()), auto.backend_tokenizer
    assert encode("\n\n1") != ours.encode("\n\n1")
    for text in strings(STRINGS, seed=2):
        if not regex.search(r"\p{N}", text):
            assert encode(text) == ours.encode(text), text
    digits = pre_tokenizers.Digits(individual_digits=True)
    inner.pre_tokenizer = pre_tokenizers.Sequence([digits, inner.pre_tokenizer])
    for text in strings(STRINGS, seed=3):
        assert encode(text) == ours.encode(text), text


@real
def test_a_real_models_chat_is_that_of_transformers(tmp_path):
    tokenizer = tokenizer_of_gguf(real_metadata())
    auto = transformers.AutoTokenizer.from_pretrained(tokenizer.save(tmp_path))
    template = ChatTemplate(tokenizer.chat_template, tokenizer.named)
    for messages in conversations():
        ids = auto.apply_chat_template(messages, return_dict=False)
        assert tokenizer.encode(template.render(messages)) == ids
        if messages[-1]["role"] == "assistant":
            assert tokenize_conversation(tokenizer, template, messages)[0] == ids
    assert tokenizer.stop == {tokenizer.inner.token_to_id("<|im_end|>")}
