"""Reading one message: its object and its timeline (API section 3)."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request
from fastapi.responses import Response

from gateway.api.reply import caller, check_query, json_response, not_found
from gateway.api.standing import Clocks, standing_of
from gateway.views import add_codes, message_view, timeline
from receipts.state import come_due, fold
from sms.ids import from_text
from sms.model import EventRow, Message

if TYPE_CHECKING:
    from gateway.api.port import FlowPort


class Messages:
    """The two routes under /v1/messages/{id}."""

    def __init__(
        self,
        flow: FlowPort,
        monotonic: Callable[[], float] = time.monotonic,
        unix: Callable[[], float] = time.time,
    ) -> None:
        self._flow = flow
        self._monotonic = monotonic
        self._unix = unix

    def register(self, app: FastAPI) -> None:
        """Add the routes; what they answer is described in `openapi.py`."""
        app.add_api_route("/v1/messages/{id}", self.read, name="readMessage")
        app.add_api_route("/v1/messages/{id}/timeline", self.steps, name="readTimeline")

    async def read(self, request: Request) -> Response:
        """The message as it stands now; the number whole, the text never."""
        message, rows = await self._find(request)
        live = self._flow.live(message.id)
        if live is not None and live.sequence >= message.sequence:
            message = live
        view = message_view(
            message, channel_name=self._flow.channel_name(message.channel), full_number=True
        )
        add_codes(view, rows)
        awaited = self._standing(live)
        view["waiting"] = None if awaited is None else awaited["detail"]
        return json_response(view)

    async def steps(self, request: Request) -> Response:
        """What happened to the message, in order, and what it waits for."""
        message, rows = await self._find(request)
        steps = timeline(message, rows, self._flow.channel_name)
        live = self._flow.live(message.id)
        awaited = self._standing(live)
        if awaited is not None and live is not None and live.sequence >= message.sequence:
            steps.append(awaited)
        return json_response({"data": steps})

    def _standing(self, live: Message | None) -> dict[str, Any] | None:
        if live is None:
            return None
        now = Clocks(self._monotonic(), self._unix())
        return standing_of(live, self._flow.channel_name, now)

    async def _find(self, request: Request) -> tuple[Message, list[EventRow]]:
        """The stored message, folded, with its rows; raises the 404."""
        key = caller(request, self._flow, "read")
        check_query(request)
        message_id = from_text("msg", request.path_params["id"])
        if message_id is None:
            raise not_found()
        stored = await self._flow.reader.message(message_id, key.tenant)
        if stored is None:
            raise not_found()
        message = stored.message
        fold(message, stored.rows)
        if message.send_at is not None and message.send_at <= self._unix():
            come_due(message)  # no row tells of it: from its hour on it waits for a channel
        return message, stored.rows
