"""Conversations to learn from: chats in a file become token ids, with labels at the answers.

    {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}

stands in each line of such a file. The chat template writes the whole conversation as text.
What is learnt is each answer of the assistant, with the token that ends it, and nothing else.
"""

import warnings

from tqdm import tqdm

from ..engine.backend import np
from ..engine.functional import IGNORE
from ..errors import check_flag, check_whole
from ..io.files import as_path, json_object, opened
from ..train.data import Examples
from .chat_template import check_messages

LONGEST = 10_000_000  # bytes of a line
ANSWERS = ("all", "last")


class Conversation(list):
    """A list of messages that knows where it was read: `where` is "chats.jsonl, line 7".

    `about` has what its line says besides the messages, {key: value}.
    """

    def __init__(self, messages, where, about=None):
        super().__init__(messages)
        self.where, self.about = where, about or {}


def read_conversations(path):
    """Returns a list of Conversations, one for each line of a JSONL file that is not blank.

    Raises ValueError, naming the line, if one is not a JSON object with a list "messages" of
    role and content (see `check_messages`), or does not end with an answer of the assistant.
    """
    path, found = as_path(path), []
    with opened(path, "JSONL file with a conversation in each line") as file:
        for number, line in enumerate(iter(lambda: file.readline(LONGEST + 1), b""), 1):
            where = f"{path.name}, line {number}"
            if len(line) > LONGEST:
                raise ValueError(f"{where}: it has more than {LONGEST:,} bytes; split it")
            line = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
            if line.strip():
                found.append(conversation_of(line, where))
    if not found:
        raise ValueError(f"{path.name} has no conversation; expected one in each line")
    return found


def conversation_of(line, where):
    """Returns the Conversation in a line, bytes; ValueError says what is wrong with it."""
    try:
        text = line.decode()
    except UnicodeDecodeError:
        raise ValueError(f"{where}: it is not UTF-8; save the file as UTF-8") from None
    values = json_object(text, f"{where}: it")
    if "messages" not in values:
        raise ValueError(f'{where}: it has no "messages"; expected {{"messages": […]}}')
    if values.get("tools"):
        raise ValueError(f'{where}: it has "tools", which are not supported; remove them')
    messages = checked(values.pop("messages"), where)
    return Conversation(messages, where, values)


def checked(messages, where):
    """Returns messages that end with an answer; ValueError, with where they stand, if not."""
    try:
        messages = check_messages(messages)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    if messages[-1]["role"] != "assistant":
        raise ValueError(
            f"{where}: the last message must be the assistant's answer, which is what is "
            f"learnt; it is the {messages[-1]['role']}'s"
        )
    asked = next(message["role"] for message in messages if message["role"] != "system")
    if asked == "assistant":
        raise ValueError(f"{where}: the assistant answers first; begin with the user's message")
    return messages


def tokenize_conversation(tokenizer, template, messages, answers="all"):
    """Returns (ids, learn), lists of one length: the tokens, and whether each is learnt.

    `learn` is True at the assistant's answers, with the token of `tokenizer.stop` that ends
    each, but not at the line break that may follow. With `answers="last"` only the last is.

    The tokens must be those that the model reads and writes later. Before an answer, these are
    the tokens of the conversation so far with its generation prompt; up to the answer's end,
    those of the conversation that stops there. Some templates write an answer differently once
    more messages follow: those of reasoning models leave its reasoning out. That raises
    ValueError; `answers="last"` learns the one answer that is written in full.

    Raises ValueError, too, for a template that leaves out a message or ends an answer with no
    token of `tokenizer.stop`, and for a content with a special token or one of these in it.
    """
    if answers not in ANSWERS:
        raise ValueError(f'answers must be "all" or "last", got {answers!r}')
    where = getattr(messages, "where", "the conversation")
    messages = checked(messages, where)
    try:
        return tokenized(tokenizer, template, messages, answers)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def tokenized(tokenizer, template, messages, answers):
    """Returns the same for messages that have been checked."""
    whole = template.render(messages)
    ids = tokenizer.encode(whole)
    learn = [False] * len(ids)
    turns = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
    for i, message in enumerate(messages):
        check_plain(tokenizer, message, i)
        if message["role"] != "assistant":
            check_written(message, i, whole)
    for turn in turns[-1:] if answers == "last" else turns:
        question = template.render(messages[:turn], add_generation_prompt=True)
        answered = template.render(messages[: turn + 1])
        asked, said = tokenizer.encode(question), tokenizer.encode(answered)
        check_extends(tokenizer, asked, said, f"what stands before message {turn + 1}")
        check_written(messages[turn], turn, answered[len(question) :])
        end = next((i for i in range(len(asked), len(said)) if said[i] in tokenizer.stop), None)
        if end is None:
            raise ValueError(
                f"no token of tokenizer.stop ends message {turn + 1}, so a model would never "
                "learn to stop; take the chat template and the tokenizer of one model"
            )
        check_extends(tokenizer, said[: end + 1], ids, f"the chat up to message {turn + 1}")
        learn[len(asked) : end + 1] = [True] * (end + 1 - len(asked))
    return ids, learn


def check_plain(tokenizer, message, i):
    """Raises ValueError if a token that means more than its text is in a content.

    That is a special token, or one that ends an answer, which need not be special: what follows
    it would not be learnt.
    """
    token = tokenizer.special_in(message["content"])
    if token:
        raise ValueError(f"message {i + 1} has the special token {token!r} in it; remove it")
    end = next((i for i in tokenizer.encode(message["content"]) if i in tokenizer.stop), None)
    if end is not None:
        raise ValueError(
            f"message {i + 1} has {tokenizer.decode([end])!r} in it, the token that ends an "
            "answer; write it otherwise"
        )


def check_written(message, i, text):
    """Raises ValueError if a content is not in what the template wrote, but for spaces.

    Many templates take spaces off its ends.
    """
    if "".join(message["content"].split()) not in "".join(text.split()):
        raise ValueError(
            f"the chat template leaves out message {i + 1} ({message['role']}), or a part of "
            "it; remove that from the conversation, or take another template"
        )


def check_extends(tokenizer, first, then, what):
    """Raises ValueError unless the ids `then` begin with the ids `first`."""
    i = next((i for i, pair in enumerate(zip(first, then, strict=False)) if pair[0] != pair[1]),
             min(len(first), len(then)))  # fmt: skip
    if i < len(first):
        one, other = (tokenizer.decode(ids[i : i + 8]) for ids in (first, then))
        raise ValueError(
            f"{what} is tokenised otherwise when the conversation goes on: at token {i + 1} "
            f"{one!r} becomes {other!r}; take spaces off the ends of the contents, or, where "
            "the chat template rewrites earlier answers, learn the last one only: "
            'answers="last", --answers last on the command line'
        )


def examples(tokenizer, template, data, context, system=None, answers="all", truncate=False):
    """Returns Examples of conversations: a path of a JSONL file, or a list of them.

    `context` is the model's: the longest row of ids that it reads. `system` is put before the
    conversations that have no system message. Rows are padded behind their end and stop after
    the last token that is learnt. A conversation that is too long raises ValueError; with
    `truncate` all such are left out, and a warning counts them. Raises ValueError as
    `read_conversations` and `tokenize_conversation` do, too.
    """
    how = dict(system=system, answers=answers, truncate=truncate)
    return padded(learnt_rows(tokenizer, template, data, context, **how), tokenizer)


def learnt_rows(
    tokenizer, template, data, context, system=None, answers="all", truncate=False,
    virtual_tokens=0,
):  # fmt: skip
    """Returns [(conversation, ids, learn)] of those that fit; the rest is as in `examples`.

    `virtual_tokens` is how many places of the context a method takes, as prefix tuning does.
    """
    (context,) = check_whole(1, context=context)
    check_flag(truncate=truncate)
    conversations = data if isinstance(data, (list, tuple)) else read_conversations(data)
    rows, too_long, room = [], [], context - virtual_tokens
    bar = tqdm(conversations, "tokenize", delay=2, leave=False, disable=None)
    for number, conversation in enumerate(bar, 1):
        where = getattr(conversation, "where", f"conversation {number}")
        messages = Conversation(checked(conversation, where), where)
        if system is not None and messages[0]["role"] != "system":
            messages.insert(0, {"role": "system", "content": system})
        ids, learn = tokenize_conversation(tokenizer, template, messages, answers)
        end = len(learn) - learn[::-1].index(True)  # behind it there is nothing to learn
        if end - 1 <= room:
            rows.append((conversation, ids[:end], learn[:end]))
        else:
            too_long.append(f"{where} has {end - 1:,} tokens to read")
    taken = f", of which virtual tokens take {virtual_tokens:,}" if virtual_tokens else ""
    if too_long and not (truncate and rows):
        raise ValueError(
            f"{too_long[0]}, and the model's context is {context:,}{taken}; {len(too_long)} of "
            f"{len(conversations)} are too long: shorten them, or leave them out by "
            "truncate=True, --skip-long on the command line"
        )
    if too_long:
        text = f"{len(too_long)} of {len(conversations)} conversations are longer than the"
        warnings.warn(f"{text} context of {context:,}{taken} and are left out", stacklevel=3)
    return rows


def padded(rows, tokenizer):
    """Returns Examples of rows (conversation, ids, learn), the labels moved by one place."""
    if not rows:
        raise ValueError("there are no conversations to learn from; give at least one")
    longest = max(len(ids) for _, ids, _ in rows) - 1
    pad = tokenizer.named_id("pad_token")
    pad = next(i for i in (pad, tokenizer.eos, 0) if i is not None)
    ids = np.full((len(rows), longest), pad)
    labels, is_token = np.full(ids.shape, IGNORE), np.zeros(ids.shape, bool)
    for row, (_, sequence, learn) in enumerate(rows):
        n = len(sequence) - 1
        ids[row, :n], is_token[row, :n] = sequence[:-1], True
        labels[row, :n] = np.where(learn[1:], sequence[1:], IGNORE)
    return Examples(ids, labels, is_token, by_length=True)
