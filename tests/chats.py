"""Small tokenizers and chat templates: built here, so that no test downloads anything."""

import functools

import pytest

from minipeft.text.chat_template import ChatTemplate
from minipeft.text.tokenizer import Tokenizer, tokenizer_of_gguf

WHY = "pip install 'minipeft[llm]'"
SPECIAL = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<s>", "</s>", "<|eot_id|>", "<|end|>",
    "<|start_header_id|>", "<|end_header_id|>", "<|begin_of_text|>",
)  # fmt: skip
WORDS = "the and user system assistant You are hello Hello world answer ing tion 12 \n\n".split(
    " "
)
BOS = {"bos_token": "<s>", "eos_token": "</s>"}
LLAMA3 = {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"}
CHATML = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"}
PHI3 = {"bos_token": "<s>", "eos_token": "<|endoftext|>"}

# {style: (source, named tokens)}, in the style of the models of that name
TEMPLATES = {
    "smollm2": (
        "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
        "{{ '<|im_start|>system\nYou are helpful<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + "
        "message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
        CHATML,
    ),
    "qwen2": (
        "{%- if messages[0].role == 'system' %}\n    {{- '<|im_start|>system\\n' + messages[0]."
        "content + '<|im_end|>\\n' }}\n{%- else %}\n    {{- '<|im_start|>system\\nYou are "
        "helpful<|im_end|>\\n' }}\n{%- endif %}\n{%- for message in messages %}\n    {%- if "
        "message.role == 'user' or message.role == 'assistant' or (message.role == 'system' "
        "and not loop.first) %}\n        {{- '<|im_start|>' + message.role + '\\n' + message."
        "content + '<|im_end|>' + '\\n' }}\n    {%- endif %}\n{%- endfor %}\n{%- if "
        "add_generation_prompt %}\n    {{- '<|im_start|>assistant\\n' }}\n{%- endif %}",
        CHATML,
    ),
    "llama3": (
        "{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = "
        "'<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'+ message['content'] "
        "| trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content "
        "%}{% endif %}{{ content }}{% endfor %}{% if add_generation_prompt %}"
        "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}",
        LLAMA3,
    ),
    "phi3": (
        "{% for message in messages %}{{ '<|' + message['role'] + '|>\n' + message['content'] "
        "+ '<|end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}"
        "{% else %}{{ eos_token }}{% endif %}",
        PHI3,
    ),
    "mistral": (
        "{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') != "
        "(loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate user/assistant') }}"
        "{% endif %}{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' "
        "[/INST]' }}{% else %}{{ ' ' + message['content'] + eos_token }}{% endif %}"
        "{% endfor %}",
        BOS,
    ),
    "zephyr": (
        "{% for message in messages %}\n{% if message['role'] == 'user' %}\n{{ '<|user|>\n' + "
        "message['content'] + eos_token }}\n{% elif message['role'] == 'system' %}\n{{ "
        "'<|system|>\n' + message['content'] + eos_token }}\n{% elif message['role'] == "
        "'assistant' %}\n{{ '<|assistant|>\n'  + message['content'] + eos_token }}\n{% endif %}"
        "\n{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n"
        "{% endfor %}",
        BOS,
    ),
    "marked": (  # where the answers are is told by {% generation %}
        "{%- for message in messages %}\n    {%- if message.role == 'assistant' %}\n        "
        "{{- '<|im_start|>assistant\\n' }}\n        {%- generation %}\n            {{- message."
        "content + '<|im_end|>' }}\n        {%- endgeneration %}\n        {{- '\\n' }}\n    "
        "{%- else %}\n        {{- '<|im_start|>' + message.role + '\\n' + message.content + "
        "'<|im_end|>\\n' }}\n    {%- endif %}\n{%- endfor %}\n{%- if add_generation_prompt %}\n"
        "    {{- '<|im_start|>assistant\\n' }}\n{%- endif %}",
        CHATML,
    ),
    "reasoning": (  # an answer has its reasoning, an empty one here, only if it is the last
        "{%- for message in messages %}\n    {%- if message.role == 'assistant' and loop.last "
        "%}\n        {{- '<|im_start|>assistant\\n<think>\\n\\n</think>\\n\\n' + message."
        "content + '<|im_end|>\\n' }}\n    {%- else %}\n        {{- '<|im_start|>' + message."
        "role + '\\n' + message.content + '<|im_end|>\\n' }}\n    {%- endif %}\n{%- endfor %}\n"
        "{%- if add_generation_prompt %}\n    {{- '<|im_start|>assistant\\n' }}\n{%- endif %}",
        CHATML,
    ),
}


def pieces(style, messages):
    """What a template of a style writes, in plain Python: a list of (text, is it learnt)."""
    written = {"mistral": [("<s>", False)], "llama3": [("<|begin_of_text|>", False)]}
    written = list(written.get(style, []))
    if style in ("smollm2", "qwen2") and messages[0]["role"] != "system":
        written.append(("<|im_start|>system\nYou are helpful<|im_end|>\n", False))
    before, end, after = {
        "llama3": ("<|start_header_id|>{}<|end_header_id|>\n\n", "<|eot_id|>", ""),
        "phi3": ("<|{}|>\n", "<|end|>", "\n"),
        "zephyr": ("<|{}|>\n", "</s>", "\n"),
    }.get(style, ("<|im_start|>{}\n", "<|im_end|>", "\n"))
    for message in messages:
        role, content = message["role"], message["content"]
        if style == "mistral" and role == "user":
            written.append((f"[INST] {content} [/INST]", False))
        elif style == "mistral":
            written.append((f" {content}</s>", True))
        elif role == "assistant":
            written += [(before.format(role), False), (content + end, True), (after, False)]
        else:
            written.append((before.format(role) + content + end + after, False))
    return [*written, ("<|endoftext|>" if style == "phi3" else "", False)]


def metadata(pre="smollm", **more):
    """A GGUF file's metadata: all bytes, a few words, and special tokens."""
    library = pytest.importorskip("tokenizers", reason=WHY)
    letters = sorted(library.pre_tokenizers.ByteLevel.alphabet())
    split = library.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokens, merges = [*SPECIAL, "<think>", *letters], []
    for word in [
        split.pre_tokenize_str(text)[0][0] for text in [*WORDS, *(f" {w}" for w in WORDS)]
    ]:
        for i in range(1, len(word)):
            if word[: i + 1] not in tokens:
                tokens.append(word[: i + 1])
                merges.append(f"{word[:i]} {word[i]}")
    types = [3] * len(SPECIAL) + [4] + [1] * (len(tokens) - len(SPECIAL) - 1)
    values = dict(model="gpt2", pre=pre, tokens=tokens, token_type=types, merges=merges)
    values |= dict(bos_token_id=1, eos_token_id=2)
    return {f"tokenizer.ggml.{key}": value for key, value in (values | more).items()}


@functools.cache
def byte_level(pre="smollm"):
    """The small byte-level tokenizer that splits in some way."""
    return tokenizer_of_gguf(metadata(pre))


@functools.cache
def chat(style):
    """(tokenizer, template) of a style."""
    pytest.importorskip("jinja2", reason=WHY)
    source, named = TEMPLATES[style]
    inner = byte_level("llama-bpe" if style == "llama3" else "smollm").inner
    tokenizer = Tokenizer(inner, named, source)
    return tokenizer, ChatTemplate(source, named)


@functools.cache
def sentencepiece():
    """A small tokenizer of the other kind: ▁ for a space, one before the text, bytes <0x..>."""
    library = pytest.importorskip("tokenizers", reason=WHY)
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), "▁"]
    tokens += [chr(i) for i in range(33, 127)]
    merges = [("▁", letter) for letter in "abcdefghij"]
    ids = {token: i for i, token in enumerate([*tokens, *map("".join, merges)])}
    inner = library.Tokenizer(
        library.models.BPE(ids, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    )
    parts = library.decoders
    inner.pre_tokenizer = library.pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    inner.decoder = parts.Sequence(
        [parts.Replace("▁", " "), parts.ByteFallback(), parts.Fuse(), parts.Strip(" ", 1, 0)]
    )
    inner.add_special_tokens(["<s>", "</s>"])
    return Tokenizer(inner, BOS, TEMPLATES["zephyr"][0])


def talk(*contents, system=None):
    """Messages: user and assistant in turn, a system's first if there is one."""
    first = [{"role": "system", "content": system}] if system else []
    turns = zip(["user", "assistant"] * len(contents), contents, strict=False)
    return first + [{"role": role, "content": content} for role, content in turns]
