"""What was accepted beyond memory: ids alone, in the order they are to come back.

    class ─▶ route ─▶ ring of tenants ─▶ queue: id │ id │ id │ …   ◀─ new ones
                                                 head: next to come back

A spilled message costs 12 bytes: its id (8) and the second it expires (4); a queue, one for each
tenant, class and route that has any, some 0.6 kB. Everything else stands in the store. An id is
*taken* when it leaves its queue and *in hand* until it has landed: until then it counts as
spilled, holds the low-water mark down, and what its tenant sends goes behind it.

Nothing here does I/O or asks for the time.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from math import ceil
from operator import attrgetter
from typing import Final, NamedTuple

from sms.ids import EPOCH_MS, TIME_SHIFT
from sms.model import MessageClass

BYTES_PER_ID: Final = 12
CHUNK: Final = 1024  # ids of one piece of a queue
SWEEP_LOOKS: Final = 2000  # queues looked at in one turn of a pass over all of them
TAKE_LOOKS: Final = 1000  # and in one turn of taking
_FLOOR_SHIFT: Final = TIME_SHIFT + 10  # the low-water mark: stretches of 1.024 s
_AGE_SHIFT: Final = TIME_SHIFT + 13  # the oldest age: 8.2 s
_EPOCH_S: Final = EPOCH_MS // 1000
_NEVER: Final = (1 << 31) - 1  # seconds since 2026: enough until 2094
_NO_ID: Final = (1 << 63) - 1
_PARKED: Final = 1 << 31  # this bit of the second: a row in `parked` stands for the id

Route = tuple[int, ...]  # the channels of a route in order, as the configuration has them


class Taken(NamedTuple):
    """An id in hand: it left its queue and is not in a lane yet."""

    id: int
    queue: Queue
    is_parked: bool  # a row in `parked` stands for it, or is on its way
    has_rows: bool  # it may have event rows, so its state must be folded
    mark: int  # as its queue keeps it,
    until: int  # for putting it back

    def valid_until(self) -> int:
        """When its validity is over: Unix seconds, rounded up."""
        return (self.until & _NEVER) + _EPOCH_S


class Parking(NamedTuple):
    """An id that gets a row in `parked` where it stands."""

    id: int
    valid_until: int  # Unix seconds, rounded up
    message_class: MessageClass
    tenant: int


class _Chunk:
    """Up to CHUNK ids; those before `start` are gone. An id with event rows is kept as ~id."""

    __slots__ = ("high", "ids", "low", "soonest", "start", "unparked", "untils")

    def __init__(self) -> None:
        self.ids = array("q")
        self.untils = array("I")
        self.start = 0
        self.soonest = _NEVER  # no id expires before this
        self.low = _NO_ID  # all ids lie between these two
        self.high = 0
        self.unparked = 0  # at most so many have no row in `parked`

    def __len__(self) -> int:
        return len(self.ids) - self.start

    def append(self, mark: int, until: int) -> None:
        self.ids.append(mark)
        self.untils.append(until)
        if until & _PARKED:
            until ^= _PARKED
        else:
            self.unparked += 1
        if until < self.soonest:
            self.soonest = until
        message_id = mark if mark >= 0 else ~mark
        if message_id < self.low:
            self.low = message_id
        if message_id > self.high:
            self.high = message_id

    def pairs(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        return zip(self.ids[start:stop], self.untils[start:stop], strict=True)

    def split_expired(self, now: int) -> tuple[_Chunk, list[tuple[int, int]]]:
        """What stays, and what is past its validity."""
        kept = _Chunk()
        gone: list[tuple[int, int]] = []
        for mark, until in self.pairs(self.start, len(self.ids)):
            if until & _NEVER <= now:
                gone.append((mark, until))
            else:
                kept.append(mark, until)
        return kept, gone

    def split_wanted(self, wanted: Collection[int]) -> tuple[_Chunk, list[tuple[int, int]]]:
        """What stays, and what of these ids is here."""
        kept = _Chunk()
        gone: list[tuple[int, int]] = []
        for mark, until in self.pairs(self.start, len(self.ids)):
            if (mark if mark >= 0 else ~mark) in wanted:
                gone.append((mark, until))
            else:
                kept.append(mark, until)
        return kept, gone

    def park(self, before: int, limit: int) -> list[tuple[int, int]]:
        """Mark up to `limit` ids below `before` as parked; gives (id, second it expires)."""
        found: list[tuple[int, int]] = []
        if not self.unparked or self.low >= before:
            return found
        left = 0
        for place in range(self.start, len(self.ids)):
            until = self.untils[place]
            if until & _PARKED:
                continue
            mark = self.ids[place]
            message_id = mark if mark >= 0 else ~mark
            if message_id >= before or len(found) >= limit:
                left += 1
                continue
            self.untils[place] = until | _PARKED
            found.append((message_id, until))
        self.unparked = left
        return found


class Queue:
    """The spilled ids of one tenant, class and route, first in, first out."""

    __slots__ = ("_chunks", "in_hand", "is_in_ring", "message_class", "route", "size", "tenant")

    def __init__(self, message_class: MessageClass, tenant: int, route: Route) -> None:
        self.message_class = message_class
        self.tenant = tenant
        self.route = route
        self.size = 0  # those in hand are not among them
        self.in_hand = 0
        self.is_in_ring = False
        self._chunks: list[_Chunk] = []  # a deque of one costs 0.6 kB more

    def append(self, mark: int, until: int) -> None:
        """Behind all others."""
        chunks = self._chunks
        if not chunks or len(chunks[-1].ids) >= CHUNK:
            chunks.append(_Chunk())
        chunks[-1].append(mark, until)
        self.size += 1

    def take(self, count: int) -> list[tuple[int, int]]:
        """(mark, until) of the first `count`."""
        found: list[tuple[int, int]] = []
        chunks = self._chunks
        while chunks and len(found) < count:
            chunk = chunks[0]
            stop = min(chunk.start + count - len(found), len(chunk.ids))
            found += chunk.pairs(chunk.start, stop)
            chunk.start = stop
            if not len(chunk):
                del chunks[0]
        self.size -= len(found)
        return found

    def put_back(self, pairs: Sequence[tuple[int, int]]) -> None:
        """At the head again, in this order."""
        fresh: list[_Chunk] = []
        for start in range(0, len(pairs), CHUNK):
            chunk = _Chunk()
            for mark, until in pairs[start : start + CHUNK]:
                chunk.append(mark, until)
            fresh.append(chunk)
        self._chunks[:0] = fresh
        self.size += len(pairs)

    def expire(self, now: int, limit: int) -> list[tuple[int, int]]:
        """Take out what is past its validity; stops at the chunk that reaches `limit`."""
        gone: list[tuple[int, int]] = []
        for index, chunk in enumerate(self._chunks):
            if chunk.soonest <= now:
                self._chunks[index], late = chunk.split_expired(now)
                gone += late
                if len(gone) >= limit:
                    break
        if gone:
            self._chunks = [chunk for chunk in self._chunks if len(chunk)]
            self.size -= len(gone)
        return gone

    def pick(self, wanted: Collection[int]) -> list[tuple[int, int]]:
        """Take these ids out, wherever they stand; only chunks that may hold some are looked at."""
        low, high = min(wanted), max(wanted)
        gone: list[tuple[int, int]] = []
        for index, chunk in enumerate(self._chunks):
            if chunk.low <= high and chunk.high >= low:
                self._chunks[index], found = chunk.split_wanted(wanted)
                gone += found
        if gone:
            self._chunks = [chunk for chunk in self._chunks if len(chunk)]
            self.size -= len(gone)
        return gone

    def park(self, before: int, limit: int) -> list[tuple[int, int]]:
        """Mark up to `limit` ids below `before` as parked; gives (id, second it expires)."""
        found: list[tuple[int, int]] = []
        for chunk in self._chunks:
            found += chunk.park(before, limit - len(found))
            if len(found) >= limit:
                break
        return found

    def __contains__(self, message_id: int) -> bool:
        return any(
            message_id in chunk.ids[chunk.start :] or ~message_id in chunk.ids[chunk.start :]
            for chunk in self._chunks
            if chunk.low <= message_id <= chunk.high
        )


class _Moments:
    """How many ids lie in each stretch of time, so that the lowest is known without a search."""

    __slots__ = ("_counts", "_shift")

    def __init__(self, shift: int) -> None:
        self._shift = shift
        self._counts: dict[int, int] = {}

    def add(self, message_id: int) -> None:
        stretch = message_id >> self._shift
        self._counts[stretch] = self._counts.get(stretch, 0) + 1

    def remove(self, message_id: int) -> None:
        stretch = message_id >> self._shift
        left = self._counts[stretch] - 1
        if left:
            self._counts[stretch] = left
        else:
            del self._counts[stretch]

    def floor(self) -> int | None:
        """No id is below this; None without ids."""
        return min(self._counts) << self._shift if self._counts else None


class Spill:
    """All spilled ids of one process."""

    def __init__(self) -> None:
        self._queues: dict[MessageClass, dict[tuple[int, Route], Queue]] = {
            message_class: {} for message_class in MessageClass
        }
        self._rings: dict[MessageClass, dict[Route, deque[Queue]]] = {
            message_class: {} for message_class in MessageClass
        }
        self._sizes = dict.fromkeys(MessageClass, 0)
        self._by_route: dict[MessageClass, dict[Route, int]] = {each: {} for each in MessageClass}
        self._ages = {message_class: _Moments(_AGE_SHIFT) for message_class in MessageClass}
        self._floor = _Moments(_FLOOR_SHIFT)
        self._unparked: dict[int, int] = {}
        self._stale = 0  # queues that are gone and still stand in a ring
        self.total = 0  # in the queues and in hand

    # -- how much --------------------------------------------------------------------------

    def size(self, message_class: MessageClass) -> int:
        """Ids of a class, those in hand included."""
        return self._sizes[message_class]

    def queues(self, message_class: MessageClass) -> int:
        """How many queues a class has."""
        return len(self._queues[message_class])

    def floor(self) -> int | None:
        """No id without a committed row in `parked` is below this: it bounds the low-water mark."""
        return self._floor.floor()

    def oldest(self, message_class: MessageClass) -> int | None:
        """No id of the class is below this; exact to 8 s."""
        return self._ages[message_class].floor()

    def unparked(self) -> dict[int, int]:
        """By tenant, how many have no committed row in `parked`."""
        return self._unparked.copy()

    def holds(self, message_class: MessageClass, tenant: int, route: Route) -> bool:
        """Whether what the tenant sends on this route must go behind what is spilled."""
        return (tenant, route) in self._queues[message_class]

    def has(self, message_class: MessageClass, tenant: int, message_id: int) -> bool:
        """Whether this very id stands in a queue; looks through all of the tenant."""
        queues = self._queues[message_class]
        return any(message_id in queue for key, queue in queues.items() if key[0] == tenant)

    # -- in --------------------------------------------------------------------------------

    def add(  # noqa: PLR0913 (what is known of one spilled message)
        self,
        message_class: MessageClass,
        tenant: int,
        route: Route,
        message_id: int,
        valid_until: float,
        *,
        has_rows: bool = False,
        is_parked: bool = False,
    ) -> None:
        """Behind the others of its tenant, class and route; `valid_until` in Unix seconds.

        `is_parked`: a committed row in `parked` stands for it.
        """
        until = min(max(ceil(valid_until) - _EPOCH_S, 0), _NEVER)
        queues = self._queues[message_class]
        queue = queues.get((tenant, route))
        if queue is None:
            queue = queues[tenant, route] = Queue(message_class, tenant, route)
        queue.append(~message_id if has_rows else message_id, until | _PARKED * is_parked)
        if not queue.is_in_ring:
            self._into_ring(queue, first=False)
        self._sizes[message_class] += 1
        by_route = self._by_route[message_class]
        by_route[route] = by_route.get(route, 0) + 1
        self.total += 1
        self._ages[message_class].add(message_id)
        if not is_parked:
            self._floor.add(message_id)
            self._unparked[tenant] = self._unparked.get(tenant, 0) + 1

    def _into_ring(self, queue: Queue, *, first: bool) -> None:
        rings = self._rings[queue.message_class]
        ring = rings.get(queue.route)
        if ring is None:
            ring = rings[queue.route] = deque()
        if first:
            ring.appendleft(queue)
        else:
            ring.append(queue)
        queue.is_in_ring = True

    # -- out -------------------------------------------------------------------------------

    def waiting(self, message_class: MessageClass) -> Mapping[Route, int]:
        """How many ids of the class wait, by route; those in hand too."""
        return self._by_route[message_class]

    def routes(self, message_class: MessageClass) -> list[Route]:
        """The routes that something of the class waits for."""
        return list(self._rings[message_class])

    def tenants(self, message_class: MessageClass, routes: Sequence[Route]) -> int:
        """How many tenants wait for these routes.

        With more than TAKE_LOOKS one that waits for several may count for each.
        """
        rings = [self._rings[message_class].get(route, ()) for route in routes]
        most = sum(len(ring) for ring in rings)
        if len(rings) == 1 or most > TAKE_LOOKS:
            return most
        return len({queue.tenant for ring in rings for queue in ring})

    def take(
        self,
        message_class: MessageClass,
        route: Route,
        limit: int,
        wanted: Callable[[int], int],
    ) -> list[Taken]:
        """Take up to `limit` ids of a route, tenant after tenant, where the last call ended.

        `wanted(tenant)` says how many of the tenant's messages are missed where they are to go.
        One round at most, and at most TAKE_LOOKS tenants.
        """
        rings = self._rings[message_class]
        ring = rings.get(route)
        found: list[Taken] = []
        for _ in range(min(len(ring), TAKE_LOOKS) if ring else 0):
            if ring is None or len(found) >= limit:
                break
            queue = ring[0]
            count = min(wanted(queue.tenant) - queue.in_hand, limit - len(found))
            if count > 0 and queue.size:
                found += self._take(queue, queue.take(count))
            if queue.size:
                ring.rotate(-1)
            else:
                ring.popleft()
                queue.is_in_ring = False
        if ring is not None and not ring:
            del rings[route]
        return found

    def _take(self, queue: Queue, pairs: Sequence[tuple[int, int]]) -> list[Taken]:
        queue.in_hand += len(pairs)
        return [
            Taken(mark if mark >= 0 else ~mark, queue, bool(until & _PARKED), mark < 0, mark, until)
            for mark, until in pairs
        ]

    def landed(self, taken: Iterable[Taken]) -> None:
        """They are in a lane, or have ended: no longer ours."""
        for one in taken:
            queue = one.queue
            queue.in_hand -= 1
            self._sizes[queue.message_class] -= 1
            by_route = self._by_route[queue.message_class]
            by_route[queue.route] -= 1
            if not by_route[queue.route]:
                del by_route[queue.route]
            self.total -= 1
            self._ages[queue.message_class].remove(one.id)
            if not one.is_parked:
                self._forget(one.id, queue.tenant)
            if not queue.in_hand and not queue.size:
                self._drop(queue)

    def _drop(self, queue: Queue) -> None:
        del self._queues[queue.message_class][queue.tenant, queue.route]
        if not queue.is_in_ring:
            return
        self._stale += 1  # `take` passes over it; where nothing is taken for days, this helps
        if self._stale >= SWEEP_LOOKS:
            self._stale = 0
            self._tidy()

    def _tidy(self) -> None:
        """Put the empty queues out of the rings."""
        for rings in self._rings.values():
            for route, ring in list(rings.items()):
                for queue in ring:
                    queue.is_in_ring = queue.size > 0
                rings[route] = deque(queue for queue in ring if queue.size)
                if not rings[route]:
                    del rings[route]

    def pick(self, tenant: int, ids: Collection[int]) -> list[Taken]:
        """Take these very ids of a tenant out of their queues, those that stand there."""
        found: list[Taken] = []
        wanted = frozenset(ids)
        if not wanted or not self.total:
            return found
        for queues in self._queues.values():
            for (owner, _), queue in queues.items():
                if owner == tenant and queue.size:
                    found += self._take(queue, queue.pick(wanted))
        return found

    def put_back(self, taken: Sequence[Taken]) -> None:
        """They could not be read: at the heads of their queues again, in their order."""
        for queue, group in groupby(taken, key=attrgetter("queue")):
            pairs = [(one.mark, one.until) for one in group]
            queue.in_hand -= len(pairs)
            queue.put_back(pairs)
            if not queue.is_in_ring:
                self._into_ring(queue, first=True)

    # -- passes over all of it -------------------------------------------------------------

    def all_queues(self) -> list[Queue]:
        """Every queue, for a pass in slices of SWEEP_LOOKS; some may be gone by their turn."""
        return [queue for queues in self._queues.values() for queue in queues.values()]

    def expire(self, queues: list[Queue], now: float, limit: int) -> list[Taken]:
        """Take what is past its validity out of up to SWEEP_LOOKS of `queues`, which shrinks.

        Stops once `limit` is reached, at most CHUNK beyond it. `now` in Unix seconds.
        """
        found: list[Taken] = []
        second = int(now) - _EPOCH_S
        for _ in range(min(len(queues), SWEEP_LOOKS)):
            gone = queues[-1].expire(second, limit - len(found))
            found += self._take(queues[-1], gone)
            if len(found) >= limit:
                break  # the rest of this queue next time
            queues.pop()
        return found

    def park(self, queues: list[Queue], before: int, limit: int) -> list[Parking]:
        """Choose up to `limit` ids below `before` that get a row in `parked`, as `expire` does.

        From now on they are taken as parked ones; `parked` must follow once the rows are
        committed, and only then does the low-water mark pass them.
        """
        found: list[Parking] = []
        for _ in range(min(len(queues), SWEEP_LOOKS)):
            queue = queues[-1]
            for message_id, until in queue.park(before, limit - len(found)):
                place = queue.message_class, queue.tenant
                found.append(Parking(message_id, until + _EPOCH_S, *place))
            if len(found) >= limit:
                break
            queues.pop()
        return found

    def parked(self, rows: Iterable[Parking]) -> None:
        """Their rows in `parked` are committed."""
        for row in rows:
            self._forget(row.id, row.tenant)

    def _forget(self, message_id: int, tenant: int) -> None:
        self._floor.remove(message_id)
        left = self._unparked[tenant] - 1
        if left:
            self._unparked[tenant] = left
        else:
            del self._unparked[tenant]
