"""The strict reading of JSON, with Python's json module as the judge."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.api.bodies import parse_one
from gateway.api.models import FIELD_NAMES, UNSET
from gateway.api.problems import ProblemError
from gateway.api.strict import MAX_DEPTH, parse_strict

NAMES = [*FIELD_NAMES, "client_ref", "oops", "", "a/b", "名"]
TEXT = st.text(max_size=12) | st.sampled_from(
    ['"', "\\", ":", '":"', "\\u0000", "{[", "\x00", "😀"]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=True) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
PAIRS = st.lists(st.tuples(st.sampled_from(NAMES), VALUES | TEXT), max_size=6)
ASCII = st.booleans()


def build_object(pairs, is_ascii):
    """An object's text in which a name may stand twice."""
    members = (
        f"{json.dumps(name, ensure_ascii=is_ascii)} : {json.dumps(value, ensure_ascii=is_ascii)}"
        for name, value in pairs
    )
    return ("{" + " , ".join(members) + "}").encode("utf-8", "surrogatepass")


def walk(value, depth):
    """ValueError for NUL, half a surrogate pair, or too many levels."""
    if isinstance(value, dict | list):
        if depth >= MAX_DEPTH:
            raise ValueError
        inner = [*value, *value.values()] if isinstance(value, dict) else value
        for one in inner:
            walk(one, depth + 1)
    elif isinstance(value, str):
        value.encode()
        if "\x00" in value:
            raise ValueError


def judge(raw):
    """The document as the rules of RELIABILITY 11 have it, or None."""

    def unique(pairs):
        if len({name for name, _ in pairs}) != len(pairs):
            raise ValueError
        return dict(pairs)

    def refuse(_):
        raise ValueError

    try:
        document = json.loads(raw.decode(), object_pairs_hook=unique, parse_constant=refuse)
        walk(document, 0)
    except (ValueError, RecursionError):
        return None, False
    return document, True


def ours(raw):
    try:
        return parse_strict(raw), True
    except ProblemError as refusal:
        return None, refusal.problem.status != 400


@given(PAIRS, ASCII)
def test_parse_strict_agrees_with_the_judge(pairs, is_ascii):
    raw = build_object(pairs, is_ascii)
    assert ours(raw) == judge(raw)


@given(PAIRS, ASCII, st.data())
def test_it_agrees_on_broken_text_too(pairs, is_ascii, data):
    raw = bytearray(build_object(pairs, is_ascii))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(raw)))
        cut = data.draw(st.integers(0, 2))
        raw[at : at + cut] = data.draw(
            st.binary(max_size=2) | st.sampled_from([b'"', b"\\", b"\\u00"])
        )
    assert ours(bytes(raw)) == judge(bytes(raw))


@given(PAIRS, ASCII)
def test_the_fast_path_takes_nothing_that_the_judge_refuses(pairs, is_ascii):
    raw = build_object(pairs, is_ascii)
    document, is_good = judge(raw)
    try:
        request, errors = parse_one(raw)
    except ProblemError:
        assert not is_good
        return
    assert is_good
    if not errors:
        for wire, name in FIELD_NAMES.items():
            value = getattr(request, name)
            assert (wire in document) == (value is not UNSET)
            if wire in document:
                assert value == document[wire]


@given(st.dictionaries(st.sampled_from(["to", "text", "signature"]), TEXT), st.data())
def test_a_repeated_name_is_always_found(fields, data):
    pairs = list(fields.items()) or [("to", "x")]
    again = data.draw(st.sampled_from(pairs))
    raw = build_object([*pairs, (again[0], data.draw(TEXT))], data.draw(ASCII))
    assert not ours(raw)[1]
    with pytest.raises(ProblemError) as refusal:
        parse_one(raw)
    assert refusal.value.problem.code in ("json.duplicate_key", "json.nul")


def test_depth_is_counted_to_the_level():
    for depth, is_good in [(MAX_DEPTH, True), (MAX_DEPTH + 1, False)]:
        raw = b"[" * depth + b"]" * depth
        assert ours(raw)[1] is is_good
    assert ours(b'"' + b"[" * 50 + b'"')[1]


def test_a_string_that_never_ends_is_read_once():
    # Quadratic before: an attempt from each quote to the end of a megabyte.
    assert not ours(b'{"a":"' + b'\\"' * 500_000)[1]
