"""A Huawei Cloud channel: requests and signatures judged by Huawei's own SDK."""

import base64
import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl, urlencode

import pytest
from huaweicloudsdkcore.sdk_request import SdkRequest
from huaweicloudsdkcore.signer.signer import Signer
from huaweicloudsdksmsapi.v1 import (
    BatchSendDiffSmsRequest,
    BatchSendDiffSmsRequestBody,
    BatchSendSmsRequest,
    BatchSendSmsRequestBody,
    SMSApiClient,
    SmsContent,
)
from huaweicloudsdksmsapi.v1.smsapi_credentials import SMSApiCredentials
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.http import huawei
from adapters.http.vendor import Asked, CallKind, Verdict, reference_of
from receipts.normalise import ReportCodes
from sms.errors import (
    CallRefused,
    CannotSend,
    ConfigError,
    LocalProtocolError,
    RemoteProtocolError,
)
from sms.model import Filled, MessageClass, State, Submit
from sms.outcomes import Cause, Rejected, Submitted, Throttled, Uncertain
from tests.support.http_vendors import NUMBERS, SECRET, TEXTS, call, channel, reply, submit

KEY, PASSWORD = "c8RWg3ggEcyd4D3p94bf3Y7x1Ile", "q4Ii87BhST9vcs8wvrzN80SfD7Al"
BASE = "https://smsapi.cn-north-4.myhuaweicloud.com"
FROM = "8824110605512"
SETTINGS: dict[str, Any] = {
    "app_key": KEY,
    "app_secret": PASSWORD,
    "signature_name": "华为云短信测试",
    "public_url": "https://sms.example.com",
    "callback_secret": SECRET,
}
HOOK = f"https://sms.example.com/v1/carrier-callbacks/chn_0000000000000007/receipts?secret={SECRET}"
UNIX = 1_800_000_000.0
FILLED = Filled("1d18a7f4e1b84f6c8fc1546b48b3baea", (("code", "369751"), ("minutes", "五")))


def one(number: str = "8613800138000", **more: Any) -> Submit:
    return submit(number, **{"sender": FROM, "filled": FILLED, **more})


def vendor(**more: Any) -> huawei.Huawei:
    return huawei.make(channel("huawei", {**SETTINGS, **more}, FROM))


ONE, TWO = one(), one("8613900139000", id=2)


class _Left(Exception):
    def __init__(self, request: SdkRequest) -> None:
        super().__init__()
        self.request = request


def _client() -> SMSApiClient:
    credentials = SMSApiCredentials(KEY, PASSWORD)
    client = SMSApiClient.new_builder().with_credentials(credentials).with_endpoint(BASE).build()

    def leave(request: SdkRequest) -> None:
        raise _Left(request)

    client._do_http_request_sync = leave
    return client


JUDGE = _client()


def _said(ask: Any) -> SdkRequest:
    with pytest.raises(_Left) as left:
        ask()
    return left.value.request


def _signed_by_the_sdk(path: str, headers: Mapping[str, str], body: bytes) -> str:
    """What Huawei's signer gives a request with these headers."""
    host = BASE.removeprefix("https://")
    mine = {name: value for name, value in headers.items() if name != "Authorization"}
    request = SdkRequest("POST", "https", host, path, "", [], mine, body)
    signed: str = (
        Signer(SMSApiCredentials(KEY, PASSWORD)).sign(request).header_params["Authorization"]
    )
    return signed


SUBMITS = st.lists(
    st.tuples(
        NUMBERS,
        st.text("0123456789abcdef", min_size=1, max_size=32),
        st.lists(TEXTS, max_size=3),
        st.integers(1, (1 << 63) - 1),
    ),
    min_size=1,
    max_size=4,
    unique_by=lambda made: made[0],
).map(
    lambda several: [
        one(number, filled=Filled(code, tuple((str(at), v) for at, v in enumerate(values))), id=id_)
        for number, code, values, id_ in several
    ]
)


@given(SUBMITS)
@settings(max_examples=50)
def test_huaweis_sdk_makes_and_signs_the_same_form_for_one(several):
    (mine, *_) = several
    assert mine.filled is not None
    values = [value for _, value in mine.filled.values]
    theirs = _said(
        lambda: JUDGE.batch_send_sms(
            BatchSendSmsRequest(
                body=BatchSendSmsRequestBody(
                    _from=FROM,
                    to=f"+{mine.number}",
                    template_id=mine.filled.code if mine.filled else None,
                    template_paras=json.dumps(values, ensure_ascii=False) if values else None,
                    status_callback=HOOK,
                    extend=reference_of(mine),
                    signature="华为云短信测试",
                )
            )
        )
    )
    ours = vendor().send([mine], UNIX, "nonce")
    assert (ours.method, ours.url) == (theirs.method, theirs.url)
    form = dict(parse_qsl(ours.body.decode(), keep_blank_values=True, strict_parsing=True))
    assert form == theirs.body
    headers = dict(ours.headers)
    for name in ("Content-Type", "X-Sdk-Content-Sha256"):
        assert headers[name] == theirs.header_params[name]
    assert headers["Authorization"] == _signed_by_the_sdk(huawei.ONE, headers, ours.body)


@given(SUBMITS.filter(lambda several: len(several) > 1))
@settings(max_examples=50)
def test_huaweis_sdk_makes_and_signs_the_same_json_for_several(several):
    content = [
        SmsContent(
            to=[f"+{mine.number}"],
            template_id=mine.filled.code,
            template_paras=[value for _, value in mine.filled.values] or None,
            signature="华为云短信测试",
        )
        for mine in several
    ]
    body = BatchSendDiffSmsRequestBody(_from=FROM, status_callback=HOOK, sms_content=content)
    theirs = _said(lambda: JUDGE.batch_send_diff_sms(BatchSendDiffSmsRequest(body=body)))
    ours = vendor().send(several, UNIX, "nonce")
    assert (ours.method, ours.url) == (theirs.method, theirs.url)
    assert json.loads(ours.body) == json.loads(theirs.body)
    headers = dict(ours.headers)
    assert headers["Content-Type"] == theirs.header_params["Content-Type"]
    assert "X-Sdk-Content-Sha256" not in headers
    assert headers["Authorization"] == _signed_by_the_sdk(huawei.MANY, headers, ours.body)


def test_what_the_sdk_sends_has_the_signature_that_we_would_give_it():
    body = BatchSendDiffSmsRequestBody(_from=FROM, sms_content=[SmsContent(to=["+1"])])
    theirs = _said(lambda: JUDGE.batch_send_diff_sms(BatchSendDiffSmsRequest(body=body)))
    headers = {k: v for k, v in theirs.header_params.items() if k != "Authorization"}
    ours = huawei.authorization(KEY, PASSWORD, huawei.MANY, headers, theirs.body)
    assert ours == theirs.header_params["Authorization"]


def test_the_documented_x_wsse_is_sent_where_it_is_asked_for():
    ours = vendor(auth="wsse").send([ONE], UNIX, "66C92B11FF8A425FB8D4CCFE0ED9ED1F")
    headers = dict(ours.headers)
    created = f"{datetime.fromtimestamp(UNIX, UTC):%Y-%m-%dT%H:%M:%SZ}"
    said = f"66C92B11FF8A425FB8D4CCFE0ED9ED1F{created}{PASSWORD}"
    digest = base64.b64encode(hashlib.sha256(said.encode()).digest()).decode()
    assert headers == {
        "Content-Type": "application/x-www-form-urlencoded",
        "Authorization": 'WSSE realm="SDP",profile="UsernameToken",type="Appkey"',
        "X-WSSE": f'UsernameToken Username="{KEY}",PasswordDigest="{digest}",'
        f'Nonce="66C92B11FF8A425FB8D4CCFE0ED9ED1F",Created="{created}"',
    }
    assert created == "2027-01-15T08:00:00Z"


def test_login_codes_go_alone_and_others_together():
    ours = vendor()
    assert ours.together(ONE) != ours.together(TWO)
    for mine in (ONE, TWO):
        other = replace(mine.message, message_class=MessageClass.MARKETING)
        assert ours.together(replace(mine, message=other)) is None


def test_another_endpoint_is_signed_as_its_host_and_path_are_written():
    ours = vendor(url="http://127.0.0.1:8080/huawei/").send([ONE], UNIX, "n")
    assert ours.url == "http://127.0.0.1:8080/huawei/sms/batchSendSms/v1"
    headers = dict(ours.headers)
    signed = {k: v for k, v in headers.items() if k != "Authorization"}
    expected = huawei.authorization(
        KEY,
        PASSWORD,
        "/huawei/sms/batchSendSms/v1",
        {**signed, "Host": "127.0.0.1:8080"},
        ours.body,
    )
    assert headers["Authorization"] == expected
    assert vendor(region="cn-south-1").endpoint == "https://smsapi.cn-south-1.myhuaweicloud.com"


def test_the_brand_in_front_of_the_text_is_the_signature_where_none_is_set():
    own = {name: value for name, value in SETTINGS.items() if name != "signature_name"}
    ours = huawei.make(channel("huawei", own, FROM))
    form = dict(parse_qsl(ours.send([ONE], UNIX, "n").body.decode()))
    assert form["signature"] == "Acme"
    with pytest.raises(CannotSend) as refused:
        ours.send([one(text="no brand")], UNIX, "n")
    assert (refused.value.reason, refused.value.is_channel) == ("content.signature", True)


def test_without_a_template_or_with_an_extension_nothing_can_be_said():
    with pytest.raises(CannotSend) as refused:
        vendor().send([one(filled=None)], UNIX, "n")
    assert refused.value.reason == "content.template"
    with pytest.raises(CannotSend) as refused:
        vendor().send([one(sender=f"{FROM}01")], UNIX, "n")
    assert (refused.value.reason, refused.value.is_channel) == ("channel.misconfigured", True)


# -- answers -------------------------------------------------------------------------------------


def _answer(*results: tuple[str, str], code: str = "000000") -> str:
    body = {
        "code": code,
        "description": "Success",
        "result": [
            {
                "originTo": number,
                "createTime": "2018-08-06T11:59:50Z",
                "from": "1069031221280000001",
                "smsMsgId": f"4b4b34e7-1a9e-42ac-b309-d10997148905_{at}",
                "status": status,
                "countryId": "CN",
                "total": 1,
            }
            for at, (number, status) in enumerate(results)
        ],
    }
    return json.dumps(body)


def test_each_number_has_its_own_verdict_and_id():
    body = _answer(("+8613900139000", "E200028"), ("+8613800138000", "000000"))
    assert vendor().read([ONE, TWO], reply(200, body)) == [
        Submitted("4b4b34e7-1a9e-42ac-b309-d10997148905_1"),
        Rejected("E200028", Cause.CONTENT, "content.template"),
    ]


def test_verdicts_by_number_go_before_the_code_above_them():
    body = _answer(("+8613800138000", "E200018"), code="E000510")
    assert vendor().read([ONE], reply(400, body)) == [
        Rejected("E200018", Cause.CONFIG, "channel.misconfigured")
    ]


def test_a_number_that_is_missing_is_uncertain_and_a_national_one_is_found():
    outcomes = vendor().read([ONE, TWO], reply(200, _answer(("13900139000", "000000"))))
    assert outcomes[0] == Uncertain("carrier.unknown_outcome")
    assert isinstance(outcomes[1], Submitted)


def test_a_number_twice_in_one_request_goes_again():
    body = _answer(("+8613800138000", "E200041"))
    assert vendor().read([ONE], reply(200, body)) == [Throttled(1.0, "E200041")]


@pytest.mark.parametrize(
    ("status", "body", "code", "cause", "reason"),
    [
        (400, '{"code":"E000104","description":"…"}', "E000104", "config", "channel.account"),
        (400, '{"code":"E000027","description":"…"}', "E000027", "config", "channel.misconfigured"),
        (400, '{"code":"E000112","description":"…"}', "E000112", "config", "channel.account"),
        (400, '{"code":"E999999"}', "E999999", "unknown", "carrier.unknown_code"),
        (401, '{"error_code":"APIGW.0301"}', "HTTP 401", "config", "channel.account"),
        (404, "<html>", "HTTP 404", "config", "channel.misconfigured"),
    ],
)
def test_a_refused_request_is_a_no_to_all_of_it_where_the_account_is_at_fault(
    status, body, code, cause, reason
):
    rejected = Rejected(code, Cause(cause), reason)
    assert vendor().read([ONE], reply(status, body)) == [rejected]
    both = vendor().read([ONE, TWO], reply(status, body))
    assert both == [rejected if reason == "channel.account" else None] * 2


@pytest.mark.parametrize("code", ["E200028", "E200033", "E200020", "E000503"])
def test_what_may_be_one_member_s_own_fault_fails_no_other(code):
    body = json.dumps({"code": code})
    assert vendor().read([ONE, TWO], reply(200, body)) == [None, None]


def test_a_system_error_beside_400_is_a_form_that_it_cannot_read():
    answer = reply(400, '{"code":"E000000","description":"System error."}')
    rejected = Rejected("E000000", Cause.UNKNOWN, "channel.rejected")
    assert vendor().read([ONE], answer) == [rejected]
    assert vendor().read([ONE, TWO], answer) == [None, None]


@pytest.mark.parametrize(
    ("status", "body", "reason"),
    [
        (200, '{"code":"E000000","description":"System error."}', "carrier.system_error"),
        (200, '{"code":"E000510","description":"…"}', "carrier.unknown_outcome"),
        (400, '{"code":"E000510","description":"…","result":[]}', "carrier.unknown_outcome"),
    ],
)
def test_an_error_that_does_not_say_that_nothing_was_taken_is_uncertain(status, body, reason):
    assert vendor().read([ONE, TWO], reply(status, body)) == [Uncertain(reason)] * 2


def test_too_fast_and_too_many_are_throttling():
    outcomes = vendor().read([ONE], reply(429, "", retry_after="3"))
    assert outcomes == [Throttled(3.0, "HTTP 429")]
    assert vendor().read([ONE], reply(200, '{"code":"E200015"}')) == [Throttled(5.0, "E200015")]


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (500, '{"code":"E000000","description":"System error."}'),
        (502, _answer(("+8613800138000", "E200028"))),
        (408, ""),
    ],
)
def test_no_5xx_says_that_nothing_was_sent(status, body):
    assert vendor().read([ONE], reply(status, body)) == [Uncertain("carrier.system_error")]


@pytest.mark.parametrize(
    ("status", "body"),
    [(200, '{"code":"000000"}'), (200, "<html>"), (302, ""), (200, '{"result":[{}]}')],
)
def test_what_says_nothing_is_uncertain(status, body):
    assert vendor().read([ONE], reply(status, body)) == [Uncertain("carrier.unknown_outcome")]


def test_huawei_is_neither_asked_nor_pulled():
    ours = vendor()
    assert not ours.traits.asks
    with pytest.raises(LocalProtocolError):
        ours.question([Asked(ONE, UNIX)], UNIX, "n")
    assert ours.told([Asked(ONE, UNIX)], reply(200, ""))[0].verdict is Verdict.SILENT
    assert ours.pull(CallKind.RECEIPTS, UNIX, "n") is None
    with pytest.raises(RemoteProtocolError):
        ours.pulled(CallKind.RECEIPTS, reply(200, ""))


# -- pushes --------------------------------------------------------------------------------------

DOCUMENTED = (
    "sequence=1&total=1&orgCode=000&updateTime=2018-04-13T06%3A31%3A46Z&source=2"
    "&smsMsgId=b9d9b4fe-ad0e-4a2a-a2c7-445505b674ac_6&status=DELIVRD"
)


def test_the_documented_receipt_is_read():
    pushed = vendor().pushed(call(f"{DOCUMENTED}&extend={reference_of(ONE)}&to=%2B8613800138000"))
    (report,) = pushed.reports
    assert report.carrier_id == "b9d9b4fe-ad0e-4a2a-a2c7-445505b674ac_6"
    assert (report.state, report.number) == ("DELIVRD", "8613800138000")
    assert (report.reference, report.part) == (reference_of(ONE), None)
    assert ReportCodes("huawei").judge(report.state, report.error).state is State.DELIVERED
    assert (pushed.answer.status, pushed.answer.body) == (200, b"")
    (bare,) = vendor().pushed(call(DOCUMENTED)).reports
    assert (bare.reference, bare.number) == ("", "")


@pytest.mark.parametrize(
    ("sequence", "total", "part"),
    [("2", "3", (2, 3)), ("1", "1", None), ("4", "3", None), ("0", "2", None), ("x", "2", None)],
)
def test_a_receipt_of_a_long_text_says_of_which_segment(sequence, total, part):
    form = {"smsMsgId": "i", "status": "DELIVRD", "sequence": sequence, "total": total}
    assert vendor().pushed(call(urlencode(form))).reports[0].part == part


def test_several_receipts_come_as_json():
    body = {
        "statusReportList": [
            {"smsMsgId": "a", "status": "DELIVRD", "total": "1", "sequence": "1", "orgCode": "0"},
            {"smsMsgId": "b", "status": "MK:0001", "orgCode": "MK:0001", "to": "+8613800138000"},
        ]
    }
    first, second = vendor().pushed(call(json.dumps(body))).reports
    assert (first.carrier_id, first.state) == ("a", "DELIVRD")
    assert (second.carrier_id, second.state, second.error) == ("b", "MK:0001", "")


def test_the_documented_text_from_a_phone_is_read():
    body = (
        "from=%2B8615512345172&to=201804131431201234&body=%E9%80%80%E8%AE%A2+T"
        "&smsMsgId=9692b5be-c427-4525-8e73-cf4a6ac5b3f7"
    )
    pushed = vendor().pushed(call(body, kind=CallKind.INBOUND))
    (text,) = pushed.texts
    assert (text.number, text.to, text.text) == (
        "8615512345172",
        "201804131431201234",
        "退订 T",
    )
    assert text.carrier_id == "9692b5be-c427-4525-8e73-cf4a6ac5b3f7"


def test_huaweis_own_words_and_the_carriers_have_classes():
    codes = ReportCodes("huawei", huawei.REPORT_CLASSES)
    assert codes.judge("BLACK", "").reason == "recipient.blocked"
    assert codes.judge("KEYWORD", "").reason == "content.blocked"
    assert codes.judge("LIMIT", "").reason == "carrier.frequency_cap"
    assert codes.judge("MK:0001", "").is_known
    for word in huawei.REPORT_CLASSES:
        assert codes.judge(word, "").is_known, word


def test_a_call_without_the_secret_is_refused():
    with pytest.raises(CallRefused) as refused:
        vendor().pushed(call(DOCUMENTED, url=HOOK.partition("?")[0]))
    assert refused.value.status == 401


@pytest.mark.parametrize(
    ("body", "missing"),
    [
        ("", "smsMsgId"),
        ("smsMsgId=a", "status"),
        ("status=DELIVRD", "smsMsgId"),
        ("{}", "smsMsgId"),
    ],
)
def test_another_form_is_refused_by_name(body, missing):
    with pytest.raises(CallRefused, match=missing) as refused:
        vendor().pushed(call(body))
    assert refused.value.status == 400


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["code", "result", "status", "originTo", "smsMsgId", "total"]),
            inner,
            max_size=4,
        )
    ),
)


@given(st.integers(100, 599), st.binary(max_size=60) | _JSON.map(lambda v: json.dumps(v).encode()))
@settings(max_examples=150)
def test_reading_never_raises(status, body):
    ours = vendor()
    assert len(ours.read([ONE, TWO], reply(status, body))) == 2
    wrapped = b'{"statusReportList":[' + body + b"]}"
    for pushed in (body, b"smsMsgId=a&status=" + body, wrapped):
        for kind in CallKind:
            with suppress(CallRefused):
                ours.pushed(call(pushed, kind=kind))


# -- settings ------------------------------------------------------------------------------------


def test_everything_wrong_with_the_settings_is_named_at_once():
    wrong = huawei.validate(
        {
            "app_key": KEY,
            "auth": "basic",
            "region": "mars",
            "signature_name": "【x】",
            "sender": "1",
        }
    )
    assert {pointer for pointer, _ in wrong} == {
        *("/app_secret", "/auth", "/region", "/signature_name", "/sender", "/callback_secret"),
    }
    assert huawei.validate(SETTINGS) == []
    with pytest.raises(ConfigError, match="/app_key"):
        huawei.make(channel("huawei", {"app_secret": "x"}))
    with pytest.raises(ConfigError, match="通道号"):
        huawei.make(channel("huawei", SETTINGS, "Acme"))


def test_the_secret_is_in_no_repr():
    assert PASSWORD not in repr(vendor().__dict__.get("_own"))
