"""Lanes: otp first, 4:1, fair by tenant, bounded."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.lanes import HELD, FairQueue, Lane, Lanes
from sms.model import Carrier, Encoding, Message, MessageClass, State


def message(
    number: int, tenant: int = 1, cls: MessageClass = MessageClass.TRANSACTIONAL, until: float = 1e9
) -> Message:
    return Message(
        id=number,
        tenant=tenant,
        message_class=cls,
        number="8613800138000",
        carrier=Carrier.CM,
        country=86,
        encoding=Encoding.GSM7,
        texts=("x",),
        valid_until=until,
        created_at=0.0,
    )


def take_all(queue: FairQueue) -> list[Message]:
    taken = []
    while (found := queue.take()) is not None:
        taken.append(found)
    return taken


def test_tenants_take_turns_and_each_keeps_its_own_order() -> None:
    queue = FairQueue()
    for number in range(100):
        queue.put(message(number, tenant=1))
    for number in range(100, 103):
        queue.put(message(number, tenant=2))
    taken = take_all(queue)
    assert [m.tenant for m in taken[:6]] == [1, 2, 1, 2, 1, 2]
    assert [m.id for m in taken if m.tenant == 1] == list(range(100))
    assert queue.size == 0


def test_put_first_is_taken_next_whatever_the_tenant() -> None:
    queue = FairQueue()
    queue.put(message(1, tenant=1))
    queue.put_first(message(9, tenant=2))
    assert queue.take().id == 9  # type: ignore[union-attr]


@given(st.lists(st.tuples(st.integers(1, 5), st.booleans()), max_size=80))
def test_nothing_is_lost_or_doubled_in_a_queue(puts: list[tuple[int, bool]]) -> None:
    queue = FairQueue()
    for number, (tenant, first) in enumerate(puts):
        (queue.put_first if first else queue.put)(message(number, tenant))
    assert queue.size == len(puts)
    assert sorted(m.id for m in take_all(queue)) == list(range(len(puts)))


def test_otp_goes_first_then_transactional_to_marketing_four_to_one() -> None:
    lane = Lane()
    for number in range(10):
        lane.transactional.put(message(number))
        lane.marketing.put(message(100 + number, cls=MessageClass.MARKETING))
    lane.otp.put(message(999, cls=MessageClass.OTP))
    first = lane.take()
    assert first is not None
    assert first.id == 999
    kinds = [lane.take().message_class for _ in range(10)]  # type: ignore[union-attr]
    assert kinds.count(MessageClass.MARKETING) == 2
    assert kinds.count(MessageClass.TRANSACTIONAL) == 8


def test_otp_only_leaves_the_others_alone() -> None:
    lane = Lane()
    lane.marketing.put(message(1, cls=MessageClass.MARKETING))
    assert lane.take(otp_only=True) is None
    assert lane.size() == 1


def test_what_is_on_its_way_is_counted_apart_from_what_is_kept() -> None:
    lanes = Lanes(dict.fromkeys(MessageClass, 3))
    lanes.reserve(MessageClass.MARKETING, 3)
    lanes.keep(MessageClass.MARKETING, 2)
    assert (lanes.used(MessageClass.MARKETING), lanes.queued()) == (2, 3)
    lanes.cancel(MessageClass.MARKETING)
    lanes.force(MessageClass.OTP)
    assert lanes.queued() == 3
    lanes.release(MessageClass.MARKETING, 2)
    assert (lanes.used(MessageClass.MARKETING), lanes.used(MessageClass.OTP)) == (0, 1)


def test_how_much_of_a_tenant_waits_is_known() -> None:
    queue = FairQueue()
    for number in range(3):
        queue.put(message(number, tenant=5))
    assert (queue.waiting(5), queue.waiting(6)) == (3, 0)


def test_a_detached_lane_leaves_an_empty_one_behind() -> None:
    lanes = Lanes(dict.fromkeys(MessageClass, 10))
    lanes.put(7, message(1))
    lanes.put(7, message(2, cls=MessageClass.OTP))
    lanes.put(HELD, message(3))
    lane = lanes.detach(7)
    assert [lane.take().id for _ in range(2)] == [2, 1]  # type: ignore[union-attr]
    assert lanes.lane(7).size() == 0
    assert lanes.lane(HELD).size() == 1


@given(st.lists(st.tuples(st.integers(1, 3), st.booleans()), max_size=40))
def test_expired_ones_leave_and_the_others_keep_their_order(rows: list[tuple[int, bool]]) -> None:
    lanes = Lanes(dict.fromkeys(MessageClass, 100))
    for number, (tenant, is_late) in enumerate(rows):
        lanes.put(1, message(number, tenant, until=5.0 if is_late else 50.0))
    gone = lanes.remove_expired(tuple(MessageClass), 5.0)
    assert {m.id for m in gone} == {n for n, (_, late) in enumerate(rows) if late}
    queue = lanes.lane(1).transactional
    left = take_all(queue)
    assert {m.id for m in left} == {n for n, (_, late) in enumerate(rows) if not late}
    for tenant in (1, 2, 3):
        own = [m.id for m in left if m.tenant == tenant]
        assert own == sorted(own)
    assert queue.size == 0


def test_oldest_is_the_longest_waiting_head() -> None:
    queue = FairQueue()
    first, second = message(1, tenant=1), message(2, tenant=2)
    first.queued_at, second.queued_at = 20.0, 10.0
    queue.put(first)
    queue.put(second)
    assert queue.oldest_at() == 10.0


def test_what_other_processes_accepted_has_a_turn_of_its_own() -> None:
    queue = FairQueue()
    own = [message(number, tenant=1) for number in range(4)]
    for one in own:
        queue.put(one)
    other = [message(number, tenant=1) for number in (10, 11)]
    for one in other:
        queue.put_adopted(one)
    queue.put(foreign := message(50, tenant=2))
    assert take_all(queue) == [own[0], other[0], foreign, own[1], other[1], own[2], own[3]]
    assert queue.size == 0


def test_what_a_command_withdrew_is_taken_out_of_its_tenants_queues() -> None:
    lanes = Lanes(dict.fromkeys(MessageClass, 100))
    stays, ended, held, adopted, other = (message(n) for n in range(5))
    other.tenant = 2
    for one in (stays, ended, held, other):
        lanes.put(1, one)
    lanes.put_adopted(1, adopted)
    ended.state = State.CANCELED
    held.is_handed = adopted.is_handed = other.is_handed = True
    lanes.remove_withdrawn(ended.message_class, [ended.tenant, 99])
    queue = lanes.lane(1).queue(ended.message_class)
    assert sorted(m.id for m in queue) == [stays.id, other.id]
    assert queue.size == 2
    assert sorted(m.id for m in take_all(queue)) == [stays.id, other.id]


WAITING = st.lists(
    st.tuples(st.integers(1, 3), st.integers(0, 50), st.booleans()),  # tenant, age, was it tried
    max_size=40,
)


@given(WAITING, st.lists(WAITING, min_size=1, max_size=3))
def test_what_is_moved_stands_by_its_age_and_what_a_carrier_failed_before_all(
    here: list[tuple[int, int, bool]], moved: list[list[tuple[int, int, bool]]]
) -> None:
    """Whatever comes in one slice, or in the next."""
    queue, made = FairQueue(), list[Message]()
    for some in [here, *moved]:
        run = []
        for tenant, at, was_tried in some:
            one = message(len(made), tenant)
            # What comes back is queued anew: its age is its id's.
            one.id, one.attempt, one.queued_at = 1000 * at + len(made), int(was_tried), float(at)
            run.append(one)
            made.append(one)
        queue.put_moved(run)
    assert queue.size == len(made)
    taken = take_all(queue)
    assert sorted(one.id for one in taken) == sorted(one.id for one in made)
    for tenant in (1, 2, 3):
        turns = [(not one.attempt, one.queued_at) for one in taken if one.tenant == tenant]
        assert turns == sorted(turns)
