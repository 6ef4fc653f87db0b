"""Fixed-width fields: what fits is read back as it was, what does not is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.layout import Field, Kind, build_fields, octets, padded, parse_fields, texts
from sms.errors import RemoteProtocolError

ROWS = (
    *texts(("name", 8)),
    Field("flags", Kind.OCTETS, 2),
    *octets("count"),
    Field("numbers", Kind.TEXTS, 5, count="count", most=3),
    Field("length", Kind.NUMBER, 4),
    Field("content", Kind.CONTENT, count="length", most=10),
)
PLAIN = st.text(st.characters(min_codepoint=1, max_codepoint=255))


@given(
    PLAIN.filter(lambda text: len(text) <= 8),
    st.binary(min_size=2, max_size=2),
    st.lists(PLAIN.filter(lambda text: len(text) <= 5), max_size=3),
    st.binary(max_size=10),
    st.integers(0, 40),
)
def test_what_is_built_is_read_back_and_every_cut_is_refused(name, flags, numbers, content, cut):
    fields = {"name": name, "flags": flags, "numbers": tuple(numbers), "content": content}
    built = build_fields(ROWS, fields)
    parsed, after = parse_fields(ROWS, b"head" + built + b"more", 4)
    counts = {"count": len(numbers), "length": len(content)}
    assert (parsed, after) == (fields | counts, 4 + len(built))
    if cut < len(built):
        with pytest.raises(RemoteProtocolError):
            parse_fields(ROWS, built[:cut], 0)


@pytest.mark.parametrize(
    "fields",
    [
        {"name": "123456789"},
        {"name": "a\0b"},
        {"name": "【"},
        {"numbers": ("1", "2", "3", "4")},
        {"numbers": ("123456",)},
        {"content": b"12345678901"},
    ],
)
def test_what_does_not_fit_is_refused(fields):
    with pytest.raises(ValueError, match=r"at most|ordinal"):
        build_fields(ROWS, fields)


def test_a_number_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="count"):
        build_fields(octets("count"), {"count": 256})


@pytest.mark.parametrize("count", [4, 255])
def test_a_count_over_its_bound_is_refused_before_anything_is_read(count):
    with pytest.raises(RemoteProtocolError, match="count"):
        parse_fields(ROWS, bytes(10) + bytes((count,)) + bytes(2000), 0)


def test_padding_is_nul():
    assert padded("ab", 4) == b"ab\0\0"
