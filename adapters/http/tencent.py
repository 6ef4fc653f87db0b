"""Tencent Cloud's SMS (2021-01-11) as a vendor; docs/vendors-tencent.md.

    up to 200 numbers of one text   SendSms       a verdict and an id (SerialNo) per number
    a lost answer, a late end       PullSmsSendStatusByPhoneNumber
    receipts, texts from phones     pushed, JSON that nobody signs; with `callbacks: false` pulled

One text is one template with the same values and one signature. A request's SessionContext comes
back with its statuses where Tencent has switched that on: it holds our references, as many as fit.
Statuses are kept once a carrier has reported only, so that a number without one proves nothing.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from adapters.checks import Check, digits, integer, string
from adapters.http import settings
from adapters.http.callback import require_secret
from adapters.http.clouds import (
    TOO_MANY,
    brand_of,
    endpoint_of,
    extension_of,
    filled_of,
    is_mainland,
    pushed_objects,
    region,
    said,
    sign_name,
    uncertain,
)
from adapters.http.reading import (
    UNREADABLE,
    Codes,
    Json,
    digits_of,
    fields,
    json_of,
    listed,
    refused,
    text_in,
    too_fast,
    word,
)
from adapters.http.settings import HttpSettings
from adapters.http.tc3 import Tc3
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
from sms.model import Inbound, Report, Submit
from sms.outcomes import Cause, Outcome, Rejected, Submitted, Uncertain

VERSION: Final = "2021-01-11"
ENDPOINT: Final = "https://sms.tencentcloudapi.com"
MAX_BATCH: Final = 200  # numbers of one SendSms
SOURCE: Final = "Tencent Cloud"
TRAITS: Final = Traits(
    batch=MAX_BATCH, demands_template=True, asks=True, inherent={"adds_signature": True}
)
_CODES: Final = Codes("tencent")
REPORTS: Final = _CODES.reports

_OK: Final = "Ok"
_ANSWER: Final = said({"result": 0, "errmsg": "OK"})
_LIMIT: Final = 100  # statuses or texts of one pull, the most
_MAX_CONTEXT: Final = 511  # octets of a SessionContext: fewer than 512
_MARGIN_S: Final = 60  # their clock may lag behind ours by this
_KEPT_S: Final = 7 * 86_400  # how long statuses of a number can be asked for
_REQUIRED: Final = ("secret_id", "secret_key", "sdk_app_id")
_CHECKS: Final[Mapping[str, Check]] = {
    "secret_id": string(1, 128, SOURCE),
    "secret_key": string(1, 128, SOURCE),
    "sdk_app_id": digits(5, 20),
    "region": region(),
    "sign_name": sign_name,
    "sender_id": string(1, 20, SOURCE),
    "max_batch": integer(1, MAX_BATCH),
}


@dataclass(frozen=True, slots=True)
class TencentSettings:
    """One channel's settings, checked."""

    secret_id: str
    sdk_app_id: str
    secret_key: str = field(repr=False)
    region: str = "ap-guangzhou"
    sign_name: str = ""  # "" = the brand in front of each text
    sender_id: str = ""  # what phones abroad show; "" = the vendor's shared one


def validate(raw: Mapping[str, object]) -> list[tuple[str, str]]:
    """Everything wrong with a channel's settings: (JSON pointer, what to do)."""
    return settings.find_wrong(raw, _CHECKS, _REQUIRED, "a Tencent Cloud channel")


def make(channel: config.Channel) -> Tencent:
    """The vendor of one channel; ConfigError naming the first wrong setting."""
    wrong = validate(channel.settings)
    if wrong:
        pointer, detail = wrong[0]
        raise ConfigError(f"Tencent Cloud setting {pointer}: {detail}")
    names = [name for name in _CHECKS if name != "max_batch"]
    own = {name: channel.settings[name] for name in names if name in channel.settings}
    return Tencent(channel.id, TencentSettings(**own), settings.parse(channel.settings))


class Tencent:
    """One Tencent Cloud account with one SMS application."""

    def __init__(self, channel: int, own: TencentSettings, common: HttpSettings) -> None:
        self.traits = replace(TRAITS, pulls=not common.callbacks)
        self._channel = channel
        self._own = own
        self._common = common
        self.endpoint = common.url or ENDPOINT
        address = endpoint_of(self.endpoint)
        if address[1] == "/":
            self.endpoint = self.endpoint.rstrip("/") + "/"
        login = own.secret_id, own.secret_key
        self._signer = Tc3(login, own.region, VERSION, address)

    # -- sending -----------------------------------------------------------------------------

    def together(self, submit: Submit) -> Hashable:
        """What is the same for all numbers of a request: all but the number."""
        return submit.filled, self._brand_or_none(submit), submit.sender, is_mainland(submit.number)

    def send(self, submits: Sequence[Submit], unix: float, nonce: str) -> Request:
        """SendSms to the numbers of these, which say the same."""
        first = submits[0]
        filled = filled_of(first)
        body: dict[str, object] = {
            "PhoneNumberSet": [f"+{submit.number}" for submit in submits],
            "SmsSdkAppId": self._own.sdk_app_id,
            "TemplateId": filled.code,
        }
        brand = self._brand_or_none(first)
        at_home = is_mainland(first.number)
        if brand:
            body["SignName"] = brand
        elif at_home:
            raise CannotSend("no-signature", "content.signature", is_channel=True)
        body["TemplateParamSet"] = [value for _, value in filled.values]
        if at_home and first.sender:
            body["ExtendCode"] = extension_of(first)
        context = ",".join(reference_of(submit) for submit in submits)
        if len(context) <= _MAX_CONTEXT:
            body["SessionContext"] = context
        if not at_home and self._own.sender_id:
            body["SenderId"] = self._own.sender_id
        return self._signer.request("SendSms", self.endpoint, body, unix)

    def read(self, submits: Sequence[Submit], reply: Reply) -> Sequence[Outcome | None]:
        """One verdict per number; a request is refused as a whole for the text, which is one."""
        if reply.status == TOO_MANY:
            return [too_fast(reply, str(TOO_MANY)) for _ in submits]
        answer, refusal = _answer_of(reply)
        if refusal:
            outcome = _CODES.outcome(refusal, reply)
            is_text = isinstance(outcome, Rejected) and outcome.cause is Cause.CONTENT
            return refused(submits, outcome, is_shared=is_text)
        if reply.status >= 300:
            return uncertain(len(submits))
        verdicts = {
            digits_of(one.get("PhoneNumber")): one for one in listed(answer.get("SendStatusSet"))
        }
        return [self._verdict(verdicts.get(submit.number), reply) for submit in submits]

    def _verdict(self, verdict: Json | None, reply: Reply) -> Outcome:
        if verdict is None:
            return Uncertain(UNREADABLE)
        code = word(verdict.get("Code"))
        if code != _OK:
            return _CODES.outcome(code, reply)
        serial = word(verdict.get("SerialNo"))
        return Submitted(serial) if serial else Uncertain(UNREADABLE)

    def _brand_or_none(self, submit: Submit) -> str:
        return self._own.sign_name or brand_of(submit)

    # -- asking ------------------------------------------------------------------------------

    def question(self, asked: Sequence[Asked], unix: float, nonce: str) -> Request:
        """The statuses of its number since it left; one per request, as there is one number."""
        one = asked[0]
        begin = max(one.since_unix - _MARGIN_S, unix - _KEPT_S)
        body = {
            "BeginTime": int(begin),
            "Offset": 0,
            "Limit": _LIMIT,
            "PhoneNumber": f"+{one.submit.number}",
            "SmsSdkAppId": self._own.sdk_app_id,
            "EndTime": int(unix) + _MARGIN_S,
        }
        return self._signer.request("PullSmsSendStatusByPhoneNumber", self.endpoint, body, unix)

    def told(self, asked: Sequence[Asked], reply: Reply) -> list[Told]:
        """How it ended, if a carrier has said so. Never ABSENT: there is no status before that."""
        silent = [Told(Verdict.SILENT) for _ in asked]
        answer, refusal = _answer_of(reply)
        if refusal or reply.status >= 300 or len(asked) != 1:
            return silent
        one = asked[0]
        reference = reference_of(one.submit)
        for row in listed(answer.get("PullSmsSendStatusSet")):
            serial = word(row.get("SerialNo"))
            references = word(row.get("SessionContext"), _MAX_CONTEXT).split(",")
            if serial and (serial == one.carrier_id or reference in references):
                return [Told(Verdict.ENDED, serial, self._status(row))]
        return silent

    # -- what the vendor brings --------------------------------------------------------------

    def pull(self, kind: CallKind, unix: float, nonce: str) -> Request | None:
        """Statuses or texts that were not pulled yet; what was is not given again."""
        if self._common.callbacks:
            return None
        is_text = kind is CallKind.INBOUND
        action = "PullSmsReplyStatus" if is_text else "PullSmsSendStatus"
        body = {"Limit": _LIMIT, "SmsSdkAppId": self._own.sdk_app_id}
        return self._signer.request(action, self.endpoint, body, unix)

    def pulled(self, kind: CallKind, reply: Reply) -> Pushed:
        """What a pull brought; RemoteProtocolError when it was refused or cannot be read."""
        answer, refusal = _answer_of(reply)
        if refusal or reply.status >= 300 or not answer:
            code = refusal or f"HTTP {reply.status}"
            raise RemoteProtocolError(f"Tencent Cloud refused a pull of {kind.value}: {code}")
        if kind is CallKind.INBOUND:
            rows = listed(answer.get("PullSmsReplyStatusSet"))
            return Pushed(texts=tuple(self._reply(row) for row in rows))
        rows = listed(answer.get("PullSmsSendStatusSet"))
        return Pushed(reports=tuple(self._status(row) for row in rows))

    def pushed(self, call: Call) -> Pushed:
        """Statuses or replies, by the address that was called."""
        require_secret(self._common, call)
        found = pushed_objects(call.body)
        if call.kind is CallKind.INBOUND:
            texts = tuple(self._pushed_reply(one) for one in found)
            return Pushed(texts=texts, answer=_ANSWER)
        reports = tuple(self._pushed_status(one) for one in found)
        return Pushed(reports=reports, answer=_ANSWER)

    def _pushed_status(self, one: Json) -> Report:
        is_good = one.get("report_status") == "SUCCESS"
        number = digits_of(one.get("nationcode")) + digits_of(one.get("mobile"))
        return self._report(is_good, one.get("sid"), one.get("errmsg"), number)

    def _status(self, row: Json) -> Report:
        is_good = row.get("ReportStatus") == "SUCCESS"
        number = digits_of(row.get("PhoneNumber"))
        report = self._report(is_good, row.get("SerialNo"), row.get("Description"), number)
        context = word(row.get("SessionContext"), _MAX_CONTEXT)
        if parse_reference(context) is not None:  # of one number; several do not say which
            report.reference = context
        return report

    def _report(self, is_good: bool, serial: object, code: object, number: str) -> Report:
        """The vendor's word beside SMPP's: what its words mean says REPORTS."""
        state, error = ("DELIVRD", "") if is_good else ("UNDELIV", word(code))
        return Report(self._channel, word(serial), state, error, number)

    def _pushed_reply(self, one: Json) -> Inbound:
        number = digits_of(one.get("nationcode")) + digits_of(one.get("mobile"))
        to = word(one.get("extend"))
        return Inbound(self._channel, number, to, text_in(one.get("text")))

    def _reply(self, row: Json) -> Inbound:
        number = digits_of(row.get("PhoneNumber"))
        to = word(row.get("ExtendCode"))
        return Inbound(self._channel, number, to, text_in(row.get("ReplyContent")))


def _answer_of(reply: Reply) -> tuple[Json, str]:
    """(what `Response` holds, the code of its error or "")."""
    answer = fields(fields(json_of(reply.body)).get("Response"))
    return answer, word(fields(answer.get("Error")).get("Code"))
