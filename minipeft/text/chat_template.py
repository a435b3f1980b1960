"""Chat templates: how a model writes a conversation as one text.

A template is a program in the language Jinja that comes with the model, such as

    {% for m in messages %}<|im_start|>{{ m.role }}\\n{{ m.content }}<|im_end|>\\n{% endfor %}

It runs in Jinja's sandbox, which lets it read the messages and nothing else. A sandbox cannot
stop a program that runs long: use templates of models that you trust.
"""

import datetime
import json

LONGEST = 200_000  # characters of a template


class ChatTemplate:
    """A chat template, ready to render.

    Raises ValueError if Jinja is not installed, and for what is not a template.
    """

    def __init__(self, source, special=None):
        if not isinstance(source, str) or len(source) > LONGEST:
            raise ValueError(f"a chat template is text of at most {LONGEST:,} characters")
        self.source, self.special = source, dict(special or {})
        try:
            from jinja2 import TemplateError
            from jinja2.sandbox import ImmutableSandboxedEnvironment
        except ImportError:
            raise ValueError("chat needs jinja2: pip install 'minipeft[llm]'") from None
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        environment.filters["tojson"] = to_json
        environment.globals |= {"raise_exception": refuse, "strftime_now": now}
        try:
            self.template = environment.from_string(source)
        except TemplateError as error:
            raise ValueError(f"the chat template cannot be read: {error}") from None

    def render(self, messages, answer_next):
        """Returns the text of a conversation. Raises ValueError if the template refuses it."""
        try:
            return self.template.render(
                messages=messages, add_generation_prompt=answer_next, tools=None,
                documents=None, **self.special,
            )  # fmt: skip
        except Exception as error:  # whatever the template's own code raises
            reason = " ".join(str(error).split())
            raise ValueError(f"the chat template refuses the conversation: {reason}") from None


def to_json(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    """Returns a value as JSON, as transformers' templates expect it: without HTML escapes."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators,
        sort_keys=sort_keys,
    )  # fmt: skip


def refuse(message):
    """Called by templates that do not accept a conversation."""
    raise ValueError(message)


def now(form):
    """Returns today's date, which some templates write into the conversation."""
    return datetime.datetime.now().strftime(form)
