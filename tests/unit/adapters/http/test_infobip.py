"""An Infobip channel: requests judged by Infobip's own client, answers and pushes by its models."""

import base64
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adapters.http import infobip
from adapters.http.vendor import Asked, CallKind, Verdict, reference_of, text_of
from receipts.normalise import ReportCodes
from sms.errors import CallRefused, ConfigError, RemoteProtocolError
from sms.model import State
from sms.outcomes import Cause, Rejected, Submitted, Throttled, Uncertain
from tests.support.http_vendors import SECRET, call, channel, reply, submit, submits
from tests.support.infobip_client import (
    SmsDeliveryResult,
    SmsDestination,
    SmsInboundMessageResult,
    SmsLogsResponse,
    SmsMessage,
    SmsMessageContent,
    SmsMessageDeliveryReporting,
    SmsMessageOptions,
    SmsRequest,
    SmsResponse,
    SmsTextContent,
    SmsWebhooks,
    ValidityPeriod,
    ValidityPeriodTimeUnit,
    client_of,
    said_by,
)

BASE = "https://xyz123.api.infobip.com"
KEY = "8f1c0e3d2b7a-4d5e-9c88"
SETTINGS: dict[str, Any] = {
    "url": BASE,
    "api_key": KEY,
    "public_url": "https://sms.example.com",
    "callback_secret": SECRET,
}
HOOK = f"https://sms.example.com/v1/carrier-callbacks/chn_0000000000000007/receipts?secret={SECRET}"
UNIX = 1_800_000_000.0
ONE = submit()
TWO = submit("447700900123", id=2)
REFERENCE = "msg_0123456789abcdef-1"


def vendor(**more: Any) -> infobip.Infobip:
    return infobip.make(channel("infobip", {**SETTINGS, **more}))


@pytest.fixture(scope="module")
def judge():
    return client_of(BASE, KEY)


def _as_infobip_has_it(one: Any) -> SmsMessage:
    return SmsMessage(
        sender=one.sender or None,
        destinations=[SmsDestination(to=one.number, messageId=reference_of(one))],
        content=SmsMessageContent(SmsTextContent(text=text_of(one))),
        options=SmsMessageOptions(
            validityPeriod=ValidityPeriod(
                amount=min(one.validity_s, 172_800), timeUnit=ValidityPeriodTimeUnit.SECONDS
            )
        ),
        webhooks=SmsWebhooks(
            delivery=SmsMessageDeliveryReporting(url=HOOK, intermediateReport=False, notify=True),
            contentType="application/json",
        ),
    )


@given(submits())
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_infobips_own_client_makes_the_same_request(judge, some):
    ours = vendor().send(some, UNIX, "nonce")
    request = SmsRequest(messages=[_as_infobip_has_it(one) for one in some])
    method, url, headers, body = said_by(lambda: judge.send_sms_messages(request))
    assert (ours.method, ours.url) == (method, url)
    assert dict(ours.headers) == {
        name: headers[name] for name in ("Authorization", "Content-Type", "Accept")
    }
    assert json.loads(ours.body) == body


@given(submits())
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_infobips_own_client_asks_the_logs_as_we_do(judge, some):
    asked = [Asked(one, UNIX - 60) for one in some]
    ours = vendor().question(asked, UNIX, "nonce")
    ids = [reference_of(one) for one in some]
    method, url, headers, _ = said_by(
        lambda: judge.get_outbound_sms_message_logs(message_id=ids, limit=1000)
    )
    assert (ours.method, ours.url) == (method, url)
    # Infobip's logs come as JSON or XML; the client would take the first.
    assert dict(ours.headers) == {
        "Authorization": headers["Authorization"],
        "Accept": "application/json",
    }
    assert ours.body == b""


def test_a_text_in_gsm7_and_one_in_ucs2_leave_as_they_were_written():
    some = [submit(text="£ and €"), submit(text="验证码 😀", id=2)]
    said = json.loads(vendor().send(some, UNIX, "n").body)["messages"]
    assert [one["content"]["text"] for one in said] == ["£ and €", "验证码 😀"]


def test_without_a_public_address_nothing_is_said_of_webhooks():
    own = {name: value for name, value in SETTINGS.items() if name != "public_url"}
    said = infobip.make(channel("infobip", own)).send([ONE], UNIX, "n").body
    assert "webhooks" not in json.loads(said)["messages"][0]
    off = vendor(callbacks=False).send([ONE], UNIX, "n").body
    assert "webhooks" not in json.loads(off)["messages"][0]


def test_it_says_where_its_submits_go():
    assert vendor(url=f"{BASE}/").endpoint == BASE


def test_all_messages_may_share_a_request_two_of_one_number_too():
    ours = vendor()
    assert ours.together(ONE) == ours.together(submit(id=5)) == ours.together(TWO)
    asked = [Asked(submit(id=(1 << 62) + place), UNIX) for place in range(ours.traits.batch)]
    named = ours.question(asked, UNIX, "n").url.replace("messageId=", "")
    assert len(named) < 2048


# -- answers -------------------------------------------------------------------------------------

PENDING = {"groupId": 1, "groupName": "PENDING", "id": 26, "name": "PENDING_ACCEPTED"}


def _rejected(id_: int, name: str) -> dict[str, Any]:
    return {"groupId": 5, "groupName": "REJECTED", "id": id_, "name": name}


def _answer(*said: tuple[Any, dict[str, Any]]) -> str:
    body = {
        "bulkId": "2034072219640523072",
        "messages": [
            {
                "messageId": reference_of(one),
                "status": {"description": "…", **status},
                "destination": one.number,
                "details": {"messageCount": 1},
            }
            for one, status in said
        ],
    }
    assert SmsResponse.from_dict(body) is not None  # Infobip's own model takes it
    return json.dumps(body)


def test_each_number_has_its_own_verdict_in_whatever_order_they_come():
    body = _answer((TWO, _rejected(52, "REJECTED_DESTINATION")), (ONE, PENDING))
    assert vendor().read([ONE, TWO], reply(200, body)) == [
        Submitted(REFERENCE),
        Rejected("REJECTED_DESTINATION", Cause.NUMBER, "recipient.invalid"),
    ]


@pytest.mark.parametrize(
    ("name", "cause", "reason"),
    [
        ("REJECTED_NOT_ENOUGH_CREDITS", Cause.CONFIG, "channel.account"),
        ("REJECTED_DESTINATION_BLOCKLISTED", Cause.NUMBER, "recipient.blocked"),
        ("REJECTED_DND", Cause.NUMBER, "recipient.blocked"),
        ("REJECTED_FLOODING_FILTER", Cause.NUMBER, "carrier.frequency_cap"),
        ("REJECTED_SYSTEM_ERROR", Cause.CHANNEL, "carrier.system_error"),
        ("REJECTED_SOURCE", Cause.CONFIG, "channel.misconfigured"),
        ("REJECTED_SOMETHING_NEW", Cause.UNKNOWN, "carrier.unknown_code"),
    ],
)
def test_a_rejected_number_is_judged_by_its_status(name, cause, reason):
    body = _answer((ONE, _rejected(99, name)))
    assert vendor().read([ONE], reply(200, body)) == [Rejected(name, cause, reason)]


def test_a_duplicate_id_means_that_they_have_it_from_a_request_that_was_cut():
    body = _answer((ONE, _rejected(23, "REJECTED_DUPLICATE_MESSAGE_ID")))
    assert vendor().read([ONE], reply(200, body)) == [
        Uncertain("carrier.unknown_outcome", REFERENCE)
    ]


def test_an_answer_under_another_id_is_found_by_its_number():
    body = json.loads(_answer((ONE, PENDING)))
    body["messages"][0]["messageId"] = "theirs-1"
    assert vendor().read([ONE], reply(200, json.dumps(body))) == [Submitted("theirs-1")]


def test_what_is_missing_from_an_answer_is_uncertain_under_the_id_its_receipt_will_name():
    outcomes = vendor().read([ONE, TWO], reply(200, _answer((TWO, PENDING))))
    assert outcomes == [
        Uncertain("carrier.unknown_outcome", REFERENCE),
        Submitted(reference_of(TWO)),
    ]


@pytest.mark.parametrize("status", [500, 502, 503, 504, 302, 408])
def test_no_server_error_says_that_nothing_was_sent(status):
    body = '{"requestError":{"serviceException":{"messageId":"GENERAL_ERROR","text":"…"}}}'
    (outcome,) = vendor().read([ONE], reply(status, body))
    assert isinstance(outcome, Uncertain)
    assert outcome.carrier_id == REFERENCE


@pytest.mark.parametrize(
    ("headers", "pause_s"), [({}, 1.0), ({"retry_after": "7"}, 7.0), ({"retry_after": "900"}, 60.0)]
)
def test_429_is_throttling_for_as_long_as_they_say(headers, pause_s):
    body = '{"requestError":{"serviceException":{"messageId":"TOO_MANY_REQUESTS","text":"…"}}}'
    outcomes = vendor().read([ONE, TWO], reply(429, body, **headers))
    assert outcomes == [Throttled(pause_s, "HTTP 429")] * 2
    assert vendor().read([ONE], reply(429, "busy", **headers)) == [Throttled(pause_s, "HTTP 429")]


@pytest.mark.parametrize(
    ("status", "body", "code", "cause"),
    [
        (
            401,
            '{"requestError":{"serviceException":{"messageId":"UNAUTHORIZED",'
            '"text":"Invalid login details"}}}',
            "UNAUTHORIZED",
            Cause.CONFIG,
        ),
        (403, '{"errorCode":"E403","description":"…","action":"…"}', "E403", Cause.CONFIG),
        (404, "<html>", "HTTP 404", Cause.CONFIG),
        (418, "", "HTTP 418", Cause.UNKNOWN),
        (400, '{"errorCode":"E499"}', "E499", Cause.UNKNOWN),
        (400, "", "HTTP 400", Cause.UNKNOWN),
    ],
)
def test_a_refused_request_is_a_no_to_all_of_it_where_the_account_is_at_fault(
    status, body, code, cause
):
    (outcome,) = vendor().read([ONE], reply(status, body))
    assert isinstance(outcome, Rejected)
    assert (outcome.code, outcome.cause) == (code, cause)
    both = vendor().read([ONE, TWO], reply(status, body))
    assert both == [outcome if outcome.reason == "channel.account" else None] * 2


def test_what_is_wrong_with_one_message_does_not_fail_its_neighbours():
    body = {
        "errorCode": "E400",
        "description": "Request cannot be processed.",
        "action": "Check the syntax, violations and adjust the request.",
        "violations": [
            {"property": "messages[1].content.text", "violation": "must not be blank"},
            {"property": "messages[2].sender", "violation": "size must be at most 15"},
        ],
        "resources": [],
    }
    some = [ONE, TWO, submit(id=3)]
    assert vendor().read(some, reply(400, json.dumps(body))) == [
        None,
        Rejected("E400", Cause.CONTENT, "carrier.rejected"),
        Rejected("E400", Cause.CONFIG, "channel.misconfigured"),
    ]
    old = {
        "requestError": {
            "serviceException": {
                "messageId": "BAD_REQUEST",
                "text": "Bad Request",
                "validationErrors": {"messages[0].destinations[0].to": ["is not valid"]},
            }
        }
    }
    assert vendor().read([ONE, TWO], reply(400, json.dumps(old))) == [
        Rejected("BAD_REQUEST", Cause.CONTENT, "carrier.rejected"),
        None,
    ]


def test_blame_of_a_message_that_was_not_in_the_request_is_none():
    body = '{"errorCode":"E400","violations":[{"property":"messages[7].content.text"}]}'
    (outcome,) = vendor().read([ONE], reply(400, body))
    assert isinstance(outcome, Rejected)
    assert vendor().read([ONE, TWO], reply(400, body)) == [None, None]


# -- the question --------------------------------------------------------------------------------


def _log(one: Any, group: str, name: str, error: str = "NO_ERROR") -> dict[str, Any]:
    return {
        "sender": "Acme",
        "destination": one.number,
        "bulkId": "b",
        "messageId": reference_of(one),
        "sentAt": "2026-11-22T14:58:26.000+0000",
        "messageCount": 1,
        "status": {"groupName": group, "id": 1, "name": name},
        "error": {"groupName": "OK", "id": 0, "name": error, "permanent": False},
    }


def _logs(*said: dict[str, Any]) -> str:
    body = {"results": list(said)}
    assert SmsLogsResponse.from_dict(body) is not None
    return json.dumps(body)


def test_the_logs_tell_what_was_taken_what_ended_and_what_they_do_not_know():
    ours = vendor()
    three = submit(id=3)
    asked = [Asked(one, UNIX - 60) for one in (ONE, TWO, three)]
    ours.question(asked, UNIX, "n")
    body = _logs(
        _log(TWO, "DELIVERED", "DELIVERED_TO_HANDSET"),
        _log(ONE, "PENDING", "PENDING_ENROUTE"),
    )
    first, second, third = ours.told(asked, reply(200, body))
    assert (first.verdict, first.carrier_id) == (Verdict.TAKEN, REFERENCE)
    assert (second.verdict, third.verdict) == (Verdict.ENDED, Verdict.ABSENT)
    assert second.report is not None
    assert (second.report.state, second.report.error) == ("DELIVERED_TO_HANDSET", "")
    assert second.report.number == TWO.number


def test_at_the_operator_is_no_end():
    ours = vendor()
    body = _logs(_log(ONE, "DELIVERED", "DELIVERED_TO_OPERATOR"))
    (told,) = ours.told([Asked(ONE, UNIX)], reply(200, body))
    assert told.verdict is Verdict.TAKEN


def test_absence_from_logs_that_are_kept_for_two_days_proves_nothing_later():
    ours = vendor()
    for asked in Asked(ONE, UNIX - 47.5 * 3600), Asked(ONE, UNIX, unsure_s=47.5 * 3600):
        ours.question([asked], UNIX, "n")
        assert [one.verdict for one in ours.told([asked], reply(200, _logs()))] == [Verdict.SILENT]


@pytest.mark.parametrize(
    ("status", "body"), [(500, '{"results":[]}'), (429, ""), (200, "{}"), (200, "<html>")]
)
def test_without_a_usable_answer_it_is_asked_again(status, body):
    told = vendor().told([Asked(ONE, UNIX)] * 2, reply(status, body))
    assert [one.verdict for one in told] == [Verdict.SILENT] * 2


def test_nothing_is_pulled():
    ours = vendor()
    assert ours.pull(CallKind.RECEIPTS, UNIX, "n") is None
    with pytest.raises(RemoteProtocolError):
        ours.pulled(CallKind.RECEIPTS, reply(200, "{}"))


# -- pushes --------------------------------------------------------------------------------------

RECEIPTS = {
    "results": [
        {
            "bulkId": "BULK-ID-123-xyz",
            "price": {"pricePerMessage": 0.01, "currency": "EUR"},
            "status": {
                "groupId": 3,
                "groupName": "DELIVERED",
                "id": 5,
                "name": "DELIVERED_TO_HANDSET",
                "description": "Message delivered to handset",
            },
            "error": {
                "groupId": 0,
                "groupName": "OK",
                "id": 0,
                "name": "NO_ERROR",
                "description": "No Error",
                "permanent": False,
            },
            "messageId": REFERENCE,
            "to": "41793026727",
            "sender": "InfoSMS",
            "sentAt": "2019-11-09T16:00:00.000+0000",
            "doneAt": "2019-11-09T16:00:00.000+0000",
            "messageCount": 1,
            "mccMnc": "22801",
        },
        {
            "status": {
                "groupId": 2,
                "groupName": "UNDELIVERABLE",
                "id": 9,
                "name": "UNDELIVERABLE_NOT_DELIVERED",
            },
            "error": {
                "groupId": 1,
                "groupName": "HANDSET_ERRORS",
                "id": 1,
                "name": "EC_UNKNOWN_SUBSCRIBER",
                "permanent": True,
            },
            "messageId": "MESSAGE-ID-456-xyz",
            "to": "41793026834",
        },
    ]
}


def test_a_push_of_receipts_is_what_infobips_model_reads_in_it():
    pushed = vendor().pushed(call(json.dumps(RECEIPTS)))
    theirs = SmsDeliveryResult.from_dict(RECEIPTS)
    assert theirs is not None
    assert theirs.results is not None
    assert [(one.carrier_id, one.number, one.state) for one in pushed.reports] == [
        (one.message_id, one.to, one.status and one.status.name) for one in theirs.results
    ]
    assert [one.error for one in pushed.reports] == ["", "EC_UNKNOWN_SUBSCRIBER"]
    assert [one.reference for one in pushed.reports] == [REFERENCE, "MESSAGE-ID-456-xyz"]
    assert {one.channel for one in pushed.reports} == {7}
    assert (pushed.answer.status, pushed.texts) == (200, ())


def test_every_word_of_a_receipt_has_a_class_that_is_known():
    codes = ReportCodes("infobip", infobip.REPORT_CLASSES)
    delivered = codes.judge("DELIVERED_TO_HANDSET", "")
    assert (delivered.state, delivered.is_known) == (State.DELIVERED, True)
    unknown = codes.judge("UNDELIVERABLE_NOT_DELIVERED", "EC_UNKNOWN_SUBSCRIBER")
    assert (unknown.state, unknown.reason) == (State.UNDELIVERED, "recipient.invalid")
    assert unknown.is_bad_number
    assert codes.judge("EXPIRED_DLR_UNKNOWN", "").state is State.UNKNOWN
    assert codes.judge("DELIVERED_TO_OPERATOR", "").state is None
    for name in infobip.REPORT_CLASSES:
        assert codes.judge(name, "").is_known, name
        assert codes.judge("UNDELIVERABLE_NOT_DELIVERED", name).is_known, name


def test_a_text_from_a_phone_is_what_infobips_model_reads_in_it():
    body = {
        "results": [
            {
                "messageId": "817790313235066447",
                "from": "385916242493",
                "to": "385921004026",
                "text": "QUIZ Correct answer is Paris",
                "cleanText": "Correct answer is Paris",
                "keyword": "QUIZ",
                "receivedAt": "2016-10-06T09:28:39.220+0000",
                "smsCount": 1,
                "price": {"pricePerMessage": 0, "currency": "EUR"},
            }
        ],
        "messageCount": 1,
        "pendingMessageCount": 0,
    }
    (text,) = vendor().pushed(call(json.dumps(body), kind=CallKind.INBOUND)).texts
    theirs = SmsInboundMessageResult.from_dict(body)
    assert theirs is not None
    assert theirs.results is not None
    one = theirs.results[0]
    assert (text.carrier_id, text.number, text.to, text.text) == (
        one.message_id,
        one.var_from,
        one.to,
        one.text,
    )
    assert text.mark is None


def test_half_a_surrogate_pair_in_a_text_is_replaced():
    body = '{"results":[{"from":"4479","to":"447","text":"a\\ud83d"}]}'
    (text,) = vendor().pushed(call(body, kind=CallKind.INBOUND)).texts
    assert text.text == "a�"


@pytest.mark.parametrize(
    "url",
    [
        "https://sms.example.com/v1/carrier-callbacks/chn_0000000000000007/receipts",
        "https://sms.example.com/v1/carrier-callbacks/chn_0000000000000007/receipts?secret=",
        f"https://sms.example.com/v1/carrier-callbacks/chn_0000000000000007/receipts?secret={SECRET}x",
        f"https://sms.example.com/v1/carrier-callbacks/chn_0000000000000007/receipts?secret=x&secret={SECRET}",
        "https://[",
    ],
)
def test_a_call_without_the_secret_is_refused(url):
    with pytest.raises(CallRefused) as refused:
        vendor().pushed(call(json.dumps(RECEIPTS), url=url))
    assert refused.value.status == 401
    assert SECRET not in refused.value.detail


def test_the_secret_may_come_as_the_password_of_a_login():
    login = base64.b64encode(f"infobip:{SECRET}".encode()).decode()
    url = "https://sms.example.com/v1/carrier-callbacks/chn_0000000000000007/receipts"
    headers = {"authorization": f"Basic {login}"}
    assert vendor().pushed(call(json.dumps(RECEIPTS), url=url, headers=headers)).reports
    for wrong in (f"Basic {login[:-4]}", "Basic é", f"Bearer {SECRET}", "Basic"):
        with pytest.raises(CallRefused):
            vendor().pushed(call("{}", url=url, headers={"authorization": wrong}))


@pytest.mark.parametrize("body", ["", "null", "[]", '{"results":{}}', "{" * 100_000, '"\\ud800"'])
def test_another_form_is_refused_by_name(body):
    with pytest.raises(CallRefused) as refused:
        vendor().pushed(call(body))
    assert refused.value.status == 400
    assert "results" in refused.value.detail


# -- any bytes -----------------------------------------------------------------------------------

_LEAVES = st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.floats()
_KEYS = st.sampled_from(
    [
        *("messages", "results", "status", "groupName", "name", "id", "messageId", "destination"),
        *("to", "from", "text", "error", "requestError", "serviceException", "validationErrors"),
        *("violations", "property", "errorCode"),
    ]
)
_JSON = st.recursive(
    _LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=4)
)
_BODIES = st.binary(max_size=60) | _JSON.map(lambda value: json.dumps(value).encode())


@given(st.integers(100, 599), _BODIES, st.text(max_size=6))
@settings(max_examples=150)
def test_reading_never_raises(status, body, wait):
    ours = vendor()
    got = reply(status, body, retry_after=wait)
    outcomes = ours.read([ONE, TWO], got)
    assert len(outcomes) == 2
    if status < 400 and b"PENDING" not in body:
        assert not any(isinstance(one, Throttled) for one in outcomes)
    assert len(ours.told([Asked(ONE, UNIX), Asked(TWO, UNIX)], got)) == 2
    for kind in CallKind:
        try:
            pushed = ours.pushed(call(body, kind=kind))
        except CallRefused:
            continue
        for report in pushed.reports:
            (report.carrier_id + report.state + report.error + report.number).encode("ascii")
        for text in pushed.texts:
            (text.text + text.number + text.to).encode()


# -- settings ------------------------------------------------------------------------------------


def test_everything_wrong_with_the_settings_is_named_at_once():
    wrong = infobip.validate({"api_key": "", "sender": "x"})
    assert {pointer for pointer, _ in wrong} == {
        "/url",
        "/api_key",
        "/sender",
        "/callback_secret",
    }
    assert infobip.validate(SETTINGS) == []
    assert infobip.validate({"url": BASE, "api_key": KEY, "callbacks": False}) == []
    with pytest.raises(ConfigError, match="/url"):
        infobip.make(channel("infobip", {"api_key": KEY}))


def test_the_key_is_in_no_repr():
    assert KEY not in repr(vendor()) + repr(vendor().__dict__.get("_own"))
