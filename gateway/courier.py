"""Workers that send what waits in the endpoints' queues, and what follows from each answer.

    wake() ─▶ worker ─▶ take() ─▶ one request ─▶ Delivered  done, or its parked row deleted
                 ▲                            ├▶ Failed     parked with its next due, breaker told
                 └── idle until woken ◀───────┴▶ Gone       endpoint disabled, dead letters

A worker is a task that lives as long as there is work and a few seconds more; events have none.
"""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, assert_never

from gateway.endpoint_queue import EndpointQueue, Item
from gateway.notice_store import NoticeStore
from gateway.notices import batch_body
from gateway.slots import Slots
from sms.config import WebhookEndpoint
from sms.ids import to_text
from store.fragments import ParkedWebhook
from telemetry.failpoints import failpoints
from telemetry.logs import get_logger
from telemetry.metrics import Metrics
from webhooks.deliver import Delivered, Delivery, Failed, Fault, Gone, Target
from webhooks.schedule import DEAD, next_due

_SLOW_STATUS = frozenset({502, 504})
_DELIVERED, _GONE = ("delivered",), ("gone",)
MOST_TESTS = 4  # of one endpoint, under way at once

log = get_logger(__name__)

Deliver = Callable[[Target, Sequence[bytes], str, bytes], Awaitable[Delivery]]


@dataclass(frozen=True, slots=True)
class Clocks:
    """Where time and chance come from; tests bring their own."""

    monotonic: Callable[[], float] = time.monotonic
    unix: Callable[[], float] = time.time
    dice: Callable[[], float] = random.random  # jitter: no secret depends on it


class Tried(NamedTuple):
    """One request that was made, for who keeps a list of them; times are Unix seconds."""

    endpoint: WebhookEndpoint
    event_ids: Sequence[int]
    at: float
    ms: int
    tries: int  # of the event that was tried most often; 0 = a test
    delivery: Delivery
    next_at: float | None  # None = it is not tried again


class Courier:
    """All workers of all endpoints of one process."""

    def __init__(
        self,
        store: NoticeStore,
        deliver: Deliver,
        metrics: Metrics,
        clocks: Clocks,
        slots: Slots[EndpointQueue],
    ) -> None:
        """`slots`: for the requests of all endpoints together, tests left out."""
        self._store = store
        self._deliver = deliver
        self._metrics = metrics
        self._clocks = clocks
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_stopping = False
        self._slots = slots
        self.held = 0  # events in the queues
        self.oldest_parked: int | None = None  # event id, dead letters left out
        self.on_disabled: Callable[[], None] = lambda: None
        self.tried: Callable[[Tried], None] = lambda _: None
        self._tests: dict[int, int] = {}  # under way, by endpoint

    # -- workers ---------------------------------------------------------------------------

    def wake(self, queue: EndpointQueue, now: float) -> None:
        """Have as many workers at the queue as requests are ready; arm its linger timer."""
        if queue.is_in_line:
            return  # it is called in its turn
        wanted = queue.workers_wanted(now, is_draining=self._is_stopping)
        while wanted > 0 and queue.idle:
            future, _ = queue.idle.pop()
            if not future.done():
                future.set_result(True)
                queue.waking += 1
                wanted -= 1
        while wanted > 0 and queue.workers < queue.limit:
            queue.workers += 1
            queue.waking += 1
            wanted -= 1
            task = asyncio.get_running_loop().create_task(self._work(queue))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        until = queue.linger_until()
        # A moment that has passed needs no timer: a worker in flight looks again when it is back.
        if until is not None and until > now and queue.timer is None:
            loop = asyncio.get_running_loop()
            queue.timer = loop.call_later(until - now, self._lingered, queue)

    def _call(self, queue: EndpointQueue) -> bool:
        """There is a slot again for one that stood in the line; whether a worker comes for it."""
        self.wake(queue, self._clocks.monotonic())
        return queue.waking > 0

    def _lingered(self, queue: EndpointQueue) -> None:
        queue.timer = None
        self.wake(queue, self._clocks.monotonic())

    async def _work(self, queue: EndpointQueue) -> None:
        """One worker: a request at a time until nothing is ready, then idle until woken."""
        queue.waking -= 1
        try:
            while True:
                now = self._clocks.monotonic()
                items = queue.take(now, self._slots.may_begin, is_draining=self._is_stopping)
                if items:
                    self._slots.begun()
                    self.held -= len(items)
                    await self._send(queue, items)
                    continue
                if queue.is_called:
                    self._slots.waive(queue, self._call)
                if self._is_stopping or queue.is_removed:
                    return
                self.wake(queue, now)  # what is left may linger: arm its timer
                future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
                queue.idle.append((future, now))
                if not await future:
                    return
                queue.waking -= 1
        finally:
            queue.workers -= 1

    def let_idle_go(self, queue: EndpointQueue, since: float) -> None:
        """End the workers that have been idle since before that (monotonic)."""
        while queue.idle and queue.idle[0][1] < since:
            future, _ = queue.idle.pop(0)
            if not future.done():
                future.set_result(False)

    async def stop(self, queues: Iterable[EndpointQueue], timeout_s: float) -> None:
        """Send what waits for at most so long; what is left is parked."""
        self._is_stopping = True
        queues = list(queues)
        for queue in queues:
            self.wake(queue, self._clocks.monotonic())
            self.let_idle_go(queue, float("inf"))
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=timeout_s)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late)
        for queue in queues:
            if queue.timer is not None:
                queue.timer.cancel()
                queue.timer = None
            self.set_aside(queue, self._clocks.unix())

    # -- one request -----------------------------------------------------------------------

    async def _send(self, queue: EndpointQueue, items: list[Item]) -> None:
        """One request, and what follows from its answer."""
        if failpoints.is_armed:
            failpoints.hit("notify.before_send")
        started, at = self._clocks.monotonic(), self._clocks.unix()
        bodies = [item.body for item in items]
        event_ids = [item.notice.event_id for item in items]
        try:
            delivery = await self._request(queue.config, queue.target, event_ids, bodies)
        except asyncio.CancelledError:  # at stop: nobody knows, so it is sent again
            fresh = [item for item in items if item.flush is not None]
            self.park(queue, fresh, self._clocks.unix())
            raise
        finally:
            queue.in_flight -= 1
            self._slots.ended(self._call)
        ended = self._clocks.monotonic()
        tries = 1 + max(item.tries for item in items)
        next_at = None
        match delivery:
            case Delivered():
                if failpoints.is_armed:
                    failpoints.hit("notify.sent")
                self._delivered(queue, items, ended)
            case Failed():
                next_at = self._failed(queue, items, delivery, ended)
            case Gone():
                self._gone(queue, items)
            case _:
                assert_never(delivery)
        label = _label(delivery)
        self._metrics.webhook_seconds.observe(label, ended - started)
        self._metrics.webhook_attempts_total.inc(label)
        ms = round((ended - started) * 1000)
        self.tried(Tried(queue.config, event_ids, at, ms, tries, delivery, next_at))

    def send_once(
        self, config: WebhookEndpoint, target: Target | None, event_id: int, body: bytes
    ) -> bool:
        """One request that is not tried again and tells nothing of the endpoint's health.

        False when `MOST_TESTS` of them are under way there.
        """
        if self._tests.get(config.id, 0) >= MOST_TESTS:
            return False
        self._tests[config.id] = self._tests.get(config.id, 0) + 1
        task = asyncio.get_running_loop().create_task(self._once(config, target, event_id, body))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return True

    async def _once(
        self, config: WebhookEndpoint, target: Target | None, event_id: int, body: bytes
    ) -> None:
        started, at = self._clocks.monotonic(), self._clocks.unix()
        try:
            delivery = await self._request(config, target, [event_id], [body])
        finally:
            self._tests[config.id] -= 1
            if not self._tests[config.id]:
                del self._tests[config.id]
        ms = round((self._clocks.monotonic() - started) * 1000)
        self._metrics.webhook_attempts_total.inc(_label(delivery))
        self.tried(Tried(config, [event_id], at, ms, 0, delivery, None))

    async def _request(
        self,
        config: WebhookEndpoint,
        target: Target | None,
        event_ids: Sequence[int],
        bodies: list[bytes],
    ) -> Delivery:
        if target is None:
            return Failed(Fault.ADDRESS_REFUSED)
        unix = self._clocks.unix()
        if config.batch:
            webhook_id = f"whb_{uuid.uuid4().hex}"
            body = batch_body(bodies, unix)
        else:
            webhook_id = to_text("evt", event_ids[0])
            body = bodies[0]
        try:
            return await self._deliver(target, config.keys(unix), webhook_id, body)
        except Exception:
            # One bad request must not end an endpoint's worker.
            log.exception("webhook request crashed", endpoint=config.id)
            return Failed(Fault.INTERNAL)

    def _delivered(self, queue: EndpointQueue, items: list[Item], now: float) -> None:
        keys = []
        for item in items:
            if item.flush is None:
                keys.append((queue.config.id, item.notice.event_id))
            else:
                item.flush.open -= 1
        if keys:
            self._store.forget(keys, lambda: queue.settled(len(keys)))
        queue.speed_up()
        if queue.breaker.succeeded():
            log.warning("webhook endpoint answers again", endpoint=queue.config.id)
            queue.due_in(0.0, now)
        self.wake(queue, now)  # a higher limit or a closed breaker may let more workers in

    def _failed(
        self, queue: EndpointQueue, items: list[Item], why: Failed, now: float
    ) -> float | None:
        """Put the events off; when the first of them is tried again, Unix, None = never."""
        unix = self._clocks.unix()
        dice = self._clocks.dice
        rows = []
        dead = 0
        for item in items:
            due = next_due(item.tries + 1, why.retry_after_s, unix, dice())
            dead += due == DEAD
            rows.append(_row(queue, item, item.tries + 1, due))
        if dead:
            self._metrics.webhook_attempts_total.inc(("dead",), dead)
            log.warning("webhook events given up", endpoint=queue.config.id, events=dead)
        self._put(queue, rows, items)
        if why.fault is Fault.TIMEOUT or why.status in _SLOW_STATUS:
            queue.slow_down()
        was_open = queue.breaker.until is not None
        if queue.breaker.failed(now, dice(), why.retry_after_s):
            if not was_open:
                log.warning(
                    "webhook endpoint fails",
                    endpoint=queue.config.id,
                    fault=why.fault.value,
                    status=why.status,
                )
            self.set_aside(queue, self.unix_of_probe(queue, now))
        first = min(row.due for row in rows)
        return None if first == DEAD else first

    def _gone(self, queue: EndpointQueue, items: list[Item]) -> None:
        """410: stop calling it; what is open stays in the store as dead letters."""
        if not queue.is_disabled:
            log.warning("webhook endpoint is gone (410), disabled", endpoint=queue.config.id)
        queue.is_disabled = True
        self.on_disabled()
        self._put(queue, [_row(queue, item, item.tries + 1, DEAD) for item in items], items)
        self.set_aside(queue, DEAD)

    # -- parking ---------------------------------------------------------------------------

    def set_aside(self, queue: EndpointQueue, due: float) -> None:
        """Empty an endpoint's memory: fresh events to the store, copies of parked ones away."""
        fresh, copies = queue.empty()
        self.held -= len(fresh) + copies
        queue.settled(copies)
        self.park(queue, fresh, due)

    def park(self, queue: EndpointQueue, items: Sequence[Item], due: float) -> None:
        """Leave fresh events to the store without a try; `due` is Unix seconds."""
        if items:
            self._put(queue, [_row(queue, item, item.tries, due) for item in items], items)

    def _put(
        self, queue: EndpointQueue, rows: Sequence[ParkedWebhook], items: Sequence[Item]
    ) -> None:
        """Write the rows of these items; what they held in memory is free after the commit."""

        def committed() -> None:
            if failpoints.is_armed:
                failpoints.hit("notify.parked")
            fed = 0
            for item in items:
                if item.flush is None:
                    fed += 1
                else:
                    item.flush.open -= 1
            queue.settled(fed)

        self.put_rows(queue, rows, committed)

    def put_rows(
        self, queue: EndpointQueue, rows: Sequence[ParkedWebhook], done: Callable[[], None]
    ) -> None:
        """Write parked rows of one endpoint and look for them when the first is due."""
        first_due = min(row.due for row in rows)
        if first_due != DEAD:
            queue.due_in(first_due - self._clocks.unix(), self._clocks.monotonic())
            oldest = min(row.event_id for row in rows)
            if self.oldest_parked is None or oldest < self.oldest_parked:
                self.oldest_parked = oldest
        self._store.park(rows, done)

    def unix_of_probe(self, queue: EndpointQueue, now: float) -> float:
        """When events of this endpoint can be tried, Unix: now, or when its breaker allows."""
        until = queue.breaker.until
        return self._clocks.unix() + (0.0 if until is None else max(until - now, 0.0))


def _label(delivery: Delivery) -> tuple[str]:
    """Of the metrics."""
    if isinstance(delivery, Failed):
        return (delivery.fault.removeprefix("webhook."),)
    return _GONE if isinstance(delivery, Gone) else _DELIVERED


def _row(queue: EndpointQueue, item: Item, tries: int, due: float) -> ParkedWebhook:
    notice = item.notice
    return ParkedWebhook(
        queue.config.id, notice.event_id, notice.message_id, notice.sequence, tries, due
    )
