"""Where committed messages wait: per channel, by class, fair by tenant, bounded.

    lanes[channel]   otp ───────────┐ strictly first
                     transactional ─┤ 4 : 1        each a ring of tenants, one message a turn
                     marketing ─────┘
    lanes[0]         held: no channel of the route is up

Nothing here does I/O or decides about channels. A message is counted from before it is accepted
(`reserve`), as kept once it is committed and has a place here (`keep`), until it has left for a
carrier or ended (`release`). What finds no room is kept as an id only (`gateway/spill.py`).
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from heapq import merge

from sms.model import Message, MessageClass, State

HELD = 0
_OTP, _TRANSACTIONAL = MessageClass.OTP, MessageClass.TRANSACTIONAL  # a call each in Python 3.11
_CANCELED, _REJECTED = State.CANCELED, State.REJECTED
TRANSACTIONAL_TURNS = 4  # transactional to marketing 4:1 (RELIABILITY section 9)


def turn_of(message: Message) -> tuple[bool, float]:
    """Sorts what moves: what a carrier has failed first (RELIABILITY 6), each part by age."""
    if message.attempt:
        return False, message.id  # it was queued anew each time it came back
    return True, message.queued_at


def _merge(waiting: deque[Message], run: list[Message]) -> None:
    """Put a run in its place; looks only at what stands between its first and its last."""
    low = bisect_right(waiting, turn_of(run[0]), key=turn_of)
    high = bisect_left(waiting, turn_of(run[-1]), lo=low, key=turn_of)
    waiting.rotate(-low)
    between = [waiting.popleft() for _ in range(high - low)]
    waiting.extendleft(reversed(list(merge(between, run, key=turn_of))))
    waiting.rotate(low)


class FairQueue:
    """Messages of one class on one channel; each tenant gets one message a turn."""

    __slots__ = ("_by_tenant", "_ring", "size")

    def __init__(self) -> None:
        self._by_tenant: dict[int, deque[Message]] = {}
        self._ring: deque[int] = deque()
        self.size = 0

    def put(self, message: Message) -> None:
        """Append behind the tenant's own messages."""
        waiting = self._by_tenant.get(message.tenant)
        if waiting is None:
            self._by_tenant[message.tenant] = deque((message,))
            self._ring.append(message.tenant)
        else:
            waiting.append(message)
        self.size += 1

    def put_first(self, message: Message) -> None:
        """Put back first in line: of its tenant, and the tenant first in the ring."""
        waiting = self._by_tenant.get(message.tenant)
        if waiting is None:
            self._by_tenant[message.tenant] = deque((message,))
            self._ring.appendleft(message.tenant)
        else:
            waiting.appendleft(message)
        self.size += 1

    def put_adopted(self, message: Message) -> None:
        """Append behind what other processes had accepted of this tenant: a turn of its own.

        Behind the tenant's own messages here it would wait for ever while those come as fast as
        they leave.
        """
        key = ~message.tenant  # tenants are positive
        waiting = self._by_tenant.get(key)
        if waiting is None:
            self._by_tenant[key] = deque((message,))
            self._ring.append(key)
        else:
            waiting.append(message)
        self.size += 1

    def put_moved(self, messages: Iterable[Message]) -> None:
        """Queue what has waited elsewhere among the tenants' messages here, by `turn_of`."""
        runs: dict[int, list[Message]] = {}
        for message in messages:
            runs.setdefault(message.tenant, []).append(message)
        for tenant, run in runs.items():
            run.sort(key=turn_of)  # as they came out of another queue: almost, or quite
            self.size += len(run)
            waiting = self._by_tenant.get(tenant)
            if waiting is None:
                self._by_tenant[tenant] = deque(run)
                if run[0].attempt:
                    self._ring.appendleft(tenant)
                else:
                    self._ring.append(tenant)
            else:
                _merge(waiting, run)

    def next_at(self) -> float:
        """The `queued_at` of the message that is next; inf when nothing waits."""
        return self._by_tenant[self._ring[0]][0].queued_at if self._ring else math.inf

    def take(self) -> Message | None:
        """Return the next message, or None when nothing waits."""
        if not self._ring:
            return None
        tenant = self._ring[0]
        waiting = self._by_tenant[tenant]
        message = waiting.popleft()
        if waiting:
            self._ring.rotate(-1)
        else:
            del self._by_tenant[tenant]
            self._ring.popleft()
        self.size -= 1
        return message

    def waiting(self, tenant: int) -> int:
        """How many messages of a tenant wait."""
        own = self._by_tenant.get(tenant)
        return len(own) if own else 0

    def oldest_at(self) -> float | None:
        """The earliest `queued_at` among the tenants' first messages, monotonic."""
        if not self._by_tenant:
            return None
        return min(waiting[0].queued_at for waiting in self._by_tenant.values())

    def remove_expired(self, unix_now: float) -> list[Message]:
        """Take out what is past its validity; costs one look at each waiting message."""
        gone: list[Message] = []
        for tenant, waiting in list(self._by_tenant.items()):
            late = [message for message in waiting if message.valid_until <= unix_now]
            if not late:
                continue
            gone += late
            self._keep(tenant, deque(m for m in waiting if m.valid_until > unix_now))
        self.size -= len(gone)
        return gone

    def remove_withdrawn(self, tenant: int) -> None:
        """Take out what a command has ended or held; a look at each of the tenant's messages."""
        for key in (tenant, ~tenant):
            waiting = self._by_tenant.get(key)
            if waiting is None:
                continue
            left = deque(
                message
                for message in waiting
                if not message.is_handed
                and message.state is not _CANCELED
                and message.state is not _REJECTED
            )
            self.size -= len(waiting) - len(left)
            self._keep(key, left)

    def _keep(self, key: int, left: deque[Message]) -> None:
        if left:
            self._by_tenant[key] = left
        else:
            del self._by_tenant[key]
            self._ring.remove(key)

    def __iter__(self) -> Iterator[Message]:
        for waiting in self._by_tenant.values():
            yield from waiting


class Lane:
    """The three classes that wait for one channel."""

    __slots__ = ("_turn", "marketing", "otp", "transactional")

    def __init__(self) -> None:
        self.otp = FairQueue()
        self.transactional = FairQueue()
        self.marketing = FairQueue()
        self._turn = 0

    def queue(self, message_class: MessageClass) -> FairQueue:
        """The queue of one class."""
        if message_class is _OTP:
            return self.otp
        if message_class is _TRANSACTIONAL:
            return self.transactional
        return self.marketing

    def take(self, *, otp_only: bool = False, strict_until: float = 0.0) -> Message | None:
        """The next message by class: otp first, then transactional and marketing 4:1.

        Marketing waits for all that is transactional and was queued before `strict_until`.
        """
        if self.otp.size or otp_only:
            return self.otp.take()
        if not self.marketing.size:
            return self.transactional.take()
        if not self.transactional.size:
            return self.marketing.take()
        if self.transactional.next_at() < strict_until:
            return self.transactional.take()
        self._turn = (self._turn + 1) % (TRANSACTIONAL_TURNS + 1)
        return self.marketing.take() if self._turn == 0 else self.transactional.take()

    def size(self) -> int:
        """How many messages wait."""
        return self.otp.size + self.transactional.size + self.marketing.size

    def queues(self) -> tuple[tuple[MessageClass, FairQueue], ...]:
        """The queues with their class, otp first."""
        return (
            (MessageClass.OTP, self.otp),
            (MessageClass.TRANSACTIONAL, self.transactional),
            (MessageClass.MARKETING, self.marketing),
        )


class Lanes:
    """All lanes of one process, and how much room is left in them."""

    def __init__(self, limits: Mapping[MessageClass, int]) -> None:
        self._limits = dict(limits)
        self._used = dict.fromkeys(MessageClass, 0)
        self._coming = dict.fromkeys(MessageClass, 0)
        self._lanes: dict[int, Lane] = {HELD: Lane()}

    def reserve(self, message_class: MessageClass, count: int) -> None:
        """Count messages that are on their way into the store."""
        self._coming[message_class] += count

    def cancel(self, message_class: MessageClass, count: int = 1) -> None:
        """They were not accepted, or found no room here."""
        self._coming[message_class] -= count

    def keep(self, message_class: MessageClass, count: int = 1) -> None:
        """They are committed and stay in memory."""
        self._coming[message_class] -= count
        self._used[message_class] += count

    def force(self, message_class: MessageClass) -> None:
        """Take room for what was not reserved: read back, recovered or come back."""
        self._used[message_class] += 1

    def release(self, message_class: MessageClass, count: int = 1) -> None:
        """Give room back: the messages left for a carrier or ended."""
        self._used[message_class] -= count

    def used(self, message_class: MessageClass) -> int:
        """How many messages of a class are kept in memory."""
        return self._used[message_class]

    def limit(self, message_class: MessageClass) -> int:
        """How many should be at most."""
        return self._limits[message_class]

    def coming(self) -> int:
        """Messages of all classes that are on their way into the store."""
        return sum(self._coming.values())

    def queued(self) -> int:
        """Messages of all classes, those on their way into the store included."""
        return sum(self._used.values()) + self.coming()

    def lane(self, channel: int) -> Lane:
        """The lane of a channel, made on first use; `HELD` is where no channel is up."""
        lane = self._lanes.get(channel)
        if lane is None:
            lane = self._lanes[channel] = Lane()
        return lane

    def put(self, channel: int, message: Message) -> None:
        """Queue behind the tenant's messages of that class."""
        self.lane(channel).queue(message.message_class).put(message)

    def put_first(self, channel: int, message: Message) -> None:
        """Queue first in line."""
        self.lane(channel).queue(message.message_class).put_first(message)

    def put_adopted(self, channel: int, message: Message) -> None:
        """Queue what another process had accepted, by turns with the tenant's own here."""
        self.lane(channel).queue(message.message_class).put_adopted(message)

    def put_moved(self, channel: int, messages: Iterable[Message]) -> None:
        """Queue what comes out of another lane, each class by age among what waits here."""
        runs: dict[MessageClass, list[Message]] = {}
        for message in messages:
            runs.setdefault(message.message_class, []).append(message)
        for message_class, run in runs.items():
            self.lane(channel).queue(message_class).put_moved(run)

    def detach(self, channel: int) -> Lane:
        """Put an empty lane in place of one whose messages need another channel."""
        lane = self.lane(channel)
        self._lanes[channel] = Lane()
        return lane

    def remove_expired(self, classes: Iterable[MessageClass], unix_now: float) -> list[Message]:
        """Take what is past its validity out of every lane."""
        gone: list[Message] = []
        for lane in self._lanes.values():
            for message_class in classes:
                queue = lane.queue(message_class)
                if queue.size:
                    gone += queue.remove_expired(unix_now)
        return gone

    def remove_withdrawn(self, message_class: MessageClass, tenants: Iterable[int]) -> None:
        """Take out of every lane what a command has ended or held of these tenants."""
        for lane in self._lanes.values():
            queue = lane.queue(message_class)
            for tenant in tenants:
                queue.remove_withdrawn(tenant)

    def items(self) -> Iterator[tuple[int, Lane]]:
        """Every lane with its channel id."""
        yield from self._lanes.items()
