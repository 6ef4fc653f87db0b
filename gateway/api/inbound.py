"""Texts from phones: GET /v1/inbound-messages (API section 3), the newest first.

An admin key sees all tenants' and nobody's, with masked numbers.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from fastapi import FastAPI, Request
from fastapi.responses import Response

from gateway.api.cursors import place_of, seal_cursor
from gateway.api.filters import DEFAULT_LIMIT, INBOUND_FILTERS, from_query, position_of
from gateway.api.reply import caller, json_response
from gateway.api.routing import add_route
from gateway.inbound_notices import inbound_view
from gateway.owners import NOBODY
from sms.config import ApiKey
from sms.ids import to_text
from store.objects import PREFIXES

if TYPE_CHECKING:
    from gateway.api.port import FlowPort


_AT_ONCE = 100  # texts shown in one turn of the loop


class InboundMessages:
    """The route."""

    def __init__(self, flow: FlowPort) -> None:
        self._flow = flow

    def register(self, app: FastAPI) -> None:
        """Add the route; what it answers is described in `openapi_reads.py`."""
        add_route(app, "/v1/inbound-messages", self.browse, name="listInboundMessages")

    async def browse(self, request: Request) -> Response:
        """One page."""
        key: ApiKey = request.state.key
        key = caller(request, self._flow, "read" if key.tenant else "admin")
        given = from_query(request, INBOUND_FILTERS)
        place = place_of("inbound", key.tenant, {})
        cursor_key = self._flow.keyring.cursor_key
        below = position_of(cursor_key, place, given, "cursor", is_query=True)
        limit = given.get("limit", DEFAULT_LIMIT)
        found = await self._flow.reading.inbound.page(key.tenant or None, limit + 1, below)
        shown = []
        for index, message in enumerate(found[:limit], 1):
            if not index % _AT_ONCE:
                await asyncio.sleep(0)
            name = self._flow.channel_name(message.channel)
            view = inbound_view(message, channel_name=name, full_number=bool(key.tenant))
            if not key.tenant:
                owner = message.tenant
                view["tenant"] = None if owner == NOBODY else to_text(PREFIXES["tenant"], owner)
            shown.append(view)
        following = None
        if len(found) > limit:
            following = seal_cursor(cursor_key, place, found[limit - 1].id)
        response = json_response({"data": shown, "next_cursor": following})
        response.headers["cache-control"] = "no-store"
        return response
