"""Answers: exactly one outcome per message, and Uncertain wherever it is not clear."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.http.recipe_tree import Format, PathError, Unreadable, parse_path, read_body
from sms.outcomes import Cause, Rejected, Submitted, Throttled, Uncertain
from tests.support.recipe_kit import NAMES, reply, shipped, small, submits, vendor

UNCLEAR = Uncertain("carrier.unknown_outcome")
FIRST, SECOND = "msg_0000000000000001-1", "msg_0000000000000002-1"


def read(settings: dict[str, Any], body: bytes | str, status: int = 200, **headers: str) -> Any:
    return vendor(settings).read(submits(), reply(body, status, **headers))[0]


@pytest.mark.parametrize(
    ("status", "body", "outcome"),
    [
        (200, '{"code": 0, "id": "a1"}', Submitted("a1")),
        (200, '{"code": "0", "id": 77}', Submitted("77")),
        (200, '{"code": 0}', UNCLEAR),  # taken, it says, but as what?
        (200, '{"code": 0, "id": ""}', UNCLEAR),
        (200, '{"code": 0, "id": "a\\u0000b"}', UNCLEAR),
        (200, '{"code": 0, "id": "' + "x" * 200 + '"}', UNCLEAR),
        (200, '{"code": null}', UNCLEAR),
        (200, '{"code": {}}', UNCLEAR),
        (200, "", UNCLEAR),
        (200, "<html>", UNCLEAR),
        (200, b"\xff\xfe", UNCLEAR),
        (200, "[" * 100_000, UNCLEAR),
        (200, '{"code": ' + "9" * 50_000 + "}", None),
        (302, '{"code": 0, "id": "a1"}', UNCLEAR),
        (404, "", UNCLEAR),
        (400, '{"code": 4}', Rejected("4", Cause.NUMBER, "recipient.invalid")),
        (400, '{"code": 5}', Rejected("5", Cause.UNKNOWN, "carrier.unknown_code")),
        (401, '{"code": 6}', Rejected("6", Cause.CONFIG, "channel.account")),
        (200, '{"code": 8}', Throttled(1.0, "8")),
        (500, '{"code": 4}', Rejected("4", Cause.NUMBER, "recipient.invalid")),
        (503, '{"message": "later"}', UNCLEAR),
        (429, '{"code": 0, "id": "a1"}', Throttled(1.0, "0")),
    ],
)
def test_an_answer_is_one_outcome(status, body, outcome):
    settings = small(status_classes={"4": "perm_number", "8": "throttled"})
    found = read(settings, body, status)
    if outcome is None:
        assert isinstance(found, Rejected)
        assert len(found.code) <= 64
    else:
        assert found == outcome


def test_a_5xx_is_no_refusal_by_its_status_alone():
    answer = {"accepted": {"status": 200}, "refused": [{"status": [400, 500]}, {"$.no": 1}]}
    settings = small(answer=answer)
    assert read(settings, "", 500) == UNCLEAR
    assert isinstance(read(settings, "", 400), Rejected)
    assert isinstance(read(settings, '{"no": 1}', 503), Rejected)


def test_what_is_taken_and_refused_at_once_is_neither():
    answer = {"accepted": {"$.ok": True}, "refused": {"$.error": {"exists": True}}}
    assert read(small(answer=answer), '{"ok": true, "error": "x"}') == UNCLEAR
    assert read(small(answer=answer), '{"ok": true, "error": null}') == Submitted(FIRST)


@pytest.mark.parametrize(
    ("headers", "pause_s"),
    [
        ({"retry_after": "30"}, 30.0),
        ({"retry_after": "0"}, 1.0),
        ({"retry_after": "999999999"}, 3600.0),
        ({"retry_after": "soon"}, 1.0),
        ({"retry_after": "-5"}, 1.0),
        (
            {
                "retry_after": "Thu, 01 Jan 2026 00:00:20 GMT",
                "date": "Thu, 01 Jan 2026 00:00:00 GMT",
            },
            20.0,
        ),
    ],
)
def test_retry_after_is_obeyed_within_bounds(headers, pause_s):
    assert read(small(), "", 429, **headers) == Throttled(pause_s, "http_429")


def test_throttling_may_be_told_in_the_body():
    answer = {
        "accepted": {"$.code": 0},
        "throttled": {"$.code": {"in": [88, 89]}},
        "retry_after": "$.wait",
        "code": "$.code",
    }
    assert read(small(answer=answer), '{"code": 88, "wait": 2.5}') == Throttled(2.5, "88")


@pytest.mark.parametrize(
    ("test", "body", "holds"),
    [
        ({"$.a": {"prefix": ["OK", "Sent"]}}, '{"a": "Sent. id 5"}', True),
        ({"$.a": {"contains": "id"}}, '{"a": "Sent. id 5"}', True),
        ({"$.a[*].b": 2}, '{"a": [{"b": 1}, {"b": 2}]}', True),
        ({"$.a[1].b": 1}, '{"a": [{"b": 1}, {"b": 2}]}', False),
        ({"$.a": {"not": [1, 2]}}, '{"a": 3}', True),
        ({"$.a": {"not": [1, 2]}}, "{}", False),
        ({"$.a": {"exists": False}}, '{"a": null}', True),
        ({"$.a": {"exists": True}}, '{"a": {}}', True),
        ({'$["a.b c"]': "x"}, '{"a.b c": "x"}', True),
        ({"$.a": True, "$.b": 0}, '{"a": true, "b": 0}', True),
        ({"$.a": True, "$.b": 0}, '{"a": true, "b": 1}', False),
        ({"status": "2xx"}, "{}", True),
        ([{"$.a": 1}, {"$.a": 2}], '{"a": 2}', True),
        ({"$.a": 1.5}, '{"a": 1.5}', True),
    ],
)
def test_tests(test, body, holds):
    found = read(small(answer={"accepted": test}), body)
    assert found == (Submitted(FIRST) if holds else UNCLEAR)


def test_plain_text_and_forms_are_read_by_the_same_paths():
    answer = {
        "format": "text",
        "separator": "|",
        "accepted": {"$.parts[0]": 0},
        "refused": {"$.text": {"prefix": "ERR"}, "$.parts[1]": {"exists": True}},
        "code": "$.parts[1]",
        "id": "$.parts[2]",
    }
    assert read(small(answer=answer), "0|IN_PROGRESS|4711\r\nmore\n") == Submitted("4711")
    found = read(small(answer=answer), "ERR|23")
    assert found == Rejected("23", Cause.UNKNOWN, "carrier.unknown_code")
    assert read(small(answer=answer), b"\xff\xfe nonsense") == UNCLEAR
    answer = {"format": "form", "accepted": {"$.status": "OK"}, "id": "$.id"}
    assert read(small(answer=answer), "status=OK&id=5+6&id=7") == Submitted("5 6")


def batch(by: str, refused: int = 400) -> Any:
    each = {"to": "{number}", "t": "{text}"}
    items = {
        "path": "$.items",
        "by": by,
        "key": "$.key",
        "accepted": {"$.code": 0},
        "refused": {"$.code": {"not": 0}},
        "code": "$.code",
        "id": "$.id",
    }
    return vendor(
        small(
            send={"url": "https://a.example/", "json": "{each}", "batch": {"max": 9, "each": each}},
            answer={
                "accepted": {"status": 200},
                "refused": {"status": refused},
                "items": items,
            },
            national_cn=True,
        )
    )


@pytest.mark.parametrize(
    ("by", "keys"),
    [
        ("reference", [SECOND, FIRST]),
        ("message_id", ["msg_0000000000000002", "msg_0000000000000001"]),
        ("number", ["+8613800138001", "13800138000"]),
        ("index", None),
    ],
)
def test_each_number_of_a_batch_has_its_own_verdict(by, keys):
    rows: list[dict[str, Any]] = [{"code": 5}, {"code": 0, "id": "a1"}]
    if keys is None:
        rows.reverse()
    else:
        rows = [{**row, "key": key} for row, key in zip(rows, keys, strict=True)]
    first, second = batch(by).read(submits(2), reply(json.dumps({"items": rows})))
    assert first == Submitted("a1")
    assert second == Rejected("5", Cause.UNKNOWN, "carrier.unknown_code")


def test_a_verdict_that_is_missing_or_there_twice_is_uncertain():
    made = batch("reference")
    rows = [{"key": FIRST, "code": 0, "id": "a"}, {"key": FIRST, "code": 5}, 5, None]
    body = json.dumps({"items": rows})
    assert made.read(submits(2), reply(body)) == [UNCLEAR, UNCLEAR]
    assert made.read(submits(2), reply('{"items": []}')) == [UNCLEAR, UNCLEAR]
    body = json.dumps({"items": [{"code": 0, "id": "a"}]})
    assert batch("index").read(submits(2), reply(body)) == [UNCLEAR, UNCLEAR]


def test_a_batch_that_is_refused_as_a_whole_goes_again_but_for_the_account_s_fault():
    made = batch("reference")
    assert made.read(submits(2), reply("{}", 400)) == [None, None]
    [alone] = made.read(submits(), reply("{}", 400))
    assert isinstance(alone, Rejected)
    for outcome in batch("reference", refused=401).read(submits(2), reply("{}", 401)):
        assert isinstance(outcome, Rejected)
        assert outcome.cause is Cause.CONFIG


def test_two_messages_to_one_number_are_not_told_apart_by_it():
    made = batch("number")
    pair = submits(2)
    pair[1].number = pair[0].number
    rows = [{"key": pair[0].number, "code": 0, "id": "a"}]
    assert made.read(pair, reply(json.dumps({"items": rows}))) == [UNCLEAR, UNCLEAR]


MADE = [vendor(shipped(name)) for name in NAMES]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["data", "messages", "status", "id", "code", "errors", "x"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)
BODIES = st.binary(max_size=60) | JSON.map(lambda value: json.dumps(value).encode())


@given(st.sampled_from(MADE), BODIES, st.integers(100, 599), st.integers(1, 3))
@settings(max_examples=40)
def test_reading_never_raises_and_gives_one_outcome_each(made, body, status, count):
    sent = submits(min(count, made.traits.batch))
    outcomes = made.read(sent, reply(body, status))
    assert len(outcomes) == len(sent)
    if status >= 300:
        assert not any(isinstance(one, Submitted) for one in outcomes)


@given(st.text(max_size=30).map(lambda text: "$" + text))
def test_any_path_is_read_or_refused_and_finds_without_raising(text):
    try:
        path = parse_path(text)
    except PathError:
        return
    assert isinstance(path.text({"a": [1, {"b": None}]}), str)


@given(st.binary(max_size=80), st.sampled_from(list(Format)))
def test_any_octets_are_a_tree_or_unreadable(body, form):
    with suppress(Unreadable):
        read_body(body, form)
