"""Conversations to learn from: the loss is on the assistant's tokens only.

    {"messages": [{"role": "user", "content": "When do you open?"},
                  {"role": "assistant", "content": "At 8:40."}]}

is one line of a file, and becomes one row of Examples. The chat template writes it as text:

    <|im_start|>user
    When do you open?<|im_end|>
    <|im_start|>assistant
    At 8:40.<|im_end|>

The labels are the tokens of the answer and the token that ends it; all others are IGNORE.
"""

import json
import warnings

from tqdm import tqdm

from ..engine.backend import np
from ..engine.functional import IGNORE
from ..errors import unknown
from ..io.files import as_path
from ..train.data import Examples

ROLES = ("system", "user", "assistant")
LONGEST = 1_000_000  # characters of a line


def read_conversations(path):
    """Returns [(line number, messages)] of a file with one {"messages": […]} a line.

    Raises FileNotFoundError if there is no file, and ValueError that names the first line that
    is no conversation.
    """
    path, found = as_path(path), []
    with open(path, encoding="utf-8-sig", errors="strict") as file:
        try:
            for number, line in enumerate(file, 1):
                if line.strip():
                    place = f"{path}, line {number}"
                    found.append((number, check_messages(parse(line, place), place)))
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is not text in UTF-8: {error.reason}") from None
    if not found:
        raise ValueError(f'{path} has no line; each is {{"messages": […]}}')
    return found


def parse(line, place):
    """Returns the messages of a line of JSON."""
    if len(line) > LONGEST:
        raise ValueError(f"{place} is longer than {LONGEST:,} characters")
    try:
        values = json.loads(line)
    except (ValueError, RecursionError):
        raise ValueError(f"{place} is not JSON") from None
    messages = values.get("messages") if isinstance(values, dict) else None
    if not isinstance(messages, list):
        raise ValueError(f'{place} is not {{"messages": […]}}')
    return messages


def check_messages(messages, place="the conversation"):
    """Returns the messages as [{"role": …, "content": …}].

    Raises ValueError if they are not a conversation that ends with the assistant.
    """
    for message in messages:
        if not isinstance(message, dict) or not {"role", "content"} <= message.keys():
            raise ValueError(
                f"{place}: a message has a role and a content, not {message!r:.80}"
            )
        if message["role"] not in ROLES:
            raise ValueError(f"{place}: {unknown('role', message['role'], ROLES)}")
        if not isinstance(message["content"], str) or not message["content"].strip():
            raise ValueError(f"{place}: the content of a message is text that is not empty")
    roles = [message["role"] for message in messages]
    if "system" in roles[1:]:
        raise ValueError(f"{place}: a system message stands first")
    turns = roles[1:] if roles[:1] == ["system"] else roles
    if not turns or turns != ["user", "assistant"] * (len(turns) // 2):
        raise ValueError(
            f"{place}: user and assistant take turns, and the assistant is last; it has "
            f"{', '.join(roles) or 'no messages'}"
        )
    return [{"role": m["role"], "content": m["content"]} for m in messages]


def tokenize_conversation(tokenizer, messages):
    """Returns (ids, learn) of a conversation; learn is True at what the assistant writes.

    That is each answer and the token that ends it, but no line break behind that. Raises
    ValueError if the template writes the beginning of a conversation in another way when it
    goes on, as then the model would be asked in another way than it learnt.
    """
    spans, done = [], ""
    for i, message in enumerate(messages):
        if message["role"] == "assistant":
            prompt = tokenizer.chat(messages[:i])
            text = tokenizer.chat(messages[: i + 1], answer_next=False)
            if not (prompt.startswith(done) and text.startswith(prompt)):
                raise ValueError(
                    f"the chat template rewrites what came before message {i + 1}; use a "
                    "template that only adds to the text"
                )
            spans.append((len(prompt), len(text.rstrip("\n")), prompt))
            done = text
    encoding = tokenizer.rules.encode(done, add_special_tokens=False)
    starts = np.array([start for start, _ in encoding.offsets])
    learn = np.zeros(len(starts), bool)
    for start, end, prompt in spans:
        learn |= (starts >= start) & (starts < end)
        before = tokenizer.encode(prompt)
        if encoding.ids[: len(before)] != before:
            raise ValueError(
                f"the tokens of the prompt change when {done[start : start + 20]!r} follows; "
                "begin the answer with a letter"
            )
    return encoding.ids, learn


def examples(tokenizer, conversations, context, *, skip_long=False, name="the data"):
    """Returns the Examples of [(line number, messages)], for batches of rows of like length.

    Raises ValueError for a conversation of more tokens than the context has, with its line; or
    leaves it out, with a warning, if `skip_long`.
    """
    rows, too_long = [], []
    bar = tqdm(conversations, "tokenize", delay=2, leave=False, disable=None)
    for number, messages in bar:
        try:
            ids, learn = tokenize_conversation(tokenizer, messages)
        except ValueError as error:
            raise ValueError(f"{name}, line {number}: {error}") from None
        if len(ids) - 1 <= context:
            rows.append((ids, learn))
            continue
        too_long.append(number)
        if not skip_long:
            raise ValueError(
                f"{name}, line {number}: {len(ids)} tokens are more than the context of "
                f"{context}; shorten the conversation or leave it out"
            )
    if too_long:
        lines = ", ".join(map(str, too_long[:5])) + (", …" if len(too_long) > 5 else "")
        text = f"{name}: {len(too_long)} conversations are too long and left out, lines {lines}"
        warnings.warn(text, stacklevel=2)
    if not rows:
        raise ValueError(f"{name} has no conversation that fits into the context of {context}")
    T = max(len(ids) for ids, _ in rows) - 1
    ids = np.full((len(rows), T), tokenizer.padding)
    labels = np.full((len(rows), T), IGNORE)
    for n, (row, learn) in enumerate(rows):
        ids[n, : len(row) - 1] = row[:-1]
        labels[n, : len(row) - 1] = np.where(learn[1:], row[1:], IGNORE)
    return Examples(ids, labels, by_length=True)
