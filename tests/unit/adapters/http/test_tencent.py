"""A Tencent Cloud channel: its SDK judges requests, its documents answers and pushes."""

import json
from contextlib import suppress
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import settings as tries
from hypothesis import strategies as st
from tencentcloud.common import abstract_client
from tencentcloud.common.credential import Credential
from tencentcloud.sms.v20210111 import errorcodes, models
from tencentcloud.sms.v20210111.sms_client import SmsClient

from adapters.http import tencent
from adapters.http.reading import Codes
from adapters.http.vendor import Asked, CallKind, Request, Verdict, reference_of
from receipts.normalise import ReportCodes
from sms.errors import CallRefused, CannotSend, ConfigError, RemoteProtocolError
from sms.model import Filled, Inbound, Report, State, Submit
from sms.outcomes import Cause, Rejected, Submitted, Throttled, Uncertain
from tests.support.http_vendors import SECRET, call, channel, reply, submit

SECRET_ID, SECRET_KEY = "AKIDz8krbsJ5yKBZQpn74WFkmLPx3EXAMPLE", "Gu5t9xGARNpq86cd98joQYCN3EXAMPLE"
APP = "1400006666"
SETTINGS: dict[str, Any] = {
    "secret_id": SECRET_ID,
    "secret_key": SECRET_KEY,
    "sdk_app_id": APP,
    "callback_secret": SECRET,
}
UNIX = 1_800_000_000.75
NONCE = "unused"
CODE = Filled("1110", (("code", "1234"), ("minutes", "5")))
ONE = submit("8618511122233", id=1, filled=CODE)
TWO = submit("8618511122266", id=2, filled=CODE)
OURS = reference_of(ONE)
SERIAL = "5000:1045710669157053657849499619"


def vendor(**more: Any) -> tencent.Tencent:
    return tencent.make(channel("tencent", {**SETTINGS, **more}))


# -- the SDK as judge ------------------------------------------------------------------------


class _Taken(BaseException):  # the SDK catches what is an Exception
    """The SDK's request, on its way to the network."""

    def __init__(self, request: Any) -> None:
        super().__init__()
        self.request = request


def _take(request: Any) -> None:
    raise _Taken(request)


# What names the SDK itself, its language of messages and its calls; no signature holds them.
UNSIGNED = ("x-tc-requestclient", "x-tc-language", "x-tc-traceid")
CLIENT = SmsClient(Credential(SECRET_ID, SECRET_KEY), "ap-guangzhou")
CLIENT.request.send_request = _take


def compare(ours: Request, action: str, asked: Any, unix: float = UNIX) -> None:
    """Method, address, headers and body, and the signature over them: the very same."""
    frozen = SimpleNamespace(time=lambda: unix)
    with mock.patch.object(abstract_client, "time", frozen), pytest.raises(_Taken) as taken:
        getattr(CLIENT, action)(asked)
    theirs = taken.value.request
    assert (ours.method, ours.url) == (theirs.method, f"https://{theirs.host}{theirs.uri}")
    assert ours.body == theirs.data.encode()
    headers = {name.lower(): value for name, value in theirs.header.items()}
    for name in ("host", *UNSIGNED):
        del headers[name]
    assert dict(ours.headers) == headers


def model(kind: Any, **values: Any) -> Any:
    made = kind()
    for name, value in values.items():
        setattr(made, name, value)
    return made


WORDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40) | st.sampled_from(
    ["您好，王先生", "😀 emoji", "a b+c*d~e'f\"g", "%20&=?#/\\", "\n\t", "１２３"]
)
BRANDS = st.sampled_from(["腾讯云", "Acme 1", "a+b*~'\"", "云😀"])
AT_HOME = st.from_regex("861[3-9][0-9]{9}", fullmatch=True)
ABROAD = st.from_regex("852[0-9]{8}|1[2-9][0-9]{9}|4479[0-9]{8}", fullmatch=True)


@given(
    st.lists(AT_HOME, min_size=1, max_size=40, unique=True),
    BRANDS,
    st.lists(WORDS, max_size=4),
    st.sampled_from(["", "9001"]),
)
@tries(max_examples=60, deadline=None)
def test_the_sdk_sends_at_home_as_we_do(numbers, brand, values, sender):
    filled = Filled("1110", tuple((f"v{place}", value) for place, value in enumerate(values)))
    some = [
        submit(number, f"【{brand}】x", id=place, filled=filled, sender=sender)
        for place, number in enumerate(numbers, 1)
    ]
    context = ",".join(reference_of(one) for one in some)
    compare(
        vendor().send(some, UNIX, NONCE),
        "SendSms",
        model(
            models.SendSmsRequest,
            PhoneNumberSet=[f"+{number}" for number in numbers],
            SmsSdkAppId=APP,
            TemplateId="1110",
            SignName=brand,
            TemplateParamSet=values,
            ExtendCode=sender or None,
            SessionContext=context if len(context) < 512 else None,
        ),
    )


@given(ABROAD, WORDS, st.sampled_from(["", "Acme"]))
@tries(max_examples=30, deadline=None)
def test_the_sdk_sends_abroad_as_we_do(number, value, sender_id):
    one = submit(number, "no brand", filled=Filled("2220", (("v", value),)), sender="9001")
    more = {"sender_id": sender_id} if sender_id else {}
    compare(
        vendor(**more).send([one], UNIX, NONCE),
        "SendSms",
        model(
            models.SendSmsRequest,
            PhoneNumberSet=[f"+{number}"],
            SmsSdkAppId=APP,
            TemplateId="2220",
            TemplateParamSet=[value],
            SessionContext=reference_of(one),
            SenderId=sender_id or None,
        ),
    )


def test_the_sdk_asks_as_we_do():
    compare(
        vendor().question([Asked(ONE, UNIX - 100)], UNIX, NONCE),
        "PullSmsSendStatusByPhoneNumber",
        model(
            models.PullSmsSendStatusByPhoneNumberRequest,
            BeginTime=int(UNIX) - 160,
            Offset=0,
            Limit=100,
            PhoneNumber="+8618511122233",
            SmsSdkAppId=APP,
            EndTime=int(UNIX) + 60,
        ),
    )


@pytest.mark.parametrize(
    ("kind", "action"),
    [(CallKind.RECEIPTS, "PullSmsSendStatus"), (CallKind.INBOUND, "PullSmsReplyStatus")],
)
def test_the_sdk_pulls_as_we_do(kind, action):
    ours = vendor(callbacks=False)
    assert ours.traits.pulls
    request = ours.pull(kind, UNIX, NONCE)
    assert request is not None
    asked = model(getattr(models, f"{action}Request"), Limit=100, SmsSdkAppId=APP)
    compare(request, action, asked)
    assert not vendor().traits.pulls
    assert vendor().pull(kind, UNIX, NONCE) is None


def test_the_key_changes_with_the_day():
    ours = vendor(callbacks=False)
    asked = model(models.PullSmsSendStatusRequest, Limit=100, SmsSdkAppId=APP)
    for at in (UNIX, UNIX + 86_400, UNIX):
        request = ours.pull(CallKind.RECEIPTS, at, NONCE)
        assert request is not None
        compare(request, "PullSmsSendStatus", asked, at)


def test_another_address_is_signed_with_its_host_and_path():
    ours = vendor(url="http://127.0.0.1:8080/sms").send([ONE], UNIX, NONCE)
    assert ours.url == "http://127.0.0.1:8080/sms"
    plain = vendor().send([ONE], UNIX, NONCE)
    assert dict(ours.headers)["authorization"] != dict(plain.headers)["authorization"]


# -- what is sent ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "reason"),
    [
        (submit(), "content.template"),
        (submit(text="no brand", filled=CODE), "content.signature"),
        (submit(sender="Acme", filled=CODE), "channel.misconfigured"),
    ],
)
def test_what_cannot_be_said_goes_to_another_channel(one, reason):
    with pytest.raises(CannotSend) as refused:
        vendor().send([one], UNIX, NONCE)
    assert (refused.value.reason, refused.value.is_channel) == (reason, True)


def test_a_request_says_one_thing():
    ours = vendor()
    assert ours.together(ONE) == ours.together(TWO)
    others: list[Submit] = [
        submit("8618511122233", filled=Filled("1110", (("code", "9999"), ("minutes", "5")))),
        submit("8618511122233", "【Other】x", filled=CODE),
        submit("8618511122233", filled=CODE, sender="01"),
        submit("85260000000", filled=CODE),
    ]
    assert len({ours.together(one) for one in (ONE, *others)}) == 5
    named = vendor(sign_name="腾讯云")
    assert named.together(others[1]) == named.together(ONE)


# -- answers ---------------------------------------------------------------------------------


def verdict(number: str, code: str = "Ok", serial: str = SERIAL) -> dict[str, Any]:
    return {
        "SerialNo": serial,
        "PhoneNumber": number,
        "Fee": 1,
        "SessionContext": "",
        "Code": code,
        "Message": "send success",
        "IsoCode": "CN",
    }


def answer(*verdicts: dict[str, Any]) -> str:
    return json.dumps({"Response": {"SendStatusSet": list(verdicts), "RequestId": "a0aabda6"}})


def refusal(code: str) -> str:
    return json.dumps({"Response": {"Error": {"Code": code, "Message": "…"}, "RequestId": "1"}})


def test_each_number_has_its_verdict_in_whatever_order():
    blocked = "FailedOperation.PhoneNumberInBlacklist"
    body = answer(verdict("+8618511122266", blocked, ""), verdict("+8618511122233"))
    assert vendor().read([ONE, TWO], reply(200, body)) == [
        Submitted(SERIAL),
        Rejected(blocked, Cause.NUMBER, "recipient.blocked"),
    ]


def test_a_number_without_a_verdict_is_uncertain():
    for body in (answer(verdict("+8618511122233")), answer(verdict("+8618511122233", serial=""))):
        outcomes = vendor().read([TWO], reply(200, body))
        assert outcomes == [Uncertain("carrier.unknown_outcome")]


@pytest.mark.parametrize(
    ("code", "cause", "reason"),
    [
        ("AuthFailure.SignatureFailure", Cause.CONFIG, "channel.account"),
        ("AuthFailure.NewOne", Cause.CONFIG, "channel.account"),
        (
            "FailedOperation.InsufficientBalanceInSmsPackage",
            *(Cause.CONFIG, "channel.account"),
        ),
        ("FailedOperation.ContainSensitiveWord", Cause.CONTENT, "content.blocked"),
        ("FailedOperation.SignatureIncorrectOrUnapproved", Cause.CONTENT, "content.signature"),
        ("FailedOperation.TemplateIncorrectOrUnapproved", Cause.CONTENT, "content.template"),
        ("InvalidParameterValue.IncorrectPhoneNumber", Cause.NUMBER, "recipient.invalid"),
        ("LimitExceeded.PhoneNumberDailyLimit", Cause.NUMBER, "carrier.frequency_cap"),
        ("UnsupportedOperation.UnsupportedRegion", Cause.NETWORK, "channel.misconfigured"),
        ("FailedOperation.NewOne", Cause.UNKNOWN, "carrier.unknown_code"),
        ("LimitExceeded.NewOne", Cause.UNKNOWN, "carrier.unknown_code"),
    ],
)
def test_a_refusal_is_read_by_its_code(code, cause, reason):
    rejected = Rejected(code, cause, reason)
    assert vendor().read([ONE], reply(200, refusal(code))) == [rejected]
    # All have the account and the text in common, but neither number nor country.
    is_of_all = reason == "channel.account" or cause is Cause.CONTENT
    both = vendor().read([ONE, TWO], reply(200, refusal(code)))
    assert both == [rejected if is_of_all else None] * 2
    body = answer(verdict("+8618511122233", code, ""))
    assert vendor().read([ONE], reply(200, body)) == [rejected]


@pytest.mark.parametrize(
    "code",
    [
        *("RequestLimitExceeded", "RequestLimitExceeded.UinLimitExceeded"),
        "LimitExceeded.GlobalSmsSendingRateLimit",
    ],
)
def test_flow_control_is_throttling(code):
    assert vendor().read([ONE], reply(200, refusal(code))) == [Throttled(1.0, code)]
    assert vendor().read([ONE], reply(429, "", retry_after="3")) == [Throttled(3.0, "429")]


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, refusal("InternalError")),
        (200, refusal("InternalError.Timeout")),
        (200, refusal("InternalError.NewOne")),
        (503, refusal("ServiceUnavailable")),
        (500, refusal("FailedOperation.NewOne")),
        (200, ""),
        (200, "[]"),
        (200, '{"Response":{}}'),
        (502, answer(verdict("+8618511122233"))),
        (502, "<html>Bad Gateway</html>"),
    ],
)
def test_what_does_not_say_that_it_was_refused_is_uncertain(status, body):
    assert vendor().read([ONE], reply(status, body)) == [Uncertain("carrier.unknown_outcome")]


# -- asking and pulling ----------------------------------------------------------------------


def status(**more: Any) -> dict[str, Any]:
    return {
        "Description": "DELIVRD",
        "CountryCode": "86",
        "SubscriberNumber": "18511122233",
        "ReportStatus": "SUCCESS",
        "PhoneNumber": "+8618511122233",
        "SerialNo": SERIAL,
        "UserReceiveTime": 1620734188,
        "SessionContext": "",
        **more,
    }


def statuses(*rows: dict[str, Any]) -> str:
    return json.dumps({"Response": {"PullSmsSendStatusSet": list(rows), "RequestId": "1"}})


def told(body: str, carrier_id: str = "", http: int = 200) -> Any:
    (one,) = vendor().told([Asked(ONE, UNIX, carrier_id)], reply(http, body))
    return one


def test_a_status_is_known_by_its_id_or_our_reference():
    found = told(statuses(status(SerialNo="other"), status()), SERIAL)
    assert (found.verdict, found.carrier_id) == (Verdict.ENDED, SERIAL)
    assert found.report == Report(7, SERIAL, "DELIVRD", "", "8618511122233")
    of_many = status(SessionContext=f"msg_00000000000000ff-1,{OURS}", ReportStatus="FAIL")
    failed = told(statuses(of_many))
    assert (failed.verdict, failed.carrier_id) == (Verdict.ENDED, SERIAL)
    assert (failed.report.state, failed.report.error) == ("UNDELIV", "DELIVRD")


def test_no_status_is_no_proof():
    for body in (statuses(), statuses(status()), "", refusal("InternalError")):
        assert told(body).verdict is Verdict.SILENT
    assert told(statuses(status()), SERIAL, http=500).verdict is Verdict.SILENT


def test_what_is_pulled_is_what_is_pushed():
    ours = vendor(callbacks=False)
    body = statuses(status(), status(ReportStatus="FAIL", Description="MK:0001"))
    assert ours.pulled(CallKind.RECEIPTS, reply(200, body)).reports == (
        Report(7, SERIAL, "DELIVRD", "", "8618511122233"),
        Report(7, SERIAL, "UNDELIV", "MK:0001", "8618511122233"),
    )
    referred = ours.pulled(CallKind.RECEIPTS, reply(200, statuses(status(SessionContext=OURS))))
    assert [report.reference for report in referred.reports] == [OURS]
    replies = {
        "PullSmsReplyStatusSet": [
            {
                "ExtendCode": "01",
                "PhoneNumber": "+8618511122233",
                "SignName": "腾讯云",
                "ReplyContent": "退订",
                "ReplyTime": 1620734188,
            }
        ]
    }
    texts = ours.pulled(CallKind.INBOUND, reply(200, json.dumps({"Response": replies}))).texts
    assert texts == (Inbound(7, "8618511122233", "01", "退订"),)


@pytest.mark.parametrize("body", ["", "[]", "{}", refusal("UnauthorizedOperation")])
def test_a_pull_that_was_refused_is_an_error(body):
    with pytest.raises(RemoteProtocolError, match="Tencent Cloud refused a pull of receipts"):
        vendor(callbacks=False).pulled(CallKind.RECEIPTS, reply(200, body))


# -- pushes ----------------------------------------------------------------------------------

PUSH = [
    {
        "user_receive_time": "2015-10-17 08:03:04",
        "nationcode": "86",
        "mobile": "18511122233",
        "report_status": "SUCCESS",
        "errmsg": "DELIVRD",
        "description": "用户短信送达成功",
        "sid": SERIAL,
    },
    {
        "user_receive_time": "2015-10-17 08:03:04",
        "nationcode": "1",
        "mobile": "3475550123",
        "report_status": "FAIL",
        "errmsg": "UNDELIV",
        "description": "…",
        "sid": "5000:2",
    },
]


def test_statuses_are_pushed():
    pushed = vendor().pushed(call(json.dumps(PUSH)))
    assert pushed.reports == (
        Report(7, SERIAL, "DELIVRD", "", "8618511122233"),
        Report(7, "5000:2", "UNDELIV", "UNDELIV", "13475550123"),
    )
    assert json.loads(pushed.answer.body) == {"result": 0, "errmsg": "OK"}


def test_a_reply_is_pushed():
    one = {
        "extend": "01",
        "mobile": "18511122233",
        "nationcode": "86",
        "sign": "短信签名",
        "text": "用户回复的内容 😀",
        "time": 1457336869,
    }
    wanted = Inbound(7, "8618511122233", "01", "用户回复的内容 😀")
    for body in (one, [one]):  # documented is an object, arrays are taken as well
        assert vendor().pushed(call(json.dumps(body), kind=CallKind.INBOUND)).texts == (wanted,)


def test_a_push_is_refused_without_the_secret_or_its_form():
    with pytest.raises(CallRefused) as refused:
        vendor().pushed(call(json.dumps(PUSH), url="https://sms.example.com/receipts"))
    assert refused.value.status == 401
    for body in ("", "{", "[1]", '"x"', "null"):
        with pytest.raises(CallRefused) as refused:
            vendor().pushed(call(body))
        assert refused.value.status == 400


NAMES = st.sampled_from(
    [
        *("Response", "Error", "Code", "SendStatusSet", "PhoneNumber", "SerialNo", "sid", "text"),
        *("PullSmsSendStatusSet", "PullSmsReplyStatusSet", "SessionContext", "nationcode"),
        *("mobile", "ReplyContent", "report_status", "errmsg"),
    ]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(NAMES | st.text(), inner),
    max_leaves=12,
)
BODIES = st.binary() | JSON.map(lambda value: json.dumps(value).encode())


@given(st.integers(100, 599), BODIES)
@tries(max_examples=150, deadline=None)
def test_reading_never_raises(http, body):
    ours, whole = vendor(callbacks=True), reply(http, body)
    assert len(ours.read([ONE, TWO], whole)) == 2
    assert len(ours.told([Asked(ONE, UNIX)], whole)) == 1
    for kind in CallKind:
        try:
            brought = [*ours.pushed(call(body, kind=kind)).texts]
        except CallRefused:
            brought = []
        with suppress(RemoteProtocolError):
            brought += ours.pulled(kind, whole).texts
        for text in brought:
            text.text.encode()


# -- codes -----------------------------------------------------------------------------------


def test_every_code_of_the_api_has_a_row():
    known = {value for name, value in vars(errorcodes).items() if name.isupper()}
    assert len(known) > 80
    assert known - set(Codes("tencent").answers) == set()


@pytest.mark.parametrize(
    ("code", "state", "reason"),
    [
        ("-106", State.UNDELIVERED, "content.blocked"),
        ("MK:0001", State.UNDELIVERED, "recipient.invalid"),
        ("MI:0024", State.UNDELIVERED, "recipient.absent"),
    ],
)
def test_a_receipts_code_means(code, state, reason):
    found = ReportCodes("tencent", tencent.REPORTS).judge("UNDELIV", code)
    assert (found.state, found.reason) == (state, reason)


# -- settings --------------------------------------------------------------------------------


def test_everything_wrong_is_named_at_once():
    wrong = tencent.validate(
        {
            "secret_id": "",
            "sdk_app_id": 1400006666,
            "region": "guangzhou",
            "sender_id": "ü",
            "max_batch": 201,
            "secretkey": "x",
        }
    )
    assert [pointer for pointer, _ in wrong] == [
        *("/secret_key", "/secret_id", "/sdk_app_id", "/region", "/sender_id", "/max_batch"),
        *("/secretkey", "/callback_secret"),
    ]
    assert "in quotes" in dict(wrong)["/sdk_app_id"]
    with pytest.raises(ConfigError, match="secret_key"):
        tencent.make(channel("tencent", {"secret_id": "x", "sdk_app_id": APP}))


def test_traits():
    assert tencent.TRAITS.batch == 200
    assert tencent.TRAITS.demands_template
    assert tencent.TRAITS.absent_after_s is None
