"""Tokenizers: text to token ids and back, by the vocabulary and the rules of a model.

    tokenizer = load_tokenizer("SmolLM2-135M-Instruct/")        or a GGUF file
    tokenizer.encode("Hello!")                                  [19556, 17]
    tokenizer.chat([{"role": "user", "content": "Hello!"}])     the prompt of a conversation

The work is done by the library `tokenizers`: pip install 'minipeft[llm]'.
"""

import json

from ..errors import unknown
from ..io.files import as_path, read_json, read_text, write_bytes, write_json
from ..io.gguf import GGUF
from .chat_template import ChatTemplate

CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
SIGNS = r" ?[^\s\p{L}\p{N}]+[\r\n]*"
# {name of a GGUF file's rules: the expression that splits text before the merges; None: by
# digits, then as GPT-2 does}
SPLITS = {
    "llama-bpe": rf"{CONTRACTIONS}|{WORDS}|\p{{N}}{{1,3}}|{SIGNS}|{SPACES}",
    "qwen2": rf"{CONTRACTIONS}|{WORDS}|\p{{N}}|{SIGNS}|{SPACES}",
    "gpt-2": "",
    "smollm": None,
    "starcoder": None,
}
LONGEST = 100_000_000  # bytes of a tokenizer.json
CONTROL, USER_DEFINED = 3, 4  # types of tokens in a GGUF file that stand for themselves
# tokens that end a turn of a chat, in the vocabularies that have them
ENDS = (
    "<|im_end|>", "<|eot_id|>", "<|end|>", "<end_of_turn>", "<|end_of_text|>", "<|endoftext|>",
    "<|end_of_role|>", "</s>",
)  # fmt: skip


def load_tokenizer(path):
    """Returns the Tokenizer of a model's folder, or of a GGUF file.

    A tokenizer.json beside a GGUF file is taken instead of the file's own vocabulary. Raises
    FileNotFoundError if there is none, and ValueError if it cannot be read, or if a GGUF
    file's rules are not known.
    """
    path = as_path(path)
    folder = path if path.is_dir() else path.parent
    if (folder / "tokenizer.json").is_file():
        return from_folder(folder)
    if path.is_dir():
        raise FileNotFoundError(f"{path} has no tokenizer.json; copy it from the model's page")
    with GGUF(path) as file:
        return from_gguf(file.metadata, path)


def tokenizers():
    """Returns the library. Raises ValueError where it is not installed."""
    try:
        import tokenizers
    except ImportError:
        raise ValueError("text needs tokenizers: pip install 'minipeft[llm]'") from None
    return tokenizers


def from_folder(folder):
    """Returns the Tokenizer of a folder with tokenizer.json, as `save_pretrained` leaves it."""
    config, generation = (
        read_json(folder / name) if (folder / name).is_file() else {}
        for name in ("tokenizer_config.json", "generation_config.json")
    )
    text = read_text(folder / "tokenizer.json", LONGEST)
    try:
        rules = tokenizers().Tokenizer.from_buffer(text)
    except Exception as error:  # the library raises Exception itself
        raise ValueError(f"{folder / 'tokenizer.json'}: {error}") from None
    template = config.get("chat_template")
    if (folder / "chat_template.jinja").is_file():
        template = read_text(folder / "chat_template.jinja").decode()
    if isinstance(template, list):
        named = {t.get("name"): t.get("template") for t in template if isinstance(t, dict)}
        template = named.get("default")
    special = {
        name: config[name].get("content") if isinstance(config[name], dict) else config[name]
        for name in ("bos_token", "eos_token", "pad_token")
        if config.get(name)
    }
    ends = generation.get("eos_token_id")
    ends = ends if isinstance(ends, list) else [] if ends is None else [ends]
    return Tokenizer(rules, template, special, ends)


def from_gguf(metadata, path="the GGUF file"):
    """Returns the Tokenizer that the metadata of a GGUF file describe."""
    kind = metadata.get("tokenizer.ggml.model")
    if kind != "gpt2":
        raise ValueError(
            f"{path} has a vocabulary of kind {kind!r}, and only 'gpt2' is read; put the "
            "tokenizer.json of the model beside it"
        )
    rules_name = metadata.get("tokenizer.ggml.pre", "gpt-2")
    if rules_name not in SPLITS:
        raise ValueError(
            f"{path}: {unknown('rules to split text', rules_name, SPLITS)}; put the "
            "tokenizer.json of the model beside it"
        )
    tokens = metadata["tokenizer.ggml.tokens"]
    kinds = metadata.get("tokenizer.ggml.token_type", [1] * len(tokens))
    merges = [tuple(pair.split(" ", 1)) for pair in metadata["tokenizer.ggml.merges"]]
    rules = byte_pair_rules(tokens, kinds, merges, rules_name)
    ids = {name: metadata.get(f"tokenizer.ggml.{name}_token_id") for name in ("bos", "eos")}
    special = {f"{name}_token": tokens[i] for name, i in ids.items() if i is not None}
    return Tokenizer(rules, metadata.get("tokenizer.chat_template"), special)


def byte_pair_rules(tokens, kinds, merges, rules_name):
    """Returns the library's Tokenizer of a byte-level BPE vocabulary."""
    library = tokenizers()
    before, split = library.pre_tokenizers, SPLITS[rules_name]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    whole = rules_name == "llama-bpe"  # a word of the vocabulary needs no merges
    rules = library.Tokenizer(library.models.BPE(vocabulary, merges, ignore_merges=whole))
    if split:
        first = before.Split(library.Regex(split), "isolated")
        steps = [first, before.ByteLevel(add_prefix_space=False, use_regex=False)]
    else:
        steps = [before.Digits(individual_digits=True)] if split is None else []
        steps.append(before.ByteLevel(add_prefix_space=False))
    rules.pre_tokenizer = before.Sequence(steps)
    rules.decoder = library.decoders.ByteLevel()
    for kind, special in ((CONTROL, True), (USER_DEFINED, False)):
        names = [token for token, k in zip(tokens, kinds, strict=True) if k == kind]
        add = rules.add_special_tokens if special else rules.add_tokens
        add([library.AddedToken(name, normalized=False, special=special) for name in names])
    return rules


class Tokenizer:
    """A model's vocabulary, its rules, its special tokens and its chat template."""

    def __init__(self, rules, template=None, special=None, ends=()):
        self.rules, self.special = rules, dict(special or {})
        self.template = None if template is None else ChatTemplate(template, self.special)
        names = [self.special.get("eos_token"), *ENDS]
        found = [rules.token_to_id(name) for name in names if name]
        self.stop = tuple(dict.fromkeys([i for i in found if i is not None] + [*ends]))

    @property
    def vocab(self):
        """How many token ids there are."""
        return self.rules.get_vocab_size()

    @property
    def padding(self):
        """The id that fills rows behind their tokens; nothing reads or learns it."""
        return self.stop[0] if self.stop else 0

    def encode(self, text):
        """Returns the ids of a text as it stands; special tokens written in it are tokens."""
        return self.rules.encode(text, add_special_tokens=False).ids

    def decode(self, ids):
        """Returns the text of ids, without special tokens."""
        return self.rules.decode(list(ids), skip_special_tokens=True)

    def stream(self, ids):
        """Yields the text of ids piece by piece, never half of a character.

        Joined, the pieces are `decode` of all of them.
        """
        read, shown = [], ""
        for i in ids:
            read.append(i)
            text = self.decode(read)
            if text.endswith("\ufffd") or not text.startswith(shown):
                continue  # a character of several tokens is not complete
            if len(text) > len(shown):
                yield text[len(shown) :]
            shown = text
        if read and len(self.decode(read)) > len(shown):
            yield self.decode(read)[len(shown) :]

    def chat(self, messages, answer_next=True):
        """Returns a conversation as text, by the chat template.

        messages: [{"role": "user", "content": "…"}, …]. answer_next: with the beginning of the
        assistant's answer, as a prompt. Raises ValueError if the model has no template.
        """
        if self.template is None:
            raise ValueError(
                "this model has no chat template; use one that was tuned for chat, or put a "
                "chat_template.jinja into its folder"
            )
        return self.template.render(messages, answer_next)

    def save(self, folder):
        """Write tokenizer.json and tokenizer_config.json, for transformers' AutoTokenizer."""
        folder = as_path(folder)
        write_bytes(folder / "tokenizer.json", self.rules.to_str(pretty=True).encode())
        config = {"tokenizer_class": "PreTrainedTokenizerFast", **self.special}
        config["clean_up_tokenization_spaces"] = False
        if self.template is not None:
            config["chat_template"] = self.template.source
        write_json(folder / "tokenizer_config.json", config)
        write_json(folder / "generation_config.json", {"eos_token_id": list(self.stop)})

    def __repr__(self):
        special = json.dumps(self.special, ensure_ascii=False)
        return f"Tokenizer({self.vocab:,} tokens, special {special})"
