"""Twilio's Programmable Messaging, API 2010-04-01: one message per request, a form each way.

The id is Twilio's; our reference rides in the query of StatusCallback, so that a receipt finds its
message also when the answer was lost. Twilio signs what it calls (X-Twilio-Signature), and gives
no moment: a call that is repeated says again what is known already.

    POST …/Messages.json         ─▶ 201 {"sid", "status", …} │ 4xx {"code", "message", "status"}
    GET  …/Messages/<sid>.json   ─▶ {"sid", "status", "error_code", …}     the id is known
    GET  …/Messages.json?To=…    ─▶ {"messages": […], "next_page_uri"}     it is not
    our callbacks                ◀─ a form: MessageSid, MessageStatus │ Body, From, To …
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Hashable, Mapping, Sequence
from email.utils import parsedate_to_datetime
from typing import Final
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from adapters.checks import Check
from adapters.http import settings
from adapters.http.callback import address_of, require_secret
from adapters.http.reading import (
    MAX_FIELDS,
    UNREADABLE,
    Codes,
    Json,
    digits_of,
    fields,
    form_of,
    json_of,
    listed,
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
    text_of,
)
from sms import config
from sms.errors import CallRefused, CannotSend, ConfigError, RemoteProtocolError
from sms.model import Inbound, Report, Submit
from sms.outcomes import Outcome, Submitted, Uncertain

TRAITS: Final = Traits(asks=True)
LOGIN: Final = "account_sid"
URL: Final = "https://api.twilio.com"
MAX_VALIDITY_S: Final = 36_000  # error 90007: from 1 to 36,000
REFERENCE: Final = "ref"  # our own parameter in the query of StatusCallback
PAGE: Final = 1000  # most messages that one list shows
# Their clock may be behind ours: what was created so long before a request may be its message.
_CLOCKS_S: Final = 60.0
_SHORT_CODE: Final = 6  # digits; a longer number is written with `+`

_CODES: Final = Codes("twilio")
REPORT_CLASSES: Final = _CODES.reports
_TWIML: Final = CallAnswer(
    200, "text/xml", b'<?xml version="1.0" encoding="UTF-8"?><Response></Response>'
)
_WAITING: Final = frozenset({"accepted", "scheduled", "queued", "sending", "sent"})
_ENDED: Final = frozenset({"delivered", "read", "undelivered", "failed", "canceled"})
_FAILED: Final = frozenset({"undelivered", "failed", "canceled"})


def _sid(prefix: str, whose: str) -> Check:
    form = re.compile(rf"{prefix}[0-9a-fA-F]{{32}}", re.ASCII)

    def check(value: object) -> str | None:
        is_good = isinstance(value, str) and form.fullmatch(value)
        return None if is_good else f"give the {whose}: {prefix} and 32 hexadecimal digits"

    return check


def _secret(value: object) -> str | None:
    is_good = isinstance(value, str) and 16 <= len(value) <= 128 and value.isascii()
    is_good = is_good and isinstance(value, str) and value.isalnum()
    return None if is_good else "give the 32 letters and digits that Twilio's console shows"


_OWN: Final[Mapping[str, Check]] = {
    "account_sid": _sid("AC", "account's SID"),
    "auth_token": _secret,
    "api_key_sid": _sid("SK", "API key's SID"),
    "api_secret": _secret,
    "messaging_service_sid": _sid("MG", "messaging service's SID"),
}


def validate(raw: Mapping[str, object]) -> list[tuple[str, str]]:
    """Everything wrong with a Twilio channel's settings: (JSON pointer, what to do)."""
    required = ("account_sid", "auth_token")
    wrong = settings.find_wrong(raw, _OWN, required, "a Twilio channel", is_signed=True)
    for name, other in (("api_key_sid", "api_secret"), ("api_secret", "api_key_sid")):
        if name in raw and other not in raw:
            wrong.append((f"/{name}", f"means nothing without {other}; add that, or remove this"))
    return wrong


def make(channel: config.Channel) -> Twilio:
    """The vendor of this channel; ConfigError naming the first wrong setting."""
    for pointer, remedy in validate(channel.settings):
        raise ConfigError(f"Twilio setting {pointer}: {remedy}")
    return Twilio(channel)


class Twilio:
    """One account at Twilio."""

    traits = TRAITS

    def __init__(self, channel: config.Channel) -> None:
        raw = channel.settings
        self._id = channel.id
        self._own = settings.parse(raw)
        self.endpoint = (self._own.url or URL).rstrip("/")
        self._messages = f"{self.endpoint}/2010-04-01/Accounts/{raw['account_sid']}/Messages"
        self._service = str(raw.get("messaging_service_sid", ""))
        self._token = str(raw["auth_token"]).encode()
        # An API key can be taken back by itself; callbacks are signed with the token all the same.
        user = raw.get("api_key_sid", raw["account_sid"])
        password = raw.get("api_secret", raw["auth_token"])
        login = base64.b64encode(f"{user}:{password}".encode()).decode()
        self._headers = (("Authorization", f"Basic {login}"), ("Accept", "application/json"))
        self._callback = address_of(self._own, channel.id, CallKind.RECEIPTS)

    def together(self, submit: Submit) -> Hashable:
        """Of no use: a request holds one message."""
        return submit.message.id

    def send(self, submits: Sequence[Submit], unix: float, nonce: str) -> Request:
        """The request for one; CannotSend without a sender or a messaging service."""
        (submit,) = submits
        form = {"To": f"+{submit.number}"}
        if self._callback:
            joint = "&" if "?" in self._callback else "?"
            form["StatusCallback"] = f"{self._callback}{joint}{REFERENCE}={reference_of(submit)}"
        form["ValidityPeriod"] = str(max(1, min(submit.validity_s, MAX_VALIDITY_S)))
        if submit.sender:
            form["From"] = _sender(submit.sender)
        if self._service:
            form["MessagingServiceSid"] = self._service
        elif not submit.sender:
            raise CannotSend("no sender", "channel.misconfigured", is_channel=True)
        form["Body"] = text_of(submit)
        headers = (*self._headers, ("Content-Type", "application/x-www-form-urlencoded"))
        return Request("POST", f"{self._messages}.json", headers, urlencode(form).encode())

    def read(self, submits: Sequence[Submit], reply: Reply) -> list[Outcome]:
        """What became of it. A 5xx may have been sent: Twilio says so of its error 20500."""
        outcome = _outcome(reply)
        return [outcome for _ in submits]

    def question(self, asked: Sequence[Asked], unix: float, nonce: str) -> Request:
        """The message by its id; without one, all that went to its number."""
        one = asked[0]
        if one.carrier_id:
            url = f"{self._messages}/{quote(one.carrier_id, safe='')}.json"
        else:
            query = urlencode({"To": f"+{one.submit.number}", "PageSize": str(PAGE)})
            url = f"{self._messages}.json?{query}"
        return Request("GET", url, self._headers)

    def told(self, asked: Sequence[Asked], reply: Reply) -> list[Told]:
        """What Twilio says of the first; of others nothing, as one question is about one."""
        told = Told(Verdict.SILENT)
        if reply.status == 200:
            found = fields(json_of(reply.body))
            told = self._shown(asked[0], found) if asked[0].carrier_id else _any(asked[0], found)
        return [told, *(Told(Verdict.SILENT) for _ in asked[1:])]

    def _shown(self, asked: Asked, found: Json) -> Told:
        status = word(found.get("status"))
        if word(found.get("sid")) != asked.carrier_id or status not in _WAITING | _ENDED:
            return Told(Verdict.SILENT)
        if status in _WAITING:
            return Told(Verdict.TAKEN, asked.carrier_id)
        report = Report(
            channel=self._id,
            carrier_id=asked.carrier_id,
            state=status,
            error=_error(found.get("error_code")),
            number=digits_of(found.get("to")),
        )
        return Told(Verdict.ENDED, asked.carrier_id, report)

    def pull(self, kind: CallKind, unix: float, nonce: str) -> Request | None:
        """Nothing."""
        return None

    def pulled(self, kind: CallKind, reply: Reply) -> Pushed:
        """Never asked for."""
        raise RemoteProtocolError("nothing is pulled from Twilio")

    def pushed(self, call: Call) -> Pushed:
        """A receipt, or a text from a phone; CallRefused without Twilio's signature."""
        require_secret(self._own, call)
        self._require_signature(call)
        query = form_of(_query(call.url))
        form = query if call.method == "GET" else form_of(call.body)
        sid = word(form.get("MessageSid")) or word(form.get("SmsSid"))
        if not sid:
            raise CallRefused(400, "the form has no MessageSid")
        if call.kind is CallKind.INBOUND:
            return Pushed(texts=(self._inbound(sid, form),), answer=_TWIML)
        state = word(form.get("MessageStatus")) or word(form.get("SmsStatus"))
        if not state:
            raise CallRefused(400, "the form has no MessageStatus")
        report = Report(
            channel=self._id,
            carrier_id=sid,
            state=state,
            error=_error(form.get("ErrorCode")),
            number=digits_of(form.get("To")),
            reference=word(query.get(REFERENCE)),
        )
        return Pushed(reports=(report,), answer=_TWIML)

    def _inbound(self, sid: str, form: Mapping[str, str]) -> Inbound:
        return Inbound(
            channel=self._id,
            number=digits_of(form.get("From")) or word(form.get("From")),
            to=digits_of(form.get("To")) or word(form.get("To")),
            text=text_in(form.get("Body")),
            carrier_id=sid,
        )

    def _require_signature(self, call: Call) -> None:
        given = call.headers.get("x-twilio-signature", "")
        if not given:
            raise CallRefused(403, "the header X-Twilio-Signature is missing")
        said = "" if call.method == "GET" else _signed_fields(call.body)
        # Twilio signs the address with or without its port; both are ours.
        for url in _with_and_without_port(call.url):
            digest = hmac.new(self._token, f"{url}{said}".encode(errors="replace"), hashlib.sha1)
            if hmac.compare_digest(base64.b64encode(digest.digest()), given.encode()):
                return
        raise CallRefused(
            403,
            "X-Twilio-Signature does not fit: compare auth_token, and public_url with the address "
            "that Twilio was given",
        )


def _sender(sender: str) -> str:
    return f"+{sender}" if sender.isdigit() and len(sender) > _SHORT_CODE else sender


def _error(value: object) -> str:
    code = word(value)
    return "" if code == "0" else code


def _outcome(reply: Reply) -> Outcome:
    found = fields(json_of(reply.body))
    if 200 <= reply.status < 300:
        sid, status = word(found.get("sid")), word(found.get("status"))
        if sid and status in _FAILED:
            return _CODES.outcome(_error(found.get("error_code")) or status, reply)
        return Submitted(sid) if sid else Uncertain(UNREADABLE)
    if reply.status == 429:
        return _CODES.outcome("HTTP 429", reply)
    if 400 <= reply.status < 500 and reply.status != 408:
        code = word(found.get("code"))
        if not _CODES.knows(code) and _CODES.knows(f"HTTP {reply.status}"):
            code = f"HTTP {reply.status}"
        return _CODES.outcome(code or f"HTTP {reply.status}", reply)
    return Uncertain("carrier.system_error" if reply.status >= 500 else UNREADABLE)


def _any(asked: Asked, found: Json) -> Told:
    """Absent when a whole list shows no message since; one that it shows may be another's.

    The list does not show our reference, and the same text may have been sent twice: a message
    that is there proves nothing, its receipt will.
    """
    messages = found.get("messages")
    if not isinstance(messages, list) or found.get("next_page_uri"):
        return Told(Verdict.SILENT)
    is_one = any(_created(one) >= asked.since_unix - _CLOCKS_S for one in listed(messages))
    return Told(Verdict.SILENT if is_one else Verdict.ABSENT)


def _created(message: Json) -> float:
    """Unix seconds; endlessly late when it cannot be read, so that it counts as ours."""
    try:
        return parsedate_to_datetime(word(message.get("date_created"))).timestamp()
    except (ValueError, TypeError, OverflowError, IndexError):
        return float("inf")


def _query(url: str) -> str:
    try:
        return urlsplit(url).query
    except ValueError:
        return ""


def _signed_fields(body: bytes) -> str:
    """The fields of a form as Twilio signs them: names sorted, each value once, all in one."""
    try:
        pairs = parse_qsl(
            body.decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=MAX_FIELDS
        )
    except ValueError:
        return ""
    return "".join(name + value for name, value in sorted(set(pairs)))


def _with_and_without_port(url: str) -> tuple[str, ...]:
    try:
        parts = urlsplit(url)
        port, host = parts.port, parts.netloc
    except ValueError:
        return (url,)
    if port is None:
        other = f"{host}:{443 if parts.scheme == 'https' else 80}"
    else:
        other = host.rpartition(":")[0]
    return (url, parts._replace(netloc=other).geturl())
