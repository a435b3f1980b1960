"""The tokenizer of a language model: text to token ids and back, as the model was trained.

It is read from the files that come with a model, a folder as Hugging Face writes it or the
metadata of a GGUF file, and written as a folder that `AutoTokenizer` of transformers reads.
The library `tokenizers` does the work; it belongs to the extra: pip install 'minipeft[llm]'.
"""

import functools
import json
import re

from ..errors import needed, to_python
from ..io.files import as_path, error_context, opened, read_json, write_bytes, write_json
from .byte_level import PRE, begin_with, byte_level_of_gguf

# Special tokens that files name; chat templates see those that a tokenizer has by these names.
NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token")
GGUF_NAMES = dict(zip(NAMED, ("bos", "eos", "unknown", "seperator", "padding"), strict=True))
# Tokens that end a turn of a chat, in the templates that use them.
TURN_ENDS = ("<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end|>", "<end_of_turn>")
LONGEST = 200_000_000  # bytes of tokenizer.json
# The name of tokenizers' own class in transformers, which takes tokenizer.json as it is.
PLAIN = "PreTrainedTokenizerFast"


class Tokenizer:
    """Text to token ids and back.

    `inner` is a `tokenizers.Tokenizer`, `named` {name of NAMED: token}, `chat_template` the
    source of the model's chat template, or None. `bos` and `eos` are the ids of the tokens that
    begin and end a text, or None; `stop` has the ids at which an answer in a chat ends: `ends`,
    `eos`, and those of TURN_ENDS that the chat template writes. Raises ValueError for a named
    token that the vocabulary does not have.
    """

    def __init__(self, inner, named=None, chat_template=None, ends=()):
        self.inner, self.named = inner, dict(named or {})
        self.chat_template = chat_template
        inner.no_truncation()  # of a tokenizer.json that was saved while it was cutting
        inner.no_padding()
        for name, token in self.named.items():
            if inner.token_to_id(token) is None:
                raise ValueError(f"the vocabulary does not have the {name} {token!r}")
        self.bos, self.eos = map(self.named_id, ("bos_token", "eos_token"))
        used = [token for token in TURN_ENDS if token in (chat_template or "")]
        turns = {inner.token_to_id(token) for token in used if token in self.special}
        self.stop = frozenset(to_python(ends)) | turns | ({self.eos} - {None})
        check_ids(self.stop, self.vocab)

    def named_id(self, name):
        """Returns the id of a named token, or None if there is none."""
        return self.inner.token_to_id(self.named[name]) if name in self.named else None

    @functools.cached_property
    def vocab(self):
        """The size of the vocabulary: every id is below it."""
        return max(self.inner.get_vocab().values()) + 1

    @functools.cached_property
    def special(self):
        """The special tokens, such as <|im_end|>: no other text has their ids."""
        added = self.inner.get_added_tokens_decoder().values()
        return frozenset(token.content for token in added if token.special)

    @functools.cached_property
    def special_in(self):
        """A function text -> the first special token in it, or None."""
        longest_first = sorted(self.special, key=len, reverse=True)
        pattern = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
        return lambda text: (found := pattern.search(text)) and found.group()

    def encode(self, text, add_special=False):
        """Returns the token ids of a text, a list.

        Special tokens in the text are recognised. None is added, unless `add_special` asks for
        those that the model wants around a text, such as one at its beginning. A byte that the
        vocabulary does not have, often a control character, is left out, as by transformers.
        """
        if not isinstance(text, str):
            raise ValueError(f"text must be a string, got {type(text).__name__}")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            place = f"{text[error.start]!r} at place {error.start}"
            raise ValueError(f"the text has half a character, {place}; remove it") from None
        return self.inner.encode(text, add_special_tokens=add_special).ids

    def decode(self, ids, skip_special=False):
        """Returns the text of token ids, without special tokens if `skip_special`.

        Bytes that are no UTF-8 become U+FFFD. Raises ValueError for an id that is not there.
        """
        ids = list(map(to_python, ids))
        check_ids(ids, self.vocab)
        return self.inner.decode(ids, skip_special_tokens=skip_special)

    def stream(self, ids, skip_special=False):
        """Yields the text of token ids piece by piece, as soon as the ids arrive.

        A piece never ends within a character, and all joined are what `decode` returns.
        """
        told, waiting = [], []  # ids whose text has been yielded last, and those still to come
        for i in ids:
            waiting.append(i)
            before = self.decode(told, skip_special)
            text = self.decode(told + waiting, skip_special)
            if not text.endswith("\ufffd") and not self.is_byte(i) and text != before:
                yield text[len(before) :]
                told, waiting = waiting, []
        rest = self.decode(told + waiting, skip_special)[len(self.decode(told, skip_special)) :]
        if rest:
            yield rest

    def is_byte(self, i):
        """Returns whether an id is a byte such as <0xE2>, decoded with the bytes behind it."""
        return bool(re.fullmatch("<0x[0-9A-F]{2}>", self.inner.id_to_token(to_python(i)) or ""))

    def save(self, folder):
        """Write tokenizer.json, tokenizer_config.json and where answers end into a folder.

        transformers' AutoTokenizer reads the folder, and gives the same ids and the same chat.
        Of generation_config.json, which other settings may share, only eos_token_id changes.
        """
        folder = as_path(folder)
        config = {"tokenizer_class": PLAIN, "clean_up_tokenization_spaces": False, **self.named}
        if self.chat_template is not None:
            config["chat_template"] = self.chat_template
        generation = folder / "generation_config.json"
        shared = read_json(generation) if generation.is_file() else {}
        write_bytes(folder / "tokenizer.json", self.inner.to_str(pretty=True).encode())
        write_json(folder / "tokenizer_config.json", config)
        if self.stop:
            write_json(generation, shared | {"eos_token_id": sorted(self.stop)})
        return folder


def check_ids(ids, vocab):
    """Raises ValueError for the first id that is no whole number from 0 to below `vocab`."""
    for i in ids:
        if type(i) is not int or not 0 <= i < vocab:
            raise ValueError(f"{i!r} is no token id: they are 0 to {vocab - 1:,}")


def load_tokenizer(path, metadata=None):
    """Returns the tokenizer of a model: of a Hugging Face folder, or of a GGUF file.

    A tokenizer.json beside a GGUF file is preferred, as it says more. Without one, the file's
    `metadata` is read. Raises FileNotFoundError if neither is there.
    """
    path = as_path(path)
    folder = path if path.is_dir() else path.parent
    if (folder / "tokenizer.json").is_file():
        return tokenizer_of_folder(folder)
    if metadata is not None:
        return tokenizer_of_gguf(metadata)
    raise FileNotFoundError(
        f"there is no tokenizer.json in {folder}; put the model's there, or write one with "
        "AutoTokenizer.from_pretrained(…).save_pretrained(folder) of transformers"
    )


def tokenizer_of_folder(folder):
    """Returns the tokenizer of a folder as transformers writes it.

    tokenizer.json has the vocabulary; the named tokens and the chat template come from
    tokenizer_config.json, special_tokens_map.json and chat_template.jinja, the ids at which
    an answer ends from generation_config.json too. All but the first may be missing.
    """
    folder = as_path(folder)
    inner = inner_of_file(folder / "tokenizer.json")
    with error_context(folder / "tokenizer_config.json"):
        config = optional(folder / "special_tokens_map.json")
        config |= optional(folder / "tokenizer_config.json")
        named = {name: content(config[name]) for name in NAMED if config.get(name) is not None}
        template = default_template(config.get("chat_template"))
    jinja = folder / "chat_template.jinja"
    if jinja.is_file():
        with error_context(jinja):
            template = jinja.read_text(encoding="utf-8")
    ends = optional(folder / "generation_config.json").get("eos_token_id")
    ends = [] if ends is None else ends if isinstance(ends, list) else [ends]
    with error_context(folder):
        return Tokenizer(inner, named, template, ends)


def tokenizer_of_gguf(metadata):
    """Returns the tokenizer of a GGUF file from its metadata, {key: Python value}.

    Raises ValueError for what `byte_level_of_gguf` refuses, and ids beyond the vocabulary.
    """
    inner = byte_level_of_gguf(metadata)
    keys = GGUF_NAMES | {"eot": "eot", "eom": "eom"}
    ids = {name: metadata.get(f"tokenizer.ggml.{key}_token_id") for name, key in keys.items()}
    ids = {name: i for name, i in ids.items() if i is not None}
    check_ids(ids.values(), inner.get_vocab_size())
    named = {name: inner.id_to_token(i) for name, i in ids.items() if name in NAMED}
    usual = PRE[metadata["tokenizer.ggml.pre"]].bos
    if metadata.get("tokenizer.ggml.add_bos_token", usual) and "bos_token" in named:
        begin_with(inner, named["bos_token"])
    ends = [i for name, i in ids.items() if name not in NAMED]
    template = default_template(metadata.get("tokenizer.chat_template"))
    return Tokenizer(inner, named, template, ends)


def inner_of_file(path):
    """Returns the `tokenizers.Tokenizer` of a tokenizer.json; ValueError if it is none."""
    library = needed("tokenizers", "a language model's text")
    with opened(path, "tokenizer") as file:
        text = file.read(LONGEST + 1)
    if len(text) > LONGEST:
        raise ValueError(f"{path} has more than {LONGEST:,} bytes; expected a tokenizer")
    try:
        model = json.loads(text)["model"]
        if model.get("type") == "BPE" and model.get("continuing_subword_prefix"):
            raise ValueError("BPE with a continuing_subword_prefix is not supported")
        return library.Tokenizer.from_str(text.decode())
    except BaseException as error:
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            raise
        reason = " ".join(str(error).split())[:200]  # the library also raises PanicException
    raise ValueError(f"{path} is no tokenizer ({reason}); take the model's own file")


def optional(path):
    """Returns the JSON object in a file, {} if there is no such file."""
    return read_json(path) if path.is_file() else {}


def content(token):
    """Returns the text of a token in a configuration: a string, or {"content": string, …}."""
    text = token.get("content") if isinstance(token, dict) else token
    if not isinstance(text, str):
        raise ValueError(f"a token must be a string, got {token!r}")
    return text


def default_template(source):
    """Returns a chat template: a string as it is, the one called "default" of a list."""
    if isinstance(source, list):
        named = [item for item in source if isinstance(item, dict)]
        source = [item.get("template") for item in named if item.get("name") == "default"]
        if len(source) != 1:
            raise ValueError('the list of chat templates has not one called "default"')
        (source,) = source
    if source is not None and not isinstance(source, str):
        raise ValueError(f"the chat template must be text, got {type(source).__name__}")
    return source
