"""What a webhook says of a text from a phone: `inbound.received`, and `recipient.opted_out`.

The text is always in it (RELIABILITY section 10); the phone's number is masked unless the endpoint
opted in. A text so long that the event would pass the cap is cut there, and says so: the whole one
is at GET /v1/inbound-messages.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import msgspec

from gateway.notices import MAX_EVENT_BYTES, Notice, type_of_path
from gateway.views import mask_number, rfc3339, whole_number
from receipts.state import PhonePath
from sms.ids import to_text
from sms.model import EventRow, InboundMessage, MessageClass
from store.inbound import PREFIX

_encode = msgspec.json.Encoder().encode
_ROOM = 64  # bytes kept for what a cut adds


def inbound_view(
    message: InboundMessage, *, channel_name: str | None, full_number: bool
) -> dict[str, Any]:
    """The inbound message of API section 3. `missing` > 0: segments that never came."""
    return {
        "id": to_text(PREFIX, message.id),
        "from": (whole_number if full_number else mask_number)(message.number),
        "to": message.to,
        "text": message.text,
        "channel": channel_name,
        "segments": message.segments,
        "incomplete": message.missing > 0,
        "missing_segments": message.missing,
        "opted_out": bool(message.suppressed),
        "probable_parent": None if message.parent is None else to_text("msg", message.parent),
        "received_at": rfc3339(message.received_at),
    }


def _opted_out(message: InboundMessage, channel_name: str | None) -> dict[str, Any]:
    return {
        "id": to_text(PREFIX, message.id),
        "to": mask_number(message.number),
        "classes": [str(one) for one in MessageClass if one in message.suppressed],
        "text": message.text,
        "sender": message.to,
        "channel": channel_name,
        "probable_parent": None if message.parent is None else to_text("msg", message.parent),
        "received_at": rfc3339(message.received_at),
    }


def notices_of_inbound(
    message: InboundMessage,
    rows: Sequence[EventRow],
    sequences: Collection[int] | None,
    channel_names: Mapping[int, str],
) -> list[Notice]:
    """The events of a text; of some of its rows only, when `sequences` names them."""
    name = channel_names.get(message.channel)
    return [
        _notice(message, row, name)
        for row in rows
        if sequences is None or row.sequence in sequences
    ]


def _notice(message: InboundMessage, row: EventRow, name: str | None) -> Notice:
    if row.path == PhonePath.OPTED_OUT:
        data = _opted_out(message, name)
    else:
        data = inbound_view(message, channel_name=name, full_number=False)
    data["sequence"] = row.sequence
    kind = type_of_path(row.path) or ""
    event: dict[str, Any] = {
        "id": to_text("evt", row.event_id),
        "type": kind,
        "timestamp": rfc3339(row.at),
        "data": data,
    }
    body = _encode(event)
    if len(body) >= MAX_EVENT_BYTES:
        data["text"] = _cut(message.text, len(body) - MAX_EVENT_BYTES + _ROOM)
        data["text_cut"] = True
        body = _encode(event)
    return Notice(
        row.event_id, row.tenant, kind, row.sequence, row.message_id, message.number, body
    )


def _cut(text: str, bytes_too_many: int) -> str:
    """The text without so many bytes of its JSON at its end, at least."""
    end = len(text)
    while end and bytes_too_many > 0:
        end -= 1
        bytes_too_many -= len(_encode(text[end])) - 2
    return text[:end]
