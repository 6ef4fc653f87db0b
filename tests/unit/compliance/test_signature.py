"""Which brand stands in front of a text, and how."""

from __future__ import annotations

import pytest

from compliance.signature import choose_brand, has_brackets, is_brand, sign


@pytest.mark.parametrize(
    ("given", "filed", "country", "wanted"),
    [
        (None, ("甲", "乙"), 86, ("甲", None)),
        ("乙", ("甲", "乙"), 86, ("乙", None)),
        ("丙", ("甲", "乙"), 86, ("", "signature.unknown")),
        (None, (), 86, ("", "signature.required")),
        (None, ("甲",), 1, ("", None)),
        ("甲", ("甲",), 1, ("甲", None)),
        ("丙", ("甲",), 1, ("", "signature.unknown")),
    ],
)
def test_the_brand(given, filed, country, wanted):
    assert choose_brand(given, filed, country) == wanted


def test_the_form():
    assert sign("你好", "甲", 86) == "【甲】你好"
    assert sign("hello", "Shop", 1) == "[Shop] hello"
    assert sign("hello", "", 1) == "hello"


def test_brackets():
    assert has_brackets("a】b")
    assert has_brackets("【a")
    assert not has_brackets("[a]")


@pytest.mark.parametrize("brand", ["", " a", "a ", "【a】", "a[b", "x" * 21, "a\nb"])
def test_what_is_no_brand(brand):
    assert not is_brand(brand)


def test_what_is_a_brand():
    assert is_brand("某商城")
    assert is_brand("Shop & Co")
