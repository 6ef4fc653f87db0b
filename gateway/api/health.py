"""Whether the gateway lives, whether it may take traffic, and its metrics (API section 7).

A worker knows only itself, so readiness and metrics are asked of the supervisor over its Unix
socket; without a supervisor, or when it does not answer in time, the process speaks for itself.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from fastapi import FastAPI, Request
from fastapi.responses import Response

from gateway.api.reply import check_query, json_response, not_found
from gateway.api.routing import add_route
from gateway.node_http import ask
from telemetry.metrics import render

if TYPE_CHECKING:
    from gateway.api.port import FlowPort

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SUPERVISOR_TIMEOUT_S = 2.0
READY_TIMEOUT_S = 0.9  # it asks its workers for 0.5 s; an answer comes within a second


class Health:
    """`/healthz`, `/readyz`, `/metrics`."""

    def __init__(self, flow: FlowPort) -> None:
        self._flow = flow

    def register(self, app: FastAPI) -> None:
        """Add the three routes."""
        add_route(app, "/healthz", self.alive, name="readHealth")
        add_route(app, "/readyz", self.ready, name="readReadiness")
        add_route(app, "/metrics", self.metrics, name="readMetrics")

    async def alive(self, request: Request) -> Response:
        """The process answers: that is all."""
        check_query(request)
        return json_response({"status": "ok"})

    async def ready(self, request: Request) -> Response:
        """200 when traffic may come, else 503 that names what is missing."""
        check_query(request)
        told = await self._ask("/readyz", READY_TIMEOUT_S)
        if told is not None and told[0] in (200, 503):
            return Response(told[1], told[0], media_type="application/json")
        missing = self._flow.is_ready()
        word = "unready" if missing else "ready"
        return json_response({"status": word, "missing": missing}, 503 if missing else 200)

    async def metrics(self, request: Request) -> Response:
        """Prometheus text of all processes of the node."""
        check_query(request)
        if not self._flow.public_metrics:
            raise not_found()
        told = await self._ask("/metrics", SUPERVISOR_TIMEOUT_S)
        if told is not None and told[0] == 200:
            return Response(told[1], media_type=METRICS_TYPE)
        return Response(render(self._flow.metrics.snapshot()), media_type=METRICS_TYPE)

    async def _ask(self, path: str, timeout_s: float) -> tuple[int, bytes] | None:
        socket = self._flow.supervisor_socket
        if socket is None:
            return None
        try:
            return await ask(socket, path, timeout_s)
        except (OSError, EOFError, TimeoutError, asyncio.LimitOverrunError):
            return None  # away or still starting: the caller speaks for this process alone
