"""Aliyun SMS (Dysmsapi 2017-05-25): RPC calls signed with ACS3-HMAC-SHA256; pushes over HTTP.

Signature: https://help.aliyun.com/zh/sdk/product-overview/v3-request-structure-and-signature
Forms: https://help.aliyun.com/zh/sms/developer-reference/api-dysmsapi-2017-05-25-sendsms and the
pages of SendBatchSms, QuerySendDetails, SmsReport and SmsUp. Texts are templates: the record shows
`【SignName】TemplateCode {parameters}`.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta, timezone
from typing import Any, Final
from urllib.parse import parse_qsl, quote

from loadtest.vendors.http import Answer, Asked
from loadtest.vendors.shape import (
    Brought,
    End,
    Kept,
    Ledger,
    Push,
    Sending,
    Shape,
    Text,
    digits,
    encode,
    form_of,
    json_of,
    utc,
)

VERSION: Final = "2017-05-25"
ALGORITHM: Final = "ACS3-HMAC-SHA256"
CLOCK_S: Final = 900  # how far x-acs-date may be away
NONCES: Final = 100_000  # that are remembered
CHINA: Final = timezone(timedelta(hours=8))
MOST: Final = 100  # numbers of a SendBatchSms
_STATUS: Final = {End.WAITING: 1, End.GOOD: 3, End.BAD: 2}
_CODE: Final = {End.WAITING: "", End.GOOD: "DELIVERED", End.BAD: "MK:0001"}


def local(at: float) -> str:
    """`2026-11-22 09:30:00`, China's time."""
    return datetime.fromtimestamp(at, CHINA).strftime("%Y-%m-%d %H:%M:%S")


def _say(status: int, code: str, message: str, **more: object) -> Answer:
    request_id = f"{time.time_ns():032X}"
    return Answer(
        status, encode({"Code": code, "Message": message, "RequestId": request_id} | more)
    )


def canonical_query(query: str) -> str:
    """Decoded, sorted by name and encoded again by RFC 3986."""
    pairs = sorted(parse_qsl(query, keep_blank_values=True))
    return "&".join(f"{quote(name, safe='~')}={quote(value, safe='~')}" for name, value in pairs)


def signature(asked: Asked, names: str, body_hash: str, secret: str) -> str:
    """What the Authorization header's Signature has to be."""
    headers = "".join(
        f"{name}:{asked.headers.get(name, '').strip()}\n" for name in names.split(";")
    )
    canonical = "\n".join(
        (asked.method, asked.path, canonical_query(asked.query), headers, names, body_hash)
    )
    told = f"{ALGORITHM}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    return hmac.new(secret.encode(), told.encode(), hashlib.sha256).hexdigest()


class Aliyun(Shape):
    """An account: AccessKeyId and AccessKeySecret."""

    push_most = 100
    has_one_verdict = True

    def __init__(self, account: str, secret: str) -> None:
        super().__init__(account, secret)
        self._prefix = f"{time.time_ns() // 1_000_000:013d}"
        self._nonces: dict[str, None] = {}

    def read(self, asked: Asked, ledger: Ledger, now: float) -> Sending | Answer:
        """SendSms, SendBatchSms, QuerySendDetails."""
        wrong = self._wrong(asked, now) if self.secret else None
        if wrong is not None:
            return wrong
        fields = dict(parse_qsl(asked.query, keep_blank_values=True)) | form_of(asked.body)
        match asked.headers.get("x-acs-action"):
            case "SendSms":
                return self._single(fields)
            case "SendBatchSms":
                return self._batch(fields)
            case "QuerySendDetails":
                return _details(fields, ledger)
            case _:
                return _say(404, "InvalidAction.NotFound", "Specified api is not found.")

    def _wrong(self, asked: Asked, now: float) -> Answer | None:
        headers = asked.headers
        algorithm, _, rest = headers.get("authorization", "").partition(" ")
        parts = dict(part.partition("=")[::2] for part in rest.split(","))
        if algorithm != ALGORITHM or parts.get("Credential") != self.account:
            return _say(404, "InvalidAccessKeyId.NotFound", "Specified access key is not found.")
        names = parts.get("SignedHeaders", "")
        needed = {"host", "x-acs-action", "x-acs-content-sha256", "x-acs-date", "x-acs-version"}
        if not needed | {"x-acs-signature-nonce"} <= set(names.split(";")):
            return _say(400, "IncompleteSignature", "Headers that have to be signed are not.")
        body_hash = hashlib.sha256(asked.body).hexdigest()
        good = signature(asked, names, body_hash, self.secret)
        if headers.get("x-acs-content-sha256") != body_hash or not hmac.compare_digest(
            good, parts.get("Signature", "")
        ):
            return _say(400, "SignatureDoesNotMatch", "Specified signature is not matched.")
        if headers.get("x-acs-version") != VERSION:
            return _say(400, "InvalidVersion", "Specified parameter Version is not valid.")
        return self._stale(headers, now)

    def _stale(self, headers: Mapping[str, str], now: float) -> Answer | None:
        try:
            date = utc(headers["x-acs-date"], "%Y-%m-%dT%H:%M:%SZ")
        except ValueError:
            return _say(400, "InvalidTimeStamp.Format", "x-acs-date is not a date.")
        if abs(date - now) > CLOCK_S:
            return _say(400, "InvalidTimeStamp.Expired", "Specified time stamp is expired.")
        nonce = headers["x-acs-signature-nonce"]
        if nonce in self._nonces:
            return _say(400, "SignatureNonceUsed", "Specified signature nonce was used already.")
        self._nonces[nonce] = None
        if len(self._nonces) > NONCES:
            del self._nonces[next(iter(self._nonces))]
        return None

    def _single(self, fields: Mapping[str, str]) -> Sending | Answer:
        missing = [n for n in ("PhoneNumbers", "SignName", "TemplateCode") if not fields.get(n)]
        if missing:
            return _say(400, f"Missing{missing[0]}", f"{missing[0]} is mandatory for this action.")
        shown = _shown(
            fields["SignName"], fields["TemplateCode"], fields.get("TemplateParam", "{}")
        )
        sender = fields.get("SmsUpExtendCode", "")
        reference = fields.get("OutId", "")
        numbers = fields["PhoneNumbers"].split(",")
        return Sending([Text(_e164(number), sender, shown, reference) for number in numbers])

    def _batch(self, fields: Mapping[str, str]) -> Sending | Answer:
        try:
            numbers, signs = (json.loads(fields[n]) for n in ("PhoneNumberJson", "SignNameJson"))
            parameters = json.loads(fields.get("TemplateParamJson", "[]")) or [{}] * len(numbers)
            code = fields["TemplateCode"]
        except (KeyError, ValueError) as error:
            return _say(400, "MissingParameter", str(error))
        if not len(numbers) == len(signs) == len(parameters) <= MOST:
            return _say(200, "isv.PARAM_LENGTH_LIMIT", "lists of one length, at most 100 long")
        reference = fields.get("OutId", "")
        texts = [
            Text(_e164(number), "", _shown(sign, code, values), reference)
            for number, sign, values in zip(numbers, signs, parameters, strict=True)
        ]
        return Sending(texts)

    def ids(self, sending: Sequence[Text], first: int, at: float) -> list[str]:
        """One BizId for the whole request."""
        return [f"{self._prefix}{first:08d}^0"] * len(sending)

    def taken(self, sending: Sending, ids: Sequence[str], at: float) -> Answer:
        """All or nothing: Aliyun has one verdict for a request."""
        if "" in ids:
            return _say(200, "isp.SYSTEM_ERROR", "系统错误")
        return _say(200, "OK", "OK", BizId=ids[0])

    def throttled(self) -> Answer:
        """The account's flow control."""
        return _say(400, "Throttling.User", "Request was denied due to user flow control.")

    def refused(self, status: int) -> Answer:
        """4xx."""
        return _say(status, "isv.INVALID_PARAMETERS", "参数异常")

    def broken(self, status: int) -> Answer:
        """5xx that says so."""
        return _say(
            status, "ServiceUnavailable", "The request has failed due to a temporary failure."
        )

    def receipts(self, kept: Sequence[Kept], url: str) -> Push:
        """SmsReport: an array."""
        told = [
            {
                "phone_number": _domestic(one.text.to),
                "send_time": local(one.at),
                "report_time": local(one.done_at or one.at),
                "success": one.end is End.GOOD,
                "err_code": _CODE[one.end],
                "err_msg": "用户接收成功" if one.end is End.GOOD else "用户接收失败",
                "sms_size": "1",
                "biz_id": one.carrier_id,
                "out_id": one.text.reference,
            }
            for one in kept
        ]
        return Push(url, encode(told))

    def inbound(self, text: Brought, url: str) -> Push:
        """SmsUp: an array of one."""
        told = {
            "phone_number": _domestic(text.phone.number),
            "send_time": local(text.at),
            "content": text.phone.text,
            "sign_name": "",
            "dest_code": text.phone.to,
            "sequence_id": text.number,
        }
        return Push(url, encode([told]))

    def is_heard(self, status: int, body: bytes) -> bool:
        """`{"code": 0}`: anything else is pushed again."""
        return status == 200 and json_of(body).get("code") == 0


def _shown(sign: str, code: str, parameters: object) -> str:
    values = (
        parameters if isinstance(parameters, str) else json.dumps(parameters, ensure_ascii=False)
    )
    return f"【{sign}】{code} {values}"


def _e164(number: str) -> str:
    """Aliyun takes mainland numbers without their 86."""
    plain = digits(number)
    return f"86{plain}" if len(plain) == 11 and plain.startswith("1") else plain


def _domestic(number: str) -> str:
    return number[2:] if number.startswith("86") and len(number) == 13 else number


def _details(fields: Mapping[str, str], ledger: Ledger) -> Answer:
    number, day = _e164(fields.get("PhoneNumber", "")), fields.get("SendDate", "")
    size, page = int(fields.get("PageSize", 10)), int(fields.get("CurrentPage", 1))
    found = [
        kept
        for kept in ledger.found(number, MOST * size)
        if datetime.fromtimestamp(kept.at, CHINA).strftime("%Y%m%d") == day
        and fields.get("BizId", kept.carrier_id) == kept.carrier_id
    ]
    shown = [_detail(kept) for kept in found[(page - 1) * size : page * size]]
    told: dict[str, Any] = {"SmsSendDetailDTO": shown}
    return _say(200, "OK", "OK", TotalCount=str(len(found)), SmsSendDetailDTOs=told)


def _detail(kept: Kept) -> dict[str, Any]:
    told = {
        "ErrCode": _CODE[kept.end],
        "TemplateCode": kept.text.text.partition("】")[2].partition(" ")[0],
        "OutId": kept.text.reference,
        "ReceiveDate": local(kept.done_at) if kept.done_at else "",
        "SendDate": local(kept.at),
        "PhoneNum": _domestic(kept.text.to),
        "Content": kept.text.text,
        "SendStatus": _STATUS[kept.end],
    }
    return {name: value for name, value in told.items() if value != ""}
