"""The template language: what it takes, what it refuses, and that it never runs anything."""

from __future__ import annotations

import json
import re
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.http.recipe_template import (
    FILTERS,
    MEMBER_FILTERS,
    TemplateError,
    parse_template,
)

KNOWN = frozenset({"number", "text", "sender"})
VALUES = {"number": "8613800138000", "text": 'say "hi" <b>&\n', "sender": ""}


@pytest.mark.parametrize(
    ("template", "rendered"),
    [
        ("", ""),
        ("plain", "plain"),
        ("{number}", "8613800138000"),
        ("to={ number }!", "to=8613800138000!"),
        ('{{"to": "{number}"}}', '{"to": "8613800138000"}'),
        ("{text|json}", 'say \\"hi\\" <b>&\\n'),
        ("{text|xml}", "say &quot;hi&quot; &lt;b&gt;&amp;\n"),
        ("{text|urlencode}", "say%20%22hi%22%20%3Cb%3E%26%0A"),
        ("{number|hex_utf8|lower}", "38363133383030313338303030"),
        ("{text | base64}", "c2F5ICJoaSIgPGI+Jgo="),
        ("{sender|md5|upper}", "D41D8CD98F00B204E9800998ECF8427E"),
    ],
)
def test_places_and_filters(template, rendered):
    assert parse_template(template, KNOWN).render(VALUES) == rendered


@pytest.mark.parametrize(
    ("template", "hint"),
    [
        ("{numbr}", "did you mean number?"),
        ("{number|jsn}", "did you mean json?"),
        ("{}", "there are: number, sender, text"),
        ("{number.__class__}", "there are: number"),
        ("{number!r}", "did you mean number?"),
        ("{0}", "there are:"),
        ("{number", "without its partner"),
        ("number}", "without its partner"),
        ("{a{number}}", "without its partner"),
        ("to {number|int}", "one place and nothing else"),
        ("x" * 5000, "shorten"),
    ],
)
def test_what_cannot_be_read_is_said_with_a_remedy(template, hint):
    with pytest.raises(TemplateError, match=re.escape(hint)):
        parse_template(template, KNOWN)


@given(st.text(max_size=60))
def test_any_text_is_a_template_or_a_template_error(text):
    try:
        made = parse_template(text, KNOWN)
    except TemplateError:
        return
    assert isinstance(made.render(VALUES), str)


@given(st.text(max_size=60), st.sampled_from(sorted(FILTERS - MEMBER_FILTERS)))
def test_rendering_takes_any_value_through_any_filter(value, name):
    made = parse_template(f"{{text|{name}}}", KNOWN)
    assert isinstance(made.render({"text": value}), str)


@given(st.text())
def test_a_value_is_never_read_as_a_template(value):
    assert parse_template("<{text}>", KNOWN).render({"text": value}) == f"<{value}>"


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_escaping_filters_can_be_undone(value):
    made = parse_template('{{"text": "{text|json}"}}', KNOWN).render({"text": value})
    assert json.loads(made) == {"text": value}
    assert unquote(parse_template("{text|urlencode}", KNOWN).render({"text": value})) == value
