"""Infobip: SMS API v3 (`/sms/3/messages`) and v2 (`/sms/2/text/advanced`), JSON, an API key.

Forms: https://www.infobip.com/docs/api/channels/sms and the models of Infobip's Python SDK 6.0.0.
The client may choose a message's id; one that comes again is taken again, so that a record shows
what was sent twice.
"""

from __future__ import annotations

import hmac
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import parse_qs

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

SEND: Final = ("/sms/3/messages", "/sms/2/text/advanced")
_LOGS: Final = ("/sms/3/logs", "/sms/1/logs")
_REPORTS: Final = ("/sms/3/reports", "/sms/1/reports")
_INBOX: Final = "/sms/1/inbox/reports"
MOST_PULLED: Final = 1000

_TAKEN: Final = {
    "groupId": 1,
    "groupName": "PENDING",
    "id": 26,
    "name": "PENDING_ACCEPTED",
    "description": "Message sent to next instance",
}
_REFUSED: Final = {
    "groupId": 5,
    "groupName": "REJECTED",
    "id": 21,
    "name": "REJECTED_SYSTEM_ERROR",
    "description": "System error",
}
_WAITING: Final = {
    "groupId": 1,
    "groupName": "PENDING",
    "id": 3,
    "name": "PENDING_WAITING_DELIVERY",
    "description": "Message sent, waiting for delivery report",
}
_DELIVERED: Final = {
    "groupId": 3,
    "groupName": "DELIVERED",
    "id": 5,
    "name": "DELIVERED_TO_HANDSET",
    "description": "Message delivered to handset",
}
_UNDELIVERABLE: Final = {
    "groupId": 2,
    "groupName": "UNDELIVERABLE",
    "id": 9,
    "name": "UNDELIVERABLE_NOT_DELIVERED",
    "description": "Message sent not delivered",
}
_STATUS: Final = {End.WAITING: _WAITING, End.GOOD: _DELIVERED, End.BAD: _UNDELIVERABLE}
_NO_ERROR: Final = {
    "groupId": 0,
    "groupName": "OK",
    "id": 0,
    "name": "NO_ERROR",
    "description": "No Error",
    "permanent": False,
}
_UNKNOWN_SUBSCRIBER: Final = {
    "groupId": 1,
    "groupName": "HANDSET_ERRORS",
    "id": 1,
    "name": "EC_UNKNOWN_SUBSCRIBER",
    "description": "Unknown Subscriber",
    "permanent": True,
}


def _date(at: float) -> str:
    """`2019-11-09T16:00:00.000+0000`."""
    moment = datetime.fromtimestamp(at, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03}+0000"


def _error(status: int, name: str, text: str, *headers: tuple[str, str]) -> Answer:
    body = {"requestError": {"serviceException": {"messageId": name, "text": text}}}
    return Answer(status, encode(body), headers=headers)


class Infobip(Shape):
    """An account: any name, an API key."""

    push_most = 100

    def __init__(self, account: str, secret: str) -> None:
        super().__init__(account, secret)
        self._prefix = f"{time.time_ns() // 1_000_000_000:020d}"
        self._wanted = f"App {secret}".encode()

    def read(self, asked: Asked, ledger: Ledger, now: float) -> Sending | Answer:
        """Sends, logs, reports and the inbox."""
        given = asked.headers.get("authorization", "").encode()
        if self.secret and not hmac.compare_digest(given, self._wanted):
            return _error(401, "UNAUTHORIZED", "Invalid login details")
        if asked.method == "POST" and asked.path in SEND:
            return self._sending(asked)
        if asked.method == "GET":
            return self._looked(asked, ledger)
        return _error(404, "NOT_FOUND", "Requested URL not found")

    def _looked(self, asked: Asked, ledger: Ledger) -> Answer:
        query = {name: ",".join(values) for name, values in parse_qs(asked.query).items()}
        if asked.path in _LOGS:
            return _results([_log(kept) for kept in _wanted(ledger, query)])
        if asked.path in _REPORTS:
            ended = ledger.pull_receipts(int(query.get("limit", 50)))
            return _results([_report(kept) for kept in ended])
        if asked.path == _INBOX:
            return Answer(200, _inbox(ledger.pull_texts(int(query.get("limit", 50)))))
        return _error(404, "NOT_FOUND", "Requested URL not found")

    def _sending(self, asked: Asked) -> Sending | Answer:
        is_3 = asked.path == SEND[0]
        texts: list[Text] = []
        try:
            for message in json_of(asked.body)["messages"]:
                texts += _texts_3(message) if is_3 else _texts_2(message)
        except (KeyError, TypeError, AttributeError):
            return _error(400, "BAD_REQUEST", "Bad request")
        if not texts:
            return _error(400, "BAD_REQUEST", "Bad request")
        return Sending(texts, is_3)

    def ids(self, sending: Sequence[Text], first: int, at: float) -> list[str]:
        """The client's own where it gives them, else Infobip's 20 digits and a tail."""
        return [
            text.carrier_id or f"{self._prefix}{number:012d}"
            for number, text in enumerate(sending, first)
        ]

    def taken(self, sending: Sending, ids: Sequence[str], at: float) -> Answer:
        """200 with a status per message."""
        number_name = "destination" if sending.asked else "to"
        messages = [
            {
                "messageId": one or text.carrier_id or f"{self._prefix}refused",
                "status": _TAKEN if one else _REFUSED,
                number_name: text.to,
                **({"details": {"messageCount": 1}} if sending.asked else {}),
            }
            for text, one in zip(sending.texts, ids, strict=True)
        ]
        return Answer(200, encode({"bulkId": f"{at:.6f}".replace(".", ""), "messages": messages}))

    def throttled(self) -> Answer:
        """429."""
        return _error(429, "TOO_MANY_REQUESTS", "Too many requests", ("Retry-After", "1"))

    def refused(self, status: int) -> Answer:
        """4xx."""
        return _error(status, "BAD_REQUEST", "Bad request")

    def broken(self, status: int) -> Answer:
        """5xx that says so."""
        return _error(status, "GENERAL_ERROR", "Something went wrong. Please contact support.")

    def receipts(self, kept: Sequence[Kept], url: str) -> Push:
        """`{"results": [...]}`."""
        return Push(url, encode({"results": [_report(one) for one in kept]}))

    def inbound(self, text: Brought, url: str) -> Push:
        """The same form as the inbox's."""
        return Push(url, _inbox([text]))


def _texts_3(message: Mapping[str, Any]) -> list[Text]:
    webhooks = message.get("webhooks") or {}
    return [
        Text(
            digits(one["to"]),
            message.get("sender", ""),
            message["content"]["text"],
            webhooks.get("callbackData", ""),
            (webhooks.get("delivery") or {}).get("url") or "",
            one.get("messageId") or "",
        )
        for one in message["destinations"]
    ]


def _texts_2(message: Mapping[str, Any]) -> list[Text]:
    return [
        Text(
            digits(one["to"]),
            message.get("from", ""),
            message["text"],
            message.get("callbackData", ""),
            message.get("notifyUrl") or "",
            one.get("messageId") or "",
        )
        for one in message["destinations"]
    ]


def _wanted(ledger: Ledger, query: Mapping[str, str]) -> list[Kept]:
    limit = min(int(query.get("limit", 50)), MOST_PULLED)
    if "messageId" in query:
        ids = query["messageId"].split(",")
        return [ledger.by_id[one] for one in ids if one in ledger.by_id][:limit]
    number = query.get("destination", query.get("to", ""))
    return ledger.found(digits(number), limit) if number else []


def _results(results: list[dict[str, Any]]) -> Answer:
    return Answer(200, encode({"results": results}))


def _common(kept: Kept) -> dict[str, Any]:
    return {
        "bulkId": kept.carrier_id,
        "messageId": kept.carrier_id,
        "sentAt": _date(kept.at),
        "doneAt": _date(kept.done_at or kept.at),
        "messageCount": 1,
        "price": {"pricePerMessage": 0.01, "currency": "EUR"},
        "status": _STATUS[kept.end],
        "error": _UNKNOWN_SUBSCRIBER if kept.end is End.BAD else _NO_ERROR,
    }


def _report(kept: Kept) -> dict[str, Any]:
    told = _common(kept) | {"to": kept.text.to, "sender": kept.text.sender}
    if kept.text.reference:
        told["callbackData"] = kept.text.reference
    return told


def _log(kept: Kept) -> dict[str, Any]:
    return _common(kept) | {
        "destination": kept.text.to,
        "sender": kept.text.sender,
        "content": {"text": kept.text.text},
    }


def _inbox(texts: Sequence[Brought]) -> bytes:
    results = [
        {
            "messageId": one.carrier_id,
            "from": one.phone.number,
            "to": one.phone.to,
            "text": one.phone.text,
            "cleanText": one.phone.text,
            "keyword": "",
            "receivedAt": _date(one.at),
            "smsCount": 1,
            "price": {"pricePerMessage": 0.0, "currency": "EUR"},
            "callbackData": "",
        }
        for one in texts
    ]
    told = {"results": results, "messageCount": len(results), "pendingMessageCount": 0}
    return encode(told)
