"""A vendor of nobody's: what small providers' JSON interfaces have in common.

    POST /sms            {"messages": [{"to", "from", "text", "ref", "notify"}, …]}, at most 500
                  ─▶ 200 {"code": 0, "messages": [{"to", "ref", "code": 0, "id"}, …]}
    GET  /sms?id=…       or ?ref=…: {"code": 0, "messages": [{"id", "ref", "to", "status"}]}
    GET  /receipts  GET /inbox     what was not pushed, each once
    push                 {"receipts": [{"id", "ref", "to", "status", "error"}]}
                         {"texts": [{"id", "from", "to", "text", "at"}]}

Whoever it is may say so in any of three ways: Basic (account and secret), `Bearer secret`, or
`X-Account`, `X-Timestamp` and `X-Signature` = hex of HMAC-SHA256(secret, timestamp LF method LF
target LF body). Pushes carry X-Timestamp and X-Signature made the same way, of the callback's path.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

from loadtest.vendors.http import Answer, Asked
from loadtest.vendors.shape import (
    JSON,
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

MOST: Final = 500
CLOCK_S: Final = 300
_WORD: Final = {End.WAITING: "ACCEPTD", End.GOOD: "DELIVRD", End.BAD: "UNDELIV"}


def signature(secret: str, stamp: str, method: str, target: str, body: bytes) -> str:
    """X-Signature."""
    told = f"{stamp}\n{method}\n{target}\n".encode() + body
    return hmac.new(secret.encode(), told, hashlib.sha256).hexdigest()


def _say(status: int, code: int, *headers: tuple[str, str], **more: object) -> Answer:
    return Answer(status, encode({"code": code} | more), headers=headers)


class Generic(Shape):
    """An account and its secret."""

    push_most = 100

    def __init__(self, account: str, secret: str) -> None:
        super().__init__(account, secret)
        self._prefix = f"{int(time.time()) & 0xFFFFFFFF:08x}{os.getpid() & 0xFFFF:04x}"
        login = base64.b64encode(f"{account}:{secret}".encode()).decode()
        self._wanted = (f"Basic {login}".encode(), f"Bearer {secret}".encode())

    def read(self, asked: Asked, ledger: Ledger, now: float) -> Sending | Answer:
        """Sends, queries and pulls."""
        if self.secret and not self._is_ours(asked, now):
            return _say(401, 1, message="who are you?")
        if asked.path == "/sms" and asked.method == "POST":
            return _sending(json_of(asked.body))
        if asked.method == "GET":
            return self._looked(asked, ledger)
        return _say(405, 2, message="only GET and POST")

    def _looked(self, asked: Asked, ledger: Ledger) -> Answer:
        if asked.path == "/sms":
            query = {name: values[-1] for name, values in parse_qs(asked.query).items()}
            found = [_report(kept) for kept in _found(ledger, query)]
            return _say(200, 0, messages=found)
        if asked.path == "/receipts":
            return _say(200, 0, receipts=[_report(kept) for kept in ledger.pull_receipts(MOST)])
        if asked.path == "/inbox":
            return _say(200, 0, texts=[_brought(text) for text in ledger.pull_texts(MOST)])
        return _say(404, 2, message="no such path")

    def _is_ours(self, asked: Asked, now: float) -> bool:
        headers = asked.headers
        given = headers.get("authorization", "").encode()
        if given:
            return any(hmac.compare_digest(given, wanted) for wanted in self._wanted)
        stamp = headers.get("x-timestamp", "")
        if not stamp.isdecimal() or abs(int(stamp) - now) > CLOCK_S:
            return False
        good = signature(self.secret, stamp, asked.method, asked.target, asked.body)
        is_good = hmac.compare_digest(good, headers.get("x-signature", "").lower())
        return is_good and headers.get("x-account") == self.account

    def ids(self, sending: Sequence[Text], first: int, at: float) -> list[str]:
        """Twenty hexadecimal digits."""
        return [f"{self._prefix}{first + place:08x}" for place in range(len(sending))]

    def taken(self, sending: Sending, ids: Sequence[str], at: float) -> Answer:
        """A verdict per message."""
        told = [
            {"to": text.to, "ref": text.reference, **({"code": 0, "id": one} if one else _FAILED)}
            for text, one in zip(sending.texts, ids, strict=True)
        ]
        return _say(200, 0, messages=told)

    def throttled(self) -> Answer:
        """429."""
        return _say(429, 8, ("Retry-After", "1"), message="too fast")

    def refused(self, status: int) -> Answer:
        """4xx."""
        return _say(status, 3, message="this cannot be sent")

    def broken(self, status: int) -> Answer:
        """5xx that says so."""
        return _say(status, 9, accepted=False, message="nothing of this was accepted")

    def receipts(self, kept: Sequence[Kept], url: str) -> Push:
        """Several."""
        return self._signed(url, {"receipts": [_report(one) for one in kept]})

    def inbound(self, text: Brought, url: str) -> Push:
        """One."""
        return self._signed(url, {"texts": [_brought(text)]})

    def _signed(self, url: str, told: Mapping[str, object]) -> Push:
        body, stamp, parts = encode(told), str(int(time.time())), urlsplit(url)
        target = f"{parts.path}?{parts.query}" if parts.query else parts.path
        signed = signature(self.secret, stamp, "POST", target, body)
        return Push(url, body, JSON, (("X-Timestamp", stamp), ("X-Signature", signed)))


_FAILED: Final = {"code": 50, "message": "route not available"}


def _sending(body: Mapping[str, Any]) -> Sending | Answer:
    try:
        texts = [
            Text(
                digits(one["to"]),
                one.get("from", ""),
                one["text"],
                one.get("ref", ""),
                one.get("notify", ""),
            )
            for one in body["messages"]
        ]
    except (KeyError, TypeError, AttributeError):
        return _say(400, 3, message="messages with to and text")
    if not 0 < len(texts) <= MOST:
        return _say(400, 3, message=f"1 to {MOST} messages")
    return Sending(texts)


def _found(ledger: Ledger, query: Mapping[str, str]) -> list[Kept]:
    if "id" in query:
        return [ledger.by_id[query["id"]]] if query["id"] in ledger.by_id else []
    wanted = query.get("ref")
    return [kept for kept in ledger.by_id.values() if kept.text.reference == wanted]


def _report(kept: Kept) -> dict[str, Any]:
    return {
        "id": kept.carrier_id,
        "ref": kept.text.reference,
        "to": kept.text.to,
        "status": _WORD[kept.end],
        "error": "001" if kept.end is End.BAD else "000",
    }


def _brought(text: Brought) -> dict[str, Any]:
    phone = text.phone
    return {
        "id": text.carrier_id,
        "from": phone.number,
        "to": phone.to,
        "text": phone.text,
        "at": int(text.at),
    }
