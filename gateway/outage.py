"""PostgreSQL goes and comes back: one line each, whatever else is logged meanwhile."""

from __future__ import annotations

import asyncio
from typing import Any

from store.database import AWAY
from telemetry.logs import get_logger

log = get_logger(__name__)


class Outage:
    """Told again and again whether the store is writable; says only when that changes."""

    def __init__(self) -> None:
        self._since: float | None = None

    def age_s(self, now: float) -> float:
        """How long it has been away, 0 when it is not; `now` is monotonic seconds."""
        return 0.0 if self._since is None else now - self._since

    def look(self, now: float, *, is_up: bool) -> None:
        """`now` is monotonic seconds."""
        if is_up and self._since is not None:
            log.info("PostgreSQL is back", seconds=round(now - self._since, 1))
            self._since = None
        elif not is_up and self._since is None:
            self._since = now
            log.warning(
                "PostgreSQL is away",
                meaning="accepted messages are safe; tenants get 503 with Retry-After until it is "
                "back",
            )


def forget_lost_connections(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """An exception handler for the loop: a driver's future of a connection that broke is no error.

    Whoever waited for the connection has been told; nobody waits for that future.
    """
    message = str(context.get("message", ""))
    if "never retrieved" in message and isinstance(context.get("exception"), AWAY):
        log.debug("a connection to PostgreSQL broke", error=type(context["exception"]).__name__)
        return
    loop.default_exception_handler(context)
