"""Chat templates: the text that a chat model reads for a list of messages.

A template is a small program in the language of `jinja2`, part of a model's files. It is run as
transformers runs it, with the same functions and the same spaces. The library belongs to the
extra: pip install 'minipeft[llm]'.
"""

import datetime
import json

from ..errors import needed, unknown

ROLES = ("system", "user", "assistant")
LONGEST = 100_000  # characters of a template; the longest in use have about 20,000
OUTPUT = 20_000_000  # characters of a rendered chat, and of a text repeated by *


class ChatTemplate:
    """A chat template, from its source: `template.render(messages) -> text`.

    `named` are the special tokens that it may write, as `Tokenizer.named` has them. `today`, a
    datetime, is the date of templates that write one. Without it that is the day of rendering,
    so the same conversation has other tokens tomorrow.

    Raises ValueError for no template, and one that is too long or not in jinja's language.

    A template runs in jinja2's sandbox: it reaches no files, no modules and no attributes of
    Python. It is bounded in its own length, its ranges, repetitions by `*`, and the text that
    it writes. Time and memory are not: loops within loops, or text that doubles itself in a
    variable, can take as long and as much as they like. So take templates, as you take models,
    from people you trust.
    """

    def __init__(self, source, named=None, today=None):
        if not isinstance(source, str) or not source.strip():
            raise ValueError(
                "the model has no chat template, as base models have none; put that of the "
                "chat model that you want to train like into its folder as chat_template.jinja"
            )
        if len(source) > LONGEST:
            raise ValueError(
                f"the chat template has {len(source):,} characters; at most {LONGEST:,} are run"
            )
        self.source, self.named = source, dict(named or {})
        environment = sandbox(needed("jinja2", "a chat template"), today)
        self.template = self.run(lambda: environment.from_string(source), "is not valid")

    def render(self, messages, add_generation_prompt=False):
        """Returns the text of messages, a list of {"role": …, "content": …}.

        With `add_generation_prompt`, followed by what stands before an answer. Raises
        ValueError for messages that are none (see `check_messages`) or that the template
        refuses.
        """
        messages = check_messages(messages)
        values = dict(messages=messages, add_generation_prompt=bool(add_generation_prompt))
        parts = self.template.generate(**self.named, **values, tools=None, documents=None)
        return self.run(lambda: joined(parts), "refuses these messages")

    def run(self, work, complaint):
        """Returns what some work of the template returns; its errors become a ValueError."""
        try:
            return work()
        except Exception as error:  # a template can raise whatever it likes
            reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise ValueError(f"the chat template {complaint}: {reason}")


def template_of(tokenizer, today=None):
    """Returns the chat template that came with a tokenizer; ValueError if none did."""
    return ChatTemplate(tokenizer.chat_template, tokenizer.named, today)


def check_messages(messages):
    """Returns a list of messages as plain strings.

    Raises ValueError unless it is a list of at least one {"role": …, "content": …}, with a role
    of ROLES and a content that is text and not empty, and nothing else: what a template would
    not write would be lost silently.
    """
    if not isinstance(messages, (list, tuple)) or not messages:
        raise ValueError('messages must be a list of {"role": …, "content": …}, at least one')
    for i, message in enumerate(messages, 1):
        if not isinstance(message, dict) or not {"role", "content"} <= message.keys():
            raise ValueError(f'message {i} must be {{"role": …, "content": …}}')
        more = message.keys() - {"role", "content"}
        if more:
            raise ValueError(
                f"message {i} has {min(map(str, more))!r}, which is not supported; "
                "a message has a role and a content"
            )
        role, content = message["role"], message["content"]
        if role not in ROLES:
            raise ValueError(f"message {i}: {unknown('role', role, ROLES)}")
        if not isinstance(content, str):
            kind = type(content).__name__
            raise ValueError(f"message {i} ({role}): the content must be text, got a {kind}")
        if not content.strip():
            raise ValueError(f"message {i} ({role}) has no content")
    return [{"role": str(m["role"]), "content": str(m["content"])} for m in messages]


def joined(parts):
    """Returns the text of parts; ValueError as soon as they are longer than OUTPUT."""
    kept, length = [], 0
    for part in parts:
        kept.append(part)
        length += len(part)
        if length > OUTPUT:
            raise ValueError(f"it writes more than {OUTPUT:,} characters")
    return "".join(kept)


def sandbox(jinja2, today):
    """Returns an environment that has what transformers gives chat templates."""
    from jinja2.sandbox import ImmutableSandboxedEnvironment, SecurityError

    class Bounded(ImmutableSandboxedEnvironment):
        intercepted_binops = frozenset(["*", "**", "%"])

        def call_binop(self, context, operator, left, right):
            if not is_small(operator, left, right):
                raise SecurityError(f"{operator} of these values is not allowed")
            return super().call_binop(context, operator, left, right)

    def raise_exception(message):
        raise jinja2.TemplateError(message)

    def strftime_now(form):
        return (today or datetime.datetime.now()).strftime(form)

    environment = Bounded(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=["jinja2.ext.loopcontrols", generation()],
    )
    environment.globals |= dict(
        raise_exception=raise_exception, strftime_now=strftime_now, namespace=namespace(jinja2)
    )
    environment.filters["tojson"] = to_json
    return environment


def namespace(jinja2):
    """Returns the class of a template's variables that outlive a loop: none begins with _."""

    class Namespace(jinja2.utils.Namespace):
        def __init__(*args, **values):  # a template may call a value `self`
            for name in values:
                check_name(name)
            jinja2.utils.Namespace.__init__(*args, **values)

        def __setitem__(self, name, value):
            check_name(name)
            super().__setitem__(name, value)

    def check_name(name):
        if str(name).startswith("_"):
            raise jinja2.exceptions.SecurityError(f"a namespace cannot have {name!r}")

    return Namespace


def is_small(operator, left, right):
    """Returns whether a product, power or remainder takes little time and memory.

    The remainder of a text would be `%`-formatting, whose width is not bounded.
    """
    if all(isinstance(x, (int, float)) and abs(x) < 2**53 for x in (left, right)):
        return operator != "**" or abs(right) <= 64
    times = right if isinstance(right, int) else left
    text = left if isinstance(right, int) else right
    if operator != "*" or not isinstance(times, int) or not hasattr(text, "__len__"):
        return False
    return len(text) * times <= OUTPUT


def generation():
    """Returns the extension for {% generation %} … {% endgeneration %}, which marks answers.

    Only the marks are left out: where the answers are is found from the text itself.
    """
    from jinja2 import nodes
    from jinja2.ext import Extension

    class Generation(Extension):
        tags = frozenset(["generation"])

        def parse(self, parser):
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.Scope(body).set_lineno(line)

    return Generation


def to_json(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    """Returns JSON as transformers' filter `tojson` writes it, without jinja's escapes."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators,
        sort_keys=sort_keys,
    )  # fmt: skip
