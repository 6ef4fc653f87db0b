"""Pushes: proven, read, and refused with a clear word when they are neither."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from typing import Any
from urllib.parse import urlencode

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.http.vendor import Asked, CallAnswer, CallKind, Pushed, Verdict
from receipts.normalise import ReportCodes
from sms.errors import CallRefused, RemoteProtocolError
from tests.support.recipe_kit import (
    NAMES,
    SECRET,
    call,
    reply,
    shipped,
    small,
    submits,
    vendor,
)

RECEIPTS = {
    "items": "$.list",
    "id": "$.id",
    "reference": "$.ref",
    "number": "$.to",
    "state": "$.state",
    "error": "$.code",
    "states": {"OK": "DELIVRD", "1": "ENROUTE", "2": "UNDELIV"},
    "answer": {"status": 202, "content_type": "text/plain", "body": "ok"},
}
INBOUND = {"id": "$.id", "number": "$.from", "to": "$.to", "text": "$.text"}


def made(**parts: Any) -> Any:
    settings = small(**{"receipts": RECEIPTS, "callback_secret": SECRET, **parts})
    del settings["callbacks"]
    return vendor(settings)


def push(one: Any, body: object, kind: CallKind = CallKind.RECEIPTS) -> Any:
    text = body if isinstance(body, str | bytes) else json.dumps(body)
    return one.pushed(call(kind, body=text, query=f"secret={SECRET}"))


def refusal(one: Any, given_call: Any) -> tuple[int, str]:
    with pytest.raises(CallRefused) as caught:
        one.pushed(given_call)
    return caught.value.status, caught.value.detail


def test_several_reports_in_one_push():
    rows = [
        {"id": 5, "to": "+8613800138000", "state": "OK", "code": 0},
        {"ref": "msg_0000000000000001-1", "state": 2, "code": "E7"},
        {"state": "OK"},  # whose?
        {"id": "6"},  # what?
        "nonsense",
    ]
    brought = push(made(), {"list": rows})
    assert [
        (one.channel, one.carrier_id, one.reference, one.number, one.state, one.error)
        for one in brought.reports
    ] == [
        (7, "5", "", "8613800138000", "DELIVRD", "0"),
        (7, "msg_0000000000000001-1", "msg_0000000000000001-1", "", "UNDELIV", "E7"),
    ]
    assert brought.answer == CallAnswer(202, "text/plain", b"ok")


def test_a_word_that_has_no_translation_is_not_taken_for_another_ones():
    [report] = push(made(), {"list": {"id": "5", "state": "3"}}).reports
    assert report.state == "#3"  # 3 alone is SMPP's EXPIRED
    assert not ReportCodes("http").judge(report.state, "").is_known
    [report] = push(made(), {"list": [{"id": "5", "state": "Brand\u0007 new"}]}).reports
    assert report.state == "Brand? new"


def test_an_empty_list_is_answered():
    assert push(made(), {"list": []}).reports == ()


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        (b"\xff", "the body cannot be read: it is not UTF-8"),
        (b"{", "the body cannot be read: it is not JSON"),
        (b"[" * 100_000, "the body cannot be read: it is not JSON"),
        (b'{"list": [{"x": 1}]}', "nothing in it can be read as receipts"),
        (
            b'{"list": [{"id": "a\\u0000b", "state": "OK"}]}',
            "nothing in it can be read as receipts",
        ),
    ],
)
def test_what_cannot_be_read_is_refused(body, detail):
    found = refusal(made(), call(body=body, query=f"secret={SECRET}"))
    assert found == (400, detail)


@pytest.mark.parametrize("query", ["", "secret=", "secret=wrong", f"other={SECRET}", "%", "&&&"])
def test_a_call_without_the_secret_is_refused_before_it_is_read(query):
    found = refusal(made(), call(body=b"{", query=query))
    assert found == (401, "the callback secret is missing or wrong")


def test_a_kind_without_a_part_is_refused():
    found = refusal(made(), call(CallKind.INBOUND, body=b"{}", query=f"secret={SECRET}"))
    assert found == (403, "this channel takes no inbound by callback")


@pytest.mark.parametrize(
    ("verify", "good"),
    [
        ({"type": "secret", "in": {"header": "X-Token"}}, {"headers": {"x-token": SECRET}}),
        (
            {"type": "secret", "in": {"header": "Authorization"}, "value": "Bearer {api_key}"},
            {"headers": {"authorization": f"Bearer {SECRET}"}},
        ),
        ({"type": "secret", "in": {"query": "t"}, "value": "{api_key}"}, {"query": f"t={SECRET}"}),
    ],
)
def test_a_secret_may_stand_elsewhere(verify, good):
    one = made(receipts={**RECEIPTS, "verify": verify})
    body = b'{"list": [{"id": "5", "state": "OK"}]}'
    assert one.pushed(call(body=body, **good)).reports
    assert refusal(one, call(body=body))[0] == 401


def test_a_secret_in_the_body():
    verify = {"type": "secret", "in": {"field": "token"}}
    one = made(receipts={**RECEIPTS, "verify": verify})
    rows = [{"id": "5", "state": "OK"}]
    assert one.pushed(call(body=json.dumps({"token": SECRET, "list": rows}))).reports
    assert refusal(one, call(body=json.dumps({"token": "x", "list": rows})))[0] == 401
    assert refusal(one, call(body=b"[]"))[0] == 401


def test_a_signature_over_address_and_raw_body():
    verify = {
        "type": "hmac",
        "algorithm": "sha1",
        "encoding": "base64",
        "key": "{api_key}",
        "sign": "{url}{body}{header.X-Time}",
        "in": {"header": "X-Signature"},
        "value": "sha1={signature}",
        "timestamp": "X-Time",
        "fresh_s": 60,
    }
    one = made(receipts={**RECEIPTS, "verify": verify})
    body = b'{"list": [{"id": "5", "state": "OK", "note": "\xe4\xb8\xad"}]}'
    signed = (
        b"https://sms.example.com/v1/carrier-callbacks/chn_0000000000000007/receipts"
        + body
        + b"1767225600000"
    )
    proof = base64.b64encode(hmac.new(SECRET.encode(), signed, hashlib.sha1).digest()).decode()
    headers = {"x-signature": f"sha1={proof}", "x-time": "1767225600000"}
    assert one.pushed(call(body=body, headers=headers)).reports
    late = call(body=body, headers=headers, unix=1_767_225_661.0)
    assert refusal(one, late) == (401, "the signature's time is missing or too far from ours")
    for other in ({**headers, "x-signature": proof}, {"x-time": headers["x-time"]}, {}):
        assert refusal(one, call(body=body, headers=other)) == (
            401,
            "the signature is missing or wrong",
        )
    assert refusal(one, call(body=body + b"\xff", headers=headers))[0] == 401


def test_a_form_whose_field_holds_json_and_a_query():
    form = {**RECEIPTS, "format": "form", "json_field": "report"}
    rows = json.dumps({"list": [{"id": "5", "state": "OK"}]})
    one = made(receipts=form)
    assert push(one, urlencode({"report": rows})).reports
    assert refusal(one, call(body=b"report=x", query=f"secret={SECRET}"))[0] == 400
    one = made(receipts={"id": "$.id", "state": "$.state", "states": {"OK": "DELIVRD"}})
    query = urlencode({"secret": SECRET, "id": "5", "state": "OK"})
    [report] = one.pushed(call(method="GET", query=query)).reports
    assert (report.carrier_id, report.state) == ("5", "DELIVRD")


def test_texts_from_phones():
    one = made(inbound=INBOUND, national_cn=True)
    body = {"id": 9, "from": "13800138000", "to": "+10690001", "text": "退订 \ud83d\0"}
    [text] = push(one, body, CallKind.INBOUND).texts
    assert (text.channel, text.number, text.to) == (7, "8613800138000", "10690001")
    assert (text.text, text.carrier_id, text.mark) == ("退订 \ufffd\ufffd", "9", None)
    [text] = push(one, {"from": "1380", "text": ""}, CallKind.INBOUND).texts
    assert (text.number, text.text) == ("1380", "")
    query = f"secret={SECRET}"
    for bad in ('{"from": "1"}', '{"text": "x"}', "[5]"):
        found = refusal(one, call(CallKind.INBOUND, body=bad, query=query))
        assert found == (400, "nothing in it can be read as inbound")


def test_a_text_in_hex():
    one = made(inbound={**INBOUND, "text_form": "hex_utf16"})
    [text] = push(one, {"from": "1", "text": "9000 8BA2"}, CallKind.INBOUND).texts
    assert text.text == "退订"
    with pytest.raises(CallRefused):
        push(one, {"from": "1", "text": "xyz"}, CallKind.INBOUND)


def test_a_pull_that_fails_is_no_empty_one():
    pull = {"url": "https://a.example/pull", "items": "$.rows"}
    one = made(receipts={**RECEIPTS, "pull": pull})
    assert one.traits.pulls
    assert one.pulled(CallKind.RECEIPTS, reply('{"rows": []}')).reports == ()
    rows = '{"rows": [{"id": "5", "state": "OK"}]}'
    assert len(one.pulled(CallKind.RECEIPTS, reply(rows)).reports) == 1
    for body, status in (("{", 200), (rows, 500), ("", 403)):
        with pytest.raises(RemoteProtocolError):
            one.pulled(CallKind.RECEIPTS, reply(body, status))


def test_a_message_is_asked_about_by_our_reference():
    query = {
        "method": "GET",
        "url": "https://a.example/status",
        "query": {"ref": "{reference}", "day": "{sent_day}"},
        "answer": {
            "absent": [{"status": 404}, {"$.total": 0}],
            "items": "$.rows",
            "id": "$.id",
            "reference": "$.ref",
            "number": "$.to",
            "state": "$.state",
            "states": {"OK": "DELIVRD", "SENT": "ENROUTE"},
        },
    }
    one = made(query=query, absent_after_s=30)
    assert one.traits.asks
    assert one.traits.absent_after_s == 30
    asked = Asked(submits()[0], 1_767_225_600.0)
    request = one.question([asked], 0.0, "n")
    assert request.url == "https://a.example/status?ref=msg_0000000000000001-1&day=2026-01-01"
    unsure = Asked(asked.submit, asked.sent_unix, unsure_s=1.0)
    assert one.question([unsure], 0.0, "n").url.endswith("&day=2025-12-31")  # from the earliest on

    def told(body: str, status: int = 200) -> Any:
        return one.told([asked], reply(body, status))[0]

    assert told("", 404).verdict is Verdict.ABSENT
    assert told('{"total": 0}').verdict is Verdict.ABSENT
    assert told('{"total": 0}', 500).verdict is Verdict.SILENT
    assert told("", 429).verdict is Verdict.SILENT
    found = told(
        '{"rows": [{"id": "a", "ref": "other", "state": "OK"}, {"id": "b", "state": "SENT"}]}'
    )
    assert (found.verdict, found.carrier_id, found.report) == (Verdict.TAKEN, "b", None)
    found = told('{"rows": [{"id": "a", "to": "+8613800138000", "state": "OK"}]}')
    assert (found.verdict, found.carrier_id) == (Verdict.ENDED, "a")
    assert (found.report.carrier_id, found.report.state) == ("a", "DELIVRD")
    assert told('{"rows": [{"id": "a", "to": "+8613800138999", "state": "OK"}]}').verdict is (
        Verdict.SILENT
    )
    assert told('{"rows": [{"state": "OK"}]}').verdict is Verdict.SILENT  # no id to keep


MADE = [vendor(shipped(name)) for name in NAMES if name != "sinch"]
PARTS = st.sampled_from(["id", "status", "state", "data", "payload", "to", "from", "text", "sid"])
TREES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(PARTS, inner, max_size=4),
    max_leaves=10,
)
BODIES = (
    st.binary(max_size=60)
    | TREES.map(lambda tree: json.dumps(tree).encode())
    | st.dictionaries(PARTS, st.text(max_size=9)).map(
        lambda form: urlencode(form, errors="replace").encode()
    )
)


@given(
    st.sampled_from(MADE),
    BODIES,
    st.sampled_from(list(CallKind)),
    st.sampled_from(["GET", "POST"]),
    st.text(st.characters(codec="ascii"), max_size=20),
)
@settings(max_examples=40)
def test_any_push_is_read_or_refused(one, body, kind, method, query):
    given_call = call(kind, body=body, method=method, query=f"secret={SECRET}&{query}")
    refused: CallRefused | None = None
    brought = Pushed()
    try:
        brought = one.pushed(given_call)
    except CallRefused as error:
        refused = error
    assert refused is None or (refused.status in (400, 401, 403) and refused.detail)
    for report in brought.reports:
        assert report.carrier_id.isprintable()
        assert report.state
    for text in brought.texts:
        assert text.number
        assert "\0" not in text.text


@given(st.sampled_from(MADE), BODIES, st.integers(200, 599))
@settings(max_examples=40)
def test_any_answer_to_a_question_is_one_verdict(one, body, status):
    if one.traits.asks:
        assert len(one.told([Asked(submits()[0], 0.0, "id")], reply(body, status))) == 1
