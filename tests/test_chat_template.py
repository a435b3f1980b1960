"""Chat templates: what they write, what they may do, and what is refused."""

import datetime
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chats import TEMPLATES, WHY, chat, pieces, talk
from minipeft.text.chat_template import LONGEST, OUTPUT, ChatTemplate, check_messages

CONTENT = st.text(min_size=1, max_size=12).map(str.strip).filter(bool)
WRITTEN = [style for style in TEMPLATES if style != "reasoning"]


def render(source, **named):
    pytest.importorskip("jinja2", reason=WHY)
    return ChatTemplate(source, named).render(talk("hi"))


@pytest.mark.parametrize("style", WRITTEN)
@given(contents=st.lists(CONTENT, min_size=1, max_size=4), system=st.none() | CONTENT)
def test_a_template_writes_what_plain_python_does(style, contents, system):
    messages = talk(*contents, system=None if style == "mistral" else system)
    assert chat(style)[1].render(messages) == "".join(
        text for text, _ in pieces(style, messages)
    )


@pytest.mark.parametrize("style", WRITTEN)
def test_a_generation_prompt_is_what_stands_before_an_answer(style):
    template = chat(style)[1]
    asked = template.render(talk("hello"), add_generation_prompt=True)
    assert template.render(talk("hello", "Yes")).startswith(asked)


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{{ messages | tojson }}", '[{"role": "user", "content": "hi"}]'),
        ("{{ '<é>' | tojson }}", '"<é>"'),  # jinja's own filter writes \u003c
        ("{% for i in [0, 1] %}{{ i }}{% if not i %}{% break %}{% endif %}{% endfor %}", "0"),
        ("  {% if true %}\n  a\n  {% endif %}\nb", "  a\nb"),  # blocks leave no spaces
        ("{% set n = namespace() %}{% if true %}{% set n.x = 1 %}{% endif %}{{ n.x }}", "1"),
        ("{{ bos_token }}{{ tools is none }}", "<s>True"),
        ("{{ 'ab' * 3 }}{{ 2 ** 10 }}{{ 7 % 4 }}", "ababab10243"),
        ("{% generation %}{% set a = 1 %}{{ a }}{% endgeneration %}{{ a == 1 }}", "1False"),
    ],
)  # fmt: skip
def test_what_transformers_gives_templates_is_there(source, text):
    assert render(source, bos_token="<s>") == text


def test_the_date_can_be_set():
    pytest.importorskip("jinja2", reason=WHY)
    source = "{{ strftime_now('%d %b %Y') }}"
    day = datetime.datetime(2024, 7, 26)
    assert ChatTemplate(source, today=day).render(talk("hi")) == "26 Jul 2024"
    this_year = ChatTemplate("{{ strftime_now('%Y') }}").render(talk("hi"))
    assert int(this_year) >= 2024


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages.__class__.__mro__ }}",
        "{{ ''.__class__.__base__.__subclasses__() }}",
        "{{ cycler.__init__.__globals__ }}",
        "{{ raise_exception.__globals__ }}",
        "{{ namespace.__init__.__globals__ }}",
        "{{ '{0.__class__}'.format(messages) }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update({'role': 1}) }}",
        "{% set n = namespace(_x=1) %}",
        "{% set n = namespace() %}{% set n.__class__ = 1 %}",
        "{% include 'x' %}",
        "{% import 'os' as os %}",
    ],
)
def test_a_template_reaches_nothing_of_python(source):
    try:
        text = render(source)
    except ValueError as error:
        text = ""
        assert str(error).startswith("the chat template") and "\n" not in str(error)
    assert text == ""  # what is not defined is written as nothing


HUGE = OUTPUT + 1


@pytest.mark.parametrize(
    "source",
    [
        f"{{{{ 'a' * {HUGE} }}}}",
        f"{{{{ {HUGE} * 'a' }}}}",
        f"{{{{ [1, 2] * {HUGE} }}}}",
        "{{ ('a' * 10000000) * 10 }}",
        "{{ 10 ** 999999999 }}",
        "{{ 2 ** 65 }}",
        f"{{{{ '%{HUGE}d' % 1 }}}}",
        f"{{% for i in range({HUGE}) %}}{{% endfor %}}",
        "{% for i in range(99999) %}{{ 'aaaaaaaaaa' * 99999 }}{% endfor %}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
        "{# " + "a" * LONGEST + " #}",
    ],
)
def test_a_template_that_is_or_makes_too_much_is_refused(source):
    with pytest.raises(ValueError, match="the chat template") as error:
        render(source)
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("{{ raise_exception('only\\nusers') }}", "refuses these messages: only users"),
        ("{{ messages[9].role }}", "refuses these messages"),
        ("{{ 1 / 0 }}", "refuses these messages: division by zero"),
        ("{% if %}", "is not valid"),
        ("{{ x | nothing }}", "is not valid: No filter named 'nothing'"),
        (None, "no chat template.*into its folder as chat_template.jinja"),
        (" ", "no chat template"),
    ],
)
def test_an_error_is_one_line(source, words):
    with pytest.raises(ValueError, match=words) as error:
        render(source)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ([], "at least one"),
        ("hi", "must be a list"),
        ({"role": "user"}, "must be a list"),
        (["hi"], "message 1 must be"),
        ([{"role": "user"}], "message 1 must be"),
        ([*talk("a"), {"role": "tool", "content": "x"}], "message 2: unknown role 'tool'"),
        ([{"role": "asistant", "content": "x"}], "did you mean 'assistant'"),
        ([{"role": ["user"], "content": "x"}], "unknown role"),
        ([{"role": "user", "content": " \n"}], r"message 1 \(user\) has no content"),
        ([{"role": "user", "content": ["x"]}], "must be text, got a list"),
        ([{"role": "user", "content": None}], "must be text, got a NoneType"),
        ([{"role": "user", "content": "x", "name": "y"}], "'name', which is not supported"),
    ],
)  # fmt: skip
def test_what_is_no_message_is_refused(messages, words):
    with pytest.raises(ValueError, match=words):
        check_messages(messages)


def test_without_jinja2_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(ValueError, match=r"needs jinja2: pip install 'minipeft\[llm\]'"):
        ChatTemplate("{{ messages }}")
