"""Usage: GET /v1/usage, counts and segments by day, class, channel, carrier and status."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request
from fastapi.responses import Response

from gateway.api.cursors import place_of, seal_cursor
from gateway.api.filters import (
    DEFAULT_LIMIT,
    USAGE_FILTERS,
    day_of,
    from_query,
    position_of,
    refusal,
)
from gateway.api.problems import ProblemError
from gateway.api.reply import caller, json_response
from store.usage import UsageRow, date_of_number, day_number

if TYPE_CHECKING:
    from gateway.api.port import FlowPort

_DEFAULT_DAYS = 31


class UsageReport:
    """The route."""

    def __init__(self, flow: FlowPort, unix: Callable[[], float] = time.time) -> None:
        self._flow = flow
        self._unix = unix

    def register(self, app: FastAPI) -> None:
        """Add the route; what it answers is described in `openapi_reads.py`."""
        app.add_api_route("/v1/usage", self.read, name="readUsage")

    async def read(self, request: Request) -> Response:
        """The tenant's cells of these days, newest day first; 31 days up to today unless given."""
        key = caller(request, self._flow, "read")
        given = from_query(request, USAGE_FILTERS)
        last = day_of(given.get("to")) or date_of_number(day_number(self._unix()))
        first = day_of(given.get("from")) or last - timedelta(days=_DEFAULT_DAYS - 1)
        if first > last:
            detail = "`to` is a day before `from`; put it later."
            raise ProblemError(refusal("to", detail, is_query=True))
        filters = {k: v for k, v in given.items() if k in ("from", "to")}
        place = place_of("usage", key.tenant, filters)
        cursor_key = self._flow.keyring.cursor_key
        after = position_of(cursor_key, place, given, "cursor", is_query=True)
        limit = given.get("limit", DEFAULT_LIMIT)
        rows = await self._flow.reading.usage.read(
            key.tenant, first, last, after=after, limit=limit + 1
        )
        following = None
        if len(rows) > limit:
            following = seal_cursor(cursor_key, place, rows[limit - 1].place)
        data = [self._shown(row) for row in rows[:limit]]
        response = json_response({"data": data, "next_cursor": following})
        response.headers["cache-control"] = "no-store"
        return response

    def _shown(self, row: UsageRow) -> dict[str, Any]:
        return {
            "day": row.day.isoformat(),
            "class": row.message_class,
            "channel": self._flow.channel_name(row.channel) if row.channel else None,
            "carrier": row.carrier,
            "status": row.status,
            "count": row.messages,
            "segments": row.segments,
        }
