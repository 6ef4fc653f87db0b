"""What a webhook says: one body per event, built from a committed row and its message.

    {"id": "evt_…", "type": "message.delivered", "timestamp": "…", "data": {…}}
    {"type": "batch", "timestamp": "…", "data": [whole single bodies, up to 100]}

`data` is the message as the API shows it, with the row's own `status` and `sequence`, and
`previous_status`. The text is never in it; the number is masked unless the endpoint opted in. A
body is made once, when its row is committed, however many endpoints and tries it has: written
out directly (`_event`, 2.1 µs), which a test holds equal to `event_data` and an encoder (4.2 µs).
Nothing here waits or sends.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from json.encoder import encode_basestring as quote  # in C; str in, its JSON out
from typing import Any

import msgspec

from gateway.views import mask_number, message_view, rfc3339, whole_number
from receipts.state import ATTEMPTS, STATES_OF_PATH, ChannelPath, Path, PhonePath, apply_row
from sms.ids import to_text
from sms.model import Encoding, EventRow, Message, MessageClass, State
from sms.reasons import is_retryable

MAX_EVENT_BYTES = 20_000
MAX_BATCH_BYTES = 262_144
MAX_BATCH_EVENTS = 100
TEST_TYPE = "webhook.test"
ENVELOPE_BYTES = 96  # of a batch, besides its events

# Tenants are not told of these: a text that waits or is being submitted is not news.
_SILENT = frozenset({State.ACCEPTED, State.QUEUED, State.SUBMITTING})
# By number of the path, as plain texts: a list look-up per row (an enum's `.value` costs 0.1 µs).
_STATUS: list[str | None] = [None] * (max(Path) + 1)  # where it ends, None: tenants hear nothing
_TYPES: list[str | None] = [None] * (max(ChannelPath) + 1)
_TYPES[PhonePath.RECEIVED] = "inbound.received"
_TYPES[PhonePath.OPTED_OUT] = "recipient.opted_out"
_TYPES[ChannelPath.DEGRADED] = "channel.degraded"
_TYPES[ChannelPath.RECOVERED] = "channel.recovered"
# Where a path stands just before its end when the row alone says so. Live and read back from the
# store a message enters these paths at different places, but its event must read the same.
_BEFORE: list[str | None] = [None] * (max(Path) + 1)
for _path, _states in STATES_OF_PATH.items():
    if _states and _states[-1] not in _SILENT:
        _STATUS[_path] = _states[-1].value
        _TYPES[_path] = f"message.{_states[-1].value}"
        if _path in ATTEMPTS or _path is Path.QUEUE_FAILED:
            _BEFORE[_path] = _states[-2].value
_PATHS = len(_TYPES)
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
    sequence: int
    message_id: int
    number: str  # digits, for endpoints that opted in; "" = it names none
    masked: bytes  # the single-event body
    _whole: bytes | None = None

    def body(self, *, full_number: bool) -> bytes:
        """The single-event body, with the number as the endpoint may see it."""
        if not full_number or not self.number:
            return self.masked
        if self._whole is None:
            # The first number in a body is `to`: before it stand only ids, type and a time.
            shown = mask_number(self.number), whole_number(self.number)
            masked, whole = (quote(number).encode() for number in shown)
            self._whole = self.masked.replace(masked, whole, 1)
        return self._whole


def batch_body(bodies: Iterable[bytes], at: float) -> bytes:
    """Join whole single-event bodies; `at` is Unix seconds of the request."""
    return b'{"type":"batch","timestamp":"%b","data":[%b]}' % (
        rfc3339(at).encode(),
        b",".join(bodies),
    )


def test_body(endpoint_id: int, event_id: int, at: float) -> bytes:
    """The body of a test event: it is about the endpoint itself; `at` is Unix seconds."""
    event = {
        "id": to_text("evt", event_id),
        "type": TEST_TYPE,
        "timestamp": rfc3339(at),
        "data": {"id": to_text("whe", endpoint_id), "sequence": 1},
    }
    return _encode(event)


def type_of_path(path: int) -> str | None:
    """The event type of rows with this path; None when they are no event.

    Nor of one that only a newer version beside us knows: it tells its own rows.
    """
    return _TYPES[path] if path < _PATHS else None


def notice_of_row(
    message: Message, row: EventRow, previous: State | None, *, channel_name: str | None
) -> Notice | None:
    """The event of a row that is committed and applied to `message`; None when it is none.

    `previous` is where the message stood before the row; None means that nobody noted it, and a
    row that ends a life at the carrier then follows `submitted`.
    """
    path = row.path
    kind = _TYPES[path]
    if kind is None:
        return None
    before = _BEFORE[path] or _VALUES[previous]
    body = _event(message, row, before, channel_name)
    if len(body) >= MAX_EVENT_BYTES:
        body = _shortened(message, row, before, channel_name)
    return Notice(
        row.event_id, row.tenant, kind, row.sequence, row.message_id, message.number, body
    )


def _event(message: Message, row: EventRow, before: str, channel_name: str | None) -> bytes:
    """The body of one event, written out."""
    status = _STATUS[row.path]
    client_ref = message.client_ref
    metadata = message.metadata
    submitted_at = message.submitted_at
    final_at = message.final_at
    about = _about(
        message.message_class,
        status,
        message.reason,
        message.carrier_code,
        channel_name,
        message.encoding,
        _segment_states(message),
        message.segment_codes,
    )
    return (
        f'{{"id":"evt_{row.event_id:016x}","type":"message.{status}"'
        f',"timestamp":"{rfc3339(row.at)}"'
        f',"data":{{"id":"msg_{message.id:016x}","to":"{mask_number(message.number)}",{about}'
        f',"client_ref":{"null" if client_ref is None else quote(client_ref)}'
        f',"metadata":{"null" if metadata is None else _encode(metadata).decode()}'
        f',"duplicate_risk":{"true" if message.duplicate_risk else "false"}'
        f',"sequence":{row.sequence}'
        f',"created_at":"{rfc3339(message.created_at)}"'
        f',"send_at":{"null" if message.send_at is None else quote(rfc3339(message.send_at))}'
        f',"valid_until":"{rfc3339(message.valid_until)}"'
        f',"submitted_at":{"null" if submitted_at is None else quote(rfc3339(submitted_at))}'
        f',"final_at":{"null" if final_at is None else quote(rfc3339(final_at))}'
        f',"previous_status":"{before}"}}}}'
    ).encode()


def _segment_states(message: Message) -> tuple[State, ...]:
    """One per segment; those nobody told about stand where the message stands."""
    states = message.segment_states
    size = len(message.texts)
    if size == 1:
        return (states[0],) if states else (message.state,)
    return (*states[:size], *(message.state,) * (size - len(states)))


@lru_cache(maxsize=1024)  # few different ones in a stream of events: 0.15 instead of 1.4 µs
def _about(  # noqa: PLR0913, PLR0917 - the key is everything that it shows
    message_class: MessageClass,
    status: str | None,
    reason: str | None,
    carrier_code: str | None,
    channel_name: str | None,
    encoding: Encoding,
    states: tuple[State, ...],
    codes: tuple[str | None, ...],
) -> str:
    """The fields of `data` that many messages share, `class` to `encoding`."""
    code = "null" if carrier_code is None else quote(carrier_code)
    size = len(states)
    words = (carrier_code,) if size == 1 else codes or (None,) * size
    segments = ",".join(
        f'{{"index":{index},"status":"{state.value}"'
        f',"carrier_code":{"null" if word is None else quote(word)}}}'
        for index, (state, word) in enumerate(zip(states, words, strict=True))
    )
    return (
        f'"class":"{message_class.value}","status":"{status}"'
        f',"reason":{"null" if reason is None else quote(reason)},"carrier_code":{code}'
        f',"retryable":{"true" if reason is not None and is_retryable(reason) else "false"}'
        f',"channel":{"null" if channel_name is None else quote(channel_name)}'
        f',"segments":{size},"segment_states":[{segments}],"encoding":"{encoding.value}"'
    )


def event_data(
    message: Message, row: EventRow, before: str, channel_name: str | None
) -> dict[str, Any]:
    """`data` of one event as values: what `_event` must give."""
    data = message_view(message, channel_name=channel_name, full_number=False)
    # The live message may already be further than this row: two decisions in one flush.
    data["status"] = _STATUS[row.path]
    data["sequence"] = row.sequence
    data["previous_status"] = before
    return data


def _shortened(message: Message, row: EventRow, before: str, channel_name: str | None) -> bytes:
    """RELIABILITY 10 caps an event: what GET /v1/messages/{id} has as well gives way first."""
    data = event_data(message, row, before, channel_name)
    data["segment_states"] = []
    body = _framed(row, data)
    if len(body) >= MAX_EVENT_BYTES:
        data["metadata"] = None
        body = _framed(row, data)
    return body


def _framed(row: EventRow, data: dict[str, Any]) -> bytes:
    event = {
        "id": to_text("evt", row.event_id),
        "type": _TYPES[row.path],
        "timestamp": rfc3339(row.at),
        "data": data,
    }
    return _encode(event)


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
