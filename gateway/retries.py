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

from failover.budget import RetryBudget
from gateway.holds import Hold, begin, end
from sms.ids import unix_of
from sms.model import FINAL_STATES, Message, MessageClass
from telemetry.metrics import Metrics

MAX_AT_ONCE = 500  # messages let go in one turn of the loop, some 2 ms

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

    def may_leave(self, message: Message) -> bool:
        """Whether the next attempt of one that was tried before may leave; it waits here if not."""
        if self.take(message):
            return True
        begin(message, self._monotonic())
        queue = self._waiting[message.message_class].setdefault(message.tenant, [])
        heapq.heappush(queue, (message.id, next(self._order), message))
        self.size += 1
        return False

    def take(self, message: Message) -> bool:
        """The same for one that waits elsewhere: nothing is kept of it here."""
        now, attempt = self._monotonic(), message.attempt + 1
        short = self._budget.ask(message.id, attempt, message.tenant, now)
        if short is None:
            return True
        self._metrics.retries_denied_total.inc((short.value,))
        return False

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
        for message_class, queues in self._waiting.items():
            labels = (message_class.value,)
            oldest = min((queue[0][0] for queue in queues.values()), default=0)
            age_s = max(0.0, unix - unix_of(oldest)) if oldest else 0.0
            self._metrics.retries_waiting.set(labels, sum(map(len, queues.values())))
            self._metrics.retries_oldest_age_seconds.set(labels, age_s)
