"""Twilio: Programmable Messaging 2010-04-01, forms, basic authentication, signed webhooks.

Forms: https://www.twilio.com/docs/messaging/api/message-resource and its webhooks; the signature
of a webhook: https://www.twilio.com/docs/usage/webhooks/webhooks-security.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import time
from collections.abc import Mapping, Sequence
from email.utils import formatdate
from typing import Any, Final
from urllib.parse import parse_qs, urlencode

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
)

VERSION: Final = "2010-04-01"
_STATUS: Final = {End.WAITING: "sent", End.GOOD: "delivered", End.BAD: "undelivered"}
_UNKNOWN_DESTINATION: Final = 30005


def _error(status: int, code: int, message: str, *headers: tuple[str, str]) -> Answer:
    told = {
        "code": code,
        "message": message,
        "more_info": f"https://www.twilio.com/docs/errors/{code}",
        "status": status,
    }
    return Answer(status, encode(told), headers=headers)


def signature(url: str, fields: Mapping[str, str], token: str) -> str:
    """X-Twilio-Signature: the URL and the sorted fields, HMAC-SHA1, base64."""
    told = url + "".join(name + fields[name] for name in sorted(fields))
    digest = hmac.new(token.encode(), told.encode(), hashlib.sha1).digest()
    return base64.b64encode(digest).decode()


class Twilio(Shape):
    """An account: AccountSid and AuthToken."""

    def __init__(self, account: str, secret: str) -> None:
        super().__init__(account, secret)
        self._prefix = f"{time.time_ns() // 1_000_000 & 0xFFFFFFFFFFFF:012x}{os.getpid():08x}"
        login = base64.b64encode(f"{account}:{secret}".encode())
        self._wanted = b"Basic " + login
        self._messages = f"/{VERSION}/Accounts/{account}/Messages"

    def read(self, asked: Asked, ledger: Ledger, now: float) -> Sending | Answer:
        """Create, fetch and list messages."""
        given = asked.headers.get("authorization", "").encode()
        if self.secret and not hmac.compare_digest(given, self._wanted):
            return _error(401, 20003, "Authenticate")
        path = asked.path
        if not path.startswith(self._messages) or not path.endswith(".json"):
            return _error(404, 20404, f"The requested resource {path} was not found")
        sid = path.removeprefix(self._messages).removesuffix(".json").removeprefix("/")
        if asked.method == "POST" and not sid:
            return self._sending(form_of(asked.body))
        if asked.method == "GET":
            return self._looked(asked, sid, ledger)
        return _error(405, 20004, "Method not allowed")

    def _looked(self, asked: Asked, sid: str, ledger: Ledger) -> Answer:
        if sid:
            kept = ledger.by_id.get(sid)
            if kept is None:
                return _error(404, 20404, f"The requested resource {asked.path} was not found")
            return Answer(200, encode(self._shown(kept)))
        query = parse_qs(asked.query)
        number = digits(query.get("To", [""])[0])
        found = ledger.found(number, int(query.get("PageSize", ["50"])[0]))
        page = {"messages": [self._shown(kept) for kept in found], "next_page_uri": None, "page": 0}
        return Answer(200, encode(page))

    def _sending(self, form: Mapping[str, str]) -> Sending | Answer:
        if not form.get("To"):
            return _error(400, 21604, "A 'To' phone number is required.")
        if not form.get("Body"):
            return _error(400, 21602, "Message body is required.")
        sender = form.get("From") or form.get("MessagingServiceSid", "")
        if not sender:
            return _error(400, 21603, "A 'From' phone number is required.")
        text = Text(
            digits(form["To"]), sender, form["Body"], notify_url=form.get("StatusCallback", "")
        )
        return Sending([text])

    def ids(self, sending: Sequence[Text], first: int, at: float) -> list[str]:
        """SM and 32 hexadecimal digits."""
        return [f"SM{self._prefix}{first + place:012x}" for place in range(len(sending))]

    def _shown(self, kept: Kept, status: str = "") -> dict[str, Any]:
        is_bad = kept.end is End.BAD
        return {
            "sid": kept.carrier_id,
            "account_sid": self.account,
            "api_version": VERSION,
            "body": kept.text.text,
            "date_created": formatdate(kept.at),
            "date_sent": formatdate(kept.at) if not status else None,
            "date_updated": formatdate(kept.done_at or kept.at),
            "direction": "outbound-api",
            "error_code": _UNKNOWN_DESTINATION if is_bad else None,
            "error_message": "Unknown destination handset" if is_bad else None,
            "from": kept.text.sender,
            "messaging_service_sid": None,
            "num_media": "0",
            "num_segments": "1",
            "price": None,
            "price_unit": "USD",
            "status": status or _STATUS[kept.end],
            "subresource_uris": {},
            "to": f"+{kept.text.to}",
            "uri": f"{self._messages}/{kept.carrier_id}.json",
        }

    def taken(self, sending: Sending, ids: Sequence[str], at: float) -> Answer:
        """201 with the message, or a 400 of its own."""
        [text], [one] = sending.texts, ids
        if not one:
            return _error(
                400,
                21612,
                "The 'To' phone number provided cannot currently be reached using the 'From' one",
            )
        return Answer(201, encode(self._shown(Kept(one, text, at, 0), "queued")))

    def throttled(self) -> Answer:
        """429."""
        return _error(429, 20429, "Too Many Requests", ("Retry-After", "1"))

    def refused(self, status: int) -> Answer:
        """4xx."""
        return _error(status, 20001, "Unknown parameter")

    def broken(self, status: int) -> Answer:
        """5xx with Twilio's error body."""
        return _error(status, 20500, "Internal Server Error. The message was not accepted.")

    def _signed(self, url: str, fields: dict[str, str]) -> Push:
        header = ("X-Twilio-Signature", signature(url, fields, self.secret))
        return Push(url, urlencode(fields).encode(), FORM, (header,))

    def receipts(self, kept: Sequence[Kept], url: str) -> Push:
        """A status callback, one message each."""
        [one] = kept
        fields = {
            "AccountSid": self.account,
            "ApiVersion": VERSION,
            "From": one.text.sender,
            "MessageSid": one.carrier_id,
            "MessageStatus": _STATUS[one.end],
            "SmsSid": one.carrier_id,
            "SmsStatus": _STATUS[one.end],
            "To": f"+{one.text.to}",
        }
        if one.end is End.BAD:
            fields["ErrorCode"] = str(_UNKNOWN_DESTINATION)
        return self._signed(url, fields)

    def inbound(self, text: Brought, url: str) -> Push:
        """An incoming message's webhook."""
        fields = {
            "AccountSid": self.account,
            "ApiVersion": VERSION,
            "Body": text.phone.text,
            "From": f"+{text.phone.number}",
            "MessageSid": text.carrier_id,
            "NumMedia": "0",
            "NumSegments": "1",
            "SmsMessageSid": text.carrier_id,
            "SmsSid": text.carrier_id,
            "SmsStatus": "received",
            "To": text.phone.to,
        }
        return self._signed(url, fields)
