"""What a tenant does about sinks that missed events, by the API alone."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from loadtest.sinks.cast import Remedy
from loadtest.sinks.judge import IN_FORCE_S, wants
from loadtest.sinks.receiver import Event
from loadtest.sinks.tenant import Tenant

if TYPE_CHECKING:
    from loadtest.sinks.course import Seat

CALM_S: Final = 60.0  # for those that need no help, until they have everything
STILL_S: Final = 17.0  # nothing new for longer than a request takes: the rest waits for a try
# For one sink. What fails 30 % of the time trips its breaker again and again: where some 800 events
# were missing, two of them stood in their queue after 120 s, while a few a second still arrived.
MEND_S: Final = 400.0
AT_ONCE: Final = 8
LOOK_S: Final = 0.2
SAMPLE: Final = 5  # messages whose timelines are asked for dead letters


class Mender:
    """One tenant's hands."""

    def __init__(self, tenant: Tenant, since: float) -> None:
        """`since`: when the traffic began, Unix."""
        self._tenant = tenant
        self._since = since

    async def calm(self, seats: Sequence[Seat], pulled: Sequence[Event]) -> None:
        """Until those that need no help have everything, and the others get nothing new."""
        end = time.monotonic() + CALM_S
        while time.monotonic() < end:
            whole = [not _missing(s, pulled) for s in seats if s.part.remedy is Remedy.NONE]
            newest = max(s.receiver.taken_at for s in seats if s.part.remedy is not Remedy.NONE)
            if all(whole) and time.time() - newest > STILL_S:
                return
            await asyncio.sleep(LOOK_S)

    async def mend(self, seats: Sequence[Seat], pulled: Sequence[Event]) -> None:
        """Everyone is well from now on, and gets what is missing."""
        for seat in seats:
            if seat.part.remedy is not Remedy.GONE:  # it must not be asked while it is disabled
                seat.receiver.manner = seat.part.later
        async with asyncio.TaskGroup() as group:
            for seat in seats:
                group.create_task(self._mend(seat, pulled))

    async def _mend(self, seat: Seat, pulled: Sequence[Event]) -> None:
        remedy = seat.part.remedy
        end = time.monotonic() + MEND_S
        if remedy in (Remedy.RANGE, Remedy.DEAD):
            await self._off_and_on(seat, pulled)
        elif remedy is Remedy.GONE:
            await self._on_again(seat)
        while (missing := _missing(seat, pulled)) and time.monotonic() < end:
            if remedy is Remedy.EVENTS:
                await self._one_by_one(seat, missing)
            elif remedy is Remedy.DEAD:
                await self._tenant.replay(seat.id, failed=True)
            elif remedy in (Remedy.RANGE, Remedy.GONE):
                await self._tenant.replay(
                    seat.id,
                    created_after=_rfc3339(self._since - 1),
                    created_before=_rfc3339(time.time()),
                )
            await self._still(seat, pulled)
            if remedy is Remedy.DEAD and _missing(seat, pulled):
                await self._off_and_on(seat, pulled)  # what failed again is a dead letter by that

    async def _one_by_one(self, seat: Seat, missing: Sequence[Event]) -> None:
        gate = asyncio.Semaphore(AT_ONCE)

        async def one(event: Event) -> None:
            async with gate:
                await self._tenant.replay(seat.id, event_id=event["id"])

        await asyncio.gather(*map(one, missing))

    async def _off_and_on(self, seat: Seat, pulled: Sequence[Event]) -> None:
        """What waits becomes dead letters; the breaker begins anew."""
        await self._tenant.enable(seat.id, False)
        await asyncio.sleep(IN_FORCE_S)
        if seat.part.remedy is Remedy.DEAD:
            missing = [e for e in _missing(seat, pulled) if e["type"].startswith("message.")]
            found = [await self._is_dead(seat, one) for one in missing[:SAMPLE]]
            seat.told["dead_letters"] = seat.told.get("dead_letters", 0) + sum(found)
        await self._tenant.enable(seat.id, True)
        await asyncio.sleep(IN_FORCE_S)

    async def _is_dead(self, seat: Seat, event: Event) -> bool:
        """Whether the message's timeline names it as given up, for this endpoint."""
        steps = await self._tenant.call("GET", f"/messages/{event['data']['id']}/timeline")
        return any(
            step["code"] == "webhook.given_up" and seat.id in step["detail"]
            for step in steps["data"]
            if step["step"] == "webhook"
        )

    async def _on_again(self, seat: Seat) -> None:
        """It has been disabled by a 410: that is told, and nothing comes, until it is enabled."""
        told = await self._tenant.call("GET", f"/webhook-endpoints/{seat.id}")
        seat.told |= {name: told[name] for name in ("enabled", "disabled_reason")}
        await asyncio.sleep(IN_FORCE_S)
        before = len(seat.receiver.requests)
        await asyncio.sleep(IN_FORCE_S)
        seat.told["requests_while_disabled"] = len(seat.receiver.requests) - before
        seat.receiver.manner = seat.part.later
        if not told["enabled"]:
            await self._tenant.enable(seat.id, True)
            await asyncio.sleep(IN_FORCE_S)

    async def _still(self, seat: Seat, pulled: Sequence[Event]) -> None:
        """Until it has everything, or gets nothing new for a while."""
        began = time.time()
        while _missing(seat, pulled):
            if time.time() - max(began, seat.receiver.taken_at) > STILL_S:
                return
            await asyncio.sleep(LOOK_S)


def _missing(seat: Seat, pulled: Sequence[Event]) -> list[Event]:
    taken = seat.receiver.taken
    return [event for event in pulled if event["id"] not in taken and wants(seat.part, event)]


def _rfc3339(unix_s: float) -> str:
    return datetime.fromtimestamp(unix_s, UTC).isoformat()
