"""An Aliyun channel: requests judged by Aliyun's own SDK, answers and pushes by its documents."""

import json
from typing import Any
from unittest import mock
from urllib.parse import parse_qsl, urlsplit

import pytest
from alibabacloud_dysmsapi20170525 import models
from alibabacloud_dysmsapi20170525.client import Client
from alibabacloud_tea_openapi.utils import Utils
from alibabacloud_tea_openapi.utils_models import Config
from darabonba.core import DaraCore
from darabonba.runtime import RuntimeOptions
from hypothesis import given
from hypothesis import settings as tries
from hypothesis import strategies as st

from adapters.http import aliyun
from adapters.http.reading import Codes
from adapters.http.vendor import Asked, CallKind, Request, Verdict, reference_of
from receipts.normalise import ReportCodes
from sms.errors import CallRefused, CannotSend, ConfigError, RemoteProtocolError
from sms.model import Filled, Inbound, MessageClass, Report, State, Submit
from sms.outcomes import Cause, Rejected, Submitted, Throttled, Uncertain
from tests.support.http_vendors import SECRET, call, channel, reply, submit

KEY_ID, KEY = "testAccessKeyId", "testAccessKeySecret"
SETTINGS: dict[str, Any] = {
    "access_key_id": KEY_ID,
    "access_key_secret": KEY,
    "callback_secret": SECRET,
}
UNIX = 1_800_000_000.75  # 2027-01-15 16:00:00 in UTC+8
STAMP = "2027-01-15T08:00:00Z"
NONCE = "3156853299f313e23d1673dc12e1703d"
CODE = Filled("SMS_132940015", (("code", "123456"),))
OK = '{"Message":"OK","RequestId":"0F8F57E7","Code":"OK","BizId":"900619746936498440^0"}'
BIZ_ID = "900619746936498440^0"
SENT = "2027-01-15 16:00:05"


def vendor(**more: Any) -> aliyun.Aliyun:
    return aliyun.make(channel("aliyun", {**SETTINGS, **more}))


def notice(number: str = "8613800138000", id: int = 1, **more: Any) -> Submit:
    one = submit(number, id=id, **{"filled": CODE, **more})
    one.message.message_class = MessageClass.TRANSACTIONAL
    return one


ONE = notice()
TWO = notice("8613900139000", id=2)


# -- the SDK as judge ------------------------------------------------------------------------


class _Taken(BaseException):  # the SDK catches what is an Exception
    """The SDK's request, on its way to the network."""

    def __init__(self, request: Any) -> None:
        super().__init__()
        self.request = request


def _take(request: Any, runtime: Any = None) -> None:
    raise _Taken(request)


CLIENT = Client(
    Config(access_key_id=KEY_ID, access_key_secret=KEY, endpoint="dysmsapi.aliyuncs.com")
)


def said_by_sdk(method: str, asked: Any) -> Any:
    with (
        mock.patch.object(DaraCore, "do_action", _take),
        mock.patch.object(Utils, "get_timestamp", return_value=STAMP),
        mock.patch.object(Utils, "get_nonce", return_value=NONCE),
        pytest.raises(_Taken) as taken,
    ):
        getattr(CLIENT, method)(asked, RuntimeOptions())
    return taken.value.request


def compare(ours: Request, theirs: Any) -> None:
    """Method, address, parameters, headers and body, and the signature over all of them."""
    parts = urlsplit(ours.url)
    assert (ours.method, parts.scheme, parts.path) == (theirs.method, "https", theirs.pathname)
    assert dict(parse_qsl(parts.query, keep_blank_values=True)) == theirs.query
    assert ours.body == (theirs.body or "").encode()
    # Ours is another program, and names no provider of credentials.
    kept = {
        name.lower(): value
        for name, value in theirs.headers.items()
        if name not in ("user-agent", "x-acs-credentials-provider", "Authorization")
    }
    assert kept.pop("host") == parts.netloc
    assert {name: value for name, value in ours.headers if name != "authorization"} == kept
    theirs.headers = {**kept, "host": parts.netloc}
    digest = kept["x-acs-content-sha256"]
    expected = Utils.get_authorization(theirs, "ACS3-HMAC-SHA256", digest, KEY_ID, KEY)
    assert dict(ours.headers)["authorization"] == expected


WORDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40) | st.sampled_from(
    ["您好，王先生", "😀 emoji", "a b+c*d~e'f\"g", "%20&=?#/\\", "\n\t", "１２３"]
)
VALUES = st.dictionaries(st.from_regex("[a-z]{1,8}", fullmatch=True), WORDS, max_size=4)
BRANDS = st.sampled_from(["阿里云", "Acme 1", "a+b*~'\"", "云😀"])
NUMBERS = st.from_regex("861[3-9][0-9]{9}|852[0-9]{8}", fullmatch=True)


@given(NUMBERS, BRANDS, VALUES, st.sampled_from(["", "9001"]))
@tries(max_examples=40, deadline=None)
def test_the_sdk_sends_one_text_as_we_do(number, brand, values, sender):
    filled = Filled("SMS_1", tuple(values.items()))
    one = notice(number, filled=filled, sender=sender, text=f"【{brand}】x")
    compare(
        vendor().send([one], UNIX, NONCE),
        said_by_sdk(
            "send_sms_with_options",
            models.SendSmsRequest(
                phone_numbers=number[2:] if number.startswith("86") else number,
                sign_name=brand,
                template_code="SMS_1",
                template_param=json.dumps(values, ensure_ascii=False, separators=(",", ":"))
                if values
                else None,
                out_id=reference_of(one),
                sms_up_extend_code=sender or None,
            ),
        ),
    )


@given(st.lists(st.tuples(NUMBERS, BRANDS, WORDS), min_size=2, max_size=5), st.booleans())
@tries(max_examples=25, deadline=None)
def test_the_sdk_sends_a_batch_as_we_do(some, has_sender):
    members = [
        notice(
            number,
            id=place,
            text=f"【{brand}】x",
            filled=Filled("SMS_1", (("name", value),)),
            sender="07" if has_sender else "",
        )
        for place, (number, brand, value) in enumerate(some)
    ]

    def array(values: list[Any]) -> str:
        return json.dumps(values, ensure_ascii=False, separators=(",", ":"))

    numbers = [number[2:] if number.startswith("86") else number for number, _, _ in some]
    compare(
        vendor().send(members, UNIX, NONCE),
        said_by_sdk(
            "send_batch_sms_with_options",
            models.SendBatchSmsRequest(
                phone_number_json=array(numbers),
                sign_name_json=array([brand for _, brand, _ in some]),
                template_code="SMS_1",
                template_param_json=array([{"name": value} for _, _, value in some]),
                sms_up_extend_code_json=array(["07"] * len(some)) if has_sender else None,
            ),
        ),
    )


@pytest.mark.parametrize("biz_id", ["", BIZ_ID])
def test_the_sdk_asks_as_we_do(biz_id):
    asked = Asked(ONE, UNIX, f"{biz_id}.0a1b2c3d" if biz_id else reference_of(ONE))
    compare(
        vendor().question([asked], UNIX, NONCE),
        said_by_sdk(
            "query_send_details_with_options",
            models.QuerySendDetailsRequest(
                phone_number="13800138000",
                send_date="20270115",
                page_size=50,
                current_page=1,
                biz_id=biz_id or None,
            ),
        ),
    )


@pytest.mark.parametrize("region", sorted(aliyun.ENDPOINTS))
def test_regions_have_the_endpoints_of_the_sdk(region):
    theirs = Client(Config(access_key_id=KEY_ID, access_key_secret=KEY, region_id=region))
    assert vendor(region=region).endpoint == f"https://{theirs._endpoint}/"


def test_another_address_is_signed_with_its_host_and_path():
    ours = vendor(url="http://127.0.0.1:8080/aliyun").send([ONE], UNIX, NONCE)
    assert ours.url.startswith("http://127.0.0.1:8080/aliyun?OutId=msg_")
    plain = vendor().send([ONE], UNIX, NONCE)
    assert dict(ours.headers)["authorization"] != dict(plain.headers)["authorization"]


# -- what is sent ----------------------------------------------------------------------------


def test_the_brand_of_the_channel_goes_before_the_texts_own():
    request = vendor(sign_name="阿里云").send([ONE], UNIX, NONCE)
    assert dict(parse_qsl(urlsplit(request.url).query))["SignName"] == "阿里云"


@pytest.mark.parametrize(
    ("one", "reason"),
    [
        (notice(filled=None), "content.template"),
        (notice(text="no brand"), "content.signature"),
        (notice(text="【open"), "content.signature"),
        (notice(sender="Acme"), "channel.misconfigured"),
    ],
)
def test_what_cannot_be_said_goes_to_another_channel(one, reason):
    for submits in ([one], [ONE, one]):
        with pytest.raises(CannotSend) as refused:
            vendor().send(submits, UNIX, NONCE)
        assert (refused.value.reason, refused.value.is_channel) == (reason, True)


def test_one_template_shares_a_request_and_a_login_code_never_does():
    ours = vendor()
    assert ours.together(ONE) == ours.together(TWO)
    other = notice(id=3, filled=Filled("SMS_2"))
    assert ours.together(other) != ours.together(ONE)
    codes = [submit(id=place, filled=CODE) for place in (1, 2)]
    assert ours.together(codes[0]) != ours.together(codes[1])


# -- answers ---------------------------------------------------------------------------------


def test_a_batch_is_taken_with_an_id_for_each_number():
    first, second = vendor().read([ONE, TWO], reply(200, OK))
    assert isinstance(first, Submitted)
    assert isinstance(second, Submitted)
    assert first != second
    assert first.carrier_id.rpartition(".")[0] == second.carrier_id.rpartition(".")[0] == BIZ_ID
    assert "138" not in first.carrier_id.removeprefix(BIZ_ID)


@pytest.mark.parametrize(
    ("code", "outcome"),
    [
        ("isv.MOBILE_NUMBER_ILLEGAL", (Cause.NUMBER, "recipient.invalid")),
        ("isv.BUSINESS_LIMIT_CONTROL", (Cause.NUMBER, "carrier.frequency_cap")),
        ("isv.BLACK_KEY_CONTROL_LIMIT", (Cause.CONTENT, "content.blocked")),
        ("isv.AMOUNT_NOT_ENOUGH", (Cause.CONFIG, "channel.account")),
        ("isv.SMS_TEMPLATE_ILLEGAL", (Cause.CONTENT, "content.template")),
        ("isv.SMS_SIGNATURE_ILLEGAL", (Cause.CONTENT, "content.signature")),
        ("SignatureDoesNotMatch", (Cause.CONFIG, "channel.account")),
        ("InvalidAccessKeyId.NotFound", (Cause.CONFIG, "channel.account")),
        ("isv.NEVER_SEEN", (Cause.UNKNOWN, "carrier.unknown_code")),
    ],
)
def test_a_refusal_is_read_by_its_code(code, outcome):
    body = json.dumps({"RequestId": "1", "Code": code, "Message": "…"})
    for status in (200, 400):
        assert vendor().read([ONE], reply(status, body)) == [Rejected(code, *outcome)]


@pytest.mark.parametrize("code", ["Throttling", "Throttling.User", "Throttling.Api.X"])
def test_flow_control_is_throttling(code):
    body = json.dumps({"Code": code})
    assert vendor().read([ONE, TWO], reply(400, body)) == [Throttled(1.0, code)] * 2
    assert vendor().read([ONE], reply(429, "")) == [Throttled(1.0, "429")]
    assert vendor().read([ONE], reply(429, "", retry_after="7")) == [Throttled(7.0, "429")]


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (503, '{"Code":"ServiceUnavailable"}'),
        (500, '{"Code":"InternalError"}'),
        (200, '{"Code":"isp.SYSTEM_ERROR"}'),
        (400, '{"Code":"SignatureNonceUsed"}'),  # the first one of two may have been taken
        (500, '{"Code":"isv.NEVER_SEEN"}'),
        (200, '{"Code":"OK"}'),
        (302, OK),
        (200, "[]"),
        (200, ""),
        (502, "<html>Bad Gateway</html>"),
    ],
)
def test_what_does_not_say_that_it_was_refused_is_uncertain(status, body):
    outcomes = vendor().read([ONE, TWO], reply(status, body))
    assert outcomes == [Uncertain("carrier.unknown_outcome")] * 2


def test_a_5xx_whose_code_refuses_is_a_refusal():
    (outcome,) = vendor().read([ONE], reply(500, '{"Code":"isv.OUT_OF_SERVICE"}'))
    assert outcome == Rejected("isv.OUT_OF_SERVICE", Cause.CONFIG, "channel.account")


@pytest.mark.parametrize(
    "code",
    [
        *("isv.MOBILE_NUMBER_ILLEGAL", "isv.SMS_CONTENT_ILLEGAL", "isv.TEMPLATE_PARAMS_ILLEGAL"),
        *("isv.INVALID_JSON_PARAM", "isv.SMS_CONTENT_MISMATCH_TEMPLATE_TYPE", "isv.NEVER_SEEN"),
        *("isv.COUNTRY_RESTRICTED", "isv.DOMESTIC_NUMBER_NOT_SUPPORTED", "isv.INVALID_PARAMETERS"),
    ],
)
def test_members_of_a_batch_refused_for_one_of_them_go_again(code):
    body = json.dumps({"Code": code})
    assert vendor().read([ONE, TWO], reply(200, body)) == [None, None]
    (alone,) = vendor().read([ONE], reply(200, body))
    assert isinstance(alone, Rejected)


def test_what_may_be_wrong_with_one_message_takes_no_channel_down():
    (outcome,) = vendor().read([ONE], reply(200, '{"Code":"isv.INVALID_PARAMETERS"}'))
    assert outcome == Rejected("isv.INVALID_PARAMETERS", Cause.UNKNOWN, "channel.rejected")


@pytest.mark.parametrize(
    "code", ["isv.SMS_TEMPLATE_ILLEGAL", "isv.SMS_SIGNATURE_ILLEGAL", "isv.AMOUNT_NOT_ENOUGH"]
)
def test_what_a_whole_batch_shares_refuses_all_of_it(code):
    outcomes = vendor().read([ONE, TWO], reply(200, json.dumps({"Code": code})))
    assert {type(outcome) for outcome in outcomes} == {Rejected}
    other = notice("8613700137000", id=3, text="【Other】x")
    outcomes = vendor().read([ONE, other], reply(200, '{"Code":"isv.SMS_SIGNATURE_ILLEGAL"}'))
    assert outcomes == [None, None]


# -- asking ----------------------------------------------------------------------------------


def details(*rows: dict[str, Any], total: int | None = None) -> str:
    return json.dumps(
        {
            "TotalCount": len(rows) if total is None else total,
            "Message": "OK",
            "Code": "OK",
            "SmsSendDetailDTOs": {"SmsSendDetailDTO": list(rows)},
        }
    )


def record(**more: Any) -> dict[str, Any]:
    return {
        "OutId": "",
        "SendDate": SENT,
        "SendStatus": 3,
        "ReceiveDate": "2027-01-15 16:00:09",
        "ErrCode": "DELIVERED",
        "TemplateCode": CODE.code,
        "Content": "【Acme】…",
        "PhoneNum": "13800138000",
        **more,
    }


def told(
    body: str,
    carrier_id: str = "",
    sent: float = UNIX,
    status: int = 200,
    unsure_s: float = 0.0,
) -> Any:
    (one,) = vendor().told([Asked(ONE, sent, carrier_id, unsure_s)], reply(status, body))
    return one


OURS = reference_of(ONE)


def test_a_record_with_our_reference_is_the_evidence():
    found = told(details(record(OutId="msg_00000000000000ff-1"), record(OutId=OURS)))
    report = Report(7, OURS, "DELIVRD", "", "8613800138000", reference=OURS)
    assert (found.verdict, found.carrier_id, found.report) == (Verdict.ENDED, OURS, report)
    failed = told(details(record(OutId=OURS, SendStatus=2, ErrCode="MOBILE_IN_BLACK")))
    assert (failed.report.state, failed.report.error) == ("UNDELIV", "MOBILE_IN_BLACK")
    waiting = told(details(record(OutId=OURS, SendStatus=1, ErrCode="")))
    assert (waiting.verdict, waiting.carrier_id) == (Verdict.TAKEN, OURS)


def test_the_one_record_that_can_be_a_member_of_a_batch_is_the_evidence():
    assert told(details(record())).verdict is Verdict.ENDED
    assert told(details(record(), record())).verdict is Verdict.SILENT


def test_a_record_of_a_known_request_needs_no_reference():
    carrier_id = f"{BIZ_ID}.0a1b2c3d"
    found = told(details(record(SendDate="2027-01-15 19:00:00")), carrier_id)
    assert (found.verdict, found.carrier_id) == (Verdict.ENDED, carrier_id)
    assert found.report.carrier_id == carrier_id
    assert told(details(), carrier_id).verdict is Verdict.SILENT


def test_absent_is_what_no_record_can_be():
    absent = (
        details(),
        '{"TotalCount":0,"Code":"OK","SmsSendDetailDTOs":{}}',
        details(record(OutId="msg_00000000000000ff-1")),  # somebody else's
        details(record(SendDate="2027-01-15 12:00:00")),  # long before
        details(record(TemplateCode="SMS_OTHER")),
    )
    assert {told(body).verdict for body in absent} == {Verdict.ABSENT}


def test_what_may_have_left_long_before_is_not_absent_for_what_was_sent_then():
    early = details(record(SendDate="2027-01-15 15:57:00"))  # 180 s before
    assert told(early).verdict is Verdict.ABSENT
    assert told(early, unsure_s=150.0).verdict is Verdict.SILENT  # may be another's, too
    ours = details(record(OutId=OURS, SendDate="2027-01-15 15:57:00"))
    assert told(ours, unsure_s=150.0).verdict is Verdict.ENDED
    just = details(record(SendDate="2027-01-15 15:58:30"))
    assert told(just, unsure_s=60.0).verdict is Verdict.ENDED


def test_absence_is_not_told_of_a_part_nor_near_midnight():
    assert told(details(total=51)).verdict is Verdict.SILENT
    midnight = 1_799_942_400.0 + 86_400  # 00:00:00 in UTC+8
    assert told(details(), sent=midnight - 5).verdict is Verdict.SILENT
    assert told(details(), sent=midnight + 200, unsure_s=190.0).verdict is Verdict.SILENT


@pytest.mark.parametrize("body", ["", "[]", '{"Code":"isv.INVALID_PARAMETERS"}', '{"Code":"OK"}'])
def test_an_answer_that_says_nothing_is_silence(body):
    assert told(body).verdict is Verdict.SILENT
    assert told(details(), status=500).verdict is Verdict.SILENT


# -- pushes ----------------------------------------------------------------------------------

PUSH = [
    {
        "phone_number": "13800138000",
        "send_time": "2017-01-01 00:00:00",
        "report_time": "2017-01-01 00:00:00",
        "success": True,
        "err_code": "DELIVERED",
        "err_msg": "用户接收成功",
        "sms_size": "1",
        "biz_id": BIZ_ID,
        "out_id": OURS,
    },
    {
        "phone_number": "13900139000",
        "success": False,
        "err_code": "MOBILE_NOT_ON_SERVICE",
        "biz_id": BIZ_ID,
        "out_id": "67890",
    },
]


def test_a_report_finds_what_was_submitted():
    outcomes = vendor().read([ONE, TWO], reply(200, OK))
    first, second = (one.carrier_id for one in outcomes if isinstance(one, Submitted))
    pushed = vendor().pushed(call(json.dumps(PUSH)))
    assert pushed.reports == (
        Report(7, first, "DELIVRD", "", "8613800138000", reference=OURS),
        Report(7, second, "UNDELIV", "MOBILE_NOT_ON_SERVICE", "8613900139000"),
    )
    assert json.loads(pushed.answer.body) == {"code": 0, "msg": "成功"}


def test_a_text_from_a_phone():
    body = [
        {
            "phone_number": "13800138000",
            "send_time": "2017-09-01 00:00:00",
            "content": "退订 😀",
            "sign_name": "签名",
            "dest_code": "1234",
            "sequence_id": 1234567890,
        }
    ]
    pushed = vendor().pushed(call(json.dumps(body), kind=CallKind.INBOUND))
    wanted = Inbound(7, "8613800138000", "1234", "退订 😀", carrier_id="1234567890")
    assert pushed.texts == (wanted,)


def test_a_push_is_refused_without_the_secret_or_its_form():
    with pytest.raises(CallRefused) as refused:
        vendor().pushed(call(json.dumps(PUSH), url="https://sms.example.com/receipts?secret=no"))
    assert refused.value.status == 401
    for body in ("", "{", "[1]", '"x"', "null"):
        with pytest.raises(CallRefused) as refused:
            vendor().pushed(call(body))
        assert refused.value.status == 400


NAMES = st.sampled_from(
    [
        *("Code", "BizId", "SmsSendDetailDTOs", "SmsSendDetailDTO", "OutId", "SendDate", "success"),
        *("SendStatus", "TotalCount", "phone_number", "biz_id", "content", "Message", "ErrCode"),
    ]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(NAMES | st.text(), inner),
    max_leaves=12,
)
BODIES = st.binary() | JSON.map(lambda value: json.dumps(value).encode())


@given(st.integers(100, 599), BODIES)
@tries(max_examples=100, deadline=None)
def test_reading_never_raises(status, body):
    ours, answer = vendor(), reply(status, body)
    assert len(ours.read([ONE, TWO], answer)) == 2
    assert len(ours.told([Asked(ONE, UNIX)], answer)) == 1
    for kind in CallKind:
        try:
            pushed = ours.pushed(call(body, kind=kind))
        except CallRefused:
            continue
        for text in pushed.texts:
            text.text.encode()


def test_nothing_is_pulled():
    assert vendor().pull(CallKind.RECEIPTS, UNIX, NONCE) is None
    with pytest.raises(RemoteProtocolError):
        vendor().pulled(CallKind.RECEIPTS, reply(200, "{}"))


# -- codes -----------------------------------------------------------------------------------

# help.aliyun.com/document_detail/101346.html and 101347.html, without the codes of APIs that file
# signatures and templates or make short links.
ANSWERS = """
    isv.SMS_SIGNATURE_SCENE_ILLEGAL isv.EXTEND_CODE_ERROR isv.SIGN_STATE_ILLEGAL
    isv.DOMESTIC_NUMBER_NOT_SUPPORTED isv.DENY_IP_RANGE isv.DAY_LIMIT_CONTROL
    isv.MONTH_LIMIT_CONTROL isv.SMS_CONTENT_ILLEGAL isv.SMS_SIGN_ILLEGAL isp.RAM_PERMISSION_DENY
    isv.OUT_OF_SERVICE isv.PRODUCT_UN_SUBSCRIPT isv.PRODUCT_UNSUBSCRIBE isv.ACCOUNT_NOT_EXISTS
    isv.ACCOUNT_ABNORMAL isv.SMS_TEMPLATE_ILLEGAL isv.SMS_SIGNATURE_ILLEGAL isv.INVALID_PARAMETERS
    isp.SYSTEM_ERROR isv.MOBILE_NUMBER_ILLEGAL isv.MOBILE_COUNT_OVER_LIMIT
    isv.TEMPLATE_MISSING_PARAMETERS isv.BUSINESS_LIMIT_CONTROL isv.INVALID_JSON_PARAM
    isv.BLACK_KEY_CONTROL_LIMIT isv.PARAM_LENGTH_LIMIT isv.PARAM_NOT_SUPPORT_URL
    isv.AMOUNT_NOT_ENOUGH isv.TEMPLATE_PARAMS_ILLEGAL SignatureDoesNotMatch InvalidTimeStamp.Expired
    SignatureNonceUsed InvalidVersion InvalidAction.NotFound SIGNATURE_BLACKLIST isp.GATEWAY_ERROR
    isv.CUSTOMER_REFUSED isv.SMS_TEST_SIGN_TEMPLATE_LIMIT template_parameter_count_illegal
    isv.SMS_TEST_TEMPLATE_PARAMS_ILLEGAL isv.SMS_TEST_NUMBER_LIMIT isv.SMS_SIGN_EMOJI_ILLEGAL
    isv.SECURITY_FROZEN_ACCOUNT isv.UNSUPPORTED_CONTENT isv.SMS_CONTENT_MISMATCH_TEMPLATE_TYPE
    isv.ONE_CODE_MULTIPLE_SIGN isv.CODE_EXCEED_LIMIT isv.CODE_ERROR
"""
RECEIPTS = """
    DELIVERED IS_CLOSE PARAMS_ILLEGAL MOBILE_NOT_ON_SERVICE MOBILE_SEND_LIMIT
    MOBILE_ACCOUNT_ABNORMAL MOBILE_IN_BLACK MOBLLE_TERMINAL_ERROR CONTENT_KEYWORD INVALID_NUMBER
    CONTENT_ERROR REQUEST_SUCCESS SP_NOT_BY_INTER_SMS SP_UNKNOWN_ERROR USER_REJECT NO_ROUTE
    SIGNATURE_BLACKLIST PORT_NOT_REGISTERED
"""


def test_every_documented_code_has_a_row():
    codes = Codes("aliyun")
    assert [code for code in ANSWERS.split() if codes.row(code) is None] == []
    assert [code for code in RECEIPTS.split() if code not in codes.reports] == []


@pytest.mark.parametrize(
    ("code", "state", "reason"),
    [
        ("MOBILE_NOT_ON_SERVICE", State.UNDELIVERED, "recipient.absent"),
        ("MOBILE_IN_BLACK", State.UNDELIVERED, "recipient.blocked"),
        ("MOBILE_SEND_LIMIT", State.UNDELIVERED, "carrier.frequency_cap"),
        ("CONTENT_KEYWORD", State.UNDELIVERED, "content.blocked"),
        ("isv.BLACK_KEY_CONTROL_LIMIT", State.UNDELIVERED, "content.blocked"),
        ("REQUEST_SUCCESS", State.UNKNOWN, "carrier.unknown_outcome"),
        ("MK:0001", State.UNDELIVERED, "recipient.invalid"),
    ],
)
def test_a_receipts_code_means(code, state, reason):
    verdict = ReportCodes("aliyun", aliyun.REPORTS).judge("UNDELIV", code)
    assert (verdict.state, verdict.reason) == (state, reason)


# -- settings --------------------------------------------------------------------------------


def test_everything_wrong_is_named_at_once():
    wrong = aliyun.validate(
        {
            "access_key_id": 1,
            "region": "mars-1",
            "sign_name": "【阿里云】",
            "max_batch": 101,
            "acces_key_secret": "x",
        }
    )
    assert [pointer for pointer, _ in wrong] == [
        *("/access_key_secret", "/access_key_id", "/region", "/sign_name", "/max_batch"),
        *("/acces_key_secret", "/callback_secret"),
    ]
    assert "did you mean `access_key_secret`" in dict(wrong)["/acces_key_secret"]
    with pytest.raises(ConfigError, match="access_key_secret"):
        aliyun.make(channel("aliyun", {"access_key_id": "x"}))


def test_traits():
    assert aliyun.TRAITS.batch == 100
    assert aliyun.TRAITS.demands_template
    assert aliyun.TRAITS.inherent == {"adds_signature": True}
    assert aliyun.TRAITS.absent_after_s is None
