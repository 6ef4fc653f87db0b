"""Infobip's SMS API version 3: several messages in one request, each with an id of our own.

Our reference is Infobip's messageId: an answer that was lost is found by its receipt, and in the
logs (`question`). Nothing is signed; the key stands in a header. Checked against Infobip's own
client in tests (docs/vendors-infobip.md).

    POST /sms/3/messages   ─▶ {"bulkId", "messages": [{"messageId", "status": {…}, …}]}
    GET  /sms/3/logs       ─▶ {"results": [{"messageId", "status": {…}, "error": {…}, …}]}
    our callbacks          ◀─ {"results": [the same, or {"from", "to", "text", …}]}
"""

from __future__ import annotations

import json
import re
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Final
from urllib.parse import urlencode

from adapters.checks import Check, string
from adapters.http import settings
from adapters.http.callback import address_of, require_secret
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
    word,
)
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
    text_of,
)
from sms import config
from sms.errors import CallRefused, ConfigError, RemoteProtocolError
from sms.model import Inbound, Report, Submit
from sms.outcomes import Cause, Outcome, Rejected, Submitted, Uncertain

# Fifty ids of 22 characters stay under the 2048 that one query for logs may name.
BATCH: Final = 50
TRAITS: Final = Traits(batch=BATCH, asks=True)
LOGIN: Final = "api_key"
MAX_VALIDITY_S: Final = 48 * 3600  # more is cut to it (ValidityPeriod of Infobip's client)
# Logs are kept for 48 h: a message that is not in them later may have been sent all the same.
_LOGS_S: Final = 47 * 3600.0

_OWN: Final[Mapping[str, Check]] = {"api_key": string(1, 512, "Infobip's API key")}
_CODES: Final = Codes("infobip")
REPORT_CLASSES: Final = _CODES.reports

_TAKEN: Final = frozenset({"PENDING", "ACCEPTED", "DELIVERED"})
_ENDED: Final = frozenset({"DELIVERED", "UNDELIVERABLE", "EXPIRED", "REJECTED"})
# The statuses in which a message is neither waiting nor ended: a further report may follow.
_ON_ITS_WAY: Final = "DELIVERED_TO_OPERATOR"
_DUPLICATE: Final = "REJECTED_DUPLICATE_MESSAGE_ID"
_NO_ERROR: Final = "NO_ERROR"
_PLACE = re.compile(r"messages\[([0-9]{1,4})\]", re.ASCII)


def validate(raw: Mapping[str, object]) -> list[tuple[str, str]]:
    """Everything wrong with an Infobip channel's settings: (JSON pointer, what to do)."""
    return settings.find_wrong(raw, _OWN, ("url", "api_key"), "an Infobip channel")


def make(channel: config.Channel) -> Infobip:
    """The vendor of this channel; ConfigError naming the first wrong setting."""
    for pointer, remedy in validate(channel.settings):
        raise ConfigError(f"Infobip setting {pointer}: {remedy}")
    return Infobip(channel)


class Infobip:
    """One account at Infobip."""

    traits = TRAITS

    def __init__(self, channel: config.Channel) -> None:
        self._id = channel.id
        self._own = settings.parse(channel.settings)
        self.endpoint = self._own.url.rstrip("/")
        self._headers = (
            ("Authorization", f"App {channel.settings['api_key']}"),
            ("Content-Type", "application/json"),
            ("Accept", "application/json"),
        )
        self._webhooks = _webhooks(address_of(self._own, channel.id, CallKind.RECEIPTS))
        self._asked_unix = 0.0  # of the newest question

    def together(self, submit: Submit) -> Hashable:
        """Any: each message of a request has its own number, text, sender, validity and id."""
        return None

    def send(self, submits: Sequence[Submit], unix: float, nonce: str) -> Request:
        """All of them in one request; there is nothing that cannot be said."""
        body = {"messages": [self._message(submit) for submit in submits]}
        return Request("POST", f"{self.endpoint}/sms/3/messages", self._headers, _dump(body))

    def _message(self, submit: Submit) -> dict[str, Any]:
        said: dict[str, Any] = {}
        if submit.sender:
            said["sender"] = submit.sender
        said["destinations"] = [{"to": submit.number, "messageId": reference_of(submit)}]
        said["content"] = {"text": text_of(submit)}
        amount = min(submit.validity_s, MAX_VALIDITY_S)
        said["options"] = {"validityPeriod": {"amount": amount, "timeUnit": "SECONDS"}}
        if self._webhooks:
            said["webhooks"] = self._webhooks
        return said

    def read(self, submits: Sequence[Submit], reply: Reply) -> Sequence[Outcome | None]:
        """A verdict per message by its id; a refused request names whose fault it was, or not."""
        if 200 <= reply.status < 300:
            return _answered(submits, reply)
        if 400 <= reply.status < 500 and reply.status != 408:
            return _refused(submits, reply)
        # Infobip says of no 5xx that nothing was sent, and of a redirect nothing at all.
        reason = "carrier.system_error" if reply.status >= 500 else UNREADABLE
        return [Uncertain(reason, reference_of(submit)) for submit in submits]

    def question(self, asked: Sequence[Asked], unix: float, nonce: str) -> Request:
        """The logs of these ids: unlike reports, they may be read more than once."""
        self._asked_unix = max(self._asked_unix, unix)
        query = [("messageId", one.carrier_id or reference_of(one.submit)) for one in asked]
        query.append(("limit", "1000"))
        url = f"{self.endpoint}/sms/3/logs?{urlencode(query)}"
        return Request("GET", url, tuple(_without_content_type(self._headers)))

    def told(self, asked: Sequence[Asked], reply: Reply) -> list[Told]:
        """What the logs say of each; silence unless they were shown."""
        found = fields(json_of(reply.body))
        if reply.status != 200 or not isinstance(found.get("results"), list):
            return [Told(Verdict.SILENT)] * len(asked)
        logs = {word(log.get("messageId"), 200): log for log in listed(found["results"])}
        return [self._told(one, logs) for one in asked]

    def _told(self, asked: Asked, logs: Mapping[str, Json]) -> Told:
        known = asked.carrier_id or reference_of(asked.submit)
        log = logs.get(known)
        if log is None:
            is_kept = self._asked_unix - asked.since_unix < _LOGS_S
            return Told(Verdict.ABSENT if is_kept else Verdict.SILENT)
        status = fields(log.get("status"))
        group, name = word(status.get("groupName")), word(status.get("name"))
        if group in _ENDED and name != _ON_ITS_WAY:
            return Told(Verdict.ENDED, known, self._report(log, log.get("destination")))
        return Told(Verdict.TAKEN if group in _TAKEN else Verdict.SILENT, known)

    def pull(self, kind: CallKind, unix: float, nonce: str) -> Request | None:
        """Nothing: GET /sms/3/reports gives each report once, and a crash then would lose it."""
        return None

    def pulled(self, kind: CallKind, reply: Reply) -> Pushed:
        """Never asked for."""
        raise RemoteProtocolError("Infobip's reports are not pulled")

    def pushed(self, call: Call) -> Pushed:
        """Receipts, or texts from phones; CallRefused without the secret or for another form."""
        require_secret(self._own, call)
        found = fields(json_of(call.body))
        if not isinstance(found.get("results"), list):
            raise CallRefused(400, 'the body is not JSON with a list named "results"')
        results = listed(found["results"])
        if call.kind is CallKind.INBOUND:
            return Pushed(texts=tuple(self._inbound(one) for one in results))
        return Pushed(reports=tuple(self._report(one, one.get("to")) for one in results))

    def _report(self, said: Json, number: object) -> Report:
        status, error = fields(said.get("status")), fields(said.get("error"))
        known = word(said.get("messageId"), 200)
        name = word(error.get("name")) or word(error.get("id"))
        return Report(
            channel=self._id,
            carrier_id=known,
            state=word(status.get("name")) or word(status.get("groupName")),
            error="" if name in (_NO_ERROR, "0") else name,
            number=digits_of(number),
            reference=known,
        )

    def _inbound(self, said: Json) -> Inbound:
        return Inbound(
            channel=self._id,
            number=digits_of(said.get("from")) or word(said.get("from")),
            to=digits_of(said.get("to")) or word(said.get("to")),
            text=text_in(said.get("text")),
            carrier_id=word(said.get("messageId"), 200),
        )


def _webhooks(address: str) -> dict[str, Any]:
    if not address:
        return {}
    return {
        "delivery": {"url": address, "intermediateReport": False, "notify": True},
        "contentType": "application/json",
    }


def _without_content_type(headers: tuple[tuple[str, str], ...]) -> list[tuple[str, str]]:
    return [(name, value) for name, value in headers if name != "Content-Type"]


def _dump(body: object) -> bytes:
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()


def _answered(submits: Sequence[Submit], reply: Reply) -> list[Outcome]:
    """Verdicts by id; an answer under another id than ours is the one to the same number."""
    by_id: dict[str, Json] = {}
    others: dict[str, list[Json]] = {}
    ours = {reference_of(submit) for submit in submits}
    for one in listed(fields(json_of(reply.body)).get("messages")):
        known = word(one.get("messageId"), 200)
        if known in ours:
            by_id[known] = one
        else:
            number = digits_of(one.get("destination") or one.get("to"))
            others.setdefault(number, []).append(one)
    outcomes: list[Outcome] = []
    for submit in submits:
        reference = reference_of(submit)
        answer = by_id.get(reference)
        if answer is None and (left := others.get(submit.number)):
            answer = left.pop(0)
        outcomes.append(_outcome(reference, answer, reply))
    return outcomes


def _outcome(reference: str, answer: Json | None, reply: Reply) -> Outcome:
    if answer is None:
        return Uncertain(UNREADABLE, reference)
    status = fields(answer.get("status"))
    group = word(status.get("groupName"))
    name = word(status.get("name")) or word(status.get("id"))
    if group in _TAKEN:
        return Submitted(word(answer.get("messageId"), 200) or reference)
    # Its id is ours alone: they have it from a request whose answer never came, and will report.
    if name == _DUPLICATE or not name or group not in _ENDED:
        return Uncertain(UNREADABLE, reference)
    return _CODES.outcome(name, reply)


def _refused(submits: Sequence[Submit], reply: Reply) -> Sequence[Outcome | None]:
    """A 4xx: none was taken. What is wrong with one message must not fail its neighbours."""
    found = fields(json_of(reply.body))
    exception = fields(fields(found.get("requestError")).get("serviceException"))
    code = word(found.get("errorCode")) or word(exception.get("messageId"))
    by_status = f"HTTP {reply.status}"
    # A 429 is flow control whatever it is called; of the rest the vendor's own word says most.
    if not code or reply.status == 429 or (reply.status != 400 and not _CODES.knows(code)):
        code = by_status
    blamed = _blamed(found, exception, len(submits))
    if reply.status != 400 or not blamed:
        return refused(submits, _CODES.outcome(code, reply))
    return [
        _blame(code, blamed[place]) if place in blamed else None for place in range(len(submits))
    ]


def _blamed(found: Json, exception: Json, count: int) -> dict[int, str]:
    """Which messages of a request of so many are wrong, by place, and by which property."""
    named = [word(one.get("property"), 200) for one in listed(found.get("violations"))]
    named += [word(key, 200) for key in fields(exception.get("validationErrors"))]
    blamed: dict[int, str] = {}
    for name in named:
        if (place := _PLACE.match(name)) and int(place[1]) < count:
            blamed.setdefault(int(place[1]), name[place.end() :])
    return blamed


def _blame(code: str, path: str) -> Outcome:
    """A wrong number or text is this message's fault, anything else our configuration's."""
    if ".content" in path or ".destinations" in path:
        return Rejected(code, Cause.CONTENT, "carrier.rejected")
    return Rejected(code, Cause.CONFIG, "channel.misconfigured")
