"""A channel's tenants are told when it is left, and when it has come back: once in the cluster.

    breakers of this process ─▶ once a second: what is left │ what was written of it
                                     │ differs, or somebody's rows are stale
                                     ▼
                 one lock for all processes ─▶ `decide` ─▶ rows, events ═COMMIT═▶ webhooks

Each process judges by itself, so a channel is degraded when the first one leaves it and recovered
when the last one is back. What is written is compared with what is, not told by steps: a change
that found the store away, or whose COMMIT was lost, is made up for a second later. A process
repeats its rows while it lives; when it is killed, the others find them stale and drop them, and
its successor that leaves the channel again before takes them up without a word.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, Protocol

from failover.health import Signal
from gateway.channel_notices import channel_row, notice_of_channel
from gateway.notices import Notice, type_of_path
from gateway.owners import users_of_channels
from receipts.state import ChannelPath
from sms.config import Snapshot
from sms.model import EventRow
from store.channel_news import ChannelNewsStore, Left, NewsTransaction, Way
from telemetry.logs import get_logger

if TYPE_CHECKING:
    from gateway.dispatch import Dispatcher
    from gateway.idreserve import IdReserve
    from sms.ids import IdClock

NEWS_S: Final = 1.0  # between two looks
BEAT_S: Final = 10.0  # a process says again so often what it has left; well below `stale_s`
LOOK_S: Final = 5.0  # between two looks for rows of the dead
_AT_ONCE: Final = 1000  # ids, and rows of one statement

log = get_logger(__name__)


class Told(Protocol):
    """Who must hear of events: the webhooks."""

    def wants(self, tenant: int, kind: str | None = None) -> bool:
        """Whether an endpoint of the tenant takes events of this type."""
        ...

    def committed(self, notices: Sequence[Notice], *, up_to: int = 0) -> None:
        """Called after a commit; `up_to` is the highest event id in it."""
        ...


@dataclass(slots=True)
class Decision:
    """What one look comes to."""

    put: list[Left] = field(default_factory=list)  # ours, new or said again
    drop: list[Left] = field(default_factory=list)  # ours that came back, and dead ones
    degraded: list[Left] = field(default_factory=list)
    recovered: list[Left] = field(default_factory=list)


def decide(
    rows: Collection[Left],
    ours: Mapping[Way, tuple[str, float]],
    known: Collection[Way],
    process: int,
) -> Decision:
    """What to write and to tell, from what stands and what this process has left. Pure.

    `ours`: cause and since when (Unix seconds); `known`: what it had left before, in this life.
    Who leaves a channel that is left already joins those that have. A dead one's row counts until
    it is stale, so that its successor, which begins with every channel closed, can take it up.
    """
    made = Decision()
    by_way: dict[Way, list[Left]] = {}
    for row in rows:
        by_way.setdefault(row.way, []).append(row)
        is_ours = row.process == process
        if is_ours and row.way in ours:
            made.put.append(row)
        elif row.is_stale or (is_ours and row.way in known):
            made.drop.append(row)
    standing = {(row.way, row.process) for row in rows}
    for way, (cause, since) in ours.items():
        if (way, process) in standing:
            continue
        first = min(by_way.get(way, ()), key=lambda row: row.since, default=None)
        if first is None:
            made.degraded.append(Left(way, process, cause, since, 0))
        else:
            made.put.append(replace(first, process=process, is_stale=False))
    gone = {(row.way, row.process) for row in made.drop}
    for way, of_way in by_way.items():
        is_left = way in ours or any((way, row.process) not in gone for row in of_way)
        if not is_left:
            made.recovered.append(min(of_way, key=lambda row: row.since))
    return made


class ChannelNews:
    """Compares, writes and tells; `round` is called again and again by one loop."""

    def __init__(  # noqa: PLR0913 (keyword-only, joined once by wiring)
        self,
        *,
        process: int,
        store: ChannelNewsStore,
        dispatcher: Dispatcher,
        names: Mapping[int, str],
        ids: IdClock,
        reserve: IdReserve,
        told: Told,
        unix: Callable[[], float],
        monotonic: Callable[[], float],
    ) -> None:
        """`names` of all channels by id, also of those that were removed."""
        self._process = process
        self._store = store
        self._dispatcher = dispatcher
        self._names = names
        self._ids = ids
        self._reserve = reserve
        self._told = told
        self._unix = unix
        self._monotonic = monotonic
        self._since: dict[Way, tuple[Signal, float]] = {}  # left now, since when
        self._known: frozenset[Way] = frozenset()  # what this life has left, and perhaps written
        self._beat_at = self._look_at = 0.0
        self._planned: dict[int, EventRow] = {}  # given ids; their commit is not known yet
        self._users: tuple[Snapshot, dict[int, tuple[int, ...]]] | None = None

    def pending_floor(self) -> int | None:
        """The lowest event id that may still be committed; None when nothing waits."""
        return min(self._planned, default=None)

    async def round(self) -> None:
        """One look; raises Unavailable, after which the next one makes up for it."""
        if self._dispatcher.is_stopped:  # it drains: its rows stand for its successor to take up
            return
        ours, now = self._left_now(), self._monotonic()
        is_due = ours.keys() != self._known or self._planned or (ours and now >= self._beat_at)
        if not is_due:
            if now < self._look_at:
                return
            self._look_at = now + LOOK_S
            if not decide(await self._store.left(), ours, self._known, self._process).drop:
                return
        self._known |= ours.keys()
        await self._write(ours)
        self._known = frozenset(ours)
        self._beat_at = now + BEAT_S

    def _left_now(self) -> dict[Way, tuple[str, float]]:
        """What this process has left, with its cause and since when."""
        found: dict[Way, tuple[Signal, float]] = {}
        for channel, runtime in self._dispatcher.channels.items():
            if not runtime.watch.is_closed:
                for carrier, cause in runtime.watch.left().items():
                    way = channel, carrier
                    found[way] = self._since.get(way) or (cause, self._unix())
        self._since = found
        return {way: (cause.value, since) for way, (cause, since) in found.items()}

    async def _write(self, ours: Mapping[Way, tuple[str, float]]) -> None:
        users = await self._users_of_channels()
        async with self._store.transaction() as tx:
            committed = await tx.events(self._planned)  # by a COMMIT whose answer was lost
            self._planned = committed
            decision = decide(await tx.left(), ours, self._known, self._process)
            await self._reserve.follow(max((one.told for one in decision.recovered), default=0))
            for one in decision.recovered:
                await self._tell(tx, ChannelPath.RECOVERED, one, users)
            for one in decision.degraded:
                told = await self._tell(tx, ChannelPath.DEGRADED, one, users)
                decision.put.append(replace(one, told=told))
            if decision.drop:
                await tx.drop(decision.drop)
            if decision.put:
                await tx.put(decision.put)
        self._committed()

    async def _tell(
        self,
        tx: NewsTransaction,
        path: ChannelPath,
        one: Left,
        users: Mapping[int, tuple[int, ...]],
    ) -> int:
        """Write an event for each tenant of the channel; the highest of their ids, 0 for none."""
        channel, carrier = one.way
        tenants, at, event_id = users.get(channel, ()), self._unix(), 0
        for start in range(0, len(tenants), _AT_ONCE):
            some = tenants[start : start + _AT_ONCE]
            rows = [
                channel_row(
                    event_id=event_id,
                    tenant=tenant,
                    path=path,
                    channel=channel,
                    carrier=carrier,
                    cause=one.cause,
                    since=one.since,
                    at=at,
                )
                for event_id, tenant in enumerate(some, self._ids.next(len(some)))
            ]
            self._planned.update((row.event_id, row) for row in rows)
            event_id = rows[-1].event_id
            await tx.add(rows)
        kind = type_of_path(path) or ""
        word = "all" if carrier is None else carrier.value
        name = self._names.get(channel, "")
        log.info("tenants told", type=kind, channel=name, carrier=word, tenants=len(tenants))
        return event_id

    def _committed(self) -> None:
        """Everything planned is durable: the webhooks' turn."""
        rows, self._planned = self._planned, {}
        notices = [
            notice_of_channel(row, self._names)
            for row in rows.values()
            if self._told.wants(row.tenant, type_of_path(row.path))
        ]
        self._told.committed(notices, up_to=max(rows, default=0))

    async def _users_of_channels(self) -> dict[int, tuple[int, ...]]:
        snapshot = self._dispatcher.snapshot
        if self._users is None or self._users[0] is not snapshot:
            self._users = snapshot, await users_of_channels(snapshot)
        return self._users[1]
