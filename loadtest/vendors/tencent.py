"""Tencent Cloud SMS (2021-01-11): JSON signed with TC3-HMAC-SHA256; pushes and pulls.

Signature: https://cloud.tencent.com/document/api/382/52072 (API 3.0, signature method v3)
Forms: SendSms https://cloud.tencent.com/document/api/382/55981, the pulls 59778 and 59779, the
pushes https://cloud.tencent.com/document/product/382/59178 and 59179. The record shows
`【SignName】TemplateId [parameters]`.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from loadtest.vendors.aliyun import local
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
    json_of,
)

VERSION: Final = "2021-01-11"
ALGORITHM: Final = "TC3-HMAC-SHA256"
SERVICE: Final = "sms"
CLOCK_S: Final = 300  # how far X-TC-Timestamp may be away
MOST: Final = 200  # numbers of a SendSms
_PULLED: Final = 100
_WORD: Final = {End.WAITING: "ACCEPTD", End.GOOD: "DELIVRD", End.BAD: "UNDELIV"}


def _say(told: Mapping[str, object]) -> Answer:
    return Answer(200, encode({"Response": {**told, "RequestId": f"{time.time_ns():032x}"}}))


def _error(code: str, message: str) -> Answer:
    return _say({"Error": {"Code": code, "Message": message}})


def _hmac(key: bytes, text: str) -> bytes:
    return hmac.new(key, text.encode(), hashlib.sha256).digest()


def signature(asked: Asked, names: str, scope: str, secret: str) -> str:
    """What the Authorization header's Signature has to be; `scope` is date/service/tc3_request."""
    headers = "".join(
        f"{name}:{asked.headers.get(name, '').strip().lower()}\n" for name in names.split(";")
    )
    body_hash = hashlib.sha256(asked.body).hexdigest()
    canonical = "\n".join((asked.method, asked.path, asked.query, headers, names, body_hash))
    told = "\n".join(
        (
            ALGORITHM,
            asked.headers.get("x-tc-timestamp", ""),
            scope,
            hashlib.sha256(canonical.encode()).hexdigest(),
        )
    )
    key = f"TC3{secret}".encode()
    for part in scope.split("/"):
        key = _hmac(key, part)
    return _hmac(key, told).hex()


class Tencent(Shape):
    """An account: SecretId and SecretKey."""

    push_most = 100

    def __init__(self, account: str, secret: str) -> None:
        super().__init__(account, secret)
        self._prefix = f"{time.time_ns() // 1_000_000_000}"

    def read(self, asked: Asked, ledger: Ledger, now: float) -> Sending | Answer:
        """SendSms, and the pulls."""
        wrong = self._wrong(asked, now) if self.secret else None
        if wrong is not None:
            return wrong
        body = json_of(asked.body)
        most = min(int(body.get("Limit", _PULLED)), _PULLED)
        match asked.headers.get("x-tc-action"):
            case "SendSms":
                return _sending(body)
            case "PullSmsSendStatus":
                ended = ledger.pull_receipts(most)
                return _say({"PullSmsSendStatusSet": [_pulled(kept) for kept in ended]})
            case "PullSmsReplyStatus":
                texts = ledger.pull_texts(most)
                return _say({"PullSmsReplyStatusSet": [_pulled_text(text) for text in texts]})
            case "PullSmsSendStatusByPhoneNumber":
                return _by_number(body, ledger)
            case _:
                return _error("InvalidAction", "The request action is not found.")

    def _wrong(self, asked: Asked, now: float) -> Answer | None:
        headers = asked.headers
        algorithm, _, rest = headers.get("authorization", "").partition(" ")
        parts = dict(part.strip().partition("=")[::2] for part in rest.split(","))
        account, _, scope = parts.get("Credential", "").partition("/")
        if algorithm != ALGORITHM or account != self.account:
            return _error("AuthFailure.SecretIdNotFound", "The SecretId is not found.")
        stamp = headers.get("x-tc-timestamp", "")
        if not stamp.isdecimal() or abs(int(stamp) - now) > CLOCK_S:
            return _error("AuthFailure.SignatureExpire", "The request is expired.")
        day = datetime.fromtimestamp(int(stamp), UTC).strftime("%Y-%m-%d")
        names = parts.get("SignedHeaders", "")
        good = signature(asked, names, scope, self.secret)
        is_whole = {"content-type", "host"} <= set(names.split(";"))
        if (
            not is_whole
            or scope != f"{day}/{SERVICE}/tc3_request"
            or not hmac.compare_digest(good, parts.get("Signature", ""))
        ):
            return _error("AuthFailure.SignatureFailure", "The provided credentials do not match.")
        if headers.get("x-tc-version") != VERSION:
            return _error("NoSuchVersion", "The version does not exist.")
        return None

    def ids(self, sending: Sequence[Text], first: int, at: float) -> list[str]:
        """`app:` and a number."""
        return [f"2640:{self._prefix}{first + place:015d}" for place in range(len(sending))]

    def taken(self, sending: Sending, ids: Sequence[str], at: float) -> Answer:
        """A verdict per number."""
        told = [
            {
                "SerialNo": one,
                "PhoneNumber": f"+{text.to}",
                "Fee": 1 if one else 0,
                "SessionContext": text.reference,
                "Code": "Ok" if one else "FailedOperation.InsufficientBalanceInSmsPackage",
                "Message": "send success" if one else "insufficient balance in SMS package",
                "IsoCode": "CN" if text.to.startswith("86") else "",
            }
            for text, one in zip(sending.texts, ids, strict=True)
        ]
        return _say({"SendStatusSet": told})

    def throttled(self) -> Answer:
        """The interface's flow control, with status 200 as everything of Tencent."""
        return _error("RequestLimitExceeded", "Your current request times exceed the limit.")

    def refused(self, status: int) -> Answer:
        """4xx."""
        body = _error("InvalidParameter", "The parameter is wrong.").body
        return Answer(status, body)

    def broken(self, status: int) -> Answer:
        """5xx that says so."""
        body = _error("ServiceUnavailable", "The service is unavailable; nothing was sent.").body
        return Answer(status, body)

    def receipts(self, kept: Sequence[Kept], url: str) -> Push:
        """An array."""
        told = [
            {
                "user_receive_time": local(one.done_at or one.at),
                "nationcode": _parts(one.text.to)[0],
                "mobile": _parts(one.text.to)[1],
                "report_status": "SUCCESS" if one.end is End.GOOD else "FAIL",
                "errmsg": _WORD[one.end],
                "description": _WORD[one.end],
                "sid": one.carrier_id,
                "ext": one.text.reference,
            }
            for one in kept
        ]
        return Push(url, encode(told))

    def inbound(self, text: Brought, url: str) -> Push:
        """One object."""
        country, number = _parts(text.phone.number)
        told = {
            "extend": text.phone.to,
            "mobile": number,
            "nationcode": country,
            "sign": "",
            "text": text.phone.text,
            "time": int(text.at),
        }
        return Push(url, encode(told))

    def is_heard(self, status: int, body: bytes) -> bool:
        """`{"result": 0}`: anything else is pushed again."""
        return status == 200 and json_of(body).get("result") == 0


def _parts(number: str) -> tuple[str, str]:
    """Country code and the rest: mainland, North America, or two digits."""
    size = 1 if number.startswith("1") else 2
    return number[:size], number[size:]


def _sending(body: Mapping[str, Any]) -> Sending | Answer:
    for name in ("PhoneNumberSet", "SmsSdkAppId", "TemplateId"):
        if not body.get(name):
            return _error(
                "MissingParameter", f"The request is missing a required parameter `{name}`."
            )
    numbers = body["PhoneNumberSet"]
    if not isinstance(numbers, list) or len(numbers) > MOST:
        return _error("LimitExceeded.PhoneNumberCountLimit", "at most 200 numbers")
    values = body.get("TemplateParamSet") or []
    if not all(isinstance(value, str) for value in values):
        return _error("InvalidParameter", "TemplateParamSet holds strings.")
    shown = f"【{body.get('SignName', '')}】{body['TemplateId']} {encode(values).decode()}"
    sender = body.get("ExtendCode") or body.get("SenderId") or ""
    context = body.get("SessionContext") or ""
    return Sending([Text(_e164(number), sender, shown, context) for number in numbers])


def _e164(number: str) -> str:
    plain = digits(number)
    is_domestic = len(plain) == 11 and plain.startswith("1") and not number.startswith("+")
    return f"86{plain}" if is_domestic else plain


def _pulled(kept: Kept) -> dict[str, Any]:
    country, number = _parts(kept.text.to)
    return {
        "UserReceiveTime": int(kept.done_at or kept.at),
        "CountryCode": country,
        "SubscriberNumber": number,
        "PhoneNumber": f"+{kept.text.to}",
        "SerialNo": kept.carrier_id,
        "ReportStatus": "SUCCESS" if kept.end is End.GOOD else "FAIL",
        "Description": _WORD[kept.end],
        "SessionContext": kept.text.reference,
    }


def _pulled_text(text: Brought) -> dict[str, Any]:
    country, number = _parts(text.phone.number)
    return {
        "ExtendCode": text.phone.to,
        "CountryCode": country,
        "SubscriberNumber": number,
        "PhoneNumber": f"+{text.phone.number}",
        "SignName": "",
        "ReplyContent": text.phone.text,
        "ReplyTime": int(text.at),
    }


def _by_number(body: Mapping[str, Any], ledger: Ledger) -> Answer:
    """Of texts that came to an end, as the pull tells them."""
    begin, end = body.get("BeginTime", 0), body.get("EndTime") or float("inf")
    found = [
        kept
        for kept in ledger.found(_e164(str(body.get("PhoneNumber", ""))), 10_000)
        if kept.end is not End.WAITING and begin <= kept.at <= end
    ]
    first, most = int(body.get("Offset", 0)), min(int(body.get("Limit", _PULLED)), _PULLED)
    shown = [_pulled(kept) for kept in found[first : first + most]]
    return _say({"PullSmsSendStatusSet": shown})
