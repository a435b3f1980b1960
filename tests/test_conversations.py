"""Conversations: files of them, the tokens that are learnt, and what is refused."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chats import TEMPLATES, chat, pieces, sentencepiece, talk
from minipeft.engine.backend import np
from minipeft.engine.functional import IGNORE
from minipeft.text.chat_template import ChatTemplate
from minipeft.text.conversations import (
    LONGEST,
    examples,
    read_conversations,
    tokenize_conversation,
)
from minipeft.text.tokenizer import Tokenizer
from planted import planted

PLAIN = st.text(min_size=1, max_size=12).map(str.strip).filter(bool)
CONTENT = PLAIN.filter(lambda text: "<|" not in text and "s>" not in text)
EXTENDED = [style for style in TEMPLATES if style != "reasoning"]
each_style = pytest.mark.parametrize("style", EXTENDED)


def wanted(style, tokenizer, messages):
    """(ids, learn) from the pieces in plain Python; they meet at no token."""
    ids, learn = [], []
    for text, learnt in pieces(style, messages):
        some = tokenizer.encode(text)
        ids, learn = ids + some, learn + [learnt] * len(some)
    return ids, learn


@each_style
@given(
    pairs=st.lists(st.tuples(CONTENT, CONTENT), min_size=1, max_size=3), system=st.booleans()
)
def test_the_answers_are_learnt_and_nothing_else(style, pairs, system):
    contents = [content for pair in pairs for content in pair]
    messages = talk(*contents, system="You are" if system and style != "mistral" else None)
    tokenizer, template = chat(style)
    ids, learn = tokenize_conversation(tokenizer, template, messages)
    assert (ids, learn) == wanted(style, tokenizer, messages)
    assert ids == tokenizer.encode(template.render(messages))


@each_style
def test_what_is_learnt_is_what_is_asked_for_later(style):
    """Behind the prompt of a chat, at each of its answers, stand exactly the tokens learnt."""
    tokenizer, template = chat(style)
    messages = talk("hello", "Hello world", "12", "the answer")
    ids, learn = tokenize_conversation(tokenizer, template, messages)
    for turn in (1, 3):
        prompt = tokenizer.encode(template.render(messages[:turn], add_generation_prompt=True))
        assert ids[: len(prompt)] == prompt
        answer = ids[len(prompt) :]
        end = next(i for i, token in enumerate(answer) if token in tokenizer.stop)
        assert tokenizer.decode(answer[:end]).strip() == messages[turn]["content"]
        assert all(learn[len(prompt) : len(prompt) + end + 1])
    assert sum(learn) == sum(x for _, x in zip(ids, learn, strict=True)) < len(learn)
    _, last = tokenize_conversation(tokenizer, template, messages, answers="last")
    assert last == [at >= len(prompt) and x for at, x in enumerate(learn)]


def test_a_space_before_the_text_is_no_trouble():
    tokenizer = sentencepiece()
    template = ChatTemplate(*TEMPLATES["mistral"])
    ids, learn = tokenize_conversation(tokenizer, template, talk("a b", "c d", "e", "f"))
    said = tokenizer.decode([i for i, x in zip(ids, learn, strict=True) if x])
    assert said == "c d</s> f</s>"


PLANTED = [
    ("learn[len(asked) : end + 1] = [True] * (end + 1 - len(asked))",
     "learn[len(asked) : end] = [True] * (end - len(asked))"),
    ("learn[len(asked) : end + 1] = [True] * (end + 1 - len(asked))",
     "learn[len(asked) : len(said)] = [True] * (len(said) - len(asked))"),
    ("template.render(messages[:turn], add_generation_prompt=True)",
     "template.render(messages[:turn])"),
    ('turns[-1:] if answers == "last" else turns', "turns[-1:]"),
]  # fmt: skip


@pytest.mark.parametrize(("right", "wrong"), PLANTED)
def test_a_planted_bug_of_what_is_learnt_is_caught(right, wrong):
    tokenizer, template = chat("smollm2")
    messages = talk("hello", "Hello world", "12", "the answer")
    right_ones = wanted("smollm2", tokenizer, messages)
    with planted("text.conversations", right, wrong):
        try:
            found = tokenize_conversation(tokenizer, template, messages)
        except ValueError:
            found = None
    assert found != right_ones


def test_a_template_that_rewrites_earlier_answers_is_refused_or_learns_the_last():
    tokenizer, template = chat("reasoning")
    messages = talk("hello", "Hello world", "12", "the answer")
    with pytest.raises(ValueError, match=r"message 2 is tokenised otherwise.*answers=\"last\""):
        tokenize_conversation(tokenizer, template, messages)
    ids, learn = tokenize_conversation(tokenizer, template, messages, answers="last")
    said = tokenizer.decode([i for i, x in zip(ids, learn, strict=True) if x])
    assert said == "<think>\n\n</think>\n\nthe answer<|im_end|>"
    one = tokenize_conversation(tokenizer, template, messages[:2])
    assert sum(one[1]) == sum(
        tokenize_conversation(tokenizer, template, messages[:2], "last")[1]
    )


def of(source, tokenizer=None):
    """A template of a source, and a tokenizer that ends answers at <|im_end|>."""
    return tokenizer or chat("smollm2")[0], ChatTemplate(source, TEMPLATES["smollm2"][1])


NO_SYSTEM = "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}"
CUT = (
    "{% for m in messages %}<|im_start|>{{ m.role + ' ' + m.content.split('|')[-1] }}<|im_end|>"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant{% endif %}"
)
NO_END = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
GREEDY = TEMPLATES["smollm2"][0].replace(
    "assistant\n' }}{% endif %}", "assistant' }}{% endif %}"
)
USUAL = TEMPLATES["smollm2"][0]
OTHER = USUAL.replace("'<|im_start|>assistant\n'", "'<|im_start|>bot\n'")


@pytest.mark.parametrize(
    ("source", "messages", "words"),
    [
        (NO_SYSTEM, talk("a", "b", system="Be kind"), r"leaves out message 1 \(system\)"),
        (CUT, talk("a", "x|y"), r"leaves out message 2 \(assistant\)"),
        (CUT, talk("a|b", "y"), r"leaves out message 1 \(user\)"),
        (NO_END, talk("a", "b"), "no token of tokenizer.stop ends message 2.*learn to stop"),
        (OTHER, talk("a", "b"), r"before message 2 is tokenised otherwise.*'bot.*becomes 'ass"),
        (USUAL, talk("a", "\n\nb"), "before message 2 is tokenised otherwise"),
        (USUAL, talk("a<|im_end|>", "b"), r"message 1 has .*'<\|im_end\|>' in"),
        (USUAL, talk("a", "b<|end|>"), "message 2 has the special token"),
        (USUAL, talk("a", "b", "c"), "must be the assistant's.*the user's"),
        (USUAL, talk("a", "b")[1:], "the assistant answers first"),
        ("{{ raise_exception('no') }}", talk("a", "b"), "the conversation: the chat template"),
    ],
)  # fmt: skip
def test_what_would_be_learnt_wrongly_is_refused(source, messages, words):
    tokenizer, template = of(source)
    with pytest.raises(ValueError, match=words) as error:
        tokenize_conversation(tokenizer, template, messages)
    assert "\n" not in str(error.value)


def test_answers_are_all_or_the_last():
    with pytest.raises(ValueError, match='"all" or "last", got \'first\''):
        tokenize_conversation(*chat("smollm2"), talk("a", "b"), answers="first")


def line(*contents, **more):
    return json.dumps({"messages": talk(*contents), **more})


def write(path, *lines, start=b"", end="\n"):
    path.write_bytes(start + "".join(text + end for text in lines).encode())
    return path


def test_a_file_is_read_line_by_line(tmp_path):
    path = write(tmp_path / "chats.jsonl", line("a", "b"), "", " ", line("é", "d", id=3))
    found = read_conversations(path)
    assert found == [talk("a", "b"), talk("é", "d")]
    assert [messages.where for messages in found] == [
        "chats.jsonl, line 1", "chats.jsonl, line 4"
    ]  # fmt: skip


@pytest.mark.parametrize(
    "ways", [dict(start=b"\xef\xbb\xbf"), dict(end="\r\n"), dict(start=b"\n\n", end=" \r\n")]
)
def test_other_editors_files_are_read(tmp_path, ways):
    path = write(tmp_path / "x.jsonl", line("a\u2028b", "c"), line("d", "e"), **ways)
    assert read_conversations(path) == [talk("a\u2028b", "c"), talk("d", "e")]


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ("{", "it is not JSON"),
        ("[" * 100_000, "it is not JSON"),
        ("[1]", "holds no JSON object but a list"),
        ("{}", 'it has no "messages"'),
        ('{"messages": [], "messages": []}', "'messages' is there twice"),
        ('{"messages": []}', "at least one"),
        ('{"messages": {"role": "user"}}', "must be a list"),
        (line("a"), "must be the assistant's answer"),
        (line("a", ""), r"message 2 \(assistant\) has no content"),
        (line("a", 3), "must be text, got a int"),
        (line("a", "b", tools=[{}]), '"tools", which are not supported'),
        (
            '{"messages": [{"role": "human", "content": "x"}]}',
            "message 1: unknown role 'human'",
        ),
        ('{"messages": [{"from": "human", "value": "x"}]}', "message 1 must be"),
    ],
)
def test_a_fault_is_told_with_its_line(tmp_path, bad, words):
    path = write(tmp_path / "data.jsonl", line("a", "b"), "", bad)
    with pytest.raises(ValueError, match=r"^data.jsonl, line 3: ") as error:
        read_conversations(path)
    assert error.match(words) and "\n" not in str(error.value) and len(str(error.value)) < 300


def test_bytes_that_are_no_text_and_lines_that_are_too_long_are_told_too(tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_bytes(b"\n\xff\xfe{")
    with pytest.raises(ValueError, match=r"data.jsonl, line 2: it is not UTF-8"):
        read_conversations(path)
    path.write_bytes(b"\n" + b" " * (LONGEST + 1))
    with pytest.raises(ValueError, match=r"line 2: it has more than 10,000,000 bytes"):
        read_conversations(path)
    path.write_bytes(b"\n\n")
    with pytest.raises(ValueError, match="no conversation"):
        read_conversations(path)
    with pytest.raises(FileNotFoundError, match="JSONL"):
        read_conversations(tmp_path / "none.jsonl")


def test_a_later_fault_has_its_line_too(tmp_path):
    path = write(tmp_path / "data.jsonl", line("a", "b"), line("a", "half \ud83c"))
    with pytest.raises(ValueError, match=r"^data.jsonl, line 2: .*half a character"):
        examples(*chat("smollm2"), path, 100)
    with pytest.raises(ValueError, match=r"^conversation 2: .*special token"):
        examples(*chat("smollm2"), [talk("a", "b"), talk("<|end|>", "b")], 100)


@each_style
@given(data=st.data())
def test_examples_are_the_conversations_moved_by_one(style, data):
    pairs = st.tuples(CONTENT, CONTENT)
    some = data.draw(st.lists(st.lists(pairs, min_size=1, max_size=2), min_size=1, max_size=3))
    some = [talk(*(content for pair in turns for content in pair)) for turns in some]
    tokenizer, template = chat(style)
    found = examples(tokenizer, template, some, 10_000)
    for row, messages in enumerate(some):
        ids, learn = wanted(style, tokenizer, messages)
        end = max(i for i, x in enumerate(learn) if x)
        labels = [i if x else IGNORE for i, x in zip(ids, learn, strict=True)][1 : end + 1]
        assert found.ids[row, :end].tolist() == ids[:end]
        assert found.labels[row, :end].tolist() == labels
        assert (found.labels[row, end:] == IGNORE).all()
    longest = max(len(found.ids[0]), 1)
    assert (found.labels[:, longest - 1] != IGNORE).any(), "the longest row ends with a label"


def test_labels_that_are_not_moved_are_caught():
    args = (*chat("smollm2"), [talk("hello", "Hello world")], 100)
    right = examples(*args)
    with planted("text.conversations", "np.where(learn[1:], sequence[1:], IGNORE)",
                 "np.where(learn[:-1], sequence[:-1], IGNORE)"):  # fmt: skip
        with pytest.raises(ValueError, match="the labels are the ids themselves"):
            examples(*args)
    assert (right.labels != IGNORE).sum() == sum(
        tokenize_conversation(*args[:2], args[2][0])[1]
    )


def test_a_system_message_is_put_before_those_without(tmp_path):
    tokenizer, template = chat("smollm2")
    data = [talk("a", "b"), talk("a", "b", system="Be brief")]
    found = examples(tokenizer, template, data, 100, system="Be kind")
    one, two = (tokenizer.decode(row[:20]) for row in found.ids)
    assert "Be kind" in one and "Be brief" in two and "Be kind" not in two
    assert data[0] == talk("a", "b")
    path = write(tmp_path / "x.jsonl", line("a", "b"))
    assert "Be kind" in tokenizer.decode(
        examples(tokenizer, template, path, 100, system="Be kind").ids[0]
    )


def test_a_conversation_that_is_too_long_is_refused_or_left_out(tmp_path):
    tokenizer, template = chat("smollm2")
    path = write(tmp_path / "x.jsonl", line("a", "b"), line("a", "b " * 50), line("c", "d"))
    whole = examples(tokenizer, template, path, 1000)
    context = whole.ids.shape[1]
    assert len(examples(tokenizer, template, path, context)) == 3
    words = rf"x.jsonl, line 2 has {context} tokens to read.*context is {context - 1}; 1 of 3"
    with pytest.raises(ValueError, match=words):
        examples(tokenizer, template, path, context - 1)
    with pytest.warns(UserWarning, match="1 of 3 conversations are longer"):
        short = examples(tokenizer, template, path, context - 1, truncate=True)
    assert len(short) == 2 and np.isin(short.ids, whole.ids).all()
    with pytest.raises(ValueError, match="3 of 3 are too long"):
        examples(tokenizer, template, path, 3, truncate=True)
    with pytest.raises(ValueError, match="no conversations"):
        examples(tokenizer, template, [], 3)
    for wrong in (dict(context=0), dict(context=9, truncate=1)):
        with pytest.raises(ValueError, match="must be"):
            examples(tokenizer, template, path, **wrong)


def test_a_tokenizer_of_another_model_never_learns_to_stop():
    tokenizer = Tokenizer(chat("smollm2")[0].inner, {"eos_token": "<|end|>"})
    with pytest.raises(ValueError, match=r"no token of tokenizer.stop"):
        tokenize_conversation(tokenizer, chat("smollm2")[1], talk("a", "b"))


@pytest.mark.parametrize("special", [False, True])
def test_a_token_that_ends_answers_is_refused_within_one(special, tmp_path):
    """An end token that is not special would cut what is learnt without a word."""
    library = pytest.importorskip("tokenizers")
    inner = library.Tokenizer.from_str(chat("smollm2")[0].inner.to_str())
    inner.add_tokens([library.AddedToken("END", special=special)])
    tokenizer = Tokenizer(inner, {"eos_token": "END"})
    template = ChatTemplate(USUAL.replace("<|im_end|>", "END"), TEMPLATES["smollm2"][1])
    ids, learn = tokenize_conversation(tokenizer, template, talk("a", "the answer"))
    assert tokenizer.decode(np.array(ids)[learn]) == "the answerEND"
    for number, contents in ((2, ("a", "the END of all")), (1, ("the END", "b"))):
        path = write(tmp_path / "x.jsonl", line("a", "b"), line(*contents))
        with pytest.raises(ValueError, match=rf"x.jsonl, line 2: message {number} has.*'END'"):
            examples(tokenizer, template, path, 100)
