from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.descriptors import connection_limit, webhook_limit
from gateway.slots import Holder, Slots

STEPS = st.sampled_from(("begin", "end", "waive"))


class World:
    """Holders that begin a request whenever they may, until told otherwise."""

    def __init__(self, most: int) -> None:
        self.slots: Slots[Holder] = Slots(most, 32)
        self.called: list[Holder] = []
        self.absent: set[Holder] = set()  # who do not come when they are called

    def call(self, holder: Holder) -> bool:
        self.called.append(holder)
        return holder not in self.absent

    def begin(self, holder: Holder) -> bool:
        if not self.slots.may_begin(holder):
            return False
        holder.in_flight += 1
        self.slots.begun()
        return True

    def end(self, holder: Holder) -> None:
        holder.in_flight -= 1
        self.slots.ended(self.call)

    def begin_all(self, holder: Holder) -> None:
        while holder.in_flight < 32 and self.begin(holder):
            pass


def test_one_that_takes_all_it_can_gets_its_32():
    world, greedy = World(2048), Holder()
    world.begin_all(greedy)
    assert greedy.in_flight == 32


def test_a_hundred_that_hang_leave_slots_for_everybody_else():
    world = World(2048)
    hanging = [Holder() for _ in range(100)]
    for holder in hanging:
        world.begin_all(holder)
    assert world.slots.taken < 2048 - 400
    others = [Holder() for _ in range(300)]
    assert all(world.begin(holder) for holder in others)


def test_few_slots_are_shared_too():
    world, greedy, other = World(64), Holder(), Holder()
    world.begin_all(greedy)
    assert greedy.in_flight == 4
    world.begin_all(other)
    assert other.in_flight == 4


def test_when_all_is_taken_those_who_wait_are_called_in_their_turn():
    world = World(16)
    holders = [Holder() for _ in range(18)]
    assert [world.begin(holder) for holder in holders] == [True] * 16 + [False] * 2
    first, second = holders[16:]
    world.end(holders[0])
    assert world.called == [first]
    assert not world.begin(holders[0])  # it stands behind them now
    assert world.begin(first)
    world.end(holders[1])
    assert world.called == [first, second]


def test_those_who_are_gone_or_have_nothing_more_to_send_are_passed_over():
    world = World(1)
    one, gone, absent, idle, last = (Holder() for _ in range(5))
    assert world.begin(one)
    assert not any(world.begin(holder) for holder in (gone, absent, idle, last))
    gone.is_removed = True
    world.absent.add(absent)
    world.end(one)
    assert world.called == [absent, idle]  # the first does not come, so it is the second's
    assert not world.begin(one)
    world.slots.waive(idle, world.call)
    assert world.called[-1] is last
    assert world.begin(last)


@given(
    st.integers(1, 64),
    st.lists(
        st.tuples(st.sampled_from(["begin", "end", "waive"]), st.integers(0, 9)), max_size=200
    ),
)
def test_never_more_than_all_and_nobody_waits_for_nothing(most: int, steps: list[tuple[str, int]]):
    world = World(most)
    holders = [Holder() for _ in range(10)]
    for step, number in steps:
        holder = holders[number]
        if step == "begin":
            world.begin(holder)
        elif step == "end" and holder.in_flight:
            world.end(holder)
        elif step == "waive" and holder.is_called:
            world.slots.waive(holder, world.call)
        assert 0 <= world.slots.taken <= most
    for _ in range(10):  # everybody ends, those who are called begin and end
        for holder in holders:
            while holder.in_flight:
                world.end(holder)
            if holder.is_called:
                assert world.begin(holder)
    assert not any(holder.is_in_line or holder.is_called for holder in holders)


def test_the_descriptors_are_shared_out():
    assert (webhook_limit(1024), connection_limit(1024)) == (128, 512)
    assert (webhook_limit(20_000), connection_limit(20_000)) == (2048, 15_648)
    assert (webhook_limit(64), connection_limit(64)) == (64, 64)
