"""Committed events become signed webhooks: from memory at once, else from `webhook_parked`.

    rows_committed ─▶ endpoint's queue ─▶ worker ─▶ 2xx ─▶ done
            │ full, breaker open             └ failed ─▶ webhook_parked (tries, due)
            └───────────▶ webhook_parked ─▶ due: read back, body built anew ─▶ worker

An event is done when a 2xx was read and parked when that is committed; the cursor passes it only
then, so that a restart repeats events but never loses one (at least once; receivers order by
`sequence`). One endpoint's trouble stays with it: queue, requests in flight and breaker are its
own. There is no task, future or log line per event. An endpoint that answers 410 is left alone at
once, and disabled for all processes by `WebhookDesk`; its open events are kept as dead letters.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence
from functools import partial

from gateway.channel_notices import notice_of_channel
from gateway.courier import Clocks, Courier, Deliver
from gateway.endpoint_queue import EndpointQueue, Flush, Item, NotifyPolicy
from gateway.inbound_notices import notices_of_inbound
from gateway.notice_store import NoticeStore
from gateway.notices import Notice, notice_of_row, notices_of_stored, test_body, type_of_path
from gateway.slots import Slots
from gateway.webhook_desk import WebhookDesk
from sms.config import Snapshot, WebhookEndpoint
from sms.errors import LeaseLost, Unavailable
from sms.ids import unix_of
from sms.model import EventRow
from store.fragments import ParkedWebhook
from telemetry.failpoints import failpoints
from telemetry.logs import get_logger
from telemetry.metrics import Metrics
from webhooks.address import AllowList
from webhooks.deliver import Target, parse_target
from webhooks.schedule import DEAD, Breaker

TICK_S = 0.25
AWAY_S = 1.0  # after a failed tick
SWEEP_S = 30.0
PUT_OFF_S = 60.0  # an endpoint whose parked events cannot be read back
RECOVER_PAGE = 1000
BUILD_AT_ONCE = 100  # messages folded and encoded before the loop is let go
ENDPOINTS_PER_LOOK = 20  # whose due events are read in one statement …
ENDPOINTS_PER_PROBE = 2000  # … and of which it is first asked whether they have any

log = get_logger(__name__)


class Notifier:
    """Delivers this process's events; lives on one event loop."""

    def __init__(  # noqa: PLR0913 - what it is joined to, all by keyword
        self,
        *,
        store: NoticeStore,
        deliver: Deliver,
        metrics: Metrics,
        allow: AllowList,
        cursor: int = 0,
        policy: NotifyPolicy | None = None,
        clocks: Clocks | None = None,
    ) -> None:
        """`cursor` is the persisted one; `recover` must run once for it to move."""
        self._store = store
        self._metrics = metrics
        self._allow = allow
        self._policy = policy or NotifyPolicy()
        self._clocks = clocks or Clocks()
        slots: Slots[EndpointQueue] = Slots(self._policy.total_in_flight, self._policy.in_flight)
        self._courier = Courier(store, deliver, metrics, self._clocks, slots)
        self._courier.on_disabled = self._forget_routes
        self._endpoints: dict[int, EndpointQueue] = {}
        self._by_tenant: dict[int, list[EndpointQueue]] = {}
        self._routes: dict[tuple[int, str], tuple[EndpointQueue, ...]] = {}
        self._busy: set[EndpointQueue] = set()  # with events or workers; the others cost no tick
        self._channel_names: dict[int, str] = {}
        # The first entry stands for what an earlier life of this process left unread.
        self._unread = Flush(cursor + 1)
        self._unread.open = 1
        self._flushes: deque[Flush] = deque([self._unread])
        self._highest = cursor
        self._swept_at = self._clocks.monotonic()
        self._ticker: asyncio.Task[None] | None = None
        self.desk: WebhookDesk | None = None
        metrics.before_scrape.append(self._show_age)

    def join(self, desk: WebhookDesk) -> WebhookDesk:
        """Tell it of every request; it runs with this and has replays and tests sent."""
        self.desk = desk
        self._courier.tried = desk.note
        desk.hurry, desk.send_test = self.hurry, self.send_test
        return desk

    def hurry(self, endpoint_id: int) -> None:
        """Look at once at what is due at an endpoint."""
        queue = self._endpoints.get(endpoint_id)
        if queue is not None:
            queue.due_in(0.0, self._clocks.monotonic())

    def send_test(self, config: WebhookEndpoint, event_id: int) -> bool:
        """Send a test event, once; False when too many of them are under way."""
        parsed = parse_target(config.url, self._allow)
        target = parsed if isinstance(parsed, Target) else None
        body = test_body(config.id, event_id, self._clocks.unix())
        return self._courier.send_once(config, target, event_id, body)

    # -- configuration ---------------------------------------------------------------------

    def reconfigure(self, snapshot: Snapshot) -> None:
        """Take over the endpoints of a new configuration; queues of those that stay are kept."""
        self._channel_names = {c.id: c.name for c in snapshot.channels.values()}
        gone = self._endpoints.keys() - snapshot.endpoints.keys()
        changed = [
            config
            for endpoint_id, config in snapshot.endpoints.items()
            if (held := self._endpoints.get(endpoint_id)) is None or held.config is not config
        ]
        for endpoint_id in gone:
            self._drop(self._endpoints.pop(endpoint_id))
        for config in changed:
            held = self._endpoints.get(config.id)
            if held is not None and held.config.url == config.url:
                held.is_disabled = config.is_disabled or (
                    held.is_disabled and held.config == config
                )
                if held.is_disabled:
                    self._courier.set_aside(held, DEAD)
                elif held.config != config:
                    held.breaker = Breaker()  # whoever changed it wants to know whether it helped
                held.config = config
                continue
            if held is not None:  # another URL: its events wait in the store for the new one
                self._courier.set_aside(held, self._clocks.unix())
                self._drop(held)
            parsed = parse_target(config.url, self._allow)
            target = parsed if isinstance(parsed, Target) else None
            queue = self._endpoints[config.id] = EndpointQueue(config, target, self._policy)
            queue.is_disabled = config.is_disabled
        if gone or changed:
            self._by_tenant.clear()
            for queue in self._endpoints.values():
                self._by_tenant.setdefault(queue.config.tenant, []).append(queue)
        self._forget_routes()
        if self.desk is not None:
            self.desk.reconfigure(snapshot.endpoints)

    def _drop(self, queue: EndpointQueue) -> None:
        """Let an endpoint go; nobody wants its events any more."""
        queue.is_removed = True
        self._busy.discard(queue)
        fresh, copies = queue.empty()
        self._courier.held -= len(fresh) + copies
        for item in fresh:
            if item.flush is not None:
                item.flush.open -= 1
        self._courier.let_idle_go(queue, float("inf"))

    def wants(self, tenant: int, kind: str | None = None) -> bool:
        """Whether any endpoint of the tenant takes events, or events of this type."""
        if kind is None:
            return any(not queue.is_disabled for queue in self._by_tenant.get(tenant, ()))
        return bool(self._route(tenant, kind))

    def _route(self, tenant: int, kind: str) -> tuple[EndpointQueue, ...]:
        route = self._routes.get((tenant, kind))
        if route is None:
            route = self._routes[tenant, kind] = tuple(
                queue
                for queue in self._by_tenant.get(tenant, ())
                if not queue.is_disabled and queue.wants(kind)
            )
        return route

    def _forget_routes(self) -> None:
        self._routes.clear()

    # -- in --------------------------------------------------------------------------------

    def rows_committed(self, rows: Sequence[EventRow]) -> None:
        """Called once per flush, after its commit: builds the notices that somebody wants."""
        notices: list[Notice] = []
        unread: list[EventRow] = []
        highest = 0
        names = self._channel_names
        for row in rows:
            if row.event_id > highest:
                highest = row.event_id
            kind = type_of_path(row.path)
            if kind is None or not self._route(row.tenant, kind):
                continue
            message = row.message
            if message is None:
                unread.append(row)
                continue
            name = names.get(message.channel)
            notice = notice_of_row(message, row, row.previous, channel_name=name)
            if notice is not None:
                notices.append(notice)
        self.committed(notices, up_to=highest)
        if unread:
            self._park_unread(unread)

    def committed(self, notices: Sequence[Notice], *, up_to: int = 0) -> None:
        """Take the notices of one commit; `up_to` is the highest event id in that commit.

        Returns at once. What finds no room in memory is parked in the store.
        """
        self._highest = max(self._highest, up_to)
        if not notices:
            return
        flush = self._open_flush(min(notice.event_id for notice in notices))
        now = self._clocks.monotonic()
        touched: set[EndpointQueue] = set()
        full: dict[EndpointQueue, list[Item]] = {}
        room = self._policy.memory_events - self._courier.held
        highest = self._highest
        pairs = 0
        for notice in notices:
            if notice.event_id > highest:
                highest = notice.event_id
            for queue in self._route(notice.tenant, notice.type):
                pairs += 1
                if queue.has_room(now, room):
                    body = notice.body(full_number=queue.config.full_number)
                    queue.fresh.append(Item(notice, body, flush, 0, now))
                    room -= 1
                    touched.add(queue)
                else:
                    full.setdefault(queue, []).append(Item(notice, b"", flush, 0, now))
        flush.open = pairs
        self._highest = highest
        self._courier.held = self._policy.memory_events - room
        for queue, items in full.items():
            self._courier.park(queue, items, self._courier.unix_of_probe(queue, now))
        self._busy |= touched
        if failpoints.is_armed:
            failpoints.hit("notify.taken")
        for queue in touched:
            self._courier.wake(queue, now)

    def _park_unread(self, rows: Sequence[EventRow]) -> None:
        """Events whose message is not in memory: parked, and built when read back at once."""
        flush = self._open_flush(min(row.event_id for row in rows))
        unix = self._clocks.unix()
        parked: dict[EndpointQueue, list[ParkedWebhook]] = {}
        for row in rows:
            for queue in self._route(row.tenant, type_of_path(row.path) or ""):
                entry = ParkedWebhook(
                    queue.config.id, row.event_id, row.message_id, row.sequence, 0, unix
                )
                parked.setdefault(queue, []).append(entry)
        flush.open = len(parked)
        for queue, entries in parked.items():
            self._courier.put_rows(queue, entries, partial(_close_one, flush))

    def inherit(self, rows: Sequence[EventRow]) -> None:
        """Events that a dead process committed and perhaps did not deliver: parked as ours."""
        wanted = [
            row
            for row in rows
            if (kind := type_of_path(row.path)) is not None and self._route(row.tenant, kind)
        ]
        if wanted:
            self._park_unread(wanted)

    # -- cursor ----------------------------------------------------------------------------

    def _open_flush(self, floor: int) -> Flush:
        flushes = self._flushes
        while flushes and not flushes[0].open:
            flushes.popleft()
        flush = Flush(floor)
        flushes.append(flush)
        return flush

    def cursor(self) -> int:
        """The event id up to which all is delivered or parked; what lies above is read again.

        Costs a look at each commit that is not done; asked once per lease renewal.
        """
        self._flushes = deque(flush for flush in self._flushes if flush.open)
        floor = min((flush.floor for flush in self._flushes), default=self._highest + 1)
        pending = self._store.pending_floor()
        if pending is not None:
            floor = min(floor, pending)
        return floor - 1

    def pending_floor(self) -> int | None:
        """The lowest event id that may still commit; None when nothing waits."""
        return self._store.pending_floor()

    def is_idle(self) -> bool:
        """Whether no event is open or about to commit: the cursor may then be any newer id."""
        return self._store.pending_floor() is None and not any(f.open for f in self._flushes)

    async def recover(self, until: int) -> int:
        """Read on from the persisted cursor; returns how many events were taken up.

        `until` is the highest event id an earlier life of this process may have used (the
        lease's id floor); what is newer comes through `rows_committed`. Raises Unavailable when
        the store is away: the cursor then waits where it was, and the call can be made again.
        """
        guard = self._unread
        taken = 0
        while guard.open:
            cursor = guard.floor - 1
            rows = await self._store.events_after(cursor, RECOVER_PAGE)
            mine = [row for row in rows if row.event_id <= until]
            taken += await self._take_up(mine)
            if len(mine) < RECOVER_PAGE:
                guard.open = 0
            else:
                guard.floor = mine[-1].event_id + 1
        self._highest = max(self._highest, until)
        return taken

    async def _take_up(self, rows: Sequence[EventRow]) -> int:
        wanted: dict[int, set[int]] = {}
        for row in rows:
            kind = type_of_path(row.path)
            if kind is not None and self._route(row.tenant, kind):
                wanted.setdefault(row.message_id, set()).add(row.sequence)
        taken = 0
        async for notices in self._read_back(wanted):
            self.committed(notices)
            taken += len(notices)
        return taken

    # -- life ------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin; called on the running loop."""
        self._ticker = asyncio.get_running_loop().create_task(self._tick_forever())
        if self.desk is not None:
            self.desk.start()

    async def stop(self, timeout_s: float = 5.0) -> None:
        """Send what waits for at most so long and park the rest.

        The store's event lane must be drained after this; the cursor is exact then.
        """
        if self._ticker is not None:
            self._ticker.cancel()
            await asyncio.wait([self._ticker])
        await self._courier.stop(self._endpoints.values(), timeout_s)
        if self.desk is not None:
            await self.desk.stop()

    async def _tick_forever(self) -> None:
        while True:
            wait_s = TICK_S
            try:
                await self.tick()
            except Exception:
                # A store that is away must not end the loop.
                log.exception("webhook retries wait for the store")
                wait_s = AWAY_S
            await asyncio.sleep(wait_s)

    async def tick(self) -> None:
        """Park what is overdue, let idle workers go, read back what is due."""
        now = self._clocks.monotonic()
        unix = self._clocks.unix()
        for queue in list(self._busy):
            overdue = queue.overdue(now)
            self._courier.held -= len(overdue)
            self._courier.park(queue, overdue, unix)
            self._courier.let_idle_go(queue, now - self._policy.idle_worker_s)
            if queue.fresh or queue.parked:
                self._courier.wake(queue, now)
            elif not queue.workers:
                self._busy.discard(queue)
        if now >= self._swept_at:
            self._swept_at = now + SWEEP_S
            self._courier.oldest_parked = await self._store.oldest_parked()
        hungry = await self._hungry(now)
        for start in range(0, len(hungry), ENDPOINTS_PER_LOOK):
            await self._feed(hungry[start : start + ENDPOINTS_PER_LOOK])

    # -- reading back ----------------------------------------------------------------------

    async def _hungry(self, now: float) -> list[EndpointQueue]:
        """The endpoints whose due events are to be read now.

        Of many that only look whether there are any, those that have none are told apart by a
        probe of the index first: ten thousand quiet endpoints cost five statements, not 500.
        """
        looking = [q for q in self._endpoints.values() if q.poll_at <= now and q.may_feed(now)]
        if len(looking) <= ENDPOINTS_PER_LOOK:
            return looking
        having: set[int] = set()
        unix = self._clocks.unix()
        for start in range(0, len(looking), ENDPOINTS_PER_PROBE):
            some = [queue.config.id for queue in looking[start : start + ENDPOINTS_PER_PROBE]]
            having.update(await self._store.with_due(some, unix))
        for queue in looking:
            if queue.config.id not in having:
                queue.fed(0, now)
        return [queue for queue in looking if queue.config.id in having]

    async def _feed(self, queues: Sequence[EndpointQueue]) -> None:
        """Read the due events of some endpoints back into memory."""
        by_id = {queue.config.id: queue for queue in queues}
        # One at least, so that a full memory slows retries and does not stop them.
        room = max(self._policy.memory_events - self._courier.held, 1)
        limit = min(self._policy.feed_events, room)
        found = await self._store.due(list(by_id), self._clocks.unix(), limit)
        now = self._clocks.monotonic()
        pages: dict[int, list[ParkedWebhook]] = {endpoint_id: [] for endpoint_id in by_id}
        for row in found:
            pages[row.endpoint].append(row)
        for endpoint_id, page in pages.items():
            queue = by_id[endpoint_id]
            queue.fed(len(page), now)
            probe = page[: queue.most] if queue.breaker.until is not None else page
            if probe and not queue.is_removed:
                queue.feeding += len(probe)
                try:
                    await self._refill(queue, probe)
                except (Unavailable, LeaseLost):
                    raise
                except Exception:  # one bad row must not keep the other endpoints waiting
                    log.exception("parked webhook events cannot be read", endpoint=endpoint_id)
                    self._metrics.quarantined_total.inc(("webhook",))
                    queue.poll_at = now + PUT_OFF_S

    async def _refill(self, queue: EndpointQueue, page: Sequence[ParkedWebhook]) -> None:
        """Build the bodies of parked events anew and queue them."""
        left = {row.event_id: row.tries for row in page}
        wanted: dict[int, set[int]] = {}
        for row in page:
            wanted.setdefault(row.message_id, set()).add(row.sequence)
        try:
            async for notices in self._read_back(wanted):
                now = self._clocks.monotonic()
                for notice in notices:
                    tries = left.pop(notice.event_id, None)
                    if tries is None:
                        continue
                    body = notice.body(full_number=queue.config.full_number)
                    queue.parked.append(Item(notice, body, None, tries, now))
                    self._courier.held += 1
                self._busy.add(queue)
                self._courier.wake(queue, now)
        except BaseException:
            queue.settled(len(left))  # they stand in the store as before
            raise
        if left:  # the message or the row is gone (retention): there is nothing left to tell
            log.warning("parked webhook events have no rows", endpoint=queue.config.id)
            keys = [(queue.config.id, event_id) for event_id in left]
            self._store.forget(keys, lambda: queue.settled(len(keys)))

    async def _read_back(self, wanted: dict[int, set[int]]) -> AsyncIterator[list[Notice]]:
        """Notices of {message: sequences} from the store, some hundred messages at a time."""
        ids = sorted(wanted)
        for start in range(0, len(ids), BUILD_AT_ONCE):
            part = ids[start : start + BUILD_AT_ONCE]
            stored = await self._store.messages(part)
            notices: list[Notice] = []
            for message_id in part:
                entry = stored.get(message_id)
                if entry is not None:
                    notices += notices_of_stored(
                        entry.message, entry.rows, wanted[message_id], self._channel_names
                    )
            others = [message_id for message_id in part if message_id not in stored]
            if others:
                notices += await self._of_no_message(others, wanted)
            yield notices

    async def _of_no_message(self, ids: list[int], wanted: dict[int, set[int]]) -> list[Notice]:
        """Of texts from phones, and about channels."""
        notices: list[Notice] = []
        names = self._channel_names
        texts = await self._store.inbound(ids)
        for message_id, text in texts.items():
            notices += notices_of_inbound(text.message, text.rows, wanted[message_id], names)
        rest = [one for one in ids if one not in texts]
        if rest:
            rows = await self._store.channel_events(rest)
            notices += [notice_of_channel(row, names) for row in rows.values()]
        return notices

    def _show_age(self) -> None:
        """The oldest event nobody has, in memory or parked; dead letters left out."""
        waiting = [
            flush.floor for flush in self._flushes if flush.open and flush is not self._unread
        ]
        if self._courier.oldest_parked is not None:
            waiting.append(self._courier.oldest_parked)
        age_s = self._clocks.unix() - unix_of(min(waiting)) if waiting else 0.0
        self._metrics.webhook_oldest_age_seconds.set((), max(age_s, 0.0))


def _close_one(flush: Flush) -> None:
    flush.open -= 1


__all__ = ["Clocks", "Deliver", "Notifier", "NotifyPolicy"]
