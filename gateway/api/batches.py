"""A batch afterwards: where its messages stand; pause, resume, cancel (API section 2)."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

from fastapi import FastAPI, Request
from fastapi.responses import Response

from gateway.api.desk import id_in, no_body
from gateway.api.frame import BodyReader
from gateway.api.messages import answered
from gateway.api.problems import Problem, ProblemError
from gateway.api.reply import caller, check_query, json_response, not_found
from gateway.api.routing import add_route
from gateway.views import rfc3339
from sms.config import ApiKey
from sms.ids import to_text
from sms.model import State
from store.commands import BatchState

if TYPE_CHECKING:
    from gateway.api.port import FlowPort

BATCH: Final = "/v1/batches/{id:oid}"
_ACTIONS: Final = {
    "pause": BatchState.PAUSED,
    "resume": BatchState.RUNNING,
    "cancel": BatchState.CANCELED,
}
_CANCELED = "The batch was canceled; it can be neither paused nor resumed."


class Batches:
    """The routes under /v1/batches/{id}."""

    def __init__(self, flow: FlowPort, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._flow = flow
        self._bodies = BodyReader(monotonic)

    def register(self, app: FastAPI) -> None:
        """Add the routes; what they answer is described in `openapi.py`."""
        add_route(app, BATCH, self.read, name="readBatch")
        for action, state in _ACTIONS.items():
            add_route(
                app,
                f"{BATCH}:{action}",
                self._switch(state),
                name=f"{action}Batch",
                methods=["POST"],
            )

    async def read(self, request: Request) -> Response:
        """The batch and how many of its messages have which status."""
        key = caller(request, self._flow, "read")
        check_query(request)
        return await self._told(key, id_in(request, "id", "bat"))

    def _switch(self, state: BatchState) -> Callable[[Request], Awaitable[Response]]:
        """200 only when every process acts on it."""
        only_stops = state is not BatchState.RUNNING

        async def switch(request: Request) -> Response:
            key = caller(request, self._flow, "send", only_stops=only_stops)
            check_query(request)
            await no_body(self._bodies, request)
            first_id = id_in(request, "id", "bat")
            now = await answered(self._flow.commands.switch(key.tenant, first_id, state))
            if now is not None and now is not state:
                raise ProblemError(Problem("batch.canceled", _CANCELED))
            return await self._told(key, first_id)

        return switch

    async def _told(self, key: ApiKey, first_id: int) -> Response:
        batch = await self._flow.commands.look(key.tenant, first_id)
        if batch is None:
            raise not_found()
        counts = {state.value: batch.counts[state] for state in State if batch.counts.get(state)}
        return json_response(
            {
                "id": to_text("bat", batch.first_id),
                "created_at": rfc3339(batch.created_at),
                "paused": batch.is_paused,
                "counts": counts,
            }
        )
