"""What a webhook says: one body per event, built from a committed row and its message.

    {"id": "evt_…", "type": "message.delivered", "timestamp": "…", "data": {…}}
    {"type": "batch", "timestamp": "…", "data": [whole single bodies, up to 100]}

`data` is the message as the API shows it, with the row's own `status` and `sequence`, and
`previous_status`. The text is never in it; the number is masked unless the endpoint opted in. A
body is encoded once, however many endpoints and tries it has. Nothing here waits or sends.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import msgspec

from gateway.views import message_view, rfc3339
from receipts.state import ATTEMPTS, STATES_OF_PATH, Path, apply_row
from sms.model import EventRow, Message, State

MAX_EVENT_BYTES = 20_000
MAX_BATCH_BYTES = 262_144
MAX_BATCH_EVENTS = 100
ENVELOPE_BYTES = 96  # of a batch, besides its events

# Tenants are not told of these: a text that waits or is being submitted is not news.
_SILENT = frozenset({State.ACCEPTED, State.QUEUED, State.SUBMITTING})
# By number of the path, as plain texts: a list look-up per row (an enum's `.value` costs 0.1 µs).
_STATUS: list[str | None] = [None] * (max(Path) + 1)  # where it ends, None: tenants hear nothing
_TYPES: list[str | None] = [None] * (max(Path) + 1)
# Where a path stands just before its end when the row alone says so. Live and read back from the
# store a message enters these paths at different places, but its event must read the same.
_BEFORE: list[str | None] = [None] * (max(Path) + 1)
for _path, _states in STATES_OF_PATH.items():
    if _states and _states[-1] not in _SILENT:
        _STATUS[_path] = _states[-1].value
        _TYPES[_path] = f"message.{_states[-1].value}"
        if _path in ATTEMPTS or _path is Path.QUEUE_FAILED:
            _BEFORE[_path] = _states[-2].value
_VALUES: dict[State | None, str] = {state: state.value for state in State}
_VALUES[State.ACCEPTED] = State.QUEUED.value  # what waits live is `queued`, stored `accepted`
_VALUES[None] = State.SUBMITTED.value  # nobody noted it: rows that end a life follow this

_encode = msgspec.json.Encoder().encode


@dataclass(slots=True)  # not frozen: one per event on the hot path, and it keeps its bodies
class Notice:
    """One event that a tenant may want to hear of."""

    event_id: int
    tenant: int
    type: str
    at: float  # Unix seconds
    sequence: int
    message_id: int
    data: dict[str, Any]  # the number masked
    number: str = ""  # whole, E.164 with '+', for endpoints that opted in
    _masked: bytes | None = None
    _whole: bytes | None = None

    def body(self, *, full_number: bool) -> bytes:
        """The single-event body, encoded on first use."""
        if full_number:
            if self._whole is None:
                self._whole = self._encoded({**self.data, "to": self.number})
            return self._whole
        if self._masked is None:
            self._masked = self._encoded(self.data)
        return self._masked

    def _encoded(self, data: dict[str, Any]) -> bytes:
        body = self._with_frame(_encode(data))
        if len(body) < MAX_EVENT_BYTES:
            return body
        # RELIABILITY 10 caps an event: what GET /v1/messages/{id} has as well gives way first.
        body = self._with_frame(_encode({**data, "segment_states": []}))
        if len(body) < MAX_EVENT_BYTES:
            return body
        return self._with_frame(_encode({**data, "segment_states": [], "metadata": None}))

    def _with_frame(self, data: bytes) -> bytes:
        return b'{"id":"evt_%016x","type":"%b","timestamp":"%b","data":%b}' % (
            self.event_id,
            self.type.encode(),
            _stamp(self.at),
            data,
        )


@lru_cache(maxsize=1024)  # the rows of one burst share their moment: 0.1 instead of 1.1 µs
def _stamp(unix_s: float) -> bytes:
    return rfc3339(unix_s).encode()


def batch_body(bodies: Iterable[bytes], at: float) -> bytes:
    """Join whole single-event bodies; `at` is Unix seconds of the request."""
    return b'{"type":"batch","timestamp":"%b","data":[%b]}' % (
        rfc3339(at).encode(),
        b",".join(bodies),
    )


def type_of_path(path: int) -> str | None:
    """The event type of rows with this path; None when they are no event."""
    return _TYPES[path]


def notice_of_row(
    message: Message, row: EventRow, previous: State | None, *, channel_name: str | None
) -> Notice | None:
    """The event of a row that is committed and applied to `message`; None when it is none.

    `previous` is where the message stood before the row; None means that nobody noted it, and a
    row that ends a life at the carrier then follows `submitted`.
    """
    path = row.path
    status = _STATUS[path]
    kind = _TYPES[path]
    if status is None or kind is None:
        return None
    data = message_view(message, channel_name=channel_name, full_number=False)
    # The live message may already be further than this row: two decisions in one flush.
    data["status"] = status
    data["sequence"] = row.sequence
    data["previous_status"] = _BEFORE[path] or _VALUES[previous]
    return Notice(
        row.event_id,
        row.tenant,
        kind,
        row.at,
        row.sequence,
        row.message_id,
        data,
        "+" + message.number,
    )


def notices_of_stored(
    message: Message,
    rows: Sequence[EventRow],
    sequences: Collection[int],
    channel_names: Mapping[int, str],
) -> list[Notice]:
    """The events of some sequences of a message read back from the store.

    `message` is as the store gives it, not folded; it is folded on the way, so that each event
    shows the message as it stood then.
    """
    notices = []
    last = max(sequences, default=0)
    for row in rows:
        if row.sequence > last:
            break
        if row.sequence <= message.sequence:
            continue
        previous = message.state
        if not apply_row(message, row):
            message.sequence = row.sequence  # illegal, counted where it was folded for a decision
            continue
        if row.sequence in sequences:
            name = channel_names.get(message.channel)
            notice = notice_of_row(message, row, previous, channel_name=name)
            if notice is not None:
                notices.append(notice)
    return notices
