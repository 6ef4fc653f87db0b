"""Huawei Cloud's Message & SMS: registered templates to one number, or to several at once.

One number goes as a form with our reference as `extend`, which its receipts echo. Several go as
one JSON request, each with its own template and values; that has a single `extend` for all of
them, so it has none, and a lost answer is found by number only. Login codes always go alone.
Huawei's own SDK judges requests and signatures in tests (docs/vendors-huawei.md).

    POST /sms/batchSendSms/v1      a form ┐
    POST /sms/batchSendDiffSms/v1  JSON   ┴▶ {"code", "result": [{"originTo", "smsMsgId", …}]}
    our callbacks                         ◀─ a form per segment, or {"statusReportList": [{…}]}
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final
from urllib.parse import urlencode

from adapters.checks import Check, choice, integer, string
from adapters.http import settings
from adapters.http.callback import address_of, require_secret
from adapters.http.clouds import brand_of, endpoint_of, filled_of, region, sign_name
from adapters.http.reading import (
    UNREADABLE,
    Codes,
    Json,
    digits_of,
    fields,
    form_of,
    json_of,
    listed,
    refused,
    text_in,
    word,
)
from adapters.http.vendor import (
    Asked,
    Call,
    CallAnswer,
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
from sms.errors import (
    CallRefused,
    CannotSend,
    ConfigError,
    LocalProtocolError,
    RemoteProtocolError,
)
from sms.model import Inbound, MessageClass, Report, Submit
from sms.outcomes import Cause, Outcome, Rejected, Submitted, Uncertain

# Of one text Huawei takes 500 numbers; of different texts no limit is written, so we stay low.
BATCH: Final = 100
TRAITS: Final = Traits(batch=BATCH, demands_template=True, inherent={"adds_signature": True})
LOGIN: Final = "app_key"
# The regions of Huawei's SDK, and the one of its international site.
REGIONS: Final[Mapping[str, str]] = {
    name: f"https://smsapi.{name}.myhuaweicloud.com"
    for name in ("cn-north-4", "cn-south-1", "ap-southeast-1")
}
ONE: Final = "/sms/batchSendSms/v1"
MANY: Final = "/sms/batchSendDiffSms/v1"
_TAKEN: Final = "000000"
_SYSTEM_ERROR: Final = "E000000"
_FORM: Final = "application/x-www-form-urlencoded"
_JSON: Final = "application/json"
_ANSWER: Final = CallAnswer(200, "text/plain", b"")
_ALGORITHM: Final = "SDK-HMAC-SHA256"

_CODES: Final = Codes("huawei")
REPORT_CLASSES: Final = _CODES.reports


class Auth(StrEnum):
    """How requests show whose they are; both with the application's key and secret."""

    AKSK = "aksk"  # SDK-HMAC-SHA256, which Huawei recommends
    WSSE = "wsse"  # X-WSSE UsernameToken


_OWN: Final[Mapping[str, Check]] = {
    "app_key": string(1, 128, "Huawei's APP_Key"),
    "app_secret": string(1, 128, "Huawei's APP_Secret"),
    "auth": choice(Auth),
    "region": region(REGIONS),
    "signature_name": sign_name,
    "max_batch": integer(1, BATCH),
}


@dataclass(frozen=True, slots=True)
class HuaweiSettings:
    """One channel's own settings, checked."""

    app_key: str
    app_secret: str = field(repr=False)
    auth: str = Auth.AKSK
    region: str = "cn-north-4"
    signature_name: str = ""  # "" = the brand in front of each text


def validate(raw: Mapping[str, object]) -> list[tuple[str, str]]:
    """Everything wrong with a Huawei channel's settings: (JSON pointer, what to do)."""
    return settings.find_wrong(raw, _OWN, ("app_key", "app_secret"), "a Huawei channel")


def make(channel: config.Channel) -> Huawei:
    """The vendor of this channel; ConfigError naming the first wrong setting."""
    for pointer, remedy in validate(channel.settings):
        raise ConfigError(f"Huawei setting {pointer}: {remedy}")
    if channel.sender and not (channel.sender.isascii() and channel.sender.isdecimal()):
        raise ConfigError("sender: give the signature's channel number (通道号), digits only")
    names = ("app_key", "app_secret", "auth", "region", "signature_name")
    own = {name: channel.settings[name] for name in names if name in channel.settings}
    return Huawei(channel, HuaweiSettings(**own))


class Huawei:
    """One application at Huawei Cloud."""

    traits = TRAITS

    def __init__(self, channel: config.Channel, own: HuaweiSettings) -> None:
        self._id = channel.id
        self._from = channel.sender
        self._own = own
        self._common = settings.parse(channel.settings)
        self.endpoint = (self._common.url or REGIONS[own.region]).rstrip("/")
        self._callback = address_of(self._common, channel.id, CallKind.RECEIPTS)

    def together(self, submit: Submit) -> Hashable:
        """Any but login codes, which go alone: theirs are the answers that must not be lost."""
        is_alone = submit.message.message_class is MessageClass.OTP
        return submit.message.id if is_alone else None

    def send(self, submits: Sequence[Submit], unix: float, nonce: str) -> Request:
        """A form for one, JSON for several; CannotSend without template or signature."""
        if len(submits) == 1:
            body = urlencode(self._form(submits[0])).encode()
            return self._request(ONE, _FORM, body, unix, nonce)
        said = {"from": self._from, "statusCallback": self._callback}
        shared = {name: value for name, value in said.items() if value}
        content = [self._content(submit) for submit in submits]
        return self._request(MANY, _JSON, _dump({**shared, "smsContent": content}), unix, nonce)

    def _form(self, submit: Submit) -> dict[str, str]:
        content = self._content(submit)
        values = content.get("templateParas")
        said = {
            "from": self._from,
            "to": content["to"][0],
            "templateId": content["templateId"],
            "templateParas": json.dumps(values, ensure_ascii=False) if values else "",
            "statusCallback": self._callback,
            "extend": reference_of(submit),
            "signature": content["signature"],
        }
        return {name: value for name, value in said.items() if value}

    def _content(self, submit: Submit) -> dict[str, Any]:
        if submit.sender != self._from:
            # The channel number is Huawei's word for a signature: with more behind it, it is none.
            raise CannotSend("sender-extension", "channel.misconfigured", is_channel=True)
        filled = filled_of(submit)
        signature = self._own.signature_name or brand_of(submit)
        if not signature:
            raise CannotSend("no-signature", "content.signature", is_channel=True)
        said: dict[str, Any] = {"to": [f"+{submit.number}"], "templateId": filled.code}
        if filled.values:
            said["templateParas"] = [value for _, value in filled.values]
        said["signature"] = signature
        return said

    def _request(self, path: str, kind: str, body: bytes, unix: float, nonce: str) -> Request:
        url = f"{self.endpoint}{path}"
        moment = datetime.fromtimestamp(unix, UTC)
        if self._own.auth == Auth.WSSE:
            headers = _wsse(self._own, kind, moment, nonce)
        else:
            headers = _aksk(self._own, url, kind, body, moment)
        return Request("POST", url, tuple(headers.items()), body)

    def read(self, submits: Sequence[Submit], reply: Reply) -> Sequence[Outcome | None]:
        """A verdict per number where the answer has them, else what it says of the request."""
        if reply.status == 429:
            return refused(submits, _CODES.outcome("HTTP 429", reply))
        found = fields(json_of(reply.body))
        code = word(found.get("code"))
        results = listed(found.get("result"))
        if reply.status >= 500 or reply.status == 408:  # "System error": it may have been taken
            return [Uncertain("carrier.system_error") for _ in submits]
        if results and code:
            return _verdicts(submits, results, reply)
        if code == _TAKEN or (not code and reply.status < 400):
            return [Uncertain(UNREADABLE) for _ in submits]
        # Not the platform's own words but those of the gateway before it: APIGW.0301 and the like.
        if not code:
            code = f"HTTP {reply.status}"
        outcome: Outcome = _CODES.outcome(code, reply)
        if code == _SYSTEM_ERROR and reply.status == 400:  # "check templateParas": a form's fault
            outcome = Rejected(code, Cause.UNKNOWN, "channel.rejected")
        return refused(submits, outcome)

    def question(self, asked: Sequence[Asked], unix: float, nonce: str) -> Request:
        """Huawei's API has none: `traits.asks` is false."""
        raise LocalProtocolError("Huawei cannot be asked what became of a submit")

    def told(self, asked: Sequence[Asked], reply: Reply) -> list[Told]:
        """Nothing."""
        return [Told(Verdict.SILENT) for _ in asked]

    def pull(self, kind: CallKind, unix: float, nonce: str) -> Request | None:
        """Nothing."""
        return None

    def pulled(self, kind: CallKind, reply: Reply) -> Pushed:
        """Never asked for."""
        raise RemoteProtocolError("nothing is pulled from Huawei")

    def pushed(self, call: Call) -> Pushed:
        """Receipts, alone or several, or a text from a phone; CallRefused without the secret."""
        require_secret(self._common, call)
        if call.kind is CallKind.INBOUND:
            return Pushed(texts=(self._inbound(_form_with(call, "smsMsgId")),), answer=_ANSWER)
        several = fields(json_of(call.body)).get("statusReportList")
        if isinstance(several, list):
            said = listed(several)
        else:
            said = [_form_with(call, "smsMsgId", "status")]
        return Pushed(reports=tuple(self._report(one) for one in said), answer=_ANSWER)

    def _report(self, said: Json) -> Report:
        state, cause = word(said.get("status")), word(said.get("orgCode"))
        return Report(
            channel=self._id,
            carrier_id=word(said.get("smsMsgId")),
            state=state,
            error="" if cause == state else cause,
            number=digits_of(said.get("to")),
            reference=word(said.get("extend"), 128),
            part=_part(said),
        )

    def _inbound(self, said: Json) -> Inbound:
        return Inbound(
            channel=self._id,
            number=digits_of(said.get("from")) or word(said.get("from")),
            to=digits_of(said.get("to")) or word(said.get("to")),
            text=text_in(said.get("body")),
            carrier_id=word(said.get("smsMsgId")),
        )


def _dump(body: object) -> bytes:
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()


def _wsse(own: HuaweiSettings, kind: str, moment: datetime, nonce: str) -> dict[str, str]:
    """X-WSSE: PasswordDigest is Base64(SHA256(Nonce + Created + APP_Secret))."""
    created = f"{moment:%Y-%m-%dT%H:%M:%SZ}"
    digest = hashlib.sha256(f"{nonce}{created}{own.app_secret}".encode()).digest()
    token = (
        f'UsernameToken Username="{own.app_key}",'
        f'PasswordDigest="{base64.b64encode(digest).decode()}",'
        f'Nonce="{nonce}",Created="{created}"'
    )
    return {
        "Content-Type": kind,
        "Authorization": 'WSSE realm="SDP",profile="UsernameToken",type="Appkey"',
        "X-WSSE": token,
    }


def _aksk(
    own: HuaweiSettings, url: str, kind: str, body: bytes, moment: datetime
) -> dict[str, str]:
    """The headers of a request signed as Huawei's SDK does: a form's body is left out of it."""
    headers = {"Content-Type": kind, "X-Sdk-Date": f"{moment:%Y%m%dT%H%M%SZ}"}
    if kind == _FORM:
        headers["X-Sdk-Content-Sha256"] = "UNSIGNED-PAYLOAD"
    host, path = endpoint_of(url)
    signed = {**headers, "Host": host}
    headers["Authorization"] = authorization(own.app_key, own.app_secret, path, signed, body)
    return headers


def authorization(key: str, secret: str, path: str, headers: Mapping[str, str], body: bytes) -> str:
    """SDK-HMAC-SHA256 over a POST without a query and all of these headers.

    Source: huaweicloudsdkcore.signer. `path` is signed with a slash behind it.
    """
    by_name = {name.lower(): value.strip() for name, value in headers.items()}
    names = ";".join(sorted(by_name))
    lines = "".join(f"{name}:{by_name[name]}\n" for name in sorted(by_name))
    payload = by_name.get("x-sdk-content-sha256") or hashlib.sha256(body).hexdigest()
    request = f"POST\n{path.rstrip('/')}/\n\n{lines}\n{names}\n{payload}"
    digest = hashlib.sha256(request.encode()).hexdigest()
    text = f"{_ALGORITHM}\n{by_name['x-sdk-date']}\n{digest}"
    signature = hmac.new(secret.encode(), text.encode(), hashlib.sha256).hexdigest()
    return f"{_ALGORITHM} Access={key}, SignedHeaders={names}, Signature={signature}"


def _verdicts(submits: Sequence[Submit], results: Sequence[Json], reply: Reply) -> list[Outcome]:
    """Results by number, which come in any order; a number that is missing is uncertain."""
    left: dict[str, list[Json]] = {}
    for result in results:
        number = digits_of(result.get("originTo"))
        left.setdefault(number, []).append(result)
    outcomes: list[Outcome] = []
    for submit in submits:
        found = left.get(submit.number) or left.get(submit.number.removeprefix("86"))
        outcomes.append(_verdict(found.pop(0), reply) if found else Uncertain(UNREADABLE))
    return outcomes


def _verdict(result: Json, reply: Reply) -> Outcome:
    status, known = word(result.get("status")), word(result.get("smsMsgId"))
    if status == _TAKEN:
        return Submitted(known) if known else Uncertain(UNREADABLE)
    return _CODES.outcome(status, reply) if status else Uncertain(UNREADABLE)


def _form_with(call: Call, *names: str) -> dict[str, str]:
    form = form_of(call.body)
    for name in names:
        if not word(form.get(name)):
            raise CallRefused(400, f"the form has no {name}")
    return form


def _part(said: Json) -> tuple[int, int] | None:
    """Which segment of a long text the receipt is about; None for a short one."""
    sequence, total = digits_of(said.get("sequence")), digits_of(said.get("total"))
    if not sequence or not total or len(sequence) > 2 or len(total) > 2:
        return None
    place, parts = int(sequence), int(total)
    return (place, parts) if parts > 1 and 1 <= place <= parts else None
