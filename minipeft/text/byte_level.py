"""The tokenizer in the metadata of a GGUF file: byte-level BPE, split as its name says.

A GGUF file lists the vocabulary and the merges, but of how a text is split before it merges it
has a name only, `tokenizer.ggml.pre`. The rule belongs to the name (PRE). A wrong rule would
give other ids than in training and no error, so a name that is not here is refused.
"""

from dataclasses import dataclass

from ..errors import needed, unknown

NORMAL, CONTROL, USER_DEFINED = 1, 3, 4  # types of tokens that are looked at
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
ENDINGS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3 = ENDINGS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}" + REST
QWEN2 = ENDINGS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}" + REST
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
CASED = r"[^\r\n\p{L}\p{N}]?" + UPPER + "*" + LOWER + r"+{0}|[^\r\n\p{L}\p{N}]?" + UPPER
CASED += "+" + LOWER + "*{0}"
CASED_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
TEKKEN = CASED.replace("{0}", "") + r"|\p{N}" + CASED_REST
GPT4O = CASED.replace("{0}", ENDINGS + "?") + r"|\p{N}{1,3}" + CASED_REST


@dataclass(frozen=True)
class Pre:
    """How a text is split before bytes merge: each of the patterns splits the pieces further.

    `nfc`: the text is put into Unicode's composed form first. `whole`: a piece that is in the
    vocabulary is a token, whatever the merges say. `bos`: unless the file says otherwise, a
    text begins with a special token.
    """

    patterns: tuple
    nfc: bool = False
    whole: bool = False
    bos: bool = False


DIGITS = Pre((r"\p{N}", GPT2))
PRE = {
    "gpt-2": Pre((GPT2,)),
    "phi-2": Pre((GPT2,)),
    "smollm": DIGITS,
    "starcoder": DIGITS,
    "llama-bpe": Pre((LLAMA3,), whole=True, bos=True),
    "llama3": Pre((LLAMA3,), whole=True, bos=True),
    "llama-v3": Pre((LLAMA3,), whole=True, bos=True),
    "smaug-bpe": Pre((LLAMA3,)),
    "dbrx": Pre((LLAMA3,)),
    "qwen2": Pre((QWEN2,), nfc=True),
    "tekken": Pre((TEKKEN,), whole=True, bos=True),
    "gpt-4o": Pre((GPT4O,)),
    "default": Pre((r"[\p{P}$+<=>^~|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]")),
}
ADVICE = "put the model's tokenizer.json beside the file"


def byte_level_of_gguf(metadata):
    """Returns the `tokenizers.Tokenizer` of a GGUF file, from its metadata.

    Raises ValueError for a kind of tokenizer, or a way of splitting, that is not here.
    SentencePiece ("llama") is not: such a file does not say whether a space is put before the
    text behind a special token, and models differ in it.
    """
    library = needed("tokenizers", "a language model's text")
    kind, pre = (metadata.get(f"tokenizer.ggml.{key}") for key in ("model", "pre"))
    if kind != "gpt2":
        raise ValueError(f"a GGUF file's tokenizer must be 'gpt2', got {kind!r}; {ADVICE}")
    if not isinstance(pre, str) or pre not in PRE:
        raise ValueError(f"{unknown('tokenizer.ggml.pre', pre, PRE)}; {ADVICE}")
    tokens = strings(metadata, "tokens")
    ids = {token: i for i, token in enumerate(tokens)}
    if len(ids) < len(tokens):
        twice = next(token for i, token in enumerate(tokens) if ids[token] != i)
        raise ValueError(f"the GGUF file's vocabulary has {twice!r} twice; {ADVICE}")
    inner = byte_level(library, ids, merges_of(metadata, ids), PRE[pre])
    types = metadata.get("tokenizer.ggml.token_type", [NORMAL] * len(tokens))
    if not isinstance(types, (list, tuple)) or len(types) != len(tokens):
        raise ValueError(f"a GGUF file needs a token_type for each token; {ADVICE}")
    for special, wanted in ((True, CONTROL), (False, USER_DEFINED)):
        added = [token for token, kind in zip(tokens, types, strict=True) if kind == wanted]
        added = [library.AddedToken(t, normalized=False, special=special) for t in added]
        (inner.add_special_tokens if special else inner.add_tokens)(added)
    return inner


def strings(metadata, name):
    """Returns a list of strings of the metadata; ValueError if it is missing or another."""
    values = metadata.get(f"tokenizer.ggml.{name}")
    if not isinstance(values, (list, tuple)) or not all(isinstance(v, str) for v in values):
        raise ValueError(f"the GGUF file has no list tokenizer.ggml.{name}; {ADVICE}")
    return values


def merges_of(metadata, ids):
    """Returns the merges as pairs of tokens; ValueError for one that makes no token."""
    merges = []
    for line in strings(metadata, "merges"):
        left, _, right = line.partition(" ")
        if left not in ids or right not in ids or left + right not in ids:
            raise ValueError(f"the GGUF file merges {line!r}, which are no tokens; {ADVICE}")
        merges.append((left, right))
    return merges


def byte_level(library, ids, merges, pre):
    """Returns a `tokenizers.Tokenizer` of byte-level BPE that splits a text as `pre` says."""
    parts = library.pre_tokenizers
    inner = library.Tokenizer(library.models.BPE(ids, merges, ignore_merges=pre.whole))
    splits = [parts.Split(library.Regex(p), behavior="isolated") for p in pre.patterns]
    encoded = parts.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.pre_tokenizer = parts.Sequence([*splits, encoded])
    inner.decoder = library.decoders.ByteLevel()
    if pre.nfc:
        inner.normalizer = library.normalizers.NFC()
    return inner


def begin_with(inner, token):
    """Make a tokenizer put a token before a text, where special tokens are asked for."""
    library = needed("tokenizers", "a language model's text")
    inner.post_processor = library.processors.TemplateProcessing(
        single=[token, "$A"], special_tokens=[(token, inner.token_to_id(token))]
    )
