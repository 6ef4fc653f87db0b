"""What a webhook receiver must do and count, sans I/O: check, read, tell repeats apart.

It verifies with the standard library alone, not with the gateway's own signing code, so that it
can judge that code. Costs per event in batches of 100: see tests/unit/loadtest.
"""

from __future__ import annotations

import base64
import hmac
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from sms.model import FINAL_STATES

TOLERANCE_S = 300  # of webhook-timestamp, either way
KEPT_BYTES = 32 << 20  # of bodies kept for looking at, without a record file
FINAL_TYPES = frozenset(f"message.{state.value}" for state in FINAL_STATES)


class _Data(msgspec.Struct, frozen=True, gc=False):
    id: str = ""
    sequence: int = 0


class _Event(msgspec.Struct, gc=False):
    type: str
    id: str = ""
    data: _Data = _Data()


class _Batch(msgspec.Struct, gc=False):
    type: str
    data: list[_Event]


class _RawBatch(msgspec.Struct, gc=False):
    type: str
    data: list[msgspec.Raw]


class _Kind(msgspec.Struct, gc=False):
    type: str


_read_event = msgspec.json.Decoder(_Event).decode
_read_batch = msgspec.json.Decoder(_Batch).decode
_read_raw_batch = msgspec.json.Decoder(_RawBatch).decode
_read_kind = msgspec.json.Decoder(_Kind).decode


def is_batch(body: bytes) -> bool:
    """Whether the body holds several events. Raises msgspec.DecodeError when it is no event."""
    return body.startswith(b'{"type":"batch"') or _read_kind(body).type == "batch"


def single_bodies(body: bytes) -> Sequence[bytes | msgspec.Raw]:
    """The whole single-event bodies inside one request's body."""
    return _read_raw_batch(body).data if is_batch(body) else [body]


def is_signed(
    keys: Sequence[bytes], headers: dict[bytes, bytes], body: bytes, unix_s: float
) -> bool:
    """Whether one `v1` signature fits one of the keys and the timestamp is near.

    Header names in lower case (Standard Webhooks 1.0.0, "Verifying webhook authenticity").
    """
    stamp = headers.get(b"webhook-timestamp", b"")
    if not stamp.isdigit() or len(stamp) > 12 or abs(int(stamp) - unix_s) > TOLERANCE_S:
        return False
    content = b"%b.%b.%b" % (headers.get(b"webhook-id", b""), stamp, body)
    given = headers.get(b"webhook-signature", b"").split(b" ")
    for key in keys:
        wanted = b"v1," + base64.b64encode(hmac.digest(key, content, "sha256"))
        if any(hmac.compare_digest(wanted, signature) for signature in given):
            return True
    return False


class Tally:
    """Counts of everything that was taken."""

    def __init__(self, *, is_keeping: bool) -> None:
        """`is_keeping`: keep the newest bodies in memory for `events_of`."""
        self.requests = 0
        self.events = 0
        self.duplicates = 0
        self.bad_signatures = 0
        self.bad_bodies = 0
        self.failed = 0  # refused on purpose
        self.by_type: Counter[str] = Counter()
        self._seen: set[int] = set()  # message id and sequence in one number: half a tuple's size
        self._final: set[int] = set()
        self._is_keeping = is_keeping
        self._kept: deque[bytes] = deque()
        self._kept_bytes = 0

    def take(self, body: bytes) -> None:
        """Count one accepted request. Raises msgspec.DecodeError or ValueError if unreadable."""
        events = _read_batch(body).data if is_batch(body) else [_read_event(body)]
        keys = [  # an event without a message stands for itself
            int(event.data.id[4:] or event.id[4:], 16) << 16 | event.data.sequence
            for event in events
        ]
        seen, final, by_type = self._seen, self._final, self.by_type
        before = len(seen)
        seen.update(keys)
        self.duplicates += len(keys) - (len(seen) - before)
        for event, key in zip(events, keys, strict=True):
            kind = event.type
            by_type[kind] += 1
            if kind in FINAL_TYPES:
                final.add(key >> 16)
        self.events += len(keys)
        if self._is_keeping:
            self._keep(body)

    def _keep(self, body: bytes) -> None:
        self._kept.append(body)
        self._kept_bytes += len(body)
        while self._kept_bytes > KEPT_BYTES:
            self._kept_bytes -= len(self._kept.popleft())

    def events_of(self, message_id: str) -> list[Any]:
        """The kept events of a message, in order of arrival."""
        return list(events_of(self._kept, message_id))

    def counts(self) -> dict[str, Any]:
        """As the control port shows them."""
        return {
            "requests": self.requests,
            "events": self.events,
            "distinct_events": len(self._seen),
            "distinct_messages_final": len(self._final),
            "duplicates": self.duplicates,
            "bad_signatures": self.bad_signatures,
            "bad_bodies": self.bad_bodies,
            "failed": self.failed,
            "by_type": dict(self.by_type),
        }


def events_of(bodies: Iterator[bytes] | deque[bytes], message_id: str) -> Iterator[Any]:
    """The events of one message in some bodies (or lines of a record)."""
    needle = message_id.encode()
    for body in bodies:
        if needle not in body:
            continue
        for raw in single_bodies(body):
            event = msgspec.json.decode(raw)
            if event.get("data", {}).get("id") == message_id:
                yield event
