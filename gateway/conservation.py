"""Is every accepted message somewhere? The law of RELIABILITY section 3 as a gauge.

    each process, every 10 s:   what it holds and what it counted ─▶ its rows in `holdings`
    the lowest living process:  two readings 10 s apart ─▶ residuals ─▶ gauge

    residual = opened − parked − handed over − held        0, or messages are missing

Held is counted where messages stand – lanes, delays, windows, spill –, not where they ought to
be: what a process owns and finds nowhere twice in a row is a stray and not held. What each term
is and when two readings agree: docs/conservation.md.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from gateway.dispatch import Dispatcher
from gateway.ledger import Ledger
from gateway.spill import Spill
from sms.model import Message, State
from store.conservation import Reading, reading
from store.database import Pool
from store.fragments import holdings_sql
from store.processes import live_processes
from telemetry.logs import get_logger
from telemetry.metrics import Metrics

SLICE: Final = 5000  # messages looked at in one turn of the loop, some 1 ms
MAX_SUSPECTS: Final = 20  # looked for once more, one by one, in each round
TOLD_IDS: Final = 5
STALLED_S: Final = 5.0  # rows that wait longer for their commit: nobody can say who stands where
_WAITS = frozenset({State.ACCEPTED, State.QUEUED})

log = get_logger(__name__)


def residuals(before: Reading, now: Reading) -> dict[int, int] | None:
    """By tenant, by how much two readings agree that messages are missing.

    None when they cannot be compared: an owner came, went or did not speak in between.
    """
    if before.alive != now.alive or not now.alive or now.spoke.keys() != now.alive.keys():
        return None
    if any(now.spoke[process] <= before.spoke.get(process, 0) for process in now.alive):
        return None
    found: dict[int, int] = {}
    for tenant in now.tenants():
        first, second = _terms(before, tenant), _terms(now, tenant)
        if first.gaps != second.gaps or first.elsewhere != second.elsewhere:
            continue  # something moved in between: the next pair will tell
        is_at_rest = first.counted == second.counted and first.held == second.held
        opened = sum(second.counted.values()) if is_at_rest else second.opened
        residual = opened - sum(second.held.values()) - second.elsewhere[0] - second.elsewhere[1]
        if residual:
            found[tenant] = residual
    return found


@dataclass(frozen=True, slots=True)
class _Terms:
    """One tenant in one reading."""

    gaps: Mapping[int, int]  # by owner: opened less held. Traffic alone does not change it
    held: Mapping[int, int]
    opened: int  # what the owners counted, and the deltas of processes that have no owner
    counted: Mapping[int, int]  # the deltas of all processes
    elsewhere: tuple[int, int]  # parked, handed over


def _terms(one: Reading, tenant: int) -> _Terms:
    said, counted = one.said.get(tenant, {}), one.counted.get(tenant, {})
    unowned = sum(number for process, number in counted.items() if process not in one.alive)
    return _Terms(
        {process: terms.opened - terms.held for process, terms in said.items()},
        {process: terms.held for process, terms in said.items()},
        unowned + sum(terms.opened for terms in said.values()),
        counted,
        (one.parked.get(tenant, 0), one.handed.get(tenant, 0)),
    )


class Conservation:
    """Tells what this process holds, and judges for all when it is the lowest one alive."""

    def __init__(  # noqa: PLR0913 (keyword-only, joined once by wiring)
        self,
        *,
        pool: Pool,
        ledger: Ledger,
        dispatcher: Dispatcher,
        spill: Spill,
        metrics: Metrics,
        oldest_row_s: Callable[[], float],
        tenant_name: Callable[[int], str],
    ) -> None:
        """`oldest_row_s`: how long the oldest event row has been waiting for its commit."""
        self._pool = pool
        self._ledger = ledger
        self._dispatcher = dispatcher
        self._spill = spill
        self._metrics = metrics
        self._oldest_row_s = oldest_row_s
        self._tenant_name = tenant_name
        self._suspects: dict[int, int] = {}  # id: its sequence when it was found nowhere
        self._last: Reading | None = None

    async def round(self) -> None:
        """Tell, then judge if it is ours to judge; for every 10 s. Raises StoreUnavailable."""
        await self.tell()
        living = [one.process for one in await live_processes(self._pool)]
        if not living or min(living) != self._ledger.process:
            self._last = None
            self._metrics.conservation_residual.clear()
            return
        await self.judge()

    # -- what we hold ----------------------------------------------------------------------

    async def tell(self) -> None:
        """Write what this process holds and counted at one moment."""
        live = list(self._ledger.live.values())
        opened = self._ledger.opened.copy()
        held = self._spill.unparked()
        # From here on it is about that moment: the loop may turn.
        for start in range(0, len(live), SLICE):
            for message in live[start : start + SLICE]:
                if not message.is_parked:
                    held[message.tenant] = held.get(message.tenant, 0) + 1
            await asyncio.sleep(0)
        for message in await self._strays():
            held[message.tenant] = held.get(message.tenant, 0) - 1
        said = {tenant: (held.get(tenant, 0), opened.get(tenant, 0)) for tenant in {*held, *opened}}
        done = asyncio.Event()
        self._ledger.commit([], sql=holdings_sql(self._ledger.process, said), done=done.set)
        await done.wait()

    async def _strays(self) -> list[Message]:
        """What we own, waits, and stands nowhere: now, and the last time we looked."""
        placed = await self._placed()
        live = self._ledger.live
        waiting: list[Message] = []
        snapshot = list(live.values())
        for start in range(0, len(snapshot), SLICE):
            waiting += [
                message
                for message in snapshot[start : start + SLICE]
                if message.id not in placed and message.state in _WAITS and not message.is_handed
            ]
            await asyncio.sleep(0)
        strays: list[Message] = []
        for message in waiting[:MAX_SUSPECTS]:
            if self._suspects.get(message.id) == message.sequence and self._is_nowhere(message):
                strays.append(message)
            await asyncio.sleep(0)
        is_stalled = self._oldest_row_s() > STALLED_S
        self._suspects = {} if is_stalled else {one.id: one.sequence for one in waiting}
        if strays:
            ids = [message.id for message in strays[:TOLD_IDS]]
            log.error("messages stand nowhere", count=len(strays), message_ids=ids)
        self._metrics.stray_messages.set((), len(strays))
        return strays

    async def _placed(self) -> set[int]:
        """Ids of what waits somewhere; may miss what moves while we look."""
        placed: set[int] = set()
        since = 0
        for place in list(self._dispatcher.places()):
            some = [message.id for message in place]
            placed.update(some)
            since += len(some)
            if since >= SLICE:
                since = 0
                await asyncio.sleep(0)
        return placed

    def _is_nowhere(self, message: Message) -> bool:
        """The same question for one message, in one turn of the loop: this answer is exact."""
        return (
            self._ledger.live.get(message.id) is message
            and message.state in _WAITS
            and not any(_holds(place, message) for place in self._dispatcher.places())
        )

    # -- what all say ----------------------------------------------------------------------

    async def judge(self) -> None:
        """Compare this reading with the last one and set the gauge."""
        before, self._last = self._last, await reading(self._pool)
        if before is None:
            return
        found = residuals(before, self._last)
        gauge = self._metrics.conservation_residual
        gauge.clear()
        if found is None:
            return
        self._metrics.conservation_readings_total.inc()
        for tenant in self._last.tenants():
            gauge.set((self._tenant_name(tenant),), found.get(tenant, 0))
        for tenant, residual in found.items():
            what = "messages are missing" if residual > 0 else "messages are counted twice"
            log.error(what, tenant=tenant, residual=residual)


def _holds(place: Iterable[Message], message: Message) -> bool:
    return any(one is message for one in place)
