"""What a webhook says of a channel: `channel.degraded`, and `channel.recovered`.

    {"id": "evt_…", "type": "channel.degraded", "timestamp": "…",
     "data": {"id": "chn_…", "name": "mobile-a", "carrier": null, "cause": "no_answer",
              "since": "…", "sequence": 114688000000000}}

`sequence` only grows for a channel: moment and counter of the event's id. All else stands in its
row of `events`: `segment` is the carrier's place in `CARRIERS` (NULL = the whole channel), `code`
the cause, `times` how long before it was left, in ms.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from gateway.notices import Notice, type_of_path
from gateway.views import rfc3339
from receipts.state import ChannelPath
from sms.ids import COUNTER_BITS, COUNTERS, TIME_SHIFT, to_text
from sms.model import CARRIERS, Carrier, EventRow, State
from store.objects import PREFIXES

_MAX_MS: Final = (1 << 31) - 1  # 24 days
_encode = msgspec.json.Encoder().encode


def channel_row(  # noqa: PLR0913 (keyword-only: what an event says)
    *,
    event_id: int,
    tenant: int,
    path: ChannelPath,
    channel: int,
    carrier: Carrier | None,
    cause: str,
    since: float,
    at: float,
) -> EventRow:
    """The row of one tenant's event; `since` and `at` are Unix seconds."""
    at_ms, since_ms = round(at * 1000), round(since * 1000)  # so that `since` is told the same
    return EventRow(
        event_id,  # it is about no message: its own id stands in
        1,
        event_id,
        tenant,
        path,
        State.ACCEPTED,  # it says nothing here
        at_ms / 1000,
        segment=None if carrier is None else CARRIERS.index(carrier),
        channel=channel,
        code=cause,
        times=(max(0, min(at_ms - since_ms, _MAX_MS)),),
    )


def notice_of_channel(row: EventRow, channel_names: Mapping[int, str]) -> Notice:
    """The event of a row that `channel_row` made."""
    kind = type_of_path(row.path) or ""
    event = {
        "id": to_text("evt", row.event_id),
        "type": kind,
        "timestamp": rfc3339(row.at),
        "data": {
            "id": to_text(PREFIXES["channel"], row.channel),
            "name": channel_names.get(row.channel),
            "carrier": None if row.segment is None else CARRIERS[row.segment].value,
            "cause": row.code,
            "since": rfc3339(row.at - row.times[0] / 1000),
            "sequence": _sequence(row.event_id),
        },
    }
    body = _encode(event)
    return Notice(row.event_id, row.tenant, kind, row.sequence, row.message_id, "", body)


def _sequence(event_id: int) -> int:
    """A number that every JSON reader holds: less than 2^53."""
    return (event_id >> TIME_SHIFT) << COUNTER_BITS | event_id & (COUNTERS - 1)
