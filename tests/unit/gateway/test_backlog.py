"""What stays in memory, what comes back and in which order: nothing lost, nothing twice."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from gateway.backlog import BATCH
from gateway.lanes import HELD
from receipts.state import Path
from sms import config
from sms.errors import StoreUnavailable
from sms.model import Carrier, Message, MessageClass, State
from sms.outcomes import Submitted
from store.fragments import Why
from tests.support.backlog_kit import BacklogKit

OTP, TRANSACTIONAL, MARKETING = MessageClass


def answer_all(kit: BacklogKit) -> int:
    """Every carrier takes what it has, until no window moves; how many that were."""
    count = 0
    while any(channel.open for channel in kit.channels.values()):
        for number, channel in kit.channels.items():
            while channel.open:
                kit.answer(number, Submitted(f"c{count}"))
                count += 1
        kit.turn_timers()
    return count


async def drain(kit: BacklogKit) -> list[Message]:
    """Let everything out, a window at a time; in the order the carriers get it."""
    is_moving = True
    while is_moving:
        is_moving = bool(await kit.refill_all())
        for number, channel in kit.channels.items():
            for _ in range(len(channel.open)):
                kit.answer(number, Submitted("x"))
                is_moving = True
        kit.turn_timers()
    return kit.seen()


# -- what stays -----------------------------------------------------------------------------


def test_while_there_is_room_everything_stays_in_memory() -> None:
    kit = BacklogKit(memory=640)
    kit.send(40)
    assert kit.spill.total == 0
    assert len(kit.standing()) == kit.lanes.used(TRANSACTIONAL) == 40


def test_beyond_it_only_ids_are_kept_and_no_object() -> None:
    kit = BacklogKit(memory=640)
    ids = kit.send(200)
    assert kit.lanes.used(TRANSACTIONAL) == 40  # a sixteenth may be held
    assert kit.spill.total == 160
    assert sorted(kit.ledger.live) == ids[:40]
    assert kit.lanes.coming() == 0
    assert kit.backlog.queued() == 200


def test_a_lane_of_a_channel_that_is_up_keeps_a_quarter() -> None:
    kit = BacklogKit(memory=640, is_up=True)
    kit.channels[1].size = 0
    kit.send(500)
    assert kit.lanes.used(TRANSACTIONAL) == 160


def test_memory_is_bounded_by_the_limit_whatever_many_tenants_send() -> None:
    kit = BacklogKit(memory=80)
    for tenant in range(1, 200):
        kit.send(3, tenant=tenant)
    assert kit.lanes.used(TRANSACTIONAL) <= 80
    assert kit.lanes.used(TRANSACTIONAL) + kit.spill.total == 3 * 199


def test_a_class_has_room_of_its_own() -> None:
    kit = BacklogKit(memory=640)
    kit.send(500, MARKETING)
    kit.send(40, OTP, tenant=2)
    assert kit.spill.size(OTP) == 0
    assert kit.lanes.used(OTP) == 40


def test_a_tenant_with_few_messages_does_not_wait_behind_anothers_thousands() -> None:
    kit = BacklogKit(memory=1600)
    kit.send(2000, tenant=1)
    few = kit.send(20, tenant=2)
    assert set(few) <= set(kit.standing())
    kit.dispatcher.link_changed(1, is_up=True)
    kit.turn_timers()
    answer_all(kit)
    order = [message.tenant for message in kit.seen()]
    assert order[:40].count(2) == 20  # turn by turn from the first message on


def test_what_follows_a_spilled_message_of_its_tenant_is_spilled_too() -> None:
    kit = BacklogKit(memory=640)
    kit.send(200)
    kit.ledger.live.clear()
    kit.lanes.release(TRANSACTIONAL, kit.lanes.used(TRANSACTIONAL))
    kit.lanes.detach(HELD)
    late = kit.send(1)
    assert late[0] not in kit.standing()
    assert kit.spill.total == 161


def test_a_message_claimed_with_its_accept_stays_although_memory_is_full() -> None:
    kit = BacklogKit(memory=8, is_up=True, window=4)
    kit.channels[1].size = 0
    kit.send(100)
    claimed = kit.message()
    claimed.claim = kit.claims.block([claimed.id], None)
    kit.commit(claimed)
    assert claimed.id in kit.ledger.live


def test_no_claim_rides_for_what_must_not_overtake() -> None:
    kit = BacklogKit(memory=8, is_up=True, window=4)
    kit.channels[1].size = 0
    kit.send(100)
    kit.channels[1].size = 1000
    mine, others = kit.message(tenant=1), kit.message(tenant=2)
    assert kit.dispatcher.choose_claims([mine, others]) == [others]


def test_intake_ends_by_class_when_the_spill_is_full() -> None:
    kit = BacklogKit(memory=64, max_ids=100)
    kit.send(89, MARKETING)
    room = kit.backlog.has_room
    assert not room(MARKETING, 1)
    assert room(TRANSACTIONAL, 1)
    assert room(OTP, 15)
    assert not room(OTP, 30)
    kit.lanes.reserve(OTP, 15)  # what is on its way counts
    assert not room(OTP, 15)


# -- what comes back ------------------------------------------------------------------------


async def test_nothing_is_read_back_while_it_would_only_be_held() -> None:
    kit = BacklogKit(memory=80)
    kit.send(200)
    assert not await kit.backlog.refill()
    assert kit.store.reads == []


async def test_a_tenants_messages_leave_in_the_order_they_were_accepted() -> None:
    kit = BacklogKit(memory=80)
    ids = kit.send(400)
    kit.dispatcher.link_changed(1, is_up=True)
    kit.turn_timers()
    ids += kit.send(30)  # behind them, though the lane runs low by then
    seen = await drain(kit)
    assert [message.id for message in seen] == ids
    assert kit.spill.total == 0
    assert kit.lanes.queued() == 0
    assert kit.ledger.live == {}


async def test_otp_accepted_last_leaves_first() -> None:
    kit = BacklogKit(memory=80)
    kit.send(300, MARKETING)
    kit.send(300, TRANSACTIONAL)
    otp = kit.send(60, OTP)  # some of them spilled as well
    kit.dispatcher.link_changed(1, is_up=True)
    kit.turn_timers()
    seen = await drain(kit)
    places = {message.id: place for place, message in enumerate(seen)}
    assert len(places) == 660
    assert [message.id for message in seen[:40]] == otp[:40]
    assert max(places[one] for one in otp) < 120


async def test_tenants_drain_in_turns_out_of_the_spill() -> None:
    kit = BacklogKit(memory=160)
    for tenant, count in ((1, 1200), (2, 300), (3, 300)):
        kit.send(count, tenant=tenant)
    kit.dispatcher.link_changed(1, is_up=True)
    kit.turn_timers()
    seen = [message.tenant for message in await drain(kit)]
    assert len(seen) == 1800
    for part in (seen[:300], seen[300:600], seen[600:900]):
        counts = Counter(part)
        assert max(counts.values()) - min(counts.values()) <= 60, counts


@pytest.mark.parametrize("window", [4, 64, 400])
async def test_who_has_two_routes_over_one_channel_gets_no_second_turn(window: int) -> None:
    """While another channel is down; the window takes more at once than the lane has."""
    kit = BacklogKit(memory=160, channels=2, window=window)
    routes = (
        config.Route(1, 0, None, Carrier.CM, 0, (1, 2)),
        config.Route(2, 0, None, Carrier.CU, 0, (2, 1)),
    )
    kit.dispatcher.reconfigure(replace(kit.dispatcher.snapshot, version=2, routes=routes))
    send_to(kit, Carrier.CM, 600)
    send_to(kit, Carrier.CU, 600)
    send_to(kit, Carrier.CU, 600, tenant=2)
    kit.dispatcher.link_changed(1, is_up=True)
    kit.turn_timers()
    seen = await drain(kit)
    assert len(seen) == 1800
    for start in range(0, 1000, 200):
        assert sum(one.tenant == 2 for one in seen[start : start + 200]) >= 85
    carriers = Counter(one.carrier for one in seen[:600] if one.tenant == 1)
    assert min(carriers[Carrier.CM], carriers[Carrier.CU]) >= 90  # neither of its own waits


async def test_a_lane_is_filled_only_so_far_and_never_runs_dry() -> None:
    kit = BacklogKit(memory=400, window=20)
    kit.send(2000)
    kit.dispatcher.link_changed(1, is_up=True)
    kit.turn_timers()
    depths = []
    while kit.spill.total:
        await kit.refill_all()
        depths.append(kit.lanes.lane(1).size())
        for _ in range(20):
            kit.answer(1, Submitted("x"))
    assert max(depths) <= 250
    assert min(depths[:-1]) > 0


async def test_another_route_is_not_kept_waiting_by_one_that_is_down() -> None:
    kit = two_routes()
    kit.dispatcher.link_changed(2, is_up=True)  # CM's channel, 1, stays down
    send_to(kit, Carrier.CM, 500)
    other = send_to(kit, Carrier.CU, 500)
    seen = await drain(kit)
    assert [message.id for message in seen] == other
    assert all(message.carrier is Carrier.CU for message in seen)


async def test_a_slow_lane_leaves_room_for_a_fast_one() -> None:
    kit = two_routes()
    kit.dispatcher.link_changed(1, is_up=True)
    kit.dispatcher.link_changed(2, is_up=True)
    kit.channels[1].size = 0  # takes nothing just now
    send_to(kit, Carrier.CM, 500)
    other = send_to(kit, Carrier.CU, 300, tenant=2)
    while await kit.refill_all() or answer_all(kit):
        pass
    assert [message.id for message in kit.seen()] == other


def two_routes() -> BacklogKit:
    kit = BacklogKit(memory=80, channels=2)
    routes = (
        config.Route(1, 0, None, Carrier.CM, 0, (1,)),
        config.Route(2, 0, None, Carrier.CU, 0, (2,)),
    )
    kit.dispatcher.reconfigure(replace(kit.dispatcher.snapshot, version=2, routes=routes))
    return kit


def send_to(kit: BacklogKit, carrier: Carrier, count: int, tenant: int = 1) -> list[int]:
    ids = []
    for _ in range(count):
        message = kit.message(tenant=tenant, valid_s=36_000.0)
        message.carrier = carrier
        kit.commit(message)
        ids.append(message.id)
    return ids


async def test_ids_follow_their_messages_to_a_new_route() -> None:
    kit = two_routes()
    ids = send_to(kit, Carrier.CM, 200)
    routes = (config.Route(3, 0, None, None, 0, (2,)),)
    kit.dispatcher.reconfigure(replace(kit.dispatcher.snapshot, version=3, routes=routes))
    kit.dispatcher.link_changed(2, is_up=True)
    kit.turn_timers()
    seen = await drain(kit)
    assert sorted(message.id for message in seen) == ids


async def test_what_only_some_channels_of_a_route_take_comes_back_too() -> None:
    """Numbers abroad, and one of the two channels delivers to the mainland only."""
    kit = BacklogKit(memory=80, channels=2)
    snapshot = kit.dispatcher.snapshot
    near = replace(snapshot.channels[1], countries=frozenset({86}))
    channels = {**snapshot.channels, 1: near}
    kit.dispatcher.reconfigure(replace(snapshot, version=2, channels=channels))
    ids = []
    for _ in range(200):
        message = kit.message(tenant=1, valid_s=36_000.0)
        message.carrier, message.country = Carrier.OTHER, 1
        kit.commit(message)
        ids.append(message.id)
    kit.dispatcher.link_changed(1, is_up=True)
    kit.dispatcher.link_changed(2, is_up=True)
    kit.turn_timers()
    seen = await drain(kit)
    assert sorted(message.id for message in seen) == ids


async def test_ids_without_a_route_end_as_failed() -> None:
    kit = two_routes()
    ids = send_to(kit, Carrier.CM, 200)
    kit.dispatcher.reconfigure(replace(kit.dispatcher.snapshot, version=3, routes=()))
    kit.turn_timers()
    await kit.refill_all()
    assert kit.spill.total == 0
    failed = [row.message_id for row in kit.events.rows if row.path == Path.QUEUE_FAILED]
    assert sorted(failed) == ids


async def test_what_the_store_cannot_give_now_keeps_its_place() -> None:
    kit = BacklogKit(memory=640)
    ids = kit.send(300)
    kit.dispatcher.link_changed(1, is_up=True)
    kit.turn_timers()
    answer_all(kit)
    kit.store.is_away = True
    with pytest.raises(StoreUnavailable):
        await kit.backlog.refill()
    assert kit.spill.total == 260
    kit.store.is_away = False
    assert [message.id for message in await drain(kit)] == ids


async def test_an_id_whose_message_is_gone_is_told_and_does_not_stop_the_others() -> None:
    kit = BacklogKit(memory=640)
    ids = kit.send(100)
    lost = ids[70]
    del kit.store.stored[lost]
    kit.dispatcher.link_changed(1, is_up=True)
    kit.turn_timers()
    seen = await drain(kit)
    assert [message.id for message in seen] == [one for one in ids if one != lost]
    assert kit.metrics.quarantined_total.values["spill",] == 1


async def test_the_wait_in_the_spill_counts_as_waiting() -> None:
    kit = BacklogKit(memory=8)
    kit.send(50)
    kit.older(100.0)
    kit.dispatcher.link_changed(1, is_up=True)
    kit.turn_timers()
    await drain(kit)
    rows = [row for row in kit.events.rows if row.path == Path.SUBMITTED]
    assert len(rows) == 50
    assert all(row.times[0] >= 100_000 for row in rows)


async def test_after_a_link_change_spilled_ones_stay_behind_those_that_move() -> None:
    kit = BacklogKit(memory=48_000, window=10_000)
    ids = kit.send(4000)
    assert len(kit.standing()) == 3000  # more than one slice of a move
    kit.dispatcher.link_changed(1, is_up=True)
    assert kit.dispatcher.is_moving()
    assert not await kit.backlog.refill()
    late = kit.send(5)
    kit.turn_timers()
    seen = await drain(kit)
    assert [message.id for message in seen] == ids + late


async def test_what_arrives_while_a_lane_moves_goes_behind_it() -> None:
    kit = BacklogKit(memory=50_000, window=10_000)
    ids = kit.send(2500)
    kit.dispatcher.link_changed(1, is_up=True)
    assert kit.dispatcher.is_moving()
    ids += kit.send(5)
    otp = kit.send(3, OTP)
    assert kit.spill.total == 0
    kit.turn_timers()
    order = [message.id for message in await drain(kit)]
    assert [one for one in order if one not in otp] == ids
    assert order.index(otp[-1]) < order.index(ids[-1])


# -- time -----------------------------------------------------------------------------------


async def test_spilled_messages_expire_on_time() -> None:
    kit = BacklogKit(memory=8)
    ids = kit.send(300, valid_s=60.0)
    kit.send(30, tenant=2, valid_s=600.0)
    kit.older(61.5)
    sweeping = asyncio.ensure_future(kit.backlog.sweep())
    while not sweeping.done():
        await asyncio.sleep(0)
        kit.events.flush()
    expired = [row.message_id for row in kit.events.rows if row.path == Path.EXPIRED]
    assert set(ids[-290:]) <= set(expired)
    assert set(expired) <= set(ids)
    assert kit.spill.total == 30 - kit.lanes.lane(HELD).queue(TRANSACTIONAL).waiting(2) > 0
    rows = [row for row in kit.events.rows if row.path == Path.EXPIRED]
    assert {(row.status, row.reason) for row in rows} == {(State.EXPIRED, "validity.expired")}


async def park(kit: BacklogKit) -> None:
    parking = asyncio.ensure_future(kit.backlog.park())
    while not parking.done():
        await asyncio.sleep(0)
        kit.events.flush()


async def test_what_is_spilled_for_long_gets_a_row_and_loses_it_when_it_leaves() -> None:
    kit = BacklogKit(memory=8)
    ids = kit.send(1200)
    spilled = kit.spill.total
    kit.older(601.0)
    await park(kit)
    parking = [sql for sql in kit.events.sql if sql.startswith("INSERT INTO parked")]
    assert len(parking) == -(-spilled // BATCH)
    assert kit.spill.floor() is None
    kit.dispatcher.link_changed(1, is_up=True)
    kit.turn_timers()
    seen = await drain(kit)
    assert len(seen) == 1200
    deleted: set[int] = set()
    for sql in kit.events.sql:
        if sql.startswith("DELETE FROM parked"):
            deleted |= {int(one) for one in sql.split("(")[1].rstrip(");").split(",")}
    assert deleted == set(ids[-spilled:])


async def test_a_message_that_ended_elsewhere_gives_up_its_parked_row() -> None:
    kit = BacklogKit(memory=8, is_up=True)
    message = kit.message()
    kit.store.stored[message.id] = message
    ended = replace(message, state=State.FAILED)
    kit.store.folded[message.id] = ended
    kit.backlog.take_up([kit.store.head(message.id)], is_parked=True)
    await kit.refill_all()
    assert f"DELETE FROM parked WHERE message_id IN ({message.id});" in kit.events.sql
    assert kit.seen() == []
    assert kit.spill.total == 0


# -- what others left -----------------------------------------------------------------------


async def test_heads_of_an_earlier_life_are_taken_up_without_being_read() -> None:
    kit = BacklogKit(memory=8)
    ids = []
    for _ in range(50):
        message = kit.message()
        kit.store.stored[message.id] = message
        ids.append(message.id)
    kit.backlog.take_up([kit.store.head(one) for one in ids], is_parked=False)
    assert kit.store.reads == []
    assert kit.lanes.queued() == 0
    kit.dispatcher.link_changed(1, is_up=True)
    assert [message.id for message in await drain(kit)] == ids


async def test_a_due_row_of_what_is_known_is_only_put_off() -> None:
    kit = BacklogKit(memory=64)
    kit.send(50)
    taken = kit.spill.total
    assert taken == 46
    stranger, gone = kit.message(), kit.message()
    kit.store.stored |= {stranger.id: stranger, gone.id: gone}
    kit.store.others = {gone.id}
    spilled = next(one for one in sorted(kit.store.stored) if kit.spill.has(TRANSACTIONAL, 1, one))
    await kit.backlog.take_up_due([spilled, stranger.id, gone.id])
    kit.events.flush()
    assert kit.spill.total == taken + 1
    parking, unparking = kit.events.sql[-1].rstrip(";").split(";")
    assert parking.startswith("UPDATE parked")  # a row that went meanwhile stays away
    assert parking.count(f",{int(Why.SPILLED)})") == 2 + 1  # two rows, and what they were
    assert f"DELETE FROM parked p WHERE message_id IN ({gone.id}) AND process=" in unparking


# -- any interleaving -----------------------------------------------------------------------


class BacklogMachine(RuleBasedStateMachine):
    """Accept, links, answers, refills, expiry, parking, an absent store, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.kit = BacklogKit(memory=24, channels=2, window=3)
        self.accepted: dict[int, tuple[MessageClass, int]] = {}

    def run(self, coroutine: object) -> None:
        async def act() -> None:
            task = asyncio.ensure_future(coroutine)  # type: ignore[call-overload]
            while not task.done():
                await asyncio.sleep(0)
                self.kit.events.flush()
            try:
                await task
            except StoreUnavailable:
                assert self.kit.store.is_away

        asyncio.run(act())
        self.kit.events.flush()

    @rule(
        cls=st.sampled_from([OTP, MARKETING]),
        tenant=st.integers(1, 3),
        count=st.integers(1, 40),
        valid_s=st.sampled_from([20.0, 5000.0]),
    )
    def accept(self, cls: MessageClass, tenant: int, count: int, valid_s: float) -> None:
        for one in self.kit.send(count, cls, tenant, valid_s):
            self.accepted[one] = (cls, tenant)

    @rule(number=st.integers(1, 2), is_up=st.booleans())
    def link(self, number: int, is_up: bool) -> None:
        channel = self.kit.channels[number]
        if not is_up:  # what was open is lost with the link; here it simply counts as taken
            while channel.open:
                self.kit.answer(number, Submitted("x"))
        self.kit.dispatcher.link_changed(number, is_up=is_up)
        self.kit.events.flush()

    @rule(number=st.integers(1, 2), count=st.integers(1, 10))
    def answer(self, number: int, count: int) -> None:
        for _ in range(count):
            if self.kit.channels[number].open:
                self.kit.answer(number, Submitted("x"))

    @rule()
    def refill(self) -> None:
        self.run(self.kit.backlog.refill())

    @rule(seconds=st.sampled_from([1.0, 30.0, 700.0]))
    def wait(self, seconds: float) -> None:
        self.kit.older(seconds)
        self.kit.dispatcher.tick()
        self.kit.turn_timers()
        self.run(self.kit.backlog.sweep())

    @rule()
    def park(self) -> None:
        self.run(self.kit.backlog.park())

    @rule(is_away=st.booleans())
    def store(self, is_away: bool) -> None:
        self.kit.store.is_away = is_away

    @invariant()
    def everything_is_somewhere_once(self) -> None:
        kit = self.kit
        gone = {row.message_id for row in kit.events.rows}
        assert len(gone) == len(kit.events.rows)  # one end each
        owned = set(kit.ledger.live)
        assert owned.isdisjoint(gone)
        assert len(self.accepted) == len(gone) + len(owned) + kit.spill.total
        submits = [message.id for message in kit.seen()]
        assert len(submits) == len(set(submits))

    @invariant()
    def memory_is_bounded_and_counted(self) -> None:
        kit = self.kit
        assert kit.lanes.coming() == 0
        for cls in (OTP, MARKETING):
            own = [one for one in kit.ledger.live.values() if one.message_class is cls]
            assert kit.lanes.used(cls) == len(own)
            assert kit.lanes.used(cls) <= 24

    @invariant()
    def the_mark_is_below_all_that_has_no_row_elsewhere(self) -> None:
        kit = self.kit
        gone = {row.message_id for row in kit.events.rows}
        spilled = self.accepted.keys() - gone - kit.ledger.live.keys()
        parked = kit.spill.total - sum(kit.spill.unparked().values())
        floor = kit.spill.floor()
        below = [one for one in spilled if floor is None or one < floor]
        assert len(below) <= parked

    def teardown(self) -> None:
        kit = self.kit
        kit.store.is_away = False
        kit.dispatcher.link_changed(1, is_up=True)
        kit.turn_timers()
        for _ in range(10_000):
            moved = answer_all(kit)
            before = kit.spill.total
            self.run(kit.backlog.refill())
            if not moved and before == kit.spill.total == 0 and not kit.ledger.live:
                break
        ended = {row.message_id for row in kit.events.rows}
        assert ended == self.accepted.keys()
        order: dict[tuple[MessageClass, int], int] = {}
        for submit in kit.channels[1].seen:  # on one channel: first in, first out
            key = self.accepted[submit.message.id]
            assert order.get(key, 0) < submit.message.id
            order[key] = submit.message.id


TestBacklogMachine = BacklogMachine.TestCase
TestBacklogMachine.settings = settings(max_examples=25, stateful_step_count=30, deadline=None)
