"""The ten shipped recipes: what they send, against what each provider documents.

Their documented answers and pushes stand in the files themselves, as `examples`, and are tried by
the validation that `smsgw apply` runs; here stands what that cannot see.
"""

from __future__ import annotations

import base64
import copy
import hashlib
import hmac
import json
import re
from typing import Any
from urllib.parse import parse_qsl

import pytest
import yaml

from adapters.http import recipe
from adapters.http.recipe_answer import shared_id
from adapters.http.recipe_template import FILTERS
from adapters.http.recipe_values import ACCOUNT_PLACES, MESSAGE, QUESTION, REQUEST
from adapters.http.vendor import Asked, CallKind, Request, Verdict
from sms.errors import CallRefused, CannotSend
from sms.outcomes import Cause, Rejected, Submitted, Throttled, Uncertain
from tests.support.recipe_kit import (
    EXAMPLES,
    NAMES,
    SECRET,
    call,
    reply,
    settings_of,
    shipped,
    submits,
    vendor,
)

UNIX = 1_767_225_600.5
NONCE = "0123456789abcdef"
TEXT = "【Example】Your code is 123456"
REFERENCE = "msg_0000000000000001-1"
CALLBACK = f"?secret={SECRET}"


def basic(user: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{SECRET}".encode()).decode()


def hook(secret: str = CALLBACK) -> str:
    return f"https://sms.example.com/v1/carrier-callbacks/chn_0000000000000007/receipts{secret}"


# provider → (url, headers, body): what its documentation asks for, written by hand
DOCUMENTED: dict[str, tuple[str, dict[str, str], Any]] = {
    "vonage": (
        "https://rest.nexmo.com/sms/json",
        {"Content-Type": "application/x-www-form-urlencoded"},
        {
            "api_key": "abcd1234",
            "api_secret": SECRET,
            "from": "10690001",
            "to": "8613800138000",
            "text": TEXT,
            "type": "unicode",
            "client-ref": REFERENCE,
            "callback": hook(),
        },
    ),
    "plivo": (
        "https://api.plivo.com/v1/Account/MAXXXXXXXXXXXXXXXXXX/Message/",
        {"Authorization": basic("MAXXXXXXXXXXXXXXXXXX")},
        {
            "src": "10690001",
            "dst": "8613800138000",
            "text": TEXT,
            "url": hook(),
            "method": "POST",
        },
    ),
    "messagebird": (
        "https://rest.messagebird.com/messages",
        {"Authorization": f"AccessKey {SECRET}"},
        {
            "originator": "10690001",
            "recipients": ["8613800138000"],
            "body": TEXT,
            "datacoding": "unicode",
            "reference": REFERENCE,
            "validity": 600,
            "reportUrl": hook(),
        },
    ),
    "clicksend": (
        "https://rest.clicksend.com/v3/sms/send",
        {"Authorization": basic("user@example.com")},
        {
            "messages": [
                {
                    "source": "smsgw",
                    "from": "10690001",
                    "to": f"+861380013800{place}",
                    "body": TEXT,
                    "custom_string": f"msg_000000000000000{place + 1}-1",
                }
                for place in range(2)
            ]
        },
    ),
    "sinch": (
        "https://us.sms.api.sinch.com/xms/v1/0123456789abcdef0123456789abcdef/batches",
        {"Authorization": f"Bearer {SECRET}"},
        {
            "from": "10690001",
            "to": ["8613800138000", "8613800138001"],
            "body": TEXT,
            "delivery_report": "per_recipient",
            "callback_url": hook(""),
        },
    ),
    "telnyx": (
        "https://api.telnyx.com/v2/messages",
        {"Authorization": f"Bearer {SECRET}"},
        {"from": "10690001", "to": "+8613800138000", "text": TEXT, "webhook_url": hook()},
    ),
    "bulksms": (
        "https://api.bulksms.com/v1/messages",
        {"Authorization": basic("example-token-id")},
        [
            {
                "to": f"+861380013800{place}",
                "from": "10690001",
                "body": TEXT,
                "encoding": "UNICODE",
                "userSuppliedId": f"msg_000000000000000{place + 1}-1",
            }
            for place in range(2)
        ],
    ),
    "elks": (
        "https://api.46elks.com/a1/sms",
        {"Authorization": basic("u0123456789abcdef0123456789abcdef")},
        {
            "from": "10690001",
            "to": "+8613800138000",
            "message": TEXT,
            "whendelivered": hook(),
        },
    ),
    "yunpian": (
        "https://sms.yunpian.com/v2/sms/batch_send.json",
        {"Accept": "application/json;charset=utf-8"},
        {
            "apikey": SECRET,
            "mobile": "13800138000,13800138001",
            "text": TEXT,
            "callback_url": hook(),
        },
    ),
    "qiniu": (
        "https://sms.qiniuapi.com/v1/message/single",
        {"Content-Type": "application/json"},
        {
            "template_id": "TEMPLATE-1",
            "mobile": "13800138000",
            "parameters": {"code": "123456"},
            "seq": REFERENCE,
        },
    ),
}


def read(request: Request) -> Any:
    if request.body[:1] in (b"{", b"["):
        return json.loads(request.body)
    return dict(parse_qsl(request.body.decode("ascii"), strict_parsing=True))


def test_ten_providers_are_shipped():
    assert sorted(DOCUMENTED) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_recipe_is_without_fault_and_its_examples_are_read_as_they_say(name):
    assert recipe.validate(shipped(name)) == []


def test_the_guides_own_recipe_is_without_fault_and_it_names_all_that_there_is():
    guide = (EXAMPLES.parents[1] / "vendors-http.md").read_text("utf-8")
    block = guide.partition("```yaml\n")[2].partition("```")[0]
    assert recipe.validate(settings_of(yaml.safe_load(block)["channels"][0])) == []
    words = set(re.findall(r"[a-z_0-9]+", guide))
    assert words >= MESSAGE | REQUEST | QUESTION | ACCOUNT_PLACES | FILTERS
    for name in NAMES:
        assert f"(examples/vendors/{name}.yaml)" in guide


@pytest.mark.parametrize("name", NAMES)
def test_a_request_is_what_the_provider_documents(name):
    settings = shipped(name)
    made = vendor(settings)
    request = made.send(submits(min(made.traits.batch, 2)), UNIX, NONCE)
    url, headers, body = DOCUMENTED[name]
    assert (request.method, request.url, read(request)) == ("POST", url, body)
    assert headers.items() <= dict(request.headers).items()
    assert request.url.startswith(made.endpoint)


@pytest.mark.parametrize("name", NAMES)
def test_every_part_has_examples_and_a_changed_path_is_seen(name):
    settings = shipped(name)
    for part in ("receipts", "inbound"):
        if part not in settings:
            continue
        assert settings[part]["examples"]
        broken = copy.deepcopy(settings)
        broken[part]["number" if part == "inbound" else "state"] = "$.elsewhere"
        found = [pointer for pointer, _ in recipe.validate(broken)]
        assert f"/{part}/examples/0" in found
    broken = copy.deepcopy(settings)
    broken["answer"]["accepted"] = {"$.elsewhere": "yes"}
    assert "/examples/0" in [pointer for pointer, _ in recipe.validate(broken)]


@pytest.mark.parametrize("name", NAMES)
def test_a_rehearsal_shows_the_request_and_no_secret(name):
    lines = "\n".join(recipe.rehearse(shipped(name)))
    assert DOCUMENTED[name][0] in lines
    assert "***" in lines or "%2A%2A%2A" in lines
    assert SECRET not in lines
    assert base64.b64encode(SECRET.encode()).decode()[:12] not in lines


@pytest.mark.parametrize("name", NAMES)
def test_a_push_without_its_proof_is_refused(name):
    settings = shipped(name)
    for kind in CallKind:
        if kind.value in settings:
            with pytest.raises(CallRefused) as caught:
                vendor(settings).pushed(call(kind, body=b"{}", query="secret=wrong"))
            assert caught.value.status == 401


@pytest.mark.parametrize("name", NAMES)
def test_a_gateway_timeout_leaves_the_message_uncertain(name):
    made = vendor(shipped(name))
    for body in (b"", b"<html>504 Gateway Time-out</html>", b"{}"):
        [outcome] = made.read(submits(), reply(body, 504))
        assert isinstance(outcome, Uncertain)
    [outcome] = made.read(submits(), reply(b"", 429, retry_after="7"))
    assert outcome == Throttled(7.0, "http_429")


def test_qiniu_is_signed_as_its_own_library_does():
    # qiniu.auth.QiniuMacAuth.token_of_request, without X-Qiniu headers
    request = vendor(shipped("qiniu")).send(submits(), UNIX, NONCE)
    data = "POST /v1/message/single\nHost: sms.qiniuapi.com\nContent-Type: application/json\n\n"
    digest = hmac.new(SECRET.encode(), data.encode() + request.body, hashlib.sha1).digest()
    token = base64.urlsafe_b64encode(digest).decode()
    assert dict(request.headers)["Authorization"] == f"Qiniu exampleAccessKey:{token}"


def test_qiniu_sends_registered_templates_only():
    made = vendor(shipped("qiniu"))
    assert made.traits.demands_template
    [one] = submits()
    one.filled = None
    with pytest.raises(CannotSend):
        made.send([one], UNIX, NONCE)


def test_sinch_signs_what_it_pushes():
    body = b'{"type":"mo_text","id":"1","from":"16051234567","to":"13185551234","body":"Hi"}'
    signed = body + b".nonce.1767225600"
    proof = base64.b64encode(hmac.new(SECRET.encode(), signed, hashlib.sha256).digest()).decode()
    headers = {
        "x-sinch-webhook-signature": proof,
        "x-sinch-webhook-signature-nonce": "nonce",
        "x-sinch-webhook-signature-timestamp": "1767225600",
    }
    made = vendor(shipped("sinch"))
    brought = made.pushed(call(CallKind.INBOUND, body=body, headers=headers))
    assert [(one.number, one.text, one.channel) for one in brought.texts] == [
        ("16051234567", "Hi", 7)
    ]
    for other in (
        call(CallKind.INBOUND, body=body + b" ", headers=headers),
        call(CallKind.INBOUND, body=body, headers={**headers, "x-sinch-webhook-signature": ""}),
        call(CallKind.INBOUND, body=body, headers=headers, unix=1_767_226_600.0),
    ):
        with pytest.raises(CallRefused) as caught:
            made.pushed(other)
        assert caught.value.status == 401


def test_an_id_of_a_whole_batch_is_made_one_of_each_number():
    made = vendor(shipped("sinch"))
    outcomes = made.read(submits(2), reply('{"id": "01FC", "to": []}', 201))
    ids = [one.carrier_id for one in outcomes if isinstance(one, Submitted)]
    assert ids == [shared_id("01FC", "8613800138000"), shared_id("01FC", "8613800138001")]
    assert len(set(ids)) == 2
    assert "138" not in ids[0].partition(".")[2]
    asked = Asked(submits()[0], UNIX, ids[0])
    assert made.question([asked], UNIX, NONCE).url.endswith(
        "/batches/01FC/delivery_report/8613800138000"
    )
    body = '{"batch_id":"01FC","code":0,"recipient":"8613800138000","status":"Delivered"}'
    [told] = made.told([asked], reply(body))
    assert (told.verdict, told.carrier_id) == (Verdict.ENDED, ids[0])
    assert told.report is not None
    assert (told.report.carrier_id, told.report.state) == (ids[0], "DELIVRD")


def test_one_url_for_everything_brings_receipts_and_texts():
    made = vendor(shipped("telnyx"))
    body = json.dumps(shipped("telnyx")["inbound"]["examples"][0]["body"])
    brought = made.pushed(call(CallKind.RECEIPTS, body=body, query=f"secret={SECRET}"))
    assert (brought.reports, [one.text for one in brought.texts]) == ((), ["Hello from Telnyx!"])
    body = json.dumps(shipped("telnyx")["receipts"]["examples"][0]["body"])
    brought = made.pushed(call(CallKind.RECEIPTS, body=body, query=f"secret={SECRET}"))
    assert [one.state for one in brought.reports] == ["DELIVRD"]
    assert brought.texts == ()


def test_a_question_needs_the_id_that_a_lost_answer_did_not_bring():
    made = vendor(shipped("plivo"))
    with pytest.raises(CannotSend):
        made.question([Asked(submits()[0], UNIX)], UNIX, NONCE)
    asked = Asked(submits()[0], UNIX, "db3c/../x")
    assert made.question([asked], UNIX, NONCE).url.endswith("/Message/db3c%2F..%2Fx/")
    asked = Asked(submits()[0], UNIX, "db3c")
    for body, verdict in (
        ('{"message_uuid": "db3c", "message_state": "sent"}', Verdict.TAKEN),
        ('{"message_uuid": "db3c", "message_state": "failed", "error_code": "30"}', Verdict.ENDED),
        ('{"message_uuid": "other", "message_state": "delivered"}', Verdict.SILENT),
        ('{"message_uuid": "db3c", "message_state": "brand new"}', Verdict.SILENT),
        ("<html>", Verdict.SILENT),
    ):
        [told] = made.told([asked], reply(body))
        assert told.verdict is verdict
    [told] = made.told([asked], reply('{"message_state": "delivered"}', 503))
    assert told.verdict is Verdict.SILENT


def test_bulksms_is_asked_by_our_reference_when_the_answer_was_lost():
    made = vendor(shipped("bulksms"))
    asked = Asked(submits()[0], UNIX)
    url = "https://api.bulksms.com/v1/messages?filter=userSuppliedId%3D" + REFERENCE
    assert made.question([asked], UNIX, NONCE).url == url
    assert made.told([asked], reply("[]"))[0].verdict is Verdict.ABSENT
    row = {"id": "4234", "to": "8613800138000", "userSuppliedId": REFERENCE}
    body = json.dumps([row | {"status": {"type": "SENT"}}])
    [told] = made.told([asked], reply(body))
    assert (told.verdict, told.carrier_id) == (Verdict.TAKEN, "4234")


def test_yunpian_pulls_what_it_did_not_push():
    made = vendor(shipped("yunpian"))
    request = made.pull(CallKind.RECEIPTS, UNIX, NONCE)
    assert request is not None
    assert dict(parse_qsl(request.body.decode())) == {"apikey": SECRET, "page_size": "100"}
    assert made.pull(CallKind.INBOUND, UNIX, NONCE) is None
    body = (
        '[{"sid": 9527, "mobile": "15205201314", "report_status": "FAIL", "error_msg": "DB:0103"}]'
    )
    [report] = made.pulled(CallKind.RECEIPTS, reply(body)).reports
    assert (report.carrier_id, report.state, report.error, report.number) == (
        *("9527", "UNDELIV", "DB:0103", "8615205201314"),
    )
    assert made.pulled(CallKind.RECEIPTS, reply("[]")).reports == ()


def test_codes_become_causes():
    made = vendor(shipped("yunpian"))
    [outcome] = made.read(submits(), reply('{"code": 3, "msg": "x"}', 400))
    assert outcome == Rejected("3", Cause.CONFIG, "channel.misconfigured")
    [outcome] = made.read(submits(), reply('{"code": 12345}', 400))
    assert outcome == Rejected("12345", Cause.UNKNOWN, "carrier.unknown_code")
