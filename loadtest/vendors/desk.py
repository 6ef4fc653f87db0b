"""A simulated vendor: what it decides about requests, texts and receipts. No sockets.

    request ─▶ record lines ─▶ (latency) ─▶ answer ─▶ (receipt delay) ─▶ receipts ─▶ owed

It is `loadtest.smsc` for HTTP: the same switches, the same lines in its record, one per message.
Receipts go to the URL that the request named, else to the account's; without either, and with
`receipts` off, they are there for who pulls or asks.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from functools import partial
from json.encoder import encode_basestring
from random import random

from loadtest.behaviour import Behaviour
from loadtest.phone import PhoneText
from loadtest.record import Record
from loadtest.vendors.http import Answer, Asked
from loadtest.vendors.pusher import Pusher
from loadtest.vendors.shape import Brought, End, Kept, Sending, Shape, Text
from loadtest.wheel import Wheel

SAID_PER_NUMBER = 200  # `failure_status` below 400: a text fails alone, in the vendor's own words
TOO_FAST = 429
NO_BODY = b"<html><body><h1>Bad Gateway</h1></body></html>"  # of somebody in front of the vendor

Reply = Callable[[Answer], None]


def _line(stamp: str, text: Text, status: int, carrier_id: str) -> str:
    """One line of the record. `status`: 0 for what was taken, else the answer's.

    `hex`: the text as phones' networks carry it, without a header: ASCII in one octet a
    character, anything else in UTF-16BE.
    """
    data = text.text.encode("ascii" if text.text.isascii() else "utf-16-be", "surrogatepass")
    shown_id = encode_basestring(carrier_id) if carrier_id else "null"
    status = 0 if carrier_id else status
    return (
        f'{{"at":"{stamp}","to":{encode_basestring(text.to)},"segment_ref":null'
        f',"index":1,"total":1,"carrier_id":{shown_id},"status":{status}'
        f',"from":{encode_basestring(text.sender)},"text":{encode_basestring(text.text)}'
        f',"hex":"{data.hex()}","reference":{encode_basestring(text.reference)}}}\n'
    )


class VendorDesk:
    """One simulated vendor; what its client is to hear goes through `pusher.owe`."""

    def __init__(
        self, *, shape: Shape, record: Record, wheel: Wheel, behaviour: Behaviour, pusher: Pusher
    ) -> None:
        self.behaviour = behaviour
        self.record = record
        self._shape = shape
        self._wheel = wheel
        self._pusher = pusher
        self._number = 0
        self._tokens = 0.0  # of `takes_per_s`
        self._tokens_at = time.monotonic()

    def take(self, asked: Asked, reply: Reply) -> None:
        """A request of a client."""
        found = self._shape.read(asked, self._pusher.ledger, time.time())
        self._pusher.counts["requests"] += 1
        if isinstance(found, Sending):
            self._sent(found, reply)
            return
        if found.status in (401, 403):
            self._pusher.counts["binds_refused"] += 1
        if self.behaviour.silent:
            self._pusher.counts["silent"] += 1
            return
        self._later(self.behaviour.latency_ms, partial(reply, found))

    def _sent(self, sending: Sending, reply: Reply) -> None:
        at = time.time()
        texts = sending.texts
        whole = self._whole(len(texts))
        ids = [""] * len(texts) if whole else self._decided(texts, at)
        status = whole.status if whole else SAID_PER_NUMBER  # of who is refused
        stamp = _stamp(at)
        self.record.write(
            [_line(stamp, text, status, one) for text, one in zip(texts, ids, strict=True)]
        )
        self._pusher.counts["submits"] += len(texts)
        kept = self._kept(texts, ids, at)
        if self.behaviour.silent:
            self._pusher.counts["silent"] += len(texts)
            self._end(kept)
            return
        answer = whole or self._shape.taken(sending, ids, at)
        if self.behaviour.receipts and self.behaviour.report_quirk == "before_answer":
            self._report(kept)
            kept = []
        self._later(self.behaviour.latency_ms, partial(self._answer, reply, answer, kept))
        self._pusher.counts["accepted"] += len(texts) - ids.count("")
        self._pusher.counts["throttled"] += len(texts) if status == TOO_FAST else 0

    def _whole(self, count: int) -> Answer | None:
        """The answer to a request that is refused as a whole."""
        behaviour = self.behaviour
        if behaviour.takes_per_s and self._is_too_fast(count):
            return self._shape.throttled()
        dice = random()
        if dice < behaviour.throttle_share:
            return self._shape.throttled()
        status = behaviour.failure_status
        is_failing = dice < behaviour.throttle_share + behaviour.failure_share
        if not is_failing or status < 400:
            return None
        if status < 500:
            return self._shape.refused(status)
        if behaviour.says_not_accepted:
            return self._shape.broken(status)
        return Answer(status, NO_BODY, "text/html")

    def _is_too_fast(self, count: int) -> bool:
        """A bucket of a fifth of a second, at least one request."""
        now, rate = time.monotonic(), self.behaviour.takes_per_s
        self._tokens = min(self._tokens + (now - self._tokens_at) * rate, max(rate / 5, count))
        self._tokens_at = now
        if self._tokens < count:
            return True
        self._tokens -= count
        return False

    def _decided(self, texts: Sequence[Text], at: float) -> list[str]:
        """Each text's id, "" for those that fail alone."""
        first, self._number = self._number + 1, self._number + len(texts)
        ids = self._shape.ids(texts, first, at)
        share = self.behaviour.failure_share
        if not share or self.behaviour.failure_status >= 400:
            return ids
        if self._shape.has_one_verdict:
            return ids if random() >= share else [""] * len(ids)
        return [one if random() >= share else "" for one in ids]

    def _kept(self, texts: Sequence[Text], ids: Sequence[str], at: float) -> list[Kept]:
        first = self._number - len(texts) + 1
        found = []
        for number, (text, carrier_id) in enumerate(zip(texts, ids, strict=True), first):
            if carrier_id:
                found.append(Kept(carrier_id, text, at, number))
                self._pusher.ledger.keep(found[-1])
        return found

    def _later(self, delay_ms: int, action: Callable[[], None]) -> None:
        if delay_ms:
            self._wheel.add(delay_ms / 1000, action)
        else:
            action()

    def _answer(self, reply: Reply, answer: Answer, kept: list[Kept]) -> None:
        reply(answer)
        if kept:
            end = self._report if self.behaviour.receipts else self._end
            self._later(self.behaviour.receipt_delay_ms, partial(end, kept))

    # -- receipts and phones' texts --------------------------------------------------------

    def _end(self, kept: Iterable[Kept]) -> None:
        """They have come to their end; nobody is told, who asks learns it."""
        now, bad_share = time.time(), self.behaviour.undelivered_share
        for one in kept:
            one.end = End.BAD if bad_share and random() < bad_share else End.GOOD
            one.done_at = now

    def _report(self, kept: Sequence[Kept]) -> None:
        quirk = self.behaviour.report_quirk
        if quirk == "accepted_first":
            # a copy: what is told of it must not change while it waits
            self._tell([Kept(one.carrier_id, one.text, one.at, one.number) for one in kept])
        self._end(kept)
        self._tell(kept)
        if quirk == "twice":
            self._tell(kept)

    def _tell(self, kept: Sequence[Kept]) -> None:
        by_url: dict[str, list[Kept]] = {}
        for one in kept:
            by_url.setdefault(one.text.notify_url, []).append(one)
        for url, some in by_url.items():
            self._pusher.owe(url, some)

    def phone(self, text: PhoneText) -> int:
        """A phone's text; vendors put long ones together, so it is one."""
        self._number += 1
        at = time.time()
        sender = Text(text.number, text.to, text.text)
        [carrier_id] = self._shape.ids([sender], self._number, at)
        self._pusher.counts["inbound"] += 1
        self._pusher.owe("", [Brought(text, carrier_id, at, self._number)])
        return 1

    def remember(self, lines: Iterable[bytes], since: float) -> None:
        """Know and owe again what was taken since that moment (Unix), after a restart."""
        kept = []
        for line in lines:
            row = json.loads(line)
            at = datetime.fromisoformat(row["at"]).timestamp()
            if row["carrier_id"] and at >= since:
                self._number += 1
                text = Text(row["to"], row["from"], row["text"], row["reference"])
                kept.append(Kept(row["carrier_id"], text, at, self._number))
                self._pusher.ledger.keep(kept[-1])
        if kept:
            self._later(self.behaviour.receipt_delay_ms, partial(self._report, kept))


def _stamp(at: float) -> str:
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(at))}.{int(at % 1 * 1e6):06}Z"
