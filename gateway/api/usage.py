"""Usage: counts and segments by day, class, channel, carrier and status.

GET /v1/usage for the tenant itself; GET /v1/tenants/{id}/usage for the platform, with what the
channels cost.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request
from fastapi.responses import Response

from gateway.api.cursors import place_of, seal_cursor
from gateway.api.desk import Desk, id_in
from gateway.api.filters import (
    DEFAULT_LIMIT,
    USAGE_FILTERS,
    day_of,
    from_query,
    position_of,
    refusal,
)
from gateway.api.problems import ProblemError
from gateway.api.reply import caller, json_response, not_found
from gateway.api.routing import add_route
from sms.model import State
from store.objects import PREFIXES
from store.usage import UsageRow, date_of_number, day_number

if TYPE_CHECKING:
    from gateway.api.port import FlowPort

_DEFAULT_DAYS = 31
TENANT_USAGE = "/v1/tenants/{id:oid}/usage"
# The statuses that a message reaches with a channel only through its submit.
_TAKEN = frozenset(
    str(state)
    for state in (
        *(State.SUBMITTED, State.UNCERTAIN, State.DELIVERED, State.PARTIALLY_DELIVERED),
        *(State.UNDELIVERED, State.EXPIRED, State.UNKNOWN),
    )
)


class UsageReport:
    """The route."""

    def __init__(self, flow: FlowPort, unix: Callable[[], float] = time.time) -> None:
        self._flow = flow
        self._unix = unix
        self._desk = Desk(flow)

    def register(self, app: FastAPI) -> None:
        """Add the routes; what they answer is described in `openapi_reads.py`."""
        add_route(app, "/v1/usage", self.read, name="readUsage")
        add_route(app, TENANT_USAGE, self.read_of, name="readTenantUsage")

    async def read(self, request: Request) -> Response:
        """The tenant's cells of these days, newest day first; 31 days up to today unless given."""
        return await self._answer(request, caller(request, self._flow, "read").tenant, self._shown)

    async def read_of(self, request: Request) -> Response:
        """The same of one tenant for an admin key, each cell with its `cost`."""
        self._desk.enter(request, *USAGE_FILTERS)
        tenant = id_in(request, "id", PREFIXES["tenant"])
        if tenant not in self._flow.snapshot.tenants:
            raise not_found()
        return await self._answer(request, tenant, self._priced)

    async def _answer(
        self, request: Request, tenant: int, show: Callable[[UsageRow], dict[str, Any]]
    ) -> Response:
        given = from_query(request, USAGE_FILTERS)
        last = day_of(given.get("to")) or date_of_number(day_number(self._unix()))
        first = day_of(given.get("from")) or last - timedelta(days=_DEFAULT_DAYS - 1)
        if first > last:
            detail = "`to` is a day before `from`; put it later."
            raise ProblemError(refusal("to", detail, is_query=True))
        filters = {k: v for k, v in given.items() if k in ("from", "to")}
        place = place_of("usage", tenant, filters)
        cursor_key = self._flow.keyring.cursor_key
        after = position_of(cursor_key, place, given, "cursor", is_query=True)
        limit = given.get("limit", DEFAULT_LIMIT)
        rows = await self._flow.reading.usage.read(
            tenant, first, last, after=after, limit=limit + 1
        )
        following = None
        if len(rows) > limit:
            following = seal_cursor(cursor_key, place, rows[limit - 1].place)
        data = [show(row) for row in rows[:limit]]
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

    def _priced(self, row: UsageRow) -> dict[str, Any]:
        channel = self._flow.snapshot.channels.get(row.channel)
        price = None if channel is None else channel.price_per_segment
        return {**self._shown(row), "cost": cost_of(row, price)}


def cost_of(row: UsageRow, price: Decimal | None) -> str | None:
    """What a cell's segments cost at that price for one; None where no price is known.

    An estimate from where messages stand: a channel is paid for what it took, whatever became of
    it; where nobody knows (`uncertain`, `unknown`, `expired` after a try) it is counted, and what
    other channels took of the same message before is not. The metric of costs is exact.
    """
    if not row.channel or row.status not in _TAKEN:
        return "0"
    return None if price is None else format((price * row.segments).normalize(), "f")
