"""Models written as GGUF files, with the vocabulary that llama.cpp needs beside the weights.

The vocabulary is that of the GGUF file which the model was read from, or else that of the
tokenizer.json in its folder. Of how a text is split, a GGUF file has a name only: the one whose
rule is that of tokenizer.json.
"""

import json

from ..io.files import as_path
from ..io.gguf import GGUF
from ..io.gguf_models import write_model
from .byte_level import CONTROL, GPT2, NORMAL, PRE, USER_DEFINED
from .tokenizer import GGUF_NAMES, tokenizer_of_folder

UNUSED = 5  # the type of a token that the weights have and the vocabulary has not


def save_gguf(model, file, kind="q8_0"):
    """Write the model, without adapters, to a GGUF file, which llama.cpp runs.

    kind: "q8_0", "f16" or "f32" for the matrices; vectors stay in float32. Returns the file's
    Path. Raises ValueError for another kind, while adapters are in use, which would be missing,
    for a model whose family has no GGUF form here, and if its vocabulary is not known.
    """
    write_model(model, file, kind, lambda: vocabulary(model))
    return as_path(file)


def vocabulary(model):
    """Returns ({key: value}, {key: type}) of the text that a model came with."""
    source = vars(model).get("pretrained", {})
    if "gguf" in source:
        return vocabulary_of_gguf(source["gguf"])
    if "folder" in source and (as_path(source["folder"]) / "tokenizer.json").is_file():
        return vocabulary_of_folder(as_path(source["folder"]), model.config.vocab), {}
    raise ValueError(
        "a GGUF file needs the vocabulary, and this model came neither with a GGUF file nor "
        "with a tokenizer.json; save_pretrained writes it without one"
    )


def vocabulary_of_gguf(path):
    """Returns ({key: value}, {key: type}) of the text in a GGUF file."""
    with GGUF(path) as file:
        keys = [key for key in file.metadata if key.startswith("tokenizer.")]
        return {k: file.metadata[k] for k in keys}, {k: file.types[k] for k in keys}


def vocabulary_of_folder(folder, size):
    """Returns {key: value} of a folder's tokenizer, with `size` tokens.

    Raises ValueError for a tokenizer that is not byte-level BPE with a rule of PRE.
    """
    tokenizer = tokenizer_of_folder(folder)
    rules = json.loads(tokenizer.inner.to_str())
    tokens = [f"[unused{i}]" for i in range(size)]
    kinds = [UNUSED] * size
    for token, i in tokenizer.inner.get_vocab(with_added_tokens=False).items():
        tokens[i], kinds[i] = token, NORMAL
    for i, added in tokenizer.inner.get_added_tokens_decoder().items():
        tokens[i], kinds[i] = added.content, CONTROL if added.special else USER_DEFINED
    merges = [m if isinstance(m, str) else " ".join(m) for m in rules["model"]["merges"]]
    text = {
        "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": rule_of(rules, folder),
        "tokenizer.ggml.tokens": tokens, "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.merges": merges,
    }  # fmt: skip
    for name, key in GGUF_NAMES.items():
        if tokenizer.named_id(name) is not None:
            text[f"tokenizer.ggml.{key}_token_id"] = tokenizer.named_id(name)
    first = tokenizer.encode("a", add_special=True)[0]
    text["tokenizer.ggml.add_bos_token"] = first == tokenizer.bos
    if tokenizer.chat_template is not None:
        text["tokenizer.chat_template"] = tokenizer.chat_template
    return text


def rule_of(rules, folder):
    """Returns the name of the rule by which a tokenizer.json splits a text."""
    nfc = (rules.get("normalizer") or {}).get("type") == "NFC"
    whole = bool(rules["model"].get("ignore_merges"))
    patterns = tuple(patterns_of(rules.get("pre_tokenizer") or {}))
    for name, rule in PRE.items():
        if (rule.patterns, rule.nfc, rule.whole) == (patterns, nfc, whole):
            return name
    raise ValueError(
        f"{folder / 'tokenizer.json'} splits text by a rule that has no name in GGUF files; "
        "save_pretrained writes the model as a folder"
    )


def patterns_of(step):
    """Yields the patterns of a pre-tokenizer, {"type": …}, and of those in it."""
    kind = step.get("type")
    if kind == "Sequence":
        for inner in step["pretokenizers"]:
            yield from patterns_of(inner)
    elif kind == "Split":
        yield step["pattern"].get("Regex", step["pattern"].get("String"))
    elif kind == "Digits" and step.get("individual_digits"):
        yield r"\p{N}"
    elif kind == "ByteLevel":
        if step.get("use_regex", True):
            yield GPT2
    else:
        yield kind
