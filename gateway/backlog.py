"""Between the store and the lanes: what stays in memory, what comes back, and when.

    committed ─┬─▶ lane                        there is room, and nothing of its queue is spilled
               └─▶ spill: its id ─┬─▶ read ─▶ lane       when the lane it would take runs low
                                  ├─▶ read ─▶ expired    when its validity is over
                                  └─▶ `parked`           after 10 minutes: the mark moves on

One lane keeps at most a quarter of its class's memory (what is held a sixteenth, otp a quarter
too), all lanes together seven eighths: the last eighth is for tenants with few messages waiting,
so that nobody stands behind the thousands of another. What would only be held, because no channel
of its route is up, is not read back.

Everything works in slices, so that the loop is not held.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from compliance.signature import MAINLAND
from gateway.dispatch import Dispatcher
from gateway.lanes import HELD, Lanes
from gateway.ledger import Ledger
from gateway.reports import fold_owned
from gateway.spill import Parking, Route, Spill, Taken
from sms.config import Snapshot
from sms.errors import StoreUnavailable
from sms.ids import id_at, unix_of
from sms.model import FINAL_STATES, Message, MessageClass, State
from store.fragments import (
    STOOD,
    Why,
    park_sql,
    repark_sql,
    unpark_sql,
    unpark_stood_sql,
)
from store.read import Head, Reader
from telemetry.failpoints import failpoints
from telemetry.logs import get_logger
from telemetry.metrics import Metrics

BATCH: Final = 500  # ids read back in one go, rows of one commit
SLICE: Final = 100  # messages decided or opened in one turn of the loop, some 1 ms
PICK_S: Final = 0.002  # of the loop for looking whose turn it is
LOOK_S: Final = 0.02  # between two looks at the lanes while something is spilled
IDLE_S: Final = 0.1  # and while nothing is
RETRY_S: Final = 0.5
QUIET_S: Final = 0.25  # between two batches of a class outside its hours
DUE_AFTER_S: Final = 600.0  # a parked row is due so long after its message's validity
LANE_PART: Final = 4  # a lane holds a quarter of its class's memory
FEW_PART: Final = 32  # and a few messages of a tenant, all tenants together, so much of it
# What no channel could take just now is bound to one when it comes up, so little of it suffices.
HELD_PART: Final = {
    MessageClass.OTP: 4,
    MessageClass.TRANSACTIONAL: 16,
    MessageClass.MARKETING: 16,
}
# Intake of a class ends when the spill is so full: marketing first, otp last.
OPEN_SHARE: Final = {
    MessageClass.MARKETING: 0.8,
    MessageClass.TRANSACTIONAL: 0.9,
    MessageClass.OTP: 1.0,
}
_WAITS = frozenset({State.ACCEPTED, State.SCHEDULED, State.QUEUED})  # scheduled: and due

Open = Callable[[Taken], Message | None]  # gives the message of an id in hand
# What of one slice stays and is in no lane yet: of a class in all (-1, 0), for a channel
# (channel, 0), and of a tenant there.
_Fresh = dict[tuple[MessageClass, int, int], int]

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class BacklogPolicy:
    """The numbers the backlog needs."""

    max_ids: int = 5_000_000
    parked_after_s: float = 600.0


class Backlog:
    """Decides about memory and moves between store, spill and lanes."""

    def __init__(  # noqa: PLR0913 (keyword-only, joined once by wiring)
        self,
        *,
        lanes: Lanes,
        ledger: Ledger,
        dispatcher: Dispatcher,
        reader: Reader,
        metrics: Metrics,
        policy: BacklogPolicy,
        unix: Callable[[], float],
        monotonic: Callable[[], float],
    ) -> None:
        self._lanes = lanes
        self._ledger = ledger
        self._dispatcher = dispatcher
        self._reader = reader
        self._metrics = metrics
        self._policy = policy
        self._unix = unix
        self._monotonic = monotonic
        self._turn = 0
        self._picks: Counter[int] = Counter()  # by channel, those that gave something
        self._quiet_until = 0.0  # monotonic
        self._snapshot: Snapshot | None = None
        self._routes: dict[MessageClass, frozenset[Route]] = {}
        self.spill = Spill()
        dispatcher.is_behind = self.is_behind
        dispatcher.spilled = lambda: self.spill.total

    # -- what is accepted ------------------------------------------------------------------

    def has_room(self, message_class: MessageClass, count: int) -> bool:
        """Whether `count` more may be accepted, should all that is on its way be spilled."""
        ids = self.spill.total + self._lanes.coming() + count
        return ids <= self._policy.max_ids * OPEN_SHARE[message_class]

    def queued(self) -> int:
        """Messages that wait for a carrier, in memory or spilled, and those being accepted."""
        return self._lanes.queued() + self.spill.total

    def is_behind(self, message: Message) -> bool:
        """Whether it must not overtake what is spilled."""
        if not self.spill.total:
            return False
        route = self._dispatcher.routes.of(message)
        return self.spill.holds(message.message_class, message.tenant, route)

    def accepted(self, messages: Sequence[Message]) -> None:
        """Own what was just committed: in a lane, or as an id."""
        if not self.spill.total and self._is_roomy(len(messages)):
            self._ledger.took(messages)
            self._dispatcher.arrived(messages)
            return
        for start in range(0, len(messages), SLICE):
            kept: list[Message] = []
            fresh: _Fresh = {}
            for message in messages[start : start + SLICE]:
                if self._stays(message, fresh):
                    kept.append(message)
                else:
                    self._put_away(message)
            self._ledger.took(kept)
            self._dispatcher.arrived(kept)
        if failpoints.is_armed and self.spill.total:
            failpoints.hit("spill.kept")

    def _is_roomy(self, count: int) -> bool:
        """Whether there is nothing to decide, whatever the messages are."""
        lanes, held = self._lanes, self._lanes.lane(HELD)
        return all(
            lanes.used(cls) + count <= lanes.limit(cls) // LANE_PART
            and held.queue(cls).size + count <= lanes.limit(cls) // HELD_PART[cls]
            for cls in MessageClass
        )

    def _stays(self, message: Message, fresh: _Fresh) -> bool:
        if message.claim:  # it leaves at once: windows and one block bound how many do
            return True
        channel = self._dispatcher.choose(message)
        if channel is None:  # it ends at once
            return True
        if self.is_behind(message):
            return False
        message_class, tenant = message.message_class, message.tenant
        keys = (message_class, -1, 0), (message_class, channel, 0), (message_class, channel, tenant)
        in_all, in_lane, of_tenant = (fresh.get(key, 0) for key in keys)
        limit = self._lanes.limit(message_class)
        used = self._lanes.used(message_class) + in_all
        queue = self._lanes.lane(channel).queue(message_class)
        if queue.size + in_lane < limit // (LANE_PART if channel else HELD_PART[message_class]):
            stays = used < limit * 7 // 8
        else:
            there = queue.waiting(tenant) + of_tenant
            stays = used < limit and there < self._few(message_class)
        if stays:
            fresh.update({key: fresh.get(key, 0) + 1 for key in keys})
        return stays

    def _few(self, message_class: MessageClass) -> int:
        """How many messages of a tenant in a lane are few, the more tenants wait the fewer."""
        tenants = 1 + self.spill.queues(message_class)
        return max(1, self._lanes.limit(message_class) // FEW_PART // tenants)

    def _put_away(self, message: Message) -> None:
        self._ledger.pass_on(message)
        self.spill.add(
            message.message_class,
            message.tenant,
            self._dispatcher.routes.of(message),
            message.id,
            message.valid_until,
        )

    # -- what comes back -------------------------------------------------------------------

    async def run(self) -> None:
        """Read back until cancelled; while the store is away, wait."""
        while True:
            try:
                is_busy = await self.refill()
            except StoreUnavailable:
                await asyncio.sleep(RETRY_S)
                continue
            if not is_busy:
                await asyncio.sleep(LOOK_S if self.spill.total else IDLE_S)

    async def refill(self) -> bool:
        """Bring back one batch, otp first; False when no lane misses anything."""
        dispatcher = self._dispatcher
        if not self.spill.total or dispatcher.is_moving() or dispatcher.is_stopped:
            return False
        for message_class in MessageClass:
            if not self.spill.size(message_class):
                continue
            stale = self._stale(message_class)
            if stale is not None:
                await self._reroute(message_class, stale)
                return True
            if self._is_quiet(message_class):
                continue
            batch = self._pick(message_class)
            if batch:
                await self._bring(batch, self._queue)
                return True
        return False

    def _is_quiet(self, message_class: MessageClass) -> bool:
        """Whether to let a class be for a moment: outside its hours most of it is only put off.

        What goes abroad may leave, so it comes back all the same, a batch at a time.
        """
        unix = self._unix()
        if self._dispatcher.last_look.policy.goes_at(message_class, MAINLAND, unix) <= unix:
            return False
        now = self._monotonic()
        if now < self._quiet_until:
            return True
        self._quiet_until = now + QUIET_S
        return False

    def _pick(self, message_class: MessageClass) -> list[Taken]:
        """Whose turn it is: lane after lane, and in each the tenants with the fewest there."""
        lanes, dispatcher = self._lanes, self._dispatcher
        limit = min(BATCH, lanes.limit(message_class) - lanes.used(message_class))
        by_channel: dict[int, list[Route]] = {}
        for route in self.spill.routes(message_class):
            channel = dispatcher.first_fit(route, message_class)
            if channel is not None:
                by_channel.setdefault(channel, []).append(route)
        if limit <= 0 or not by_channel:
            return []
        self._turn += 1
        first = self._turn % len(by_channel)
        order = [*by_channel.items()]
        depth = max(1, lanes.limit(message_class) // LANE_PART // len(order))
        found: list[Taken] = []
        stop_at = self._monotonic() + PICK_S
        for channel, routes in order[first:] + order[:first]:
            ahead = self._picks[channel] % len(routes)  # or a tenant's second route would starve
            routes[:] = routes[ahead:] + routes[:ahead]
            some = self._pick_for(message_class, channel, routes, depth, limit - len(found))
            self._picks[channel] += bool(some)
            found += some
            if len(found) >= limit or self._monotonic() > stop_at:
                break
        return found

    def _pick_for(
        self,
        message_class: MessageClass,
        channel: int,
        routes: Sequence[Route],
        depth: int,
        limit: int,
    ) -> list[Taken]:
        """Fill a lane up to `depth`, in equal parts; in a fuller one only those with few there."""
        queue = self._lanes.lane(channel).queue(message_class)
        missing = depth - queue.size
        if missing <= 0:
            few = self._few(message_class)

            def of_few(tenant: int) -> int:
                there = queue.waiting(tenant)
                return few - there if there <= few // 2 else 0

            return self._take(message_class, routes, limit, of_few)
        share = depth // max(1, self.spill.tenants(message_class, routes))
        while True:
            share = max(1, share)
            found = self._take(
                message_class,
                routes,
                min(limit, missing),
                lambda tenant, share=share: share - queue.waiting(tenant),  # type: ignore[misc]
            )
            if found or share >= depth:
                return found
            share = min(depth, share * 4)

    def _take(
        self,
        message_class: MessageClass,
        routes: Sequence[Route],
        limit: int,
        wanted: Callable[[int], int],
    ) -> list[Taken]:
        """Route after route; what one of them gave a tenant counts for the next ones."""
        if len(routes) == 1:
            return self.spill.take(message_class, routes[0], limit, wanted)
        found: list[Taken] = []
        given: Counter[int] = Counter()

        def still(tenant: int) -> int:
            return wanted(tenant) - given[tenant]

        for route in routes:
            if len(found) < limit:
                some = self.spill.take(message_class, route, limit - len(found), still)
                given.update(one.queue.tenant for one in some)
                found += some
        return found

    async def _bring(
        self, batch: Sequence[Taken], place: Callable[[list[Message], list[Message]], None]
    ) -> None:
        """Read ids in hand and put their messages where they belong, in order.

        Raises StoreUnavailable; what was not read stands where it stood.
        """
        done = 0
        try:
            open_one = await self._read(batch)
            if failpoints.is_armed:
                failpoints.hit("spill.read")
            while done < len(batch):
                some = batch[done : done + SLICE]
                self._land(some, open_one, place)
                done += len(some)
                await asyncio.sleep(0)
        finally:
            self.spill.put_back(batch[done:])

    async def fetch(
        self, tenant: int, ids: Collection[int], place: Callable[[Sequence[Message]], None]
    ) -> None:
        """Read these very messages back, those that are spilled; `place` gets them, owned by us.

        What is past its validity ends. Raises StoreUnavailable; what was not read stands where it
        stood.
        """

        def put(waiting: list[Message], late: list[Message]) -> None:
            place(waiting)
            self._dispatcher.expire_all(late)

        taken = self.spill.pick(tenant, ids)
        if taken:
            await self._bring(taken, put)

    async def _read(self, batch: Sequence[Taken]) -> Open:
        bodies = await self._reader.bodies([one.id for one in batch if not one.has_rows])
        folded = await self._reader.messages([one.id for one in batch if one.has_rows])

        def open_one(one: Taken) -> Message | None:
            if not one.has_rows:
                return bodies.message(one.id)
            stored = folded.get(one.id)
            return None if stored is None else fold_owned(stored)

        return open_one

    def _land(
        self,
        some: Sequence[Taken],
        open_one: Open,
        place: Callable[[list[Message], list[Message]], None],
    ) -> None:
        """Own the messages of a slice and put them in their places; one turn of the loop."""
        messages = [open_one(one) for one in some]
        unix, now = self._unix(), self._monotonic()
        waiting: list[Message] = []
        late: list[Message] = []
        leftover: list[int] = []  # rows in `parked` that nobody needs any more
        for one, message in zip(some, messages, strict=True):
            if message is None or one.id in self._ledger.live:
                self._metrics.quarantined_total.inc(("spill",))
                log.error("spilled message is not there or not alone", message_id=one.id)
            elif message.state in _WAITS:
                message.is_parked = one.is_parked
                message.queued_at = now - max(0.0, unix - message.created_at)
                self._ledger.take_back(message)
                (late if message.valid_until <= unix else waiting).append(message)
            elif one.is_parked and message.state in FINAL_STATES | {State.SUBMITTED}:
                leftover.append(one.id)
        self.spill.landed(some)
        place(waiting, late)
        if leftover:
            self._ledger.commit([], sql=unpark_sql(leftover))

    def _queue(self, waiting: list[Message], late: list[Message]) -> None:
        self._dispatcher.arrived(waiting)
        self._dispatcher.expire_all(late)

    # -- routes that changed ---------------------------------------------------------------

    def _stale(self, message_class: MessageClass) -> Route | None:
        """A route that the configuration no longer has and something still waits for."""
        snapshot = self._dispatcher.snapshot
        if snapshot is not self._snapshot:
            self._snapshot = snapshot
            self._routes = {each: snapshot.choices(each) for each in MessageClass}
        for route in self.spill.routes(message_class):
            if route not in self._routes[message_class]:
                return route
        return None

    async def _reroute(self, message_class: MessageClass, route: Route) -> None:
        """Move some ids to the route that their messages have now; without one they end."""
        batch = self.spill.take(message_class, route, BATCH, lambda _: self.spill.total)
        endless: list[Taken] = []
        try:
            heads = {head.id: head for head in await self._reader.heads([one.id for one in batch])}
        except BaseException:  # a cancel too must not lose the ids; it goes on below
            self.spill.put_back(batch)
            raise
        for one in batch:
            head = heads.get(one.id)
            new = () if head is None else self._route_of(head)
            if head is None or not new:
                endless.append(one)
                continue
            self.spill.add(
                message_class,
                head.tenant,
                new,
                one.id,
                head.valid_until,
                has_rows=one.has_rows,
                is_parked=one.is_parked,
            )
            self.spill.landed([one])
        await self._bring(endless, self._queue)

    def _route_of(self, head: Head) -> Route:
        return self._dispatcher.routes.channels_for(
            head.tenant, head.message_class, head.carrier, head.country
        )

    # -- time ------------------------------------------------------------------------------

    async def sweep(self) -> None:
        """Expire what is past its validity; for once a second."""
        queues = self.spill.all_queues()
        while queues:
            gone = self.spill.expire(queues, self._unix(), BATCH)
            if gone:
                await self._bring(gone, self._queue)
                await self._committed()
            else:
                await asyncio.sleep(0)

    async def park(self) -> None:
        """Give what is spilled for long a row in `parked`: the low-water mark moves on."""
        before = id_at(self._unix() - self._policy.parked_after_s)
        queues = self.spill.all_queues()
        while queues:
            rows = self.spill.park(queues, before, BATCH)
            if not rows:
                await asyncio.sleep(0)
                continue
            self._ledger.commit([], sql=self._park_sql(rows))
            await self._committed()
            self.spill.parked(rows)

    def _park_sql(self, rows: Sequence[Parking]) -> str:
        return park_sql(
            self._ledger.process,
            [
                (row.id, row.valid_until + DUE_AFTER_S, Why.SPILLED, row.message_class, row.tenant)
                for row in rows
            ],
        )

    async def _committed(self) -> None:
        done = asyncio.Event()
        self._ledger.commit([], done=done.set)
        await done.wait()

    # -- what an earlier life left ---------------------------------------------------------

    def take_up(self, heads: Iterable[Head], *, is_parked: bool) -> None:
        """Own what an earlier life of this process had accepted; nothing of it is read yet.

        `is_parked`: committed rows in `parked`, which we look after, stand for them.
        """
        gone = self._ledger.gone
        for head in heads:
            if head.id in gone:  # ended while the head was read
                continue
            self.spill.add(
                head.message_class,
                head.tenant,
                self._route_of(head),
                head.id,
                head.valid_until,
                has_rows=head.has_rows,
                is_parked=is_parked,
            )

    async def take_up_due(self, message_ids: Sequence[int]) -> None:
        """Parked rows of ours came due whose messages are not in memory. Raises StoreUnavailable.

        What stands in the spill, or does so from now on, is due again after its validity; a row
        whose message has left for good, or is another's, goes. Whose it is must be asked when
        it is known not to be here: what is here may be handed over between answer and use. What
        was put off or held meanwhile keeps the row of that.
        """
        if not message_ids:
            return
        heads = await self._reader.heads(message_ids)
        unknown = await self._unknown(heads)
        mine = set(await self._reader.still_mine(self._ledger.process, message_ids))
        await self._take_up_unknown([h for h in heads if h.id in unknown and h.id in mine])
        process, soonest = self._ledger.process, self._unix()
        rows = [
            (head.id, max(soonest, head.valid_until) + DUE_AFTER_S, Why.SPILLED)
            for head in heads
            if head.id in mine
        ]
        gone = sorted(set(message_ids) - mine)
        sql = repark_sql(process, rows, STOOD) + unpark_stood_sql(gone, process)
        self._ledger.commit([], sql=sql)

    async def _unknown(self, heads: Sequence[Head]) -> set[int]:
        unknown: set[int] = set()
        for start in range(0, len(heads), SLICE):
            unknown.update(h.id for h in heads[start : start + SLICE] if not self._knows(h))
            await asyncio.sleep(0)
        return unknown

    async def _take_up_unknown(self, heads: Sequence[Head]) -> None:
        for start in range(0, len(heads), SLICE):
            some = heads[start : start + SLICE]
            self.take_up([head for head in some if not self._knows(head)], is_parked=True)
            await asyncio.sleep(0)

    def _knows(self, head: Head) -> bool:
        return head.id in self._ledger.live or self.spill.has(
            head.message_class, head.tenant, head.id
        )

    # -- metrics ---------------------------------------------------------------------------

    def set_gauges(self) -> None:
        """Before a scrape."""
        unix = self._unix()
        for message_class in MessageClass:
            labels = (message_class.value,)
            oldest = self.spill.oldest(message_class)
            self._metrics.spilled_messages.set(labels, self.spill.size(message_class))
            age_s = 0.0 if oldest is None else max(0.0, unix - unix_of(oldest))
            self._metrics.spilled_oldest_age_seconds.set(labels, age_s)
