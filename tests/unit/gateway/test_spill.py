"""What stands in no memory but as ids: order, bounds, nothing lost and nothing twice."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gateway import spill as spill_module
from gateway.spill import BYTES_PER_ID, CHUNK, Parking, Queue, Spill, Taken
from sms.ids import EPOCH_MS, id_at, unix_of
from sms.model import MessageClass

OTP, TRANSACTIONAL, MARKETING = MessageClass
NOW = EPOCH_MS / 1000 + 1_000_000.0
ROUTE = (1, 2)


def id_of(second: float, number: int = 0) -> int:
    return id_at(NOW + second) + number


def add(
    spill: Spill,
    number: int,
    tenant: int = 1,
    *,
    cls: MessageClass = TRANSACTIONAL,
    route: tuple[int, ...] = ROUTE,
    valid_s: float = 3600.0,
    **flags: bool,
) -> int:
    spill.add(cls, tenant, route, number, NOW + valid_s, **flags)
    return number


def all_of(_: int) -> int:
    return 1_000_000


def take(
    spill: Spill,
    limit: int = 500,
    wanted: Callable[[int], int] = all_of,
    cls: MessageClass = TRANSACTIONAL,
    route: tuple[int, ...] = ROUTE,
) -> list[Taken]:
    return spill.take(cls, route, limit, wanted)


def ids(taken: list[Taken]) -> list[int]:
    return [one.id for one in taken]


def test_a_tenants_messages_come_back_first_in_first_out_over_many_chunks() -> None:
    spill = Spill()
    sent = [add(spill, id_of(0, number)) for number in range(3 * CHUNK + 5)]
    back = []
    while taken := take(spill, 500):
        back += ids(taken)
        spill.landed(taken)
    assert back == sent
    assert spill.total == 0
    assert spill.size(TRANSACTIONAL) == 0


def test_tenants_take_turns_where_the_last_take_ended() -> None:
    spill = Spill()
    for tenant in (1, 2, 3):
        for number in range(10):
            add(spill, id_of(0, 100 * tenant + number), tenant)
    first = take(spill, 4, lambda _: 2)
    assert [one.queue.tenant for one in first] == [1, 1, 2, 2]
    spill.landed(first)
    assert [one.queue.tenant for one in take(spill, 4, lambda _: 2)] == [3, 3, 1, 1]


def test_a_tenant_gets_what_is_missed_of_it_and_what_is_in_hand_counts() -> None:
    spill = Spill()
    for number in range(10):
        add(spill, id_of(0, number))
    taken = take(spill, 500, lambda _: 3)
    assert len(taken) == 3
    assert take(spill, 500, lambda _: 3) == []
    spill.landed(taken)
    assert len(take(spill, 500, lambda _: 3)) == 3


def test_routes_and_classes_do_not_wait_for_one_another() -> None:
    spill = Spill()
    add(spill, id_of(0, 1), route=(1,))
    add(spill, id_of(0, 2), route=(2,))
    add(spill, id_of(0, 3), cls=OTP, route=(1,))
    assert ids(take(spill, route=(2,))) == [id_of(0, 2)]
    assert ids(take(spill, cls=OTP, route=(1,))) == [id_of(0, 3)]
    assert spill.routes(TRANSACTIONAL) == [(1,)]


def test_what_is_in_hand_still_counts_holds_the_mark_and_keeps_its_place() -> None:
    spill = Spill()
    number = add(spill, id_of(0, 7))
    taken = take(spill)
    assert spill.total == 1
    assert spill.holds(TRANSACTIONAL, 1, ROUTE)
    floor = spill.floor()
    assert floor is not None
    assert floor <= number
    spill.landed(taken)
    assert spill.floor() is None
    assert not spill.holds(TRANSACTIONAL, 1, ROUTE)


def test_what_could_not_be_read_is_first_again() -> None:
    spill = Spill()
    sent = [add(spill, id_of(0, number), has_rows=number == 1) for number in range(6)]
    taken = take(spill, 4)
    add(spill, id_of(1))
    spill.put_back(taken)
    assert ids(take(spill, 10)) == [*sent, id_of(1)]


def test_whether_it_has_rows_and_is_parked_is_remembered() -> None:
    spill = Spill()
    add(spill, id_of(0, 1), has_rows=True)
    add(spill, id_of(0, 2), is_parked=True)
    add(spill, id_of(0, 3))
    taken = take(spill)
    assert [(one.has_rows, one.is_parked) for one in taken] == [
        (True, False),
        (False, True),
        (False, False),
    ]
    spill.put_back(taken)
    again = take(spill)
    assert [one[2:] for one in again] == [one[2:] for one in taken]


def test_only_what_is_past_its_validity_expires_and_the_order_stays() -> None:
    spill = Spill()
    for number in range(2 * CHUNK):
        add(spill, id_of(0, number), valid_s=10.2 if number % 3 == 0 else 60.0)
    queues = spill.all_queues()
    assert spill.expire(queues, NOW + 10.9, 10_000) == []  # rounded up: never too early
    gone = spill.expire(spill.all_queues(), NOW + 11.0, 10_000)
    assert ids(gone) == [id_of(0, number) for number in range(0, 2 * CHUNK, 3)]
    spill.landed(gone)
    left = take(spill, 10_000)
    assert ids(left) == [id_of(0, number) for number in range(2 * CHUNK) if number % 3]


def test_a_sweep_stops_at_its_limit_and_goes_on() -> None:
    spill = Spill()
    for number in range(5 * CHUNK):
        add(spill, id_of(0, number), valid_s=1.0)
    queues, found, turns = spill.all_queues(), [], 0
    while queues:
        gone = spill.expire(queues, NOW + 5, 500)
        assert len(gone) <= 500 + CHUNK
        found += ids(gone)
        spill.landed(gone)
        turns += 1
    assert found == [id_of(0, number) for number in range(5 * CHUNK)]
    assert turns >= 5
    assert spill.total == 0


def test_parked_ones_let_the_mark_pass_once_their_rows_are_committed() -> None:
    spill = Spill()
    for number in range(10):
        add(spill, id_of(number))
    rows = spill.park(spill.all_queues(), id_of(4), 100)
    assert [row.id for row in rows] == [id_of(number) for number in range(4)]
    assert rows[0].valid_until == int(NOW + 3600)
    floor = spill.floor()
    assert floor is not None
    assert floor <= id_of(0)
    spill.parked(rows)
    floor = spill.floor()
    assert floor is not None
    assert id_of(2.9) < floor <= id_of(4)
    assert [one.is_parked for one in take(spill, 6)] == [True] * 4 + [False] * 2


def test_an_id_taken_while_its_row_is_under_way_counts_as_parked() -> None:
    spill = Spill()
    add(spill, id_of(0))
    rows = spill.park(spill.all_queues(), id_of(10), 100)
    taken = take(spill)
    assert taken[0].is_parked
    spill.landed(taken)
    assert spill.floor() is not None  # until its row is committed nothing else finds it
    spill.parked(rows)
    assert spill.floor() is None
    assert spill.unparked() == {}


def test_parking_goes_on_where_it_stopped_and_takes_nothing_twice() -> None:
    spill = Spill()
    for number in range(3 * CHUNK):
        add(spill, id_of(0, number), tenant=number % 7)
    queues: list[Queue] = spill.all_queues()
    found: list[Parking] = []
    while queues:
        rows = spill.park(queues, id_of(60), 100)
        assert len(rows) <= 100
        found += rows
        spill.parked(rows)
    assert sorted(row.id for row in found) == [id_of(0, n) for n in range(3 * CHUNK)]
    assert spill.park(spill.all_queues(), id_of(60), 100) == []
    assert spill.floor() is None


def test_the_oldest_age_is_known_by_class() -> None:
    spill = Spill()
    add(spill, id_of(-500))
    add(spill, id_of(-20), cls=OTP)
    oldest = spill.oldest(TRANSACTIONAL)
    assert oldest is not None
    assert NOW - 509 < unix_of(oldest) <= NOW - 500
    spill.landed(take(spill))
    assert spill.oldest(TRANSACTIONAL) is None


def test_an_id_is_found_where_it_stands() -> None:
    spill = Spill()
    for number in range(3 * CHUNK):
        add(spill, id_of(0, number), has_rows=number % 2 == 0)
    for number in (0, 1, CHUNK, 3 * CHUNK - 1):
        assert spill.has(TRANSACTIONAL, 1, id_of(0, number))
    assert not spill.has(TRANSACTIONAL, 1, id_of(0, 3 * CHUNK))
    assert not spill.has(TRANSACTIONAL, 2, id_of(0, 0))
    spill.landed(take(spill, 1))
    assert not spill.has(TRANSACTIONAL, 1, id_of(0, 0))


@pytest.mark.parametrize("tenants", [1, 100])
def test_an_id_costs_twelve_bytes_and_little_more(tenants: int) -> None:
    spill = Spill()
    count = 100 * CHUNK
    for number in range(count):
        add(spill, id_of(0, number), tenant=number % tenants)
    size = 0
    for queue in spill.all_queues():
        size += sys.getsizeof(queue) + sys.getsizeof(queue._chunks)
        for chunk in queue._chunks:
            size += sys.getsizeof(chunk) + sys.getsizeof(chunk.ids) + sys.getsizeof(chunk.untils)
    assert BYTES_PER_ID <= size / count < BYTES_PER_ID * 1.15 + 1000 * tenants / count


def test_queues_that_emptied_leave_the_rings_although_nothing_is_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(spill_module, "SWEEP_LOOKS", 10)
    spill = Spill()
    for number in range(100):
        add(spill, id_of(0, number), tenant=number, valid_s=1.0)
        spill.landed(spill.expire(spill.all_queues(), NOW + 5, 10))
    assert spill.tenants(TRANSACTIONAL, [ROUTE]) <= 10
    in_hand = add(spill, id_of(1), tenant=500)
    taken = take(spill)
    assert ids(taken) == [in_hand]
    for number in range(20):
        add(spill, id_of(2, number), tenant=number, valid_s=1.0)
        spill.landed(spill.expire(spill.all_queues(), NOW + 5, 10))
    spill.put_back(taken)
    assert ids(take(spill)) == [in_hand]


class SpillMachine(RuleBasedStateMachine):
    """Any interleaving of accept, take, land, put back, park and expire, against plain lists."""

    def __init__(self) -> None:
        super().__init__()
        self.spill = Spill()
        self.second = 0.0
        self.number = 0
        self.queues: dict[tuple[MessageClass, int, tuple[int, ...]], deque[int]] = {}
        self.until: dict[int, float] = {}
        self.in_hand: list[Taken] = []
        self.under_way: list[Parking] = []
        self.parked: set[int] = set()
        self.committed: set[int] = set()
        self.gone: set[int] = set()

    @rule(
        cls=st.sampled_from([OTP, MARKETING]),
        tenant=st.integers(1, 3),
        route=st.sampled_from([(1,), (2, 1)]),
        count=st.integers(1, 5),
        valid_s=st.integers(0, 20),
        is_parked=st.booleans(),
    )
    def accept(
        self,
        cls: MessageClass,
        tenant: int,
        route: tuple[int, ...],
        count: int,
        valid_s: int,
        is_parked: bool,
    ) -> None:
        for _ in range(count):
            self.number += 1
            number = id_of(self.second, self.number)
            until = NOW + self.second + valid_s
            self.spill.add(cls, tenant, route, number, until, is_parked=is_parked)
            self.until[number] = until
            self.queues.setdefault((cls, tenant, route), deque()).append(number)
            if is_parked:
                self.parked.add(number)
                self.committed.add(number)

    @rule(seconds=st.integers(1, 15))
    def wait(self, seconds: int) -> None:
        self.second += seconds

    @rule(
        cls=st.sampled_from([OTP, MARKETING]),
        route=st.sampled_from([(1,), (2, 1)]),
        limit=st.integers(1, 8),
        share=st.integers(1, 6),
    )
    def take(self, cls: MessageClass, route: tuple[int, ...], limit: int, share: int) -> None:
        taken = self.spill.take(cls, route, limit, lambda _: share)
        assert len(taken) <= limit
        for one in taken:
            queue = one.queue
            assert (queue.message_class, queue.route) == (cls, route)
            assert self.queues[cls, queue.tenant, route].popleft() == one.id
            assert one.is_parked == (one.id in self.parked)
        self.in_hand += taken

    @precondition(lambda self: self.in_hand)
    @rule(count=st.integers(1, 8))
    def land(self, count: int) -> None:
        landed, self.in_hand = self.in_hand[:count], self.in_hand[count:]
        self.spill.landed(landed)
        assert self.gone.isdisjoint(ids(landed))
        self.gone.update(ids(landed))

    @precondition(lambda self: self.in_hand)
    @rule()
    def put_back(self) -> None:
        """The newest taken of one queue: what an unreadable batch amounts to."""
        queue = self.in_hand[-1].queue
        own = [one for one in self.in_hand if one.queue is queue]
        self.in_hand = [one for one in self.in_hand if one.queue is not queue]
        self.spill.put_back(own)
        key = queue.message_class, queue.tenant, queue.route
        self.queues[key].extendleft(reversed(ids(own)))

    @rule(limit=st.integers(1, 10))
    def park(self, limit: int) -> None:
        rows = self.spill.park(self.spill.all_queues(), id_of(self.second - 5), limit)
        assert len(rows) <= limit
        for row in rows:
            assert row.id not in self.parked
            self.parked.add(row.id)
        self.under_way += rows

    @rule()
    def commit_parked(self) -> None:
        rows, self.under_way = self.under_way, []
        self.spill.parked(rows)
        self.committed.update(row.id for row in rows)

    @rule(limit=st.integers(1, 10))
    def expire(self, limit: int) -> None:
        now = NOW + self.second
        gone = self.spill.expire(self.spill.all_queues(), now, limit)
        for one in gone:
            assert self.until[one.id] <= now
            queue = one.queue
            self.queues[queue.message_class, queue.tenant, queue.route].remove(one.id)
        self.spill.landed(gone)
        self.gone.update(ids(gone))

    @precondition(lambda self: self.until)
    @rule(tenant=st.integers(1, 3), every=st.integers(1, 4), is_back=st.booleans())
    def pick(self, tenant: int, every: int, is_back: bool) -> None:
        """Very ids of a tenant, wherever they stand; some of them stand nowhere any more."""
        wanted = list(self.until)[::every]
        picked = self.spill.pick(tenant, wanted)
        mine = [key for key in self.queues if key[1] == tenant]
        waiting = {number for key in mine for number in self.queues[key]}
        assert sorted(ids(picked)) == sorted(waiting.intersection(wanted))
        for one in picked:
            queue = one.queue
            self.queues[queue.message_class, queue.tenant, queue.route].remove(one.id)
            assert one.valid_until() >= self.until[one.id]
            assert one.is_parked == (one.id in self.parked)
        if is_back:
            self.in_hand += picked
        else:
            self.spill.landed(picked)
            self.gone.update(ids(picked))

    @invariant()
    def counts_and_marks_are_right(self) -> None:
        waiting = {number for queue in self.queues.values() for number in queue}
        owned = waiting | set(ids(self.in_hand))
        assert owned.isdisjoint(self.gone)
        assert self.spill.total == len(owned)
        assert sum(self.spill.size(cls) for cls in MessageClass) == len(owned)
        open_ids = [n for n in self.until if n not in self.committed and n not in self.gone]
        landed_early = {row.id for row in self.under_way} & self.gone
        open_ids += landed_early
        assert sum(self.spill.unparked().values()) == len(open_ids)
        floor = self.spill.floor()
        assert (floor is None) == (not open_ids)
        if floor is not None:
            assert floor <= min(open_ids)
            assert unix_of(min(open_ids)) - unix_of(floor) < 1.1
        for (cls, tenant, route), queue in self.queues.items():
            held = any(
                one.queue.tenant == tenant
                and one.queue.route == route
                and one.queue.message_class is cls
                for one in self.in_hand
            )
            assert self.spill.holds(cls, tenant, route) == bool(queue or held)

    def teardown(self) -> None:
        self.spill.landed(self.in_hand)
        for cls in (OTP, MARKETING):
            for route in ((1,), (2, 1)):
                while taken := self.spill.take(cls, route, 50, all_of):
                    for one in taken:
                        key = cls, one.queue.tenant, route
                        assert self.queues[key].popleft() == one.id
                    self.spill.landed(taken)
        assert self.spill.total == 0


TestSpillMachine = SpillMachine.TestCase
TestSpillMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
