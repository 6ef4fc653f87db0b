"""Events to fetch: GET /v1/events?after=… (API section 3), for who cannot be called back.

The bodies are those of the webhooks, built by the same code. Reading consumes nothing: the cursor
is the reader's own, and goes on also when nothing was new.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from fastapi import FastAPI, Request
from fastapi.responses import Response

from gateway.api.cursors import place_of, seal_cursor
from gateway.api.filters import DEFAULT_LIMIT, EVENT_FILTERS, from_query, position_of, refusal
from gateway.api.problems import ProblemError
from gateway.api.reply import caller
from gateway.api.routing import add_route
from gateway.channel_notices import notice_of_channel
from gateway.inbound_notices import notices_of_inbound
from gateway.notices import notices_of_stored
from store.pull import Pulled, oldest_cursor

if TYPE_CHECKING:
    from gateway.api.port import FlowPort

_SLICE = 100  # events read and built in one turn of the loop
_LATE_S = 3600.0  # a reader that began at the oldest event has so long to fetch its next page


class Events:
    """The route."""

    def __init__(self, flow: FlowPort, unix: Callable[[], float] = time.time) -> None:
        self._flow = flow
        self._unix = unix

    def register(self, app: FastAPI) -> None:
        """Add the route; what it answers is described in `openapi_reads.py`."""
        add_route(app, "/v1/events", self.pull, name="listEvents")

    async def pull(self, request: Request) -> Response:
        """The tenant's events behind the cursor, oldest first; without one, from 7 days ago."""
        key = caller(request, self._flow, "read")
        given = from_query(request, EVENT_FILTERS)
        place = place_of("events", key.tenant, {})
        cursor_key = self._flow.keyring.cursor_key
        cursor = position_of(cursor_key, place, given, "after", is_query=True)
        oldest = oldest_cursor(self._unix())
        if cursor is None:
            cursor = oldest
        elif cursor < oldest_cursor(self._unix() - _LATE_S):
            detail = (
                "`after` is more than 7 days old, and events of before are not kept here any more; "
                "begin without it, and read what became of older messages from /v1/messages."
            )
            raise ProblemError(refusal("after", detail, is_query=True))
        limit = given.get("limit", DEFAULT_LIMIT)
        found, following = await self._flow.reading.pull.after(key.tenant, cursor, limit)
        bodies: list[bytes] = []
        for start in range(0, len(found), _SLICE):
            bodies += await self._bodies(found[start : start + _SLICE])
            await asyncio.sleep(0)
        text = b'{"data":[%b],"next_cursor":"%b"}' % (
            b",".join(bodies),
            seal_cursor(cursor_key, place, following).encode(),
        )
        headers = {"cache-control": "no-store"}
        return Response(text, media_type="application/json", headers=headers)

    async def _bodies(self, events: Sequence[Pulled]) -> list[bytes]:
        """Their bodies in the same order; what retention has dropped meanwhile is left out."""
        wanted: dict[int, set[int]] = {}
        for event in events:
            wanted.setdefault(event.message_id, set()).add(event.sequence)
        reading = self._flow.reading
        stored = await reading.reader.messages(list(wanted))
        from_phones = await reading.inbound.messages([one for one in wanted if one not in stored])
        rest = [one for one in wanted if one not in stored and one not in from_phones]
        of_channels = await reading.news.events(rest)
        names = self._flow.channel_names
        built: dict[int, bytes] = {}
        for message_id, sequences in wanted.items():
            record = stored.get(message_id)
            if record is not None:
                for notice in notices_of_stored(record.message, record.rows, sequences, names):
                    built[notice.event_id] = notice.masked
        for message_id, text in from_phones.items():
            sequences = wanted[message_id]
            for notice in notices_of_inbound(text.message, text.rows, sequences, names):
                built[notice.event_id] = notice.masked
        for event_id, row in of_channels.items():
            built[event_id] = notice_of_channel(row, names).masked
        return [built[event.event_id] for event in events if event.event_id in built]
