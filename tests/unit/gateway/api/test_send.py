"""The door of the two send routes, through its ASGI interface."""

from __future__ import annotations

import asyncio
import json
import math
import re

import httpx
import pytest

from gateway.api import app, frame
from gateway.api.app import build
from gateway.api.problems import KINDS, ProblemError
from ratelimit.tenants import Policy
from sms.errors import OutcomeUnknown, StoreUnavailable
from sms.model import Encoding, MessageClass, OnUncertain
from tests.support.fake_flow import FakeFlow, Taken

ONE = {"to": "+8613800138000", "text": "hello"}


@pytest.fixture
def flow():
    return FakeFlow()


def client(flow, key="both"):
    headers = {"authorization": f"Bearer {flow.keys[key]}"} if key else {}
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(build(flow)), base_url="http://gateway", headers=headers
    )


async def post(flow, body, path="/v1/messages", key="both", **headers):
    headers = {"content-type": "application/json", **headers}
    async with client(flow, key) as http:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return await http.post(path, content=content, headers=headers)


def problem(answer):
    """The problem document, once its form is checked."""
    assert answer.headers["content-type"] == "application/problem+json"
    told = answer.json()
    assert {"type", "title", "status", "detail", "instance", "code", "action"} < set(told)
    assert told["status"] == answer.status_code
    assert told["request_id"] == answer.headers["x-request-id"]
    assert told["action"]
    if told["errors"]:
        assert told["code"] == told["errors"][0]["code"]
    return told


async def test_a_message_is_accepted_and_the_answer_is_the_contract_s(flow):
    answer = await post(flow, {**ONE, "class": "otp"})
    assert answer.status_code == 202
    told = answer.json()
    created = told.pop("created_at")
    message = flow.accepted[0][0]
    assert told == {
        "id": f"msg_{message.id:016x}",
        "status": "accepted",
        "class": "otp",
        "to": "+8613800138000",
        "segments": 1,
        "encoding": "ucs2",
        "client_ref": None,
    }
    assert re.fullmatch(r"2[0-9]{3}-[0-9]{2}-[0-9]{2}T[0-9:]{8}\.[0-9]{3}Z", created)
    assert message.texts == ("【某商城】hello",)


async def test_every_field_reaches_the_message(flow):
    body = {
        "to": "13800138000",
        "text": "“quoted”",
        "class": "transactional",
        "signature": "Shop",
        "sender_ext": "0123",
        "client_ref": "order-1",
        "metadata": {"order": "4711"},
        "valid_for_s": 60,
        "encoding": "auto",
        "smart_encoding": True,
        "max_segments": 2,
        "on_uncertain": "hold",
    }
    assert (await post(flow, body)).status_code == 202
    message = flow.accepted[0][0]
    assert message.message_class is MessageClass.TRANSACTIONAL
    assert message.sender_ext == "0123"
    assert message.client_ref == "order-1"
    assert message.metadata == {"order": "4711"}
    assert message.on_uncertain is OnUncertain.HOLD
    assert message.valid_until - message.created_at == 60
    assert message.texts == ("【Shop】“quoted”",)  # 【 keeps it UCS-2, so nothing is replaced


async def test_abroad_smart_encoding_makes_it_gsm7_and_adds_no_signature(flow):
    body = {"to": "+14155552671", "text": "“quoted”", "smart_encoding": True}
    assert (await post(flow, body)).status_code == 202
    message = flow.accepted[0][0]
    assert (message.encoding, message.texts) == (Encoding.GSM7, ('"quoted"',))


async def test_limits_and_request_id_stand_on_every_answer_after_the_key(flow):
    good = await post(flow, ONE, **{"x-request-id": "my.id-1_A"})
    bad = await post(flow, {"to": "x"})
    wrong_type = await post(flow, ONE, **{"content-type": "text/plain"})
    assert good.headers["x-request-id"] == "my.id-1_A"
    assert good.headers["ratelimit-policy"] == '"segments";q=1000;w=10'
    assert good.headers["ratelimit"] == '"segments";r=999;t=1'
    for answer in (bad, wrong_type):
        assert answer.headers["ratelimit"] == '"segments";r=999;t=1'
        assert re.fullmatch(r"[0-9a-f]+-[0-9a-f]+", answer.headers["x-request-id"])
    odd = await post(flow, ONE, **{"x-request-id": "no spaces allowed"})
    assert odd.headers["x-request-id"] != "no spaces allowed"


@pytest.mark.parametrize(
    ("body", "code", "pointer"),
    [
        ({"text": "x"}, "field.missing", "/to"),
        ({"to": "+8613800138000"}, "field.missing", "/text"),
        ({**ONE, "text": ""}, "content.empty", "/text"),
        ({**ONE, "text": " \n"}, "content.empty", "/text"),
        ({**ONE, "text": 5}, "field.type", "/text"),
        ({**ONE, "text": None}, "field.null", "/text"),
        ({**ONE, "to": "138 0013 8000"}, "recipient.invalid", "/to"),
        ({**ONE, "to": "008613800138000"}, "recipient.invalid", "/to"),
        ({**ONE, "to": "+861380013800"}, "recipient.invalid", "/to"),
        ({**ONE, "to": "+11234567890"}, "recipient.invalid", "/to"),
        ({**ONE, "to": "+442071838750"}, "recipient.country_not_allowed", "/to"),
        ({**ONE, "class": "urgent"}, "field.value", "/class"),
        ({**ONE, "class": "marketing"}, "route.missing", "/to"),
        ({**ONE, "signature": "Nobody"}, "signature.unknown", "/signature"),
        ({**ONE, "text": "【x】 hello"}, "content.signature_in_text", "/text"),
        ({**ONE, "sender_ext": "12a"}, "field.value", "/sender_ext"),
        ({**ONE, "sender_ext": "١٢"}, "field.value", "/sender_ext"),
        ({**ONE, "valid_for_s": 4}, "field.value", "/valid_for_s"),
        ({**ONE, "valid_for_s": 259201}, "field.value", "/valid_for_s"),
        ({**ONE, "valid_for_s": 60.0}, "field.type", "/valid_for_s"),
        ({**ONE, "valid_for_s": True}, "field.type", "/valid_for_s"),
        ({**ONE, "max_segments": 0}, "field.value", "/max_segments"),
        ({**ONE, "max_segments": 256}, "field.value", "/max_segments"),
        ({**ONE, "text": "x" * 70, "max_segments": 1}, "content.too_long", "/text"),
        ({**ONE, "text": "x" * 100_000}, "content.too_long", "/text"),
        ({**ONE, "encoding": "gsm7"}, "content.not_gsm7", "/encoding"),  # the signature is not
        ({**ONE, "encoding": "utf8"}, "field.value", "/encoding"),
        ({**ONE, "smart_encoding": 1}, "field.type", "/smart_encoding"),
        ({**ONE, "metadata": {"a": 1}}, "field.type", "/metadata/a"),
        ({**ONE, "metadata": {"a b": 1}}, "field.type", "/metadata"),  # not like a name
        ({**ONE, "metadata": ["a"]}, "field.type", "/metadata"),
        ({**ONE, "metadata": {"a": "x" * 4096}}, "metadata.too_large", "/metadata"),
        ({**ONE, "on_uncertain": "ask"}, "field.value", "/on_uncertain"),
        ({**ONE, "txet": "typo"}, "field.unknown", "/txet"),
        ({**ONE, "send_at": "2030-01-01T00:00:00Z"}, "field.value", "/send_at"),
        ({**ONE, "send_at": "tomorrow"}, "field.value", "/send_at"),
        ({**ONE, "send_at": 1}, "field.type", "/send_at"),
        ({**ONE, "template_id": "t"}, "template.beside_text", "/template_id"),
        ({**ONE, "variables": {}}, "template.beside_text", "/template_id"),
        ({**ONE, "variables": {"a": 1}}, "field.type", "/variables/a"),
        ({"to": ONE["to"], "template_id": "t"}, "template.unknown", "/template_id"),
        ({"to": ONE["to"], "variables": {}}, "field.missing", "/template_id"),
        ([ONE], "field.type", ""),
        ("text", "field.type", ""),
        (None, "field.type", ""),
    ],
)
async def test_a_refusal_names_the_field_and_the_remedy(flow, body, code, pointer):
    answer = await post(flow, body)
    assert answer.status_code == 422
    told = problem(answer)
    assert (told["errors"][0]["pointer"], told["errors"][0]["code"]) == (pointer, code)
    assert len(told["errors"]) == 1
    assert told["errors"][0]["detail"].endswith(".")
    assert code in KINDS
    assert not flow.accepted
    assert flow.limiter.left == flow.limiter.depth


async def test_all_wrong_fields_are_told_at_once(flow):
    body = {"to": 5, "text": "", "class": "x", "sender_ext": "a", "valid_for_s": 1, "oops": 1}
    told = problem(await post(flow, body))
    assert [error["pointer"] for error in told["errors"]] == [
        "/to",
        "/class",
        "/oops",
        "/sender_ext",
        "/valid_for_s",
        "/text",
    ]


async def test_no_signature_filed(flow):
    told = problem(await post(flow, ONE, key="bare"))
    assert told["code"] == "signature.required"


async def test_a_given_signature_abroad_is_plain(flow):
    await post(flow, {"to": "+14155552671", "text": "hi", "signature": "Shop"})
    message = flow.accepted[0][0]
    assert (message.encoding, message.texts) == (Encoding.GSM7, ("[Shop] hi",))


async def test_an_unknown_name_is_shown_only_when_it_looks_like_one(flow):
    told = problem(await post(flow, {**ONE, "+8613912345678": 1, "good_name-1": 2}))
    assert [error["pointer"] for error in told["errors"]] == ["", "/good_name-1"]
    assert "13912345678" not in json.dumps(told)


async def test_nothing_that_was_sent_is_repeated(flow):
    secret = "Kx7secretKx7"
    bodies = [
        {"to": secret, "text": "x"},
        {**ONE, "class": secret},
        {**ONE, "signature": secret},
        {**ONE, "encoding": "gsm7", "text": secret + "中"},
        b'{"to": "' + secret.encode() + b'" oops',
    ]
    for body in bodies:
        answer = await post(flow, body)
        assert answer.status_code in (400, 422)
        assert secret not in answer.text


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "json.syntax"),
        (b"{", "json.syntax"),
        (b'{"to":"x"} {}', "json.syntax"),
        (b'{"valid_for_s":NaN}', "json.syntax"),
        (b'{"valid_for_s":-Infinity}', "json.syntax"),
        (b'\xef\xbb\xbf{"to":"x"}', "json.syntax"),
        (b'{"text":"\xff"}', "json.not_utf8"),
        (json.dumps(ONE).encode("utf-16"), "json.not_utf8"),
        (b'{"to":"+8613800138000","text":"a","text":"b"}', "json.duplicate_key"),
        (b'{"text":"a","t\\u006fxt":1,"t\\u0065xt":"b"}', "json.duplicate_key"),
        (b'{"to":"+8613800138000","text":"a","metadata":{"a":"1","a":"2"}}', "json.duplicate_key"),
        (b'{"text":"a:b","metadata":{"a":"1","\\u0061":"2"}}', "json.duplicate_key"),
        (b'{"to":"+8613800138000","text":"a\\u0000b"}', "json.nul"),
        (b'{"to":"+8613800138000","text":"a","metadata":{"\\u0000":"x"}}', "json.nul"),
        (b'{"to":"+8613800138000","text":"\\ud83d"}', "json.surrogate"),
        (b'{"to":"+8613800138000","text":"\\ude00\\ud83d"}', "json.surrogate"),
        (b'{"x":' + b"[" * 20 + b"]" * 20 + b"}", "json.too_deep"),
        (b'{"x":' + b"[" * 200_000, "json.too_deep"),
    ],
)  # fmt: skip
async def test_bad_json_is_a_400_with_its_own_code(flow, body, code):
    answer = await post(flow, body)
    assert answer.status_code == 400
    assert problem(answer)["code"] == code
    assert not flow.accepted


async def test_what_only_looks_suspicious_is_taken(flow):
    texts = ['"to":"x" {}[]: \\u0000 \\ud800', "a:b:c", '"', "\\", "\\\\u0000", "😀", '":":"']
    for text in texts:
        answer = await post(flow, {**ONE, "text": text, "metadata": {":": '":"'}})
        assert answer.status_code == 202, answer.text
        assert "".join(flow.accepted[-1][0].texts).endswith(text)
    deep = b'{"to":"+8613800138000","text":"x","y":' + b"[" * 19 + b"]" * 19 + b"}"
    assert problem(await post(flow, deep))["code"] == "field.unknown"


# -- the frame ---------------------------------------------------------------------------------


@pytest.mark.parametrize("given", [None, "", "application/xml", "text/json", "application/jsonp"])
async def test_another_media_type_is_415(flow, given):
    async with client(flow) as http:
        headers = {} if given is None else {"content-type": given}
        answer = await http.post("/v1/messages", content=json.dumps(ONE), headers=headers)
    assert (answer.status_code, problem(answer)["code"]) == (415, "body.media_type")


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"content-type": "application/json; charset=latin-1"}, "body.charset"),
        ({"content-type": "application/json", "content-encoding": "gzip"}, "body.encoding"),
        ({"content-type": "application/json", "content-encoding": "identity"}, "body.encoding"),
    ],
)
async def test_charset_and_encoding_are_415(flow, headers, code):
    answer = await post(flow, ONE, **headers)
    assert (answer.status_code, problem(answer)["code"]) == (415, code)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a中", "One character is not in GSM-7, it stands at"),
        ("中文", "2 different characters are"),
    ],
)
async def test_what_is_not_in_gsm7_is_counted_in_words(flow, text, told):
    body = {"to": "+14155550100", "text": text, "encoding": "gsm7"}
    answer = await post(flow, body)
    assert [e["detail"] for e in problem(answer)["errors"] if told in e["detail"]], answer.text


@pytest.mark.parametrize(
    "given", ["application/json; charset=utf-8", 'Application/JSON;charset="UTF-8"']
)
async def test_utf8_may_be_said(flow, given):
    assert (await post(flow, ONE, **{"content-type": given})).status_code == 202


async def test_other_methods_are_405_with_allow(flow):
    async with client(flow) as http:
        for method in ("GET", "PUT", "DELETE", "BREW"):
            answer = await http.request(method, "/v1/batches")
            assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
            assert problem(answer)["code"] == "method.not_allowed"


@pytest.mark.parametrize(
    ("header", "code"),
    [
        (None, "auth.missing"),
        ("Basic abc", "auth.invalid"),
        ("Bearer nonsense", "auth.invalid"),
        ("Bearer smsgw_101_" + "a" * 43 + "00000000", "auth.invalid"),
        ("Bearer " + "x" * 5000, "auth.invalid"),
    ],
)
async def test_a_wrong_key_is_401_before_the_body_is_read(flow, header, code):
    async def receive():
        raise AssertionError("the body was read")

    sent = []

    async def send(event):
        sent.append(event)

    headers = [(b"content-type", b"application/json")]
    if header is not None:
        headers.append((b"authorization", header.encode()))
    scope = {
        "type": "http",
        "path": "/v1/messages",
        "method": "POST",
        "query_string": b"",
        "headers": headers,
    }
    await build(flow)(scope, receive, send)
    assert sent[0]["status"] == 401
    names = dict(sent[0]["headers"])
    assert names[b"www-authenticate"].startswith(b"Bearer")
    assert b"ratelimit" not in names
    assert json.loads(sent[1]["body"])["code"] == code


async def test_a_key_of_another_secret_or_id_is_401(flow):
    text = flow.keys["both"]
    flow.keys["forged"] = flow.keys["both"].replace("smsgw_101_", "smsgw_102_")
    assert (await post(flow, ONE, key="forged")).status_code == 401
    flow.keys["mistyped"] = text[:-1] + ("0" if text[-1] != "0" else "1")
    assert (await post(flow, ONE, key="mistyped")).status_code == 401


async def test_scopes_and_suspension_are_403(flow):
    for key, code in [
        ("read", "auth.scope"),
        ("admin", "auth.scope"),
        ("suspended", "tenant.suspended"),
    ]:
        answer = await post(flow, ONE, key=key)
        assert (answer.status_code, problem(answer)["code"]) == (403, code)
        assert answer.headers["ratelimit-policy"].startswith('"segments";q=')
        assert answer.headers["ratelimit"].startswith('"segments";r=')


async def test_a_query_is_refused_and_a_secret_in_it_is_400(flow):
    assert problem(await post(flow, ONE, "/v1/messages?x=1"))["code"] == "query.unknown"
    for query in ("api_key=x", "token=x", "a=smsgw_1_x", "KEY=1"):
        answer = await post(flow, ONE, f"/v1/messages?{query}", key=None)
        assert (answer.status_code, problem(answer)["code"]) == (400, "auth.secret_in_query")


async def test_a_header_given_twice_is_400(flow):
    pairs = [
        ("authorization", f"Bearer {flow.keys['both']}"),
        ("authorization", f"Bearer {flow.keys['other']}"),
        ("content-type", "application/json"),
    ]
    async with client(flow, None) as http:
        answer = await http.post("/v1/messages", content=b"{}", headers=pairs)
    assert (answer.status_code, problem(answer)["code"]) == (400, "request.header_repeated")


@pytest.mark.parametrize("is_declared", [True, False])
async def test_a_body_above_the_cap_is_413(flow, is_declared):
    async def parts():
        for _ in range(17):
            yield b" " * 65_536

    content = b" " * (17 * 65_536) if is_declared else parts()
    async with client(flow) as http:
        answer = await http.post(
            "/v1/messages", content=content, headers={"content-type": "application/json"}
        )
    assert (answer.status_code, problem(answer)["code"]) == (413, "body.too_large")


async def test_a_body_of_many_parts_is_joined(flow):
    async def parts():
        for byte in json.dumps(ONE).encode():
            yield bytes((byte,))

    async with client(flow) as http:
        answer = await http.post(
            "/v1/messages", content=parts(), headers={"content-type": "application/json"}
        )
    assert answer.status_code == 202


async def test_a_body_that_does_not_come_is_408():
    clock = [0.0]
    reader = frame.BodyReader(lambda: clock[0])

    async def never():
        await asyncio.get_running_loop().create_future()

    task = asyncio.ensure_future(reader.read(never, 100))
    await asyncio.sleep(0)
    clock[0] = 29.0
    reader._watch()
    await asyncio.sleep(0)
    assert not task.done()
    clock[0] = 30.5
    reader._watch()
    with pytest.raises(ProblemError) as refusal:
        await task
    assert refusal.value.problem.status == 408


async def test_a_cancel_from_outside_stays_a_cancel():
    async def never():
        await asyncio.get_running_loop().create_future()

    task = asyncio.ensure_future(frame.BodyReader().read(never, 100))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


# -- limits and the store ----------------------------------------------------------------------


async def test_the_limit_is_429_with_retry_after(flow):
    flow.limiter.left = 0.5
    answer = await post(flow, ONE)
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
    assert problem(answer)["code"] == "quota.segments_per_second"
    assert answer.headers["ratelimit"] == '"segments";r=0;t=10'


async def test_more_than_the_bucket_holds_is_422(flow):
    flow.limiter.depth = flow.limiter.left = 1
    answer = await post(flow, {**ONE, "text": "x" * 100})
    assert (answer.status_code, problem(answer)["code"]) == (422, "quota.message_too_large")
    assert problem(answer)["errors"][0]["pointer"] == "/text"


@pytest.mark.parametrize(
    ("refusal", "code", "wait", "words"),
    [
        (
            Taken(2.1, 5, 1000, 100.0, "marketing", 50),
            "quota.segments_per_second", "3", "marketing",
        ),
        (
            Taken(3600.0, 5, 1000, 100.0, "day", 50_000, "2026-11-22T16:00:00Z"),
            "quota.segments_per_day", "3600", "(50000) is used up; it begins anew at 2026-11-22T16",
        ),
        (
            Taken(86_400.0, 5, 1000, 100.0, "month", 9, "2026-11-30T16:00:00Z"),
            "quota.segments_per_month", "86400", "2026-11-30T16:00:00Z",
        ),
    ],
)  # fmt: skip
async def test_a_refusal_names_its_limit_and_when_it_ends(flow, refusal, code, wait, words):
    flow.limiter.refusal = refusal
    answer = await post(flow, ONE)
    assert (answer.status_code, answer.headers["retry-after"]) == (429, wait)
    assert problem(answer)["code"] == code
    assert words in problem(answer)["detail"]
    assert flow.metrics.throttled_total.values == {("shop", refusal.scope): 1}


async def test_a_limit_that_can_never_hold_the_request_is_named(flow):
    flow.limiter.refusal = Taken(math.inf, 5, 1000, 100.0, "day", 30, "2026-11-22T16:00:00Z")
    answer = await post(flow, ONE)
    assert (answer.status_code, problem(answer)["code"]) == (422, "quota.message_too_large")
    assert "per day: at most 30 in one request" in problem(answer)["detail"]


async def test_other_limits_stand_in_the_same_header_fields(flow):
    others = (Policy("otp", 10, 2, 7, 1), Policy("day", 50_000, 86_400, 49_000, 3600))
    flow.limiter.refusal = Taken(0.0, 999, 1000, 100.0, others=others)
    answer = await post(flow, ONE)
    assert answer.status_code == 202
    assert answer.headers["ratelimit-policy"] == (
        '"segments";q=1000;w=10, "otp";q=10;w=2, "day";q=50000;w=86400'
    )
    assert answer.headers["ratelimit"] == (
        '"segments";r=999;t=1, "otp";r=7;t=1, "day";r=49000;t=3600'
    )


async def test_without_the_store_a_quota_is_503(flow):
    flow.limiter.error = StoreUnavailable("gone")
    answer = await post(flow, ONE)
    assert (answer.status_code, problem(answer)["code"]) == (503, "store.unavailable")
    assert flow.accepted == []


async def test_a_full_queue_is_503_and_gives_the_tokens_back(flow):
    flow.free[MessageClass.TRANSACTIONAL] = 0
    answer = await post(flow, ONE)
    assert (answer.status_code, problem(answer)["code"]) == (503, "shed.queue_full")
    assert answer.headers["retry-after"] == "2"
    assert flow.limiter.left == flow.limiter.depth


async def test_shedding_takes_no_tokens(flow):
    flow.closed = ("shed.overloaded", "The gateway is overloaded just now.", 7)
    answer = await post(flow, ONE)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "7")
    assert problem(answer)["code"] == "shed.overloaded"
    assert flow.limiter.left == flow.limiter.depth


@pytest.mark.parametrize("body", [ONE, {"messages": [ONE, ONE]}], ids=["single", "batch"])
async def test_a_route_without_channels_is_503_and_takes_no_tokens(flow, body):
    flow.crowded = ("shed.no_channel", "No channel takes messages now.", 15)
    path = "/v1/batches" if "messages" in body else "/v1/messages"
    answer = await post(flow, body, path=path)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "15")
    assert problem(answer)["code"] == "shed.no_channel"
    assert "otp is held longest" in problem(answer)["action"]
    assert flow.limiter.left == flow.limiter.depth
    assert flow.accepted == []


async def test_a_store_that_is_away_is_503_and_gives_the_tokens_back(flow):
    flow.error = StoreUnavailable("gone")
    answer = await post(flow, ONE)
    assert (answer.status_code, problem(answer)["code"]) == (503, "store.unavailable")
    assert int(answer.headers["retry-after"]) >= 1
    assert flow.limiter.left == flow.limiter.depth


async def test_an_unknown_outcome_keeps_the_tokens(flow):
    flow.error = OutcomeUnknown("cut")
    answer = await post(flow, ONE)
    assert (answer.status_code, problem(answer)["code"]) == (503, "outcome_unknown")
    assert flow.limiter.left == flow.limiter.depth - 1


async def test_an_error_nobody_foresaw_is_a_plain_500(flow, monkeypatch):
    logged = []
    monkeypatch.setattr(app.log, "exception", lambda *_, **fields: logged.append(fields))
    flow.error = RuntimeError("SELECT secret FROM +8613800138000")
    answer = await post(flow, ONE)
    assert (answer.status_code, problem(answer)["code"]) == (500, "internal.error")
    assert "SELECT" not in answer.text
    assert len(logged) == 1


async def test_metrics_count_requests_and_refusals(flow):
    await post(flow, ONE)
    await post(flow, {})
    series = flow.metrics.http_request_seconds.samples()
    labels = {tuple(sample[0]) for sample in series}
    assert {("/v1/messages", "POST", "202"), ("/v1/messages", "POST", "422")} <= labels
    refused = {tuple(sample[0]): sample for sample in flow.metrics.refused_total.samples()}
    assert ("field.missing",) in refused


# -- batches -----------------------------------------------------------------------------------


async def batch(flow, body, **kwargs):
    return await post(flow, body, "/v1/batches", **kwargs)


async def test_each_entry_gets_its_verdict(flow):
    body = {
        "defaults": {"text": "hello", "class": "otp"},
        "messages": [
            {"to": "+8613800138000"},
            {"to": "nonsense"},
            {"to": "+8613800138000", "text": "own"},
            7,
            {"to": "+8613800138000", "oops": 1},
            {"to": "+8613800138000", "valid_for_s": "60"},
            {"to": "+8613800138000"},
        ],
    }
    answer = await batch(flow, body)
    assert answer.status_code == 202, answer.text
    told = answer.json()
    messages = flow.accepted[0]
    assert told["id"] == f"bat_{messages[0].id:016x}"
    assert [entry["index"] for entry in told["accepted"]] == [0, 2, 6]
    assert [entry["id"] for entry in told["accepted"]] == [f"msg_{m.id:016x}" for m in messages]
    assert [(entry["index"], entry["code"]) for entry in told["rejected"]] == [
        (1, "recipient.invalid"),
        (3, "field.type"),
        (4, "field.unknown"),
        (5, "field.type"),
    ]
    assert all(entry["detail"] for entry in told["rejected"])
    for entry in told["rejected"]:
        first = entry["errors"][0]
        assert (first["code"], first["detail"]) == (entry["code"], entry["detail"])
        assert first["pointer"].startswith(f"/messages/{entry['index']}")
    assert told["rejected"][0]["errors"][0]["pointer"] == "/messages/1/to"
    assert [m.texts[0] for m in messages] == ["【某商城】hello", "【某商城】own", "【某商城】hello"]
    assert json.loads(flow.verdicts[0]) == told["rejected"]


async def test_entries_override_defaults(flow):
    body = {
        "defaults": {**ONE, "class": "otp", "valid_for_s": 100},
        "messages": [{}, {"valid_for_s": 200, "class": "transactional"}],
    }
    await batch(flow, body)
    first, second = flow.accepted[0]
    assert (first.message_class, first.valid_until - first.created_at) == (MessageClass.OTP, 100)
    assert (second.message_class, second.valid_until - second.created_at) == ("transactional", 200)


async def test_none_accepted_is_422_with_pointers_into_the_batch(flow):
    told = problem(await batch(flow, {"messages": [{"to": "x", "text": "a"}, {"text": ""}]}))
    assert [error["pointer"] for error in told["errors"]] == [
        "/messages/0/to",
        "/messages/1/to",
        "/messages/1/text",
    ]
    assert not flow.accepted


@pytest.mark.parametrize(
    ("body", "code", "pointer"),
    [
        ({}, "field.missing", "/messages"),
        ({"messages": None}, "field.null", "/messages"),
        ({"messages": {}}, "field.type", "/messages"),
        ({"messages": []}, "batch.empty", "/messages"),
        ({"messages": [ONE] * 1001}, "batch.too_many", "/messages"),
        ({"messages": [ONE], "extra": 1}, "field.unknown", "/extra"),
        ({"messages": [ONE], "defaults": None}, "field.type", "/defaults"),
        ({"messages": [ONE], "defaults": 7}, "field.type", "/defaults"),
        ({"messages": [ONE], "defaults": {"oops": 1}}, "field.unknown", "/defaults/oops"),
        ({"messages": [ONE], "defaults": {"text": ""}}, "content.empty", "/defaults/text"),
        ({"messages": [ONE], "defaults": {"to": "x"}}, "recipient.invalid", "/defaults/to"),
        (
            {"messages": [ONE], "defaults": {"valid_for_s": 1}},
            "field.value",
            "/defaults/valid_for_s",
        ),
        (
            {"messages": [ONE], "defaults": {"template_id": "x"}},
            "template.unknown",
            "/defaults/template_id",
        ),
        ([], "field.type", ""),
    ],
)
async def test_the_outer_form_fails_the_whole_batch(flow, body, code, pointer):
    answer = await batch(flow, body)
    assert answer.status_code == 422
    told = problem(answer)
    assert (told["errors"][0]["code"], told["errors"][0]["pointer"]) == (code, pointer)
    assert not flow.accepted


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b'{"messages":[{}', "json.syntax"),
        (b'{"messages":[],"messages":[]}', "json.duplicate_key"),
        (b'{"messages":[],"mess\\u0061ges":[]}', "json.duplicate_key"),
        (b'{"messages":[{"to":"1","to":"2"}]}', "json.duplicate_key"),
        (b'{"messages":[{"to":"1","text":"\xff"}]}', "json.not_utf8"),
        (b'{"messages":[{"oops":"\xff"}]}', "json.not_utf8"),
        (b'{"messages":[{"oops":"\\u0000"}]}', "json.nul"),
        (b'{"messages":[{"oops":' + b"[" * 18 + b"]" * 18 + b"}]}", "json.too_deep"),
        (b'{"defaults":{"to":"1","to":"2"},"messages":[{}]}', "json.duplicate_key"),
    ],
)
async def test_bad_json_anywhere_fails_the_whole_batch(flow, body, code):
    answer = await batch(flow, body)
    assert (answer.status_code, problem(answer)["code"]) == (400, code)


async def test_seventeen_levels_inside_an_entry_are_a_verdict(flow):
    deep = b'{"messages":[{"oops":' + b"[" * 17 + b"]" * 17 + b"}]}"
    assert problem(await batch(flow, deep))["errors"][0]["code"] == "field.unknown"


async def test_a_batch_that_does_not_fit_is_429_as_a_whole(flow):
    flow.limiter.left = 2.0
    answer = await batch(flow, {"messages": [ONE] * 3})
    assert answer.status_code == 429
    assert flow.limiter.left == 2.0
    assert not flow.accepted


async def test_room_for_one_class_is_given_back_when_another_has_none(flow):
    flow.free[MessageClass.OTP] = 0
    body = {"messages": [ONE, {**ONE, "class": "otp"}]}
    answer = await batch(flow, body)
    assert (answer.status_code, problem(answer)["code"]) == (503, "shed.queue_full")
    assert flow.free[MessageClass.TRANSACTIONAL] == 10_000
    assert flow.limiter.left == flow.limiter.depth


async def test_a_large_batch_lets_others_have_the_loop(flow):
    turns = 0

    async def other():
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    flow.limiter.depth = flow.limiter.left = 100_000
    task = asyncio.ensure_future(other())
    await asyncio.sleep(0)
    before = turns
    answer = await batch(flow, {"messages": [{**ONE, "text": "字" * 600}] * 1000})
    task.cancel()
    assert len(answer.json()["accepted"]) == 1000
    assert turns - before >= 3


async def test_the_body_of_a_batch_may_be_eight_mebibytes(flow):
    body = json.dumps({"messages": [ONE]}).encode()
    assert (await batch(flow, body.ljust(8 << 20))).status_code == 202
    assert (await batch(flow, body.ljust((8 << 20) + 1))).status_code == 413


async def test_a_rejected_entry_names_all_its_faults(flow):
    body = {"messages": [ONE, {**ONE, "to": "12", "max_segments": 0, "oops": 1}]}
    told = (await batch(flow, body)).json()
    [rejected] = told["rejected"]
    assert {(error["pointer"], error["code"]) for error in rejected["errors"]} == {
        ("/messages/1/to", "recipient.invalid"),
        ("/messages/1/max_segments", "field.value"),
        ("/messages/1/oops", "field.unknown"),
    }


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({**ONE, "to": None}, "give the number"),
        ({**ONE, "text": None}, "give the text"),
        ({**ONE, "class": None}, "leave it out"),
        ({**ONE, "text": " \n"}, "holds only white space"),
        ({**ONE, "text": ""}, "is empty"),
        ({**ONE, "encoding": "gsm7"}, "a mainland text carries its signature"),
        ({**ONE, "text": "x" * 70, "max_segments": 1}, "raise max_segments to 2"),
        ({**ONE, "text": "x" * 100_000}, "; shorten it."),
        ({**ONE, "to": "+442071838750"}, "calling code 44,"),
    ],
)
async def test_a_refusal_says_what_to_do_in_this_case(flow, body, words):
    told = problem(await post(flow, body))
    assert words in told["errors"][0]["detail"]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "there is nothing"),
        (b"\xef\xbb\xbf{}", "byte order mark"),
        (b'{"to": "1", "to": "2"}', "the name `to` twice"),
        (b'{"13800138000": "1", "13800138000": "2"}', "a name twice"),
    ],
)
async def test_a_body_that_is_no_json_names_what_is_wrong(flow, body, words):
    answer = await post(flow, body)
    assert answer.status_code == 400
    assert words in problem(answer)["detail"]


async def test_a_key_without_the_word_bearer(flow):
    answer = await post(flow, ONE, key="", authorization=flow.keys["both"])
    assert answer.status_code == 401
    assert "Bearer <api key>" in problem(answer)["detail"]
