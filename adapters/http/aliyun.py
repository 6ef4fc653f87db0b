"""Aliyun's Short Message Service (Dysmsapi, 2017-05-25) as a vendor; docs/vendors-aliyun.md.

    one text, every login code   SendSms       OutId = our reference, which the receipt echoes
    up to 100 of one template    SendBatchSms  one answer for all: taken together or not at all
    a lost answer, a late end    QuerySendDetails, by number and day
    receipts, texts from phones  SmsReport and SmsUp, JSON arrays that nobody signs

A receipt names its request (BizId) and a number, never the message. So a carrier id here is the
BizId and a digest of the number, from both sides alike. When a batch is refused for what may be one
member's fault alone, nobody knows whose: its members go again, apart (`reading.refused`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from adapters.checks import Check, integer, string
from adapters.http import settings
from adapters.http.acs3 import Acs3
from adapters.http.callback import require_secret
from adapters.http.clouds import (
    TOO_MANY,
    brand_of,
    day_of,
    endpoint_of,
    extension_of,
    filled_of,
    local_of,
    pushed_objects,
    region,
    said,
    sign_name,
    uncertain,
    unix_of,
)
from adapters.http.reading import (
    Codes,
    Json,
    fields,
    json_of,
    listed,
    refused,
    text_in,
    too_fast,
    word,
)
from adapters.http.settings import HttpSettings
from adapters.http.vendor import (
    Asked,
    Call,
    CallKind,
    Pushed,
    Reply,
    Request,
    Told,
    Traits,
    Verdict,
    reference_of,
)
from sms import config
from sms.attempts import parse_reference
from sms.errors import CannotSend, ConfigError, RemoteProtocolError
from sms.model import Inbound, MessageClass, Report, Submit
from sms.numbers import phone_of
from sms.outcomes import Outcome, Rejected, Submitted

VERSION: Final = "2017-05-25"
MAX_BATCH: Final = 100  # numbers of one SendBatchSms
SOURCE: Final = "Aliyun"
# Regions and their endpoints, as the vendor's SDK 4.6.0 has them.
_CENTRAL: Final = "dysmsapi.aliyuncs.com"
ENDPOINTS: Final[Mapping[str, str]] = {
    "ap-southeast-1": "dysmsapi.ap-southeast-1.aliyuncs.com",
    "ap-southeast-5": "dysmsapi.ap-southeast-5.aliyuncs.com",
    "cn-beijing": "dysmsapi-proxy.cn-beijing.aliyuncs.com",
    "cn-hongkong": "dysmsapi-xman.cn-hongkong.aliyuncs.com",
    "eu-central-1": "dysmsapi.eu-central-1.aliyuncs.com",
    "us-east-1": "dysmsapi.us-east-1.aliyuncs.com",
    **dict.fromkeys(
        (
            *("cn-zhangjiakou", "cn-shenzhen-finance-1", "cn-shenzhen", "cn-shanghai-finance-1"),
            *("cn-qingdao", "cn-north-2-gov-1", "cn-huhehaote", "cn-hangzhou-finance"),
            *("cn-hangzhou", "cn-chengdu", "cn-beijing-finance-1"),
        ),
        _CENTRAL,
    ),
}
TRAITS: Final = Traits(
    batch=MAX_BATCH, demands_template=True, asks=True, inherent={"adds_signature": True}
)
_CODES: Final = Codes("aliyun")
REPORTS: Final = _CODES.reports
_CLASSES = REPORTS

_OK: Final = "OK"
_ANSWER: Final = said({"code": 0, "msg": "成功"})
_PAGE: Final = 50  # records of one answer to QuerySendDetails, the most
_EARLY_S, _LATE_S = 60.0, 120.0  # how far SendDate may lie from the moment our request left
_WAITING, _FAILED, _DELIVERED = "1", "2", "3"  # SendStatus
# What is wrong with the template itself, which all of a batch have in common, not with values.
_OF_TEMPLATE: Final = frozenset({"isv.SMS_TEMPLATE_ILLEGAL", "TemplateNotFound"})
_REQUIRED: Final = ("access_key_id", "access_key_secret")
_CHECKS: Final[Mapping[str, Check]] = {
    "access_key_id": string(1, 128, SOURCE),
    "access_key_secret": string(1, 128, SOURCE),
    "region": region(ENDPOINTS),
    "sign_name": sign_name,
    "max_batch": integer(1, MAX_BATCH),
}


@dataclass(frozen=True, slots=True)
class AliyunSettings:
    """One channel's settings, checked."""

    access_key_id: str
    access_key_secret: str = field(repr=False)
    region: str = "cn-hangzhou"
    sign_name: str = ""  # "" = the brand in front of each text


def validate(raw: Mapping[str, object]) -> list[tuple[str, str]]:
    """Everything wrong with a channel's settings: (JSON pointer, what to do)."""
    return settings.find_wrong(raw, _CHECKS, _REQUIRED, "an Aliyun channel")


def make(channel: config.Channel) -> Aliyun:
    """The vendor of one channel; ConfigError naming the first wrong setting."""
    wrong = validate(channel.settings)
    if wrong:
        pointer, detail = wrong[0]
        raise ConfigError(f"Aliyun setting {pointer}: {detail}")
    names = ("access_key_id", "access_key_secret", "region", "sign_name")
    own = {name: channel.settings[name] for name in names if name in channel.settings}
    return Aliyun(channel.id, AliyunSettings(**own), settings.parse(channel.settings))


class Aliyun:
    """One Aliyun account."""

    def __init__(self, channel: int, own: AliyunSettings, common: HttpSettings) -> None:
        self.traits = TRAITS
        self._channel = channel
        self._sign_name = own.sign_name
        self._common = common
        self.endpoint = common.url or f"https://{ENDPOINTS[own.region]}"
        host, path = endpoint_of(self.endpoint)
        if path == "/":
            self.endpoint = self.endpoint.rstrip("/") + path
        self._signer = Acs3(own.access_key_id, own.access_key_secret, VERSION, host, path)

    # -- sending -----------------------------------------------------------------------------

    def together(self, submit: Submit) -> Hashable:
        """One template for all; login codes go alone."""
        message = submit.message
        if message.message_class is MessageClass.OTP:
            return message.id, submit.segment, submit.copy
        return submit.filled.code if submit.filled else ""

    def send(self, submits: Sequence[Submit], unix: float, nonce: str) -> Request:
        """SendSms for one, SendBatchSms for several."""
        if len(submits) == 1:
            return self._call("SendSms", self._single(submits[0]), {}, unix, nonce)
        query = {"TemplateCode": filled_of(submits[0]).code}
        return self._call("SendBatchSms", query, self._batch(submits), unix, nonce)

    def read(self, submits: Sequence[Submit], reply: Reply) -> Sequence[Outcome | None]:
        """One answer for all of them."""
        if reply.status == TOO_MANY:
            return [too_fast(reply, str(TOO_MANY)) for _ in submits]
        answer = fields(json_of(reply.body))
        code = word(answer.get("Code"))
        if code == _OK:
            biz_id = word(answer.get("BizId"))
            if not biz_id or reply.status >= 300:
                return uncertain(len(submits))
            return [Submitted(_carrier_id(biz_id, submit.number)) for submit in submits]
        outcome = _CODES.outcome(code, reply)
        return refused(submits, outcome, is_shared=self._is_shared(submits, outcome))

    def _is_shared(self, submits: Sequence[Submit], outcome: Outcome) -> bool:
        """Whether what they were refused for is the same for all of them."""
        if not isinstance(outcome, Rejected):
            return False
        if outcome.reason == "content.signature":
            return len({self._brand(submit) for submit in submits}) == 1
        return outcome.code in _OF_TEMPLATE

    def _single(self, submit: Submit) -> dict[str, str]:
        filled = filled_of(submit)
        query = {
            "OutId": reference_of(submit),
            "PhoneNumbers": local_of(submit.number),
            "SignName": self._brand(submit),
            "TemplateCode": filled.code,
        }
        if submit.sender:
            query["SmsUpExtendCode"] = extension_of(submit)
        if filled.values:
            query["TemplateParam"] = _json(dict(filled.values))
        return query

    def _batch(self, submits: Sequence[Submit]) -> dict[str, str]:
        values = [dict(filled_of(submit).values) for submit in submits]
        body = {
            "PhoneNumberJson": _json([local_of(submit.number) for submit in submits]),
            "SignNameJson": _json([self._brand(submit) for submit in submits]),
        }
        if any(submit.sender for submit in submits):
            body["SmsUpExtendCodeJson"] = _json([extension_of(submit) for submit in submits])
        if any(values):
            body["TemplateParamJson"] = _json(values)
        return body

    def _brand(self, submit: Submit) -> str:
        brand = self._sign_name or brand_of(submit)
        if not brand:
            raise CannotSend("no-signature", "content.signature", is_channel=True)
        return brand

    def _call(
        self, action: str, query: dict[str, str], body: dict[str, str], unix: float, nonce: str
    ) -> Request:
        return self._signer.request(action, self.endpoint, (query, body), unix, nonce)

    # -- asking ------------------------------------------------------------------------------

    def question(self, asked: Sequence[Asked], unix: float, nonce: str) -> Request:
        """The records of its number on the day it left; of its request alone where that is known.

        One per request, as the vendor takes one number.
        """
        one = asked[0]
        query = {
            "CurrentPage": "1",
            "PageSize": str(_PAGE),
            "PhoneNumber": local_of(one.submit.number),
            "SendDate": day_of(one.sent_unix),
        }
        biz_id = _biz_id(one.carrier_id)
        if biz_id:
            query["BizId"] = biz_id
        return self._call("QuerySendDetails", query, {}, unix, nonce)

    def told(self, asked: Sequence[Asked], reply: Reply) -> list[Told]:
        """What its records say; silence where they do not name it surely."""
        silent = [Told(Verdict.SILENT) for _ in asked]
        answer = fields(json_of(reply.body))
        if reply.status >= 300 or word(answer.get("Code")) != _OK or len(asked) != 1:
            return silent
        held = answer.get("SmsSendDetailDTOs")
        # Without a record some answers leave the list, or what holds it, out.
        rows = listed(fields(held).get("SmsSendDetailDTO")) if held is not None else []
        one = asked[0]
        row = _record_of(one, rows)
        if row is not None:
            return [self._told(one, row)]
        total = word(answer.get("TotalCount"))
        is_whole = total == str(len(rows)) and _is_one_day(one)
        if one.carrier_id or not is_whole or _candidates(one, rows):
            return silent
        return [Told(Verdict.ABSENT)]

    def _told(self, one: Asked, row: Json) -> Told:
        # The records do not hold the BizId; our own word stands for it, as the receipt echoes that.
        carrier_id = one.carrier_id or reference_of(one.submit)
        status = word(row.get("SendStatus"))
        if status not in (_FAILED, _DELIVERED):
            return Told(Verdict.TAKEN if status == _WAITING else Verdict.SILENT, carrier_id)
        report = self._report(status == _DELIVERED, row.get("ErrCode"), row.get("OutId"))
        report.carrier_id = carrier_id
        report.number = one.submit.number
        return Told(Verdict.ENDED, carrier_id, report)

    # -- what the vendor brings --------------------------------------------------------------

    def pull(self, kind: CallKind, unix: float, nonce: str) -> Request | None:
        """Nothing is pulled: Aliyun's queues are another service (MNS)."""
        return None

    def pulled(self, kind: CallKind, reply: Reply) -> Pushed:
        """Nothing was asked for."""
        raise RemoteProtocolError("an answer to a pull that Aliyun channels never make")

    def pushed(self, call: Call) -> Pushed:
        """SmsReport or SmsUp, by the address that was called."""
        require_secret(self._common, call)
        found = pushed_objects(call.body)
        if call.kind is CallKind.INBOUND:
            return Pushed(texts=tuple(self._text(one) for one in found), answer=_ANSWER)
        reports = tuple(self._receipt(one) for one in found)
        return Pushed(reports=reports, answer=_ANSWER)

    def _receipt(self, one: Json) -> Report:
        code = word(one.get("err_code"))
        success = one.get("success")
        is_good = success is True or (success is None and REPORTS.get(code) == "delivered")
        report = self._report(is_good, code, one.get("out_id"))
        phone = word(one.get("phone_number"))
        biz_id = word(one.get("biz_id"))
        report.carrier_id = _carrier_id(biz_id, phone) if biz_id and phone else ""
        report.number = phone_of(phone, is_mainland=True)
        return report

    def _report(self, is_delivered: bool, code: object, reference: object) -> Report:
        """The vendor's word beside SMPP's: what its words mean says REPORTS."""
        state, error = ("DELIVRD", "") if is_delivered else ("UNDELIV", word(code))
        found = word(reference)
        is_ours = parse_reference(found) is not None  # an account may be used by others, too
        return Report(self._channel, "", state, error, "", reference=found if is_ours else "")

    def _text(self, one: Json) -> Inbound:
        number = phone_of(word(one.get("phone_number")), is_mainland=True)
        to = word(one.get("dest_code"))
        sequence = word(one.get("sequence_id"))
        return Inbound(self._channel, number, to, text_in(one.get("content")), carrier_id=sequence)


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _carrier_id(biz_id: str, number: str) -> str:
    """BizId and a digest of the number: one BizId stands for a whole batch."""
    digest = hashlib.blake2b(local_of(number).encode(), digest_size=4).hexdigest()
    return f"{biz_id}.{digest}"


def _biz_id(carrier_id: str) -> str:
    """The BizId within a carrier id; "" when that is our own reference, or none."""
    biz_id, dot, _ = carrier_id.rpartition(".")
    return biz_id if dot else ""


def _record_of(one: Asked, rows: Sequence[Json]) -> Json | None:
    """Its record: by our reference, by its request, or as the only one that can be it."""
    reference = reference_of(one.submit)
    for row in rows:
        if word(row.get("OutId")) == reference:
            return row
    if _biz_id(one.carrier_id):
        found = list(rows)
    elif one.unsure_s <= _EARLY_S:
        found = _candidates(one, rows)
    else:
        return None  # over a longer time the only one may well be another message's
    return found[0] if len(found) == 1 else None


def _candidates(one: Asked, rows: Sequence[Json]) -> list[Json]:
    """Records of the number that may be of a member of a batch, which has no reference.

    No other reference claims them; they were sent when ours was, and by our template where that is
    still known (RELIABILITY section 5: exactly one candidate is evidence).
    """
    return [row for row in rows if not word(row.get("OutId")) and _is_near(one, row)]


def _is_near(one: Asked, row: Json) -> bool:
    """Whether a record may be of this submit, by its template and the moment it was sent."""
    filled = one.submit.filled
    code = word(row.get("TemplateCode"))
    if filled is not None and code and code != filled.code:
        return False
    sent = unix_of(row.get("SendDate"))
    return sent is None or one.since_unix - _EARLY_S <= sent <= one.sent_unix + _LATE_S


def _is_one_day(one: Asked) -> bool:
    """Whether the vendor's clock, too, had the day that was asked for."""
    return day_of(one.since_unix - _EARLY_S) == day_of(one.sent_unix + _LATE_S)
