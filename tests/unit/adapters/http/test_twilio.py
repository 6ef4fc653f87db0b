"""A Twilio channel: requests and signatures judged by Twilio's own library."""

import base64
import json
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twilio.http import HttpClient
from twilio.request_validator import RequestValidator
from twilio.rest import Client

from adapters.http import twilio
from adapters.http.vendor import Asked, CallKind, Verdict, reference_of, text_of
from receipts.normalise import ReportCodes
from sms.errors import CallRefused, CannotSend, ConfigError, RemoteProtocolError
from sms.model import State, Submit
from sms.outcomes import Cause, Outcome, Rejected, Submitted, Throttled, Uncertain
from tests.support.http_vendors import call, channel, reply, submit, submits

SID = "AC" + "0123456789abcdef" * 2
TOKEN = "0f1e2d3c4b5a69788796a5b4c3d2e1f0"
SERVICE = "MG" + "a" * 32
MESSAGE = "SM" + "b" * 32
SETTINGS: dict[str, Any] = {
    "account_sid": SID,
    "auth_token": TOKEN,
    "messaging_service_sid": SERVICE,
    "public_url": "https://sms.example.com",
}
UNIX = 1_800_000_000.0  # Fri, 15 Jan 2027 08:00:00 UTC
ONE = submit()
HOOK = f"https://sms.example.com/v1/carrier-callbacks/chn_0000000000000007/receipts?ref={reference_of(ONE)}"
INBOX = "https://sms.example.com/v1/carrier-callbacks/chn_0000000000000007/inbound"


def vendor(**more: Any) -> twilio.Twilio:
    return twilio.make(channel("twilio", {**SETTINGS, **more}))


class _Left(Exception):
    def __init__(self, said: tuple[str, str, Any, Any, Any, Any]) -> None:
        super().__init__()
        self.said = said


class _Recorder(HttpClient):  # type: ignore[misc]  # Twilio's library has no types
    """Keeps what would have left."""

    def __init__(self) -> None:
        super().__init__(None, False, None)

    def request(
        self,
        method: str,
        url: str,
        params: Any = None,
        data: Any = None,
        headers: Any = None,
        auth: Any = None,
        **_: Any,
    ) -> None:
        raise _Left((method, url, params, data, headers, auth))


JUDGE = Client(SID, TOKEN, http_client=_Recorder())


def _said(ask: Any) -> tuple[str, str, Any, Any, Any, Any]:
    with pytest.raises(_Left) as left:
        ask()
    return left.value.said


def _basic(auth: tuple[str, str]) -> str:
    return "Basic " + base64.b64encode(":".join(auth).encode()).decode()


@given(submits(most=1), st.booleans())
@settings(max_examples=60)
def test_twilios_own_client_makes_the_same_request(some: list[Submit], has_service: bool):
    (one,) = some
    if not has_service and not one.sender:
        return
    own = dict(SETTINGS)
    if not has_service:
        del own["messaging_service_sid"]
    ours = twilio.make(channel("twilio", own)).send(some, UNIX, "nonce")
    sender = f"+{one.sender}" if one.sender.isdigit() else one.sender
    extra: dict[str, Any] = {"from_": sender} if one.sender else {}
    if has_service:
        extra["messaging_service_sid"] = SERVICE
    method, url, params, data, headers, auth = _said(
        lambda: JUDGE.messages.create(
            to=f"+{one.number}",
            body=text_of(one),
            status_callback=f"https://sms.example.com/v1/carrier-callbacks/chn_0000000000000007/receipts?ref={reference_of(one)}",
            validity_period=min(one.validity_s, 36_000),
            **extra,
        )
    )
    assert (ours.method, ours.url, params) == (method, url, None)
    assert dict(parse_qsl(ours.body.decode(), strict_parsing=True)) == {
        name: str(value) for name, value in data.items()
    }
    assert dict(ours.headers) == {
        "Authorization": _basic(auth),
        "Accept": headers["Accept"],
        "Content-Type": headers["Content-Type"],
    }


def test_twilios_own_client_asks_by_id_and_by_number_as_we_do():
    ours = vendor().question([Asked(ONE, UNIX, MESSAGE)], UNIX, "n")
    method, url, _, _, _, auth = _said(lambda: JUDGE.messages(MESSAGE).fetch())
    assert (ours.method, ours.url) == (method, url)
    assert dict(ours.headers)["Authorization"] == _basic(auth)
    ours = vendor().question([Asked(ONE, UNIX)], UNIX, "n")
    method, url, params, _, _, _ = _said(
        lambda: JUDGE.messages.page(to=f"+{ONE.number}", page_size=1000)
    )
    assert (ours.method, ours.url.partition("?")[0]) == (method, url)
    theirs = {name: str(value) for name, value in params.items() if isinstance(value, str | int)}
    assert dict(parse_qsl(urlsplit(ours.url).query)) == theirs


def test_a_key_of_its_own_logs_in_and_the_token_stays_for_signatures():
    own = vendor(api_key_sid="SK" + "c" * 32, api_secret="d" * 32)
    judge = Client("SK" + "c" * 32, "d" * 32, SID, http_client=_Recorder())
    *_, auth = _said(lambda: judge.messages.create(to="+1", body="x", from_="+2"))
    assert dict(own.send([ONE], UNIX, "n").headers)["Authorization"] == _basic(auth)
    assert own.pushed(_receipt({"MessageSid": MESSAGE, "MessageStatus": "sent"})).reports


def test_without_a_sender_or_a_service_nothing_can_be_said():
    own = {name: value for name, value in SETTINGS.items() if name != "messaging_service_sid"}
    with pytest.raises(CannotSend) as refused:
        twilio.make(channel("twilio", own)).send([ONE], UNIX, "n")
    assert (refused.value.reason, refused.value.is_channel) == ("channel.misconfigured", True)


def test_a_short_code_has_no_plus():
    form = dict(parse_qsl(vendor().send([submit(sender="55555")], UNIX, "n").body.decode()))
    assert form["From"] == "55555"


def test_it_says_where_its_submits_go():
    assert vendor().endpoint == "https://api.twilio.com"
    assert vendor(url="http://127.0.0.1:9/").endpoint == "http://127.0.0.1:9"


# -- answers -------------------------------------------------------------------------------------


def _read(status: int, body: Any, **headers: str) -> Outcome:
    text = body if isinstance(body, str) else json.dumps(body)
    (outcome,) = vendor().read([ONE], reply(status, text, **headers))
    return outcome


def _error(status: int, code: int) -> dict[str, Any]:
    more = f"https://www.twilio.com/docs/errors/{code}"
    return {"code": code, "message": "…", "more_info": more, "status": status}


def test_a_message_that_was_taken_has_twilios_id():
    body = {"sid": MESSAGE, "status": "queued", "error_code": None, "error_message": None}
    assert _read(201, body) == Submitted(MESSAGE)
    assert _read(201, {**body, "status": "accepted"}) == Submitted(MESSAGE)


def test_one_that_failed_while_it_was_made_was_refused():
    body = {"sid": MESSAGE, "status": "failed", "error_code": 21610}
    assert _read(201, body) == Rejected("21610", Cause.NUMBER, "recipient.blocked")


@pytest.mark.parametrize(
    ("status", "code", "cause", "reason"),
    [
        (400, 21211, Cause.NUMBER, "recipient.invalid"),
        (400, 21614, Cause.NUMBER, "recipient.invalid"),
        (400, 21610, Cause.NUMBER, "recipient.blocked"),
        (400, 21617, Cause.CONTENT, "carrier.rejected"),
        (400, 21408, Cause.CONFIG, "channel.permission"),
        (400, 21606, Cause.CONFIG, "channel.misconfigured"),
        (400, 21612, Cause.NETWORK, "channel.rejected"),
        (401, 20003, Cause.CONFIG, "channel.account"),
        (404, 20404, Cause.CONFIG, "channel.misconfigured"),
        (400, 29999, Cause.UNKNOWN, "carrier.unknown_code"),
    ],
)
def test_a_refusal_is_judged_by_its_code(status, code, cause, reason):
    assert _read(status, _error(status, code)) == Rejected(str(code), cause, reason)


def test_a_refusal_without_a_body_is_judged_by_its_status():
    assert _read(401, "") == Rejected("HTTP 401", Cause.CONFIG, "channel.account")
    assert _read(418, "<html>") == Rejected("HTTP 418", Cause.UNKNOWN, "carrier.unknown_code")


@pytest.mark.parametrize("body", [_error(429, 20429), "", "busy"])
def test_429_is_throttling(body):
    assert _read(429, body) == Throttled(1.0, "HTTP 429")
    assert _read(429, body, retry_after="4") == Throttled(4.0, "HTTP 429")


def test_a_full_queue_is_throttling():
    assert _read(400, _error(400, 30001)) == Throttled(5.0, "30001")


@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_a_5xx_may_have_been_sent_whatever_its_body_says(status):
    assert _read(status, _error(status, 20500)) == Uncertain("carrier.system_error")


@pytest.mark.parametrize(
    ("status", "body"), [(201, "{}"), (200, "<html>"), (302, ""), (408, ""), (201, '{"sid":""}')]
)
def test_what_says_nothing_is_uncertain(status, body):
    assert _read(status, body) == Uncertain("carrier.unknown_outcome")


# -- the question --------------------------------------------------------------------------------


def _told(asked: Asked, status: int, body: Any) -> Any:
    text = body if isinstance(body, str) else json.dumps(body)
    (told,) = vendor().told([asked], reply(status, text))
    return told


@pytest.mark.parametrize(
    ("status", "verdict"),
    [
        ("queued", Verdict.TAKEN),
        ("sent", Verdict.TAKEN),
        ("delivered", Verdict.ENDED),
        ("undelivered", Verdict.ENDED),
        ("inventing", Verdict.SILENT),
    ],
)
def test_a_message_whose_id_is_known_says_how_it_is(status, verdict):
    code = 30005 if status == "undelivered" else None
    body = {"sid": MESSAGE, "status": status, "error_code": code, "to": "+8613800138000"}
    told = _told(Asked(ONE, UNIX, MESSAGE), 200, body)
    assert told.verdict is verdict
    if verdict is Verdict.ENDED:
        assert told.report.state == status
        assert told.report.error == (str(code) if code else "")
        assert (told.report.number, told.report.carrier_id) == ("8613800138000", MESSAGE)


def test_another_message_or_none_is_no_answer():
    asked = Asked(ONE, UNIX, MESSAGE)
    other = {"sid": "SM" + "9" * 32, "status": "delivered"}
    assert _told(asked, 200, other).verdict is Verdict.SILENT
    assert _told(asked, 404, _error(404, 20404)).verdict is Verdict.SILENT


def _list(*created: str, more: str | None = None) -> dict[str, Any]:
    messages = [{"sid": MESSAGE, "date_created": one, "status": "sent"} for one in created]
    return {"messages": messages, "next_page_uri": more, "page": 0}


def test_a_whole_list_without_it_shows_that_it_was_never_made():
    asked = Asked(ONE, UNIX)
    assert _told(asked, 200, _list()).verdict is Verdict.ABSENT
    old = _list("Fri, 15 Jan 2027 07:58:59 +0000")
    assert _told(asked, 200, old).verdict is Verdict.ABSENT


@pytest.mark.parametrize(
    "body",
    [
        _list("Fri, 15 Jan 2027 07:59:30 +0000"),  # their clock may be behind ours
        _list("Fri, 15 Jan 2027 08:00:01 +0000"),
        _list("yesterday"),
        _list(more="/2010-04-01/…"),
        {"messages": None},
        "<html>",
    ],
)
def test_a_list_that_shows_one_or_is_cut_proves_nothing(body):
    assert _told(Asked(ONE, UNIX), 200, body).verdict is Verdict.SILENT


def test_a_list_is_looked_through_from_the_first_moment_it_can_have_been_made():
    made = _list("Fri, 15 Jan 2027 07:58:30 +0000")  # 90 s before a recovery that noticed
    assert _told(Asked(ONE, UNIX), 200, made).verdict is Verdict.ABSENT
    assert _told(Asked(ONE, UNIX, unsure_s=90.0), 200, made).verdict is Verdict.SILENT


def test_nothing_is_pulled():
    assert vendor().pull(CallKind.RECEIPTS, UNIX, "n") is None
    with pytest.raises(RemoteProtocolError):
        vendor().pulled(CallKind.RECEIPTS, reply(200, ""))


# -- pushes --------------------------------------------------------------------------------------


def _signed(url: str, form: dict[str, str], token: str = TOKEN) -> dict[str, str]:
    return {"x-twilio-signature": RequestValidator(token).compute_signature(url, form)}


def _receipt(form: dict[str, str], url: str = HOOK, **changed: Any) -> Any:
    headers = changed.pop("headers", _signed(url, form))
    return call(urlencode(form), url=changed.pop("sent_to", url), headers=headers, **changed)


def test_a_signed_receipt_is_read_with_our_reference_from_its_address():
    form = {
        "SmsSid": MESSAGE,
        "SmsStatus": "undelivered",
        "MessageStatus": "undelivered",
        "To": "+8613800138000",
        "MessageSid": MESSAGE,
        "AccountSid": SID,
        "From": "+15557122661",
        "ApiVersion": "2010-04-01",
        "ErrorCode": "30005",
    }
    pushed = vendor().pushed(_receipt(form))
    (report,) = pushed.reports
    assert (report.carrier_id, report.state, report.error) == (MESSAGE, "undelivered", "30005")
    assert (report.number, report.reference) == ("8613800138000", reference_of(ONE))
    assert (pushed.answer.status, pushed.answer.content_type) == (200, "text/xml")


def test_a_signed_text_from_a_phone_is_read_and_answered_with_empty_twiml():
    form = {
        "MessageSid": MESSAGE,
        "From": "+14017122661",
        "To": "+15558675310",
        "Body": "STOP 退订 + & = é",
        "NumMedia": "0",
    }
    pushed = vendor().pushed(_receipt(form, INBOX, kind=CallKind.INBOUND))
    (text,) = pushed.texts
    assert (text.number, text.to, text.text) == ("14017122661", "15558675310", form["Body"])
    assert (text.carrier_id, text.mark) == (MESSAGE, None)
    assert b"<Response></Response>" in pushed.answer.body


@given(st.dictionaries(st.text(max_size=8), st.text(max_size=12), max_size=5))
@settings(max_examples=60)
def test_twilios_validator_and_we_agree_on_any_form(form):
    form = {**form, "MessageSid": MESSAGE, "MessageStatus": "sent"}
    form = {name: value for name, value in form.items() if _is_utf8(name + value)}
    good = _receipt(form)
    signature = good.headers["x-twilio-signature"]
    assert RequestValidator(TOKEN).validate(HOOK, form, signature)
    assert vendor().pushed(good).reports
    bad = _receipt({**form, "MessageStatus": "delivered"}, headers=good.headers)
    with pytest.raises(CallRefused):
        vendor().pushed(bad)


def _is_utf8(text: str) -> bool:
    return not any("\ud800" <= char <= "\udfff" for char in text)


def test_what_twilio_calls_by_get_is_signed_as_an_address_alone():
    form = {"MessageSid": MESSAGE, "From": "+1401", "To": "+1555", "Body": "hi"}
    url = f"{INBOX}?{urlencode(form, quote_via=quote)}"
    got = call(b"", url=url, method="GET", headers=_signed(url, {}), kind=CallKind.INBOUND)
    assert vendor().pushed(got).texts[0].text == "hi"


@pytest.mark.parametrize(
    ("signed", "called"),
    [
        ("https://sms.example.com:443/x?ref=1", "https://sms.example.com/x?ref=1"),
        ("https://sms.example.com/x?ref=1", "https://sms.example.com:8443/x?ref=1"),
        ("https://sms.example.com:8443/x", "https://sms.example.com:8443/x"),
    ],
)
def test_the_port_may_be_signed_or_not(signed, called):
    form = {"MessageSid": MESSAGE, "MessageStatus": "sent"}
    headers = _signed(signed, form)
    assert RequestValidator(TOKEN).validate(called, form, headers["x-twilio-signature"])
    assert vendor().pushed(_receipt(form, signed, headers=headers, sent_to=called)).reports


@pytest.mark.parametrize(
    "changed",
    [
        {"headers": {}},
        {"headers": {"x-twilio-signature": "é"}},
        {"headers": _signed(HOOK, {"MessageSid": MESSAGE}, "f" * 32)},
        {"sent_to": HOOK.replace("ref=", "ref=x")},
        {"sent_to": HOOK.replace("https", "http")},
        {"sent_to": HOOK.replace("sms.example.com", "sms.example.org")},
        {"sent_to": "https://["},
    ],
)
def test_a_call_that_is_not_twilios_is_refused(changed):
    form = {"MessageSid": MESSAGE, "MessageStatus": "sent"}
    with pytest.raises(CallRefused) as refused:
        vendor().pushed(_receipt(form, **changed))
    assert refused.value.status == 403
    assert TOKEN not in refused.value.detail
    assert "X-Twilio-Signature" in refused.value.detail


def test_a_secret_is_asked_for_beside_the_signature_where_one_is_set():
    own = vendor(callback_secret="another-long-secret")
    form = {"MessageSid": MESSAGE, "MessageStatus": "sent"}
    with pytest.raises(CallRefused) as refused:
        own.pushed(_receipt(form))
    assert refused.value.status == 401
    (submitted,) = [dict(parse_qsl(own.send([ONE], UNIX, "n").body.decode()))["StatusCallback"]]
    assert own.pushed(_receipt(form, submitted)).reports[0].reference == reference_of(ONE)


def test_a_signed_form_without_its_fields_is_refused_by_name():
    with pytest.raises(CallRefused, match="MessageSid") as refused:
        vendor().pushed(_receipt({"a": "b"}))
    assert refused.value.status == 400
    with pytest.raises(CallRefused, match="MessageStatus"):
        vendor().pushed(_receipt({"MessageSid": MESSAGE}))


def test_every_word_of_a_receipt_has_a_class_that_is_known():
    codes = ReportCodes("twilio", twilio.REPORT_CLASSES)
    assert codes.judge("delivered", "").state is State.DELIVERED
    assert codes.judge("sent", "").state is None
    gone = codes.judge("undelivered", "30005")
    assert (gone.state, gone.reason, gone.is_bad_number) == (
        State.UNDELIVERED,
        "recipient.invalid",
        True,
    )
    assert codes.judge("undelivered", "21610").reason == "recipient.blocked"
    assert not codes.judge("undelivered", "30006").is_bad_number
    assert codes.judge("undelivered", "30410").state is State.UNKNOWN
    for code in twilio.REPORT_CLASSES:
        assert codes.judge("undelivered", code if code.isdigit() else "").is_known, code


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["sid", "status", "code", "error_code", "messages", "date_created"]),
            inner,
            max_size=4,
        )
    ),
)


@given(st.integers(100, 599), st.binary(max_size=60) | _JSON.map(lambda v: json.dumps(v).encode()))
@settings(max_examples=150)
def test_reading_never_raises(status, body):
    ours = vendor()
    got = reply(status, body)
    assert len(ours.read([ONE], got)) == 1
    for known in ("", MESSAGE):
        assert len(ours.told([Asked(ONE, UNIX, known), Asked(ONE, UNIX)], got)) == 2
    with pytest.raises(CallRefused):
        ours.pushed(call(body, headers={"x-twilio-signature": "x"}))


# -- settings ------------------------------------------------------------------------------------


def test_everything_wrong_with_the_settings_is_named_at_once():
    wrong = twilio.validate(
        {"account_sid": "AC1", "api_key_sid": "SK" + "c" * 32, "messaging_service_sid": 5}
    )
    assert {pointer for pointer, _ in wrong} == {
        "/account_sid",
        "/auth_token",
        "/api_key_sid",
        "/messaging_service_sid",
    }
    assert twilio.validate(SETTINGS) == []  # signed: neither secret nor sources are needed
    with pytest.raises(ConfigError, match="/auth_token"):
        twilio.make(channel("twilio", {"account_sid": SID}))
