"""A tiny language model that stands in for a real one in lesson 13, where none is installed.

    chat = stand_in()             a Chat, as `load_chat` returns it

It has SmolLM2's shape at a thousandth of the size, random weights, and a tokenizer of bytes. So
it can be trained, merged and asked, but it knows no language: its numbers say nothing.
"""

import re
from pathlib import Path

from ..lab.tune import Chat
from ..model.config import Config
from ..model.transformer import Transformer
from ..text.chat_template import check_messages

BYTES = 256
SPECIAL = ("<|im_start|>", "<|im_end|>")  # ids 256 and 257, behind the bytes
SYSTEM = {"role": "system", "content": "You are a stand-in."}


class ByteTokenizer:
    """Text to the numbers of its UTF-8 bytes and back, with two special tokens."""

    vocab = BYTES + len(SPECIAL)
    bos, eos, stop = None, BYTES + 1, frozenset([BYTES + 1])

    def encode(self, text):
        """Returns the token ids of a text; special tokens in it are recognised."""
        parts = re.split(f"({'|'.join(map(re.escape, SPECIAL))})", text)
        return [i for part in parts for i in self.ids_of(part)]

    def ids_of(self, part):
        """Returns the ids of a special token, or of a text without any."""
        return [BYTES + SPECIAL.index(part)] if part in SPECIAL else list(part.encode())

    def decode(self, ids, skip_special=False):
        """Returns the text of token ids; bytes that are no UTF-8 become U+FFFD."""
        special = [b"" if skip_special else token.encode() for token in SPECIAL]
        parts = [bytes([i]) if i < BYTES else special[i - BYTES] for i in ids]
        return b"".join(parts).decode(errors="replace")

    def special_in(self, text):
        """Returns a special token in a text, or None."""
        return next((token for token in SPECIAL if token in text), None)

    def named_id(self, name):
        """Returns the id of a token that a file would name, such as "pad_token", or None."""
        return self.eos if name in ("eos_token", "pad_token") else None


class ChatML:
    """The chat template that SmolLM2 has, written in Python."""

    def render(self, messages, add_generation_prompt=False):
        """Returns the text of messages, as `ChatTemplate.render` does."""
        messages = check_messages(messages)
        if messages[0]["role"] != "system":
            messages = [SYSTEM, *messages]
        lines = [f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in messages]
        return "".join(lines) + ("<|im_start|>assistant\n" if add_generation_prompt else "")


def stand_in(rng=0):
    """Returns the Chat of a random model; rng: a seed or Generator for its weights."""
    tokenizer = ByteTokenizer()
    config = Config.llama(
        vocab=tokenizer.vocab, context=1024, width=32, layers=3, heads=4, kv_heads=2, ffn=64,
        tied=True,
    )  # fmt: skip
    model = Transformer(config, rng=rng)
    return Chat(Path("stand-in"), config, tokenizer, ChatML(), model=model)
