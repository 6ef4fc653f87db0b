"""Huawei Cloud SMS: batchSendSms (form) and batchSendDiffSms (JSON); receipts as forms.

Forms and X-WSSE: https://support.huaweicloud.com/api-msgsms/sms_05_0001.html and 0002; the pushes
0003 and 0004. AK/SK requests (SDK-HMAC-SHA256) as https://support.huaweicloud.com/devg-apisign/.
The record shows `【signature】templateId [parameters]`.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import quote, unquote, urlencode

import msgspec

from loadtest.vendors.aliyun import canonical_query
from loadtest.vendors.http import Answer, Asked
from loadtest.vendors.shape import (
    FORM,
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

ALIKE: Final = "/sms/batchSendSms/v1"
DIFFERENT: Final = "/sms/batchSendDiffSms/v1"
ALGORITHM: Final = "SDK-HMAC-SHA256"
WSSE: Final = 'WSSE realm="SDP",profile="UsernameToken",type="Appkey"'
CLOCK_S: Final = 900
NONCES: Final = 100_000
MOST: Final = 1000  # numbers of a request
GOOD: Final = "000000"
_FIELD: Final = re.compile(r'(\w+)="([^"]*)"')
_WORD: Final = {End.WAITING: "ACCEPTD", End.GOOD: "DELIVRD", End.BAD: "UNDELIV"}


def _date(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _say(status: int, code: str, description: str, **more: object) -> Answer:
    return Answer(status, encode({"code": code, "description": description} | more))


def aksk_signature(asked: Asked, names: str, secret: str) -> str:
    """What an SDK-HMAC-SHA256 signature has to be."""
    path = "/".join(quote(part, safe="~") for part in unquote(asked.path).split("/"))
    path = path if path.endswith("/") else f"{path}/"
    headers = "".join(
        f"{name}:{asked.headers.get(name, '').strip()}\n" for name in names.split(";")
    )
    body_hash = asked.headers.get("x-sdk-content-sha256") if asked.body else None
    body_hash = body_hash or hashlib.sha256(asked.body).hexdigest()
    canonical = "\n".join(
        (asked.method, path, canonical_query(asked.query), headers, names, body_hash)
    )
    date = asked.headers.get("x-sdk-date", "")
    told = f"{ALGORITHM}\n{date}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    return hmac.new(secret.encode(), told.encode(), hashlib.sha256).hexdigest()


class Huawei(Shape):
    """An account: app_key and app_secret."""

    def __init__(self, account: str, secret: str) -> None:
        super().__init__(account, secret)
        self._prefix = f"{time.time_ns() & 0xFFFFFFFFFFFFFFFF:016x}"
        self._nonces: dict[str, None] = {}

    def read(self, asked: Asked, ledger: Ledger, now: float) -> Sending | Answer:
        """Both ways to send; Huawei has no query."""
        if self.secret and not self._is_ours(asked, now):
            if asked.headers.get("authorization", "").startswith(ALGORITHM):
                told = {"error_code": "APIG.0301", "error_msg": "Incorrect IAM authentication"}
                return Answer(401, encode(told))
            return _say(401, "E000001", "Authentication failed.")
        if asked.method != "POST":
            return _say(405, "E000002", "Method not allowed.")
        if asked.path == ALIKE:
            return _alike(form_of(asked.body))
        if asked.path == DIFFERENT:
            return _different(json_of(asked.body))
        return Answer(404, encode({"error_code": "APIG.0101", "error_msg": "API does not exist"}))

    def _is_ours(self, asked: Asked, now: float) -> bool:
        given = asked.headers.get("authorization", "")
        if given.startswith(f"{ALGORITHM} "):
            return self._is_signed(asked, given, now)
        return given == WSSE and self._is_wsse(asked.headers.get("x-wsse", ""), now)

    def _is_signed(self, asked: Asked, given: str, now: float) -> bool:
        rest = given.removeprefix(f"{ALGORITHM} ")
        parts = dict(part.strip().partition("=")[::2] for part in rest.split(","))
        try:
            date = utc(asked.headers.get("x-sdk-date", ""), "%Y%m%dT%H%M%SZ")
        except ValueError:
            return False
        names = parts.get("SignedHeaders", "")
        return (
            parts.get("Access") == self.account
            and abs(date - now) <= CLOCK_S
            and {"host", "x-sdk-date"} <= set(names.split(";"))
            and hmac.compare_digest(
                aksk_signature(asked, names, self.secret), parts.get("Signature", "")
            )
        )

    def _is_wsse(self, given: str, now: float) -> bool:
        """PasswordDigest = base64(sha256(nonce + created + app_secret)); a nonce once only."""
        fields = dict(_FIELD.findall(given)) if given.startswith("UsernameToken ") else {}
        nonce, created = fields.get("Nonce", ""), fields.get("Created", "")
        try:
            date = utc(created, "%Y-%m-%dT%H:%M:%SZ")
        except ValueError:
            return False
        digest = hashlib.sha256(f"{nonce}{created}{self.secret}".encode()).digest()
        good = base64.b64encode(digest).decode()
        if (
            fields.get("Username") != self.account
            or abs(date - now) > CLOCK_S
            or not hmac.compare_digest(good, fields.get("PasswordDigest", ""))
            or nonce in self._nonces
        ):
            return False
        self._nonces[nonce] = None
        if len(self._nonces) > NONCES:
            del self._nonces[next(iter(self._nonces))]
        return True

    def ids(self, sending: Sequence[Text], first: int, at: float) -> list[str]:
        """A UUID-like word and a number."""
        prefix = self._prefix
        head = f"{prefix[:8]}-{prefix[8:12]}-{prefix[12:]}"
        return [f"{head}-0000-000000000000_{first + place}" for place in range(len(sending))]

    def taken(self, sending: Sending, ids: Sequence[str], at: float) -> Answer:
        """A verdict per number."""
        told = [
            {
                "originTo": f"+{text.to}",
                "createTime": _date(at),
                "from": text.sender,
                "smsMsgId": one,
                "status": GOOD if one else "E000503",
                "countryId": "CN" if text.to.startswith("86") else "",
                "total": 1,
            }
            for text, one in zip(sending.texts, ids, strict=True)
        ]
        if not any(ids):
            return _say(200, "E000510", "The SMS fails to be sent.", result=told)
        if "" in ids:
            return _say(200, "E000510", "The SMS fails to be sent to some numbers.", result=told)
        return _say(200, GOOD, "Success", result=told)

    def throttled(self) -> Answer:
        """The API gateway's flow control."""
        told = {"error_code": "APIG.0308", "error_msg": "The throttling threshold has been reached"}
        return Answer(429, encode(told))

    def refused(self, status: int) -> Answer:
        """4xx."""
        return _say(status, "E000503", "The request parameters are invalid.")

    def broken(self, status: int) -> Answer:
        """5xx that says so."""
        return _say(status, "E000000", "System exception. The SMS was not accepted.")

    def receipts(self, kept: Sequence[Kept], url: str) -> Push:
        """A form, one message each."""
        [one] = kept
        fields = {
            "sequence": "1",
            "total": "1",
            "updateTime": _date(one.done_at or one.at),
            "source": "1",
            "smsMsgId": one.carrier_id,
            "status": _WORD[one.end],
            "to": f"+{one.text.to}",
        }
        if one.text.reference:
            fields["extend"] = one.text.reference
        return Push(url, urlencode(fields).encode(), FORM)

    def inbound(self, text: Brought, url: str) -> Push:
        """A form."""
        fields = {
            "from": f"+{text.phone.number}",
            "to": text.phone.to,
            "body": text.phone.text,
            "smsMsgId": text.carrier_id,
            "createTime": _date(text.at),
        }
        return Push(url, urlencode(fields).encode(), FORM)


def _shown(sign: str, template: str, values: object) -> str:
    return f"【{sign}】{template} {values if isinstance(values, str) else encode(values).decode()}"


def _alike(form: Mapping[str, str]) -> Sending | Answer:
    for name in ("from", "to", "templateId"):
        if not form.get(name):
            return _say(200, "E000502", f"The parameter {name} is missing.")
    values = form.get("templateParas", "") or "[]"
    try:
        is_list = isinstance(msgspec.json.decode(values), list)
    except msgspec.DecodeError:
        is_list = False
    numbers = form["to"].split(",")
    if not is_list or len(numbers) > MOST:
        return _say(200, "E000503", "The parameter format is incorrect.")
    shown = _shown(form.get("signature", ""), form["templateId"], values)
    extend, url = form.get("extend", ""), form.get("statusCallback", "")
    return Sending([Text(_e164(to), form["from"], shown, extend, url) for to in numbers])


def _different(body: Mapping[str, Any]) -> Sending | Answer:
    texts: list[Text] = []
    try:
        for part in body["smsContent"]:
            values = part.get("templateParas") or []
            shown = _shown(part.get("signature") or "", part["templateId"], values)
            extend, url = body.get("extend") or "", body.get("statusCallback") or ""
            texts += [Text(_e164(to), body["from"], shown, extend, url) for to in part["to"]]
    except (KeyError, TypeError, AttributeError):
        return _say(200, "E000503", "The parameter format is incorrect.")
    if not 0 < len(texts) <= MOST:
        return _say(200, "E000503", "The number of recipients is wrong.")
    return Sending(texts)


def _e164(number: str) -> str:
    plain = digits(number)
    is_domestic = len(plain) == 11 and plain.startswith("1") and not number.startswith("+")
    return f"86{plain}" if is_domestic else plain
