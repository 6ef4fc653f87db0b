"""What waits in memory for one webhook endpoint, and whether it may leave now. No I/O.

    committed ─▶ fresh ─┐
                        ├─▶ take(): the events of one request
    store (due) ▶ parked┘

The queue is bounded; what it does not take is parked in the store by the notifier. An endpoint's
failures are its own: breaker, requests in flight and queue are per endpoint.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from gateway.notices import ENVELOPE_BYTES, MAX_BATCH_BYTES, MAX_BATCH_EVENTS, Notice
from gateway.slots import Holder
from sms.config import WebhookEndpoint, wants_event
from webhooks.deliver import Target
from webhooks.schedule import Breaker

POLL_FIRST_S = 1.0  # how often an endpoint's parked events are looked for, at first …
POLL_LAST_S = 30.0  # … and when nothing is found
MEMORY_PARTS = 8  # of the memory that is free, an endpoint may hold one


@dataclass(frozen=True, slots=True)
class NotifyPolicy:
    """The numbers of RELIABILITY section 10 that notifying needs."""

    in_flight: int = 32  # requests per endpoint …
    linger_s: float = 0.05  # a batch waits so long for more events
    queue_events: int = 10_000  # in memory per endpoint …
    memory_events: int = 100_000  # … and of all endpoints of this process
    # What waits longer is parked: the cursor, and with it what a restart repeats, stays young.
    queue_age_s: float = 30.0
    feed_events: int = 400  # parked events read back per endpoint at a time
    idle_worker_s: float = 10.0
    total_in_flight: int = 2048  # … and of all endpoints of this process: each is a socket


class Flush:
    """The events of one commit that are neither delivered nor parked yet.

    Counting per commit and not per event keeps the cursor cheap; it moves commit by commit.
    """

    __slots__ = ("floor", "open")

    def __init__(self, floor: int) -> None:
        self.floor = floor  # the lowest event id in it
        self.open = 0  # (event, endpoint) pairs


class Item:
    """One event for one endpoint."""

    __slots__ = ("body", "flush", "notice", "queued_at", "tries")

    def __init__(
        self, notice: Notice, body: bytes, flush: Flush | None, tries: int, queued_at: float
    ) -> None:
        self.notice = notice
        self.body = body
        self.flush = flush  # None: it stands in webhook_parked already
        self.tries = tries  # made and failed
        self.queued_at = queued_at  # monotonic


class EndpointQueue(Holder):
    """One endpoint's events, workers and health. All times are monotonic seconds."""

    def __init__(
        self, config: WebhookEndpoint, target: Target | None, policy: NotifyPolicy
    ) -> None:
        super().__init__()
        self.config = config
        self.target = target  # None: the URL is refused
        self.policy = policy
        self.fresh: deque[Item] = deque()
        self.parked: deque[Item] = deque()
        self.breaker = Breaker()
        self.limit = policy.in_flight  # lowered by slow answers, raised by good ones
        self.is_disabled = False  # answered 410
        # Workers: tasks of the notifier. Those that found nothing stand in `idle`.
        self.workers = 0
        self.waking = 0
        self.idle: list[tuple[asyncio.Future[bool], float]] = []
        self.timer: asyncio.TimerHandle | None = None
        # Parked events read back and not settled yet; no second page before they are.
        self.feeding = 0
        self.poll_at = 0.0
        self._poll_s = POLL_FIRST_S
        self._is_parked_turn = False

    @property
    def most(self) -> int:
        """Events per request."""
        return MAX_BATCH_EVENTS if self.config.batch else 1

    def wants(self, kind: str) -> bool:
        """Whether its filter lets this event type through."""
        return wants_event(self.config.events, kind)

    def has_room(self, now: float, free: int) -> bool:
        """Whether a fresh event may wait here; otherwise it is parked.

        `free`: events for which the memory of all endpoints has room. The less that is, the less
        one endpoint may hold, so that many slow ones do not push out those that are well. While
        the breaker is open one event is let in, when the time of its probe has come.
        """
        if self.breaker.until is None:
            waiting = len(self.fresh)
            return waiting < self.policy.queue_events and waiting * MEMORY_PARTS < free
        return not self.fresh and not self.feeding and self.breaker.may_try(now, self.in_flight)

    def take(
        self,
        now: float,
        may_begin: Callable[[EndpointQueue], bool] = lambda _: True,
        *,
        is_draining: bool = False,
    ) -> list[Item]:
        """The events of the next request, counted as in flight; [] when none may leave now.

        `may_begin` is asked last, of an endpoint that would.
        """
        if self.in_flight >= self.limit or not self.breaker.may_try(now, self.in_flight):
            return []
        source = self._source(now, is_draining=is_draining)
        if not source or not may_begin(self):
            return []
        items: list[Item] = []
        most, size = self.most, ENVELOPE_BYTES
        while source and len(items) < most:
            size += len(source[0].body) + 1
            if items and size > MAX_BATCH_BYTES:
                break
            items.append(source.popleft())
        self.in_flight += 1
        return items

    def _source(self, now: float, *, is_draining: bool) -> deque[Item] | None:
        is_fresh_ready = bool(self.fresh) and (is_draining or self._fresh_requests(now) > 0)
        if not self.parked:
            return self.fresh if is_fresh_ready else None
        if not is_fresh_ready:
            return self.parked
        # By turns: neither a stream of new events nor an old backlog starves the other.
        self._is_parked_turn = not self._is_parked_turn
        return self.parked if self._is_parked_turn else self.fresh

    def _fresh_requests(self, now: float) -> int:
        waiting = len(self.fresh)
        if not self.config.batch or not waiting:
            return waiting
        full, rest = divmod(waiting, MAX_BATCH_EVENTS)
        if rest and now >= self.fresh[0].queued_at + self.policy.linger_s:
            full += 1
        return full

    def workers_wanted(self, now: float, *, is_draining: bool = False) -> int:
        """How many more workers have something to do now."""
        free = self.limit - self.in_flight
        if self.breaker.until is not None:
            free = 1 if self.breaker.may_try(now, self.in_flight) else 0
        ready = self._fresh_requests(now) + -(-len(self.parked) // self.most)
        if is_draining and self.fresh:
            ready += 1
        return min(free, ready) - self.waking

    def linger_until(self) -> float | None:
        """When a batch that is not full leaves all the same; None when nothing lingers."""
        if not self.config.batch or not self.fresh:
            return None
        return self.fresh[0].queued_at + self.policy.linger_s

    def overdue(self, now: float) -> list[Item]:
        """Remove and return what has been waiting too long for memory."""
        items = []
        oldest = now - self.policy.queue_age_s
        while self.fresh and self.fresh[0].queued_at < oldest:
            items.append(self.fresh.popleft())
        return items

    def empty(self) -> tuple[list[Item], int]:
        """Remove everything: the fresh events, and how many parked ones were only copies."""
        fresh = list(self.fresh)
        copies = len(self.parked)
        self.fresh.clear()
        self.parked.clear()
        return fresh, copies

    def settled(self, count: int) -> None:
        """So many events that had been read back are deleted, moved on or set aside."""
        self.feeding -= count

    def slow_down(self) -> None:
        """After 502, 504 or a time-out: half as many requests at a time."""
        self.limit = max(1, self.limit // 2)

    def speed_up(self) -> None:
        """After a success: one more at a time, up to the policy's number."""
        if self.limit < self.policy.in_flight:
            self.limit += 1

    def may_feed(self, now: float) -> bool:
        """Whether to look for its due parked events now."""
        return (
            now >= self.poll_at
            and not self.feeding
            and not self.is_disabled
            and self.breaker.may_try(now, self.in_flight)
        )

    def fed(self, found: int, now: float) -> None:
        """Note what a look found; empty looks become rarer."""
        if found:
            self._poll_s = POLL_FIRST_S
            self.poll_at = now
        else:
            self.poll_at = now + self._poll_s
            self._poll_s = min(2 * self._poll_s, POLL_LAST_S)

    def due_in(self, wait_s: float, now: float) -> None:
        """An event was parked that is due after so long: look for it then."""
        self._poll_s = POLL_FIRST_S
        self.poll_at = min(self.poll_at, now + wait_s)
