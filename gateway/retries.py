"""Extra attempts wait here for their budget (RELIABILITY section 6): they do not fail.

    out of its lane ─▶ tried before? ─▶ may_leave ─▶ yes: claim, bytes
                                            └ no ─▶ waiting ─ budget ─▶ its lane, at its head
                                                       └ its validity ends ─▶ expired

Asked as late as possible, when a slot and tokens are there, so that the budget counts what
leaves. Next comes who is first by class, then by age, whoever's it is; a tenant whose own budget
is used up lets the others pass. Who hands a message over asks, too, and the receiver does not: the
budget is that of the process in which it failed, which counted its firsts, and what waits for it
takes no room of a receiver's. What waits is in its owner's memory, as in a lane, and its rows say
that it is queued: a restart finds it.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from itertools import count

from failover.budget import RetryBudget, Short
from gateway.holds import Hold, begin, end
from sms.ids import unix_of
from sms.model import FINAL_STATES, Message, MessageClass
from telemetry.metrics import Metrics

MAX_AT_ONCE = 500  # messages let go in one turn of the loop, some 2 ms
MAX_ELSEWHERE = 10_000  # of those that wait in `parked`, counted by class

_Entry = tuple[int, int, Message]  # id, the turn in which it came, message


class Retries:
    """The retry budget of one process and what waits for it. All methods are synchronous."""

    def __init__(
        self, budget: RetryBudget, metrics: Metrics, monotonic: Callable[[], float]
    ) -> None:
        self._budget = budget
        self._monotonic = monotonic
        self._metrics = metrics
        self.first = budget.first  # a tenant's first attempt leaves: on the path
        # Messages by id, the oldest on top of each heap. A held one whose object is nobody's any
        # more may stand here beside the one read back, so that ids alone do not say which is first.
        self._waiting: dict[MessageClass, dict[int, list[_Entry]]] = {
            message_class: {} for message_class in MessageClass
        }
        self._order = count()
        self.size = 0
        # Uncertain ones by id: they wait in `parked` and are only counted here.
        self._elsewhere: dict[int, Message] = {}

    def may_leave(self, message: Message) -> bool:
        """Whether the next attempt of one that was tried before may leave; it waits here if not."""
        short = self._ask(message)
        if short is None:
            return True
        self._metrics.retries_denied_total.inc((short.value,))
        begin(message, self._monotonic())
        queue = self._waiting[message.message_class].setdefault(message.tenant, [])
        heapq.heappush(queue, (message.id, next(self._order), message))
        self.size += 1
        return False

    def take(self, message: Message) -> bool:
        """The same for one that waits in `parked` and asks again: it is counted, not queued."""
        short = self._ask(message)
        if short is None:
            self.forget(message)
            return True
        if message.id not in self._elsewhere:
            self._metrics.retries_denied_total.inc((short.value,))
            if len(self._elsewhere) < MAX_ELSEWHERE:
                self._elsewhere[message.id] = message
        return False

    def forget(self, message: Message) -> None:
        """One that waited in `parked` waits for its budget no more."""
        self._elsewhere.pop(message.id, None)

    def _ask(self, message: Message) -> Short | None:
        attempt = message.attempt + 1
        return self._budget.ask(message.id, attempt, message.tenant, self._monotonic())

    def free(self, message: Message) -> None:
        """Its next attempt costs nothing: no carrier has the last one, or an operator wants it."""
        self._budget.free(message.id, message.attempt + 1, self._monotonic())

    def due(self) -> list[Message]:
        """Those that may leave now, the first one first; they are not here any more."""
        now = self._monotonic()
        if not self.size or not self._budget.turn(now):
            return []
        some: list[Message] = []
        for queues in self._waiting.values():  # otp first
            heads = [(queue[0][0], tenant) for tenant, queue in queues.items()]
            heapq.heapify(heads)
            while heads and len(some) < MAX_AT_ONCE:
                _, tenant = heapq.heappop(heads)
                queue = queues[tenant]
                message = queue[0][2]
                is_over = message.state in FINAL_STATES or message.is_handed
                attempt = message.attempt + 1
                if not is_over and self._budget.ask(message.id, attempt, tenant, now) is not None:
                    continue
                heapq.heappop(queue)
                self.size -= 1
                if queue:
                    heapq.heappush(heads, (queue[0][0], tenant))
                else:
                    del queues[tenant]
                if not is_over:
                    end(message, Hold.BUDGET, now)
                    some.append(message)
        return some

    def remove_expired(self, message_class: MessageClass, unix: float) -> list[Message]:
        """Take out what is past its validity, and what a command has ended or held."""
        late: list[Message] = []
        queues = self._waiting[message_class]
        for tenant, queue in list(queues.items()):
            kept: list[_Entry] = []
            for entry in queue:
                message = entry[2]
                if message.state in FINAL_STATES or message.is_handed:
                    continue
                if message.valid_until <= unix:
                    late.append(message)
                else:
                    kept.append(entry)
            if len(kept) == len(queue):
                continue
            self.size -= len(queue) - len(kept)
            if kept:
                heapq.heapify(kept)
                queues[tenant] = kept
            else:
                del queues[tenant]
        return late

    def __iter__(self) -> Iterator[Message]:
        for queues in self._waiting.values():
            for queue in queues.values():
                yield from (message for _, _, message in queue)

    def set_gauges(self, unix: float) -> None:
        """Before a scrape: how many wait, and how old the oldest of them is."""
        elsewhere: dict[MessageClass, list[int]] = {one: [] for one in MessageClass}
        for message in self._elsewhere.values():
            elsewhere[message.message_class].append(message.id)
        for message_class, queues in self._waiting.items():
            labels, parked = (message_class.value,), elsewhere[message_class]
            oldest = min([*(queue[0][0] for queue in queues.values()), *parked], default=0)
            age_s = max(0.0, unix - unix_of(oldest)) if oldest else 0.0
            self._metrics.retries_waiting.set(labels, sum(map(len, queues.values())) + len(parked))
            self._metrics.retries_oldest_age_seconds.set(labels, age_s)
