"""Channels that other processes have: what is handed over, when, and to whom."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from gateway.channel import ChannelRuntime
from gateway.dispatch import LEND_AFTER_S
from gateway.lanes import HELD
from gateway.ledger import low_water
from gateway.remote import BLOCK, OPEN_BLOCKS, RemoteChannels
from ratelimit.bucket import Bucket
from sms import config
from sms.model import Message, MessageClass
from sms.outcomes import Cause, Rejected, Submitted
from store.handovers import Handover
from tests.support.flow_kit import FakeChannel, Kit

OTP, TRANSACTIONAL, MARKETING = MessageClass
FAR, NEAR, ALSO_NEAR = 9, 7, 8  # processes; the last two on our node
LOCAL, REMOTE = 1, 2  # channels


class Party(Kit):
    """The kit with channel 1 of its own, and channel 2 in other processes."""

    def __init__(self, *, route: tuple[int, ...] = (REMOTE,), window: int = 500) -> None:
        super().__init__(channels=1)
        self.woken: list[tuple[int, str]] = []
        self.remote = RemoteChannels(
            ids=self.ids,
            lanes=self.lanes,
            ledger=self.ledger,
            metrics=self.metrics,
            unix=self.clock.unix,
        )
        self.remote.wake = lambda process, what: self.woken.append((process, what))
        self.remote.expired = self.dispatcher.expire
        self.remote.go_on = self.dispatcher.pump
        self.remote.may_try = self.dispatcher.retries.may_leave
        self.dispatcher.remote = self.remote
        far = config.Channel(
            REMOTE, "far", "smpp", {}, window=window, classes=frozenset(MessageClass)
        )
        channels = {LOCAL: self.dispatcher.channels[LOCAL].config, REMOTE: far}
        self.dispatcher.reconfigure(
            config.Snapshot(
                version=2, channels=channels, routes=(config.Route(1, 0, None, None, 0, route),)
            )
        )

    def up(self, *processes: int) -> None:
        near = {NEAR, ALSO_NEAR} & set(processes)
        came, went = self.remote.update({REMOTE: processes} if processes else {}, near)
        self.dispatcher.remote_changed(came, went)

    def own(self, *messages: Message) -> None:
        """Accepted and committed; the event lane has not flushed yet."""
        for message in messages:
            self.lanes.reserve(message.message_class, 1)
        self.ledger.took(messages)
        self.dispatcher.put(messages)

    def some(self, count: int, cls: MessageClass = TRANSACTIONAL) -> list[Message]:
        return [self.message(cls) for _ in range(count)]

    def given(self) -> list[tuple[int, int, list[int]]]:
        """(receiver, class, ids) of the handovers that committed, in order."""
        found = []
        for sql in self.events.sql:
            for receiver, cls, ids in re.findall(
                r"SELECT last_id,1,(\d+),\d+,(\d+),'{([\d,]+)}'::bigint", sql
            ):
                found.append((int(receiver), int(cls), [int(number) for number in ids.split(",")]))
        return found

    def flush_once(self) -> None:
        """Commit what waits, and not what comes of it."""
        batch, self.events.waiting = self.events.waiting, []
        rows = [row for entry in batch for row in entry[0]]
        self.events.sql += [entry[1] for entry in batch if entry[1]]
        self.ledger.committed(rows)
        for _, _, done in batch:
            if done is not None:
                done()

    def taken(self, *block_ids: int) -> None:
        """The receivers took these blocks."""
        asked = self.remote.committed()
        standing = [
            Handover(b.id, 1, b.receiver, b.channel, b.message_class, [])
            for b in self.remote.blocks.values()
            if b.is_committed and b.id not in block_ids
        ]
        self.remote.seen(asked, standing)


def test_no_claim_is_made_for_what_another_process_will_send() -> None:
    party = Party()
    party.up(NEAR)
    assert party.dispatcher.choose_claims(party.some(3)) == []


def test_what_failed_here_waits_here_for_its_budget() -> None:
    """Each process counts its own first attempts, so a receiver has none for what we tried."""
    party = Party(route=(LOCAL, REMOTE))
    party.up(NEAR)
    party.accept(*party.some(16))
    while party.channels[LOCAL].open:
        party.answer(LOCAL, Rejected("8", Cause.CHANNEL, "carrier.system_error"))
    party.clock.now += 1.3
    party.dispatcher.tick()
    party.events.flush()
    given = [number for _, _, ids in party.given() for number in ids]
    waiting = [message.id for message in party.dispatcher.retries]
    assert (len(given), len(waiting)) == (10, 6)
    party.clock.now += 62.0
    party.dispatcher.tick()
    party.events.flush()
    again = [number for _, _, ids in party.given() for number in ids]
    assert sorted(again) == sorted(given + waiting)


def test_a_message_is_ours_until_its_handover_is_committed() -> None:
    party = Party()
    party.up(NEAR)
    [message] = messages = party.some(1)
    party.own(message)
    assert party.ledger.live == {message.id: message}
    assert low_water(party.ledger.live, None, 1 << 62) == message.id
    assert party.woken == []
    party.flush_once()
    assert party.given() == [(NEAR, 1, [message.id for message in messages])]
    assert party.ledger.live == {}
    assert party.lanes.used(TRANSACTIONAL) == 0
    assert party.woken == [(NEAR, "handover")]
    assert party.channels[LOCAL].seen == []


def test_what_comes_while_a_block_commits_goes_in_the_next_one() -> None:
    party = Party()
    party.up(NEAR)
    first, *later = party.some(20)
    party.own(first)
    for message in later:
        party.own(message)
    party.flush_once()
    party.flush_once()
    assert [ids for _, _, ids in party.given()] == [[first.id], [m.id for m in later]]


def test_a_receiver_gets_so_many_blocks_until_it_takes_some() -> None:
    party = Party()
    party.up(NEAR)
    party.lanes._limits[TRANSACTIONAL] = 10_000
    party.own(*party.some((OPEN_BLOCKS + 2) * BLOCK))
    party.events.flush()
    blocks = party.given()
    assert [len(ids) for _, _, ids in blocks] == [BLOCK] * OPEN_BLOCKS
    assert party.lanes.lane(REMOTE).size() == 2 * BLOCK
    party.taken(next(iter(party.remote.blocks)))
    party.events.flush()
    assert len(party.given()) == OPEN_BLOCKS + 1


def test_otp_goes_first_and_is_not_held_up_by_blocks_that_nobody_takes() -> None:
    party = Party(window=16)
    party.up(NEAR)
    party.own(*party.some(900))
    party.events.flush()
    assert party.lanes.lane(REMOTE).size() > 0
    code = party.message(OTP)
    party.own(code)
    party.events.flush()
    assert party.given()[-1] == (NEAR, 0, [code.id])


def test_otp_does_not_wait_for_the_commit_of_an_ordinary_block() -> None:
    party = Party()
    party.up(NEAR)
    party.own(party.message())
    party.own(party.message(OTP))
    party.flush_once()
    assert sorted(cls for _, cls, _ in party.given()) == [0, 1]


def test_marketing_gets_every_fifth_block() -> None:
    party = Party(window=1)
    party.up(NEAR)
    party.own(*party.some(300), *party.some(300, MARKETING))
    for _ in range(40):
        party.events.flush()
        party.taken(*party.remote.committed())
    order = [cls for _, cls, _ in party.given()]
    assert order[:10] == [1, 1, 1, 1, 2, 1, 1, 2, 2, 2]  # transactional has run out at the end
    assert len(order) == 12


def test_our_own_node_is_preferred_and_another_one_helps_when_it_is_full() -> None:
    party = Party(window=16)
    party.up(FAR, NEAR, ALSO_NEAR)
    party.own(*party.some(900))
    party.events.flush()
    receivers = [receiver for receiver, _, _ in party.given()]
    assert receivers[: 2 * OPEN_BLOCKS] == [NEAR, ALSO_NEAR] * OPEN_BLOCKS
    assert receivers[2 * OPEN_BLOCKS :] == [FAR] * OPEN_BLOCKS


def test_a_block_is_no_larger_than_the_channel_can_take() -> None:
    party = Party(window=60)
    party.up(NEAR)
    party.own(*party.some(100))
    party.events.flush()
    assert [len(ids) for _, _, ids in party.given()] == [60, 40]


def test_when_nobody_has_the_channel_any_more_the_next_one_of_the_route_is_taken() -> None:
    party = Party(route=(REMOTE, LOCAL), window=1)
    party.up(NEAR)
    party.own(*party.some(OPEN_BLOCKS * 50 + 5))
    party.events.flush()
    assert party.lanes.lane(REMOTE).size() == 5
    party.up()
    party.events.flush()
    assert party.lanes.lane(REMOTE).size() == 0
    assert len(party.channels[LOCAL].seen) == 5


def test_what_is_held_goes_when_another_process_gets_the_channel() -> None:
    party = Party()
    party.own(*party.some(5))
    assert party.lanes.lane(HELD).size() == 5
    party.up(FAR)
    party.events.flush()
    assert [len(ids) for _, _, ids in party.given()] == [5]


def test_a_channel_whose_sessions_here_are_down_is_down_though_others_have_it() -> None:
    party = Party(route=(LOCAL,))
    party.remote.update({LOCAL: [FAR]}, ())
    party.dispatcher.link_changed(LOCAL, is_up=False)
    party.own(party.message())
    party.events.flush()
    assert party.given() == []
    assert party.lanes.lane(HELD).size() == 1


def down_for_long(party: Party) -> None:
    party.dispatcher.link_changed(LOCAL, is_up=False)
    party.clock.now += LEND_AFTER_S
    party.dispatcher.tick()


def test_what_would_be_held_goes_to_another_process_when_our_sessions_stay_down() -> None:
    party = Party(route=(LOCAL,))
    party.remote.update({LOCAL: [FAR]}, ())
    party.dispatcher.link_changed(LOCAL, is_up=False)
    early = party.message(valid_s=300.0)
    party.own(early)
    party.clock.now += LEND_AFTER_S - 0.1
    party.dispatcher.tick()
    party.events.flush()
    assert (party.given(), party.lanes.lane(HELD).size()) == ([], 1)
    assert not party.dispatcher.is_reachable(LOCAL)
    party.clock.now += 0.1
    party.dispatcher.tick()
    party.events.flush()
    assert [(to, ids) for to, _, ids in party.given()] == [(FAR, [early.id])]
    assert party.dispatcher.is_reachable(LOCAL)  # readiness counts it
    late = party.message()
    party.own(late)
    party.events.flush()
    assert party.given()[-1] == (FAR, 1, [late.id])
    assert party.ledger.live == {}


def test_what_is_held_goes_when_the_link_of_another_process_comes_later() -> None:
    party = Party(route=(LOCAL,))
    down_for_long(party)
    party.own(*party.some(3))
    party.dispatcher.tick()
    assert party.lanes.lane(HELD).size() == 3
    party.dispatcher.remote_changed(*party.remote.update({LOCAL: [FAR]}, ()))
    party.events.flush()
    assert [len(ids) for _, _, ids in party.given()] == [3]


def test_a_backup_that_is_up_comes_before_another_processs_link_of_the_primary() -> None:
    party = Party(route=(REMOTE, LOCAL))
    primary = FakeChannel(REMOTE, party.clock)
    party.channels[REMOTE] = primary
    known = party.dispatcher.snapshot.channels[REMOTE]
    party.dispatcher.add_channel(ChannelRuntime(known, primary, Bucket(1e6, 1e6, 0.0)))
    party.dispatcher.link_changed(REMOTE, is_up=True)
    party.up(FAR)
    party.dispatcher.link_changed(REMOTE, is_up=False)
    party.clock.now += LEND_AFTER_S
    party.dispatcher.tick()
    party.own(party.message())
    party.events.flush()
    assert (party.given(), len(party.channels[LOCAL].seen)) == ([], 1)
    party.dispatcher.link_changed(LOCAL, is_up=False)
    party.own(party.message())
    party.events.flush()
    assert [to for to, _, _ in party.given()] == [FAR]
    party.remote._up = {REMOTE: (FAR,)}
    for _ in range(OPEN_BLOCKS):  # nobody takes them
        party.own(party.message())
        party.events.flush()
    assert party.lanes.lane(REMOTE).size() == 1
    party.dispatcher.link_changed(LOCAL, is_up=True)  # a backup again: no need to wait
    party.events.flush()
    assert (party.lanes.lane(REMOTE).size(), len(party.channels[LOCAL].seen)) == (0, 2)


def test_a_channel_that_is_up_again_is_ours_again() -> None:
    party = Party(route=(LOCAL,))
    party.remote.update({LOCAL: [FAR]}, ())
    down_for_long(party)
    party.own(*party.some(2))  # a block commits meanwhile
    party.own(*party.some(3))
    party.dispatcher.link_changed(LOCAL, is_up=True)
    party.events.flush()
    assert [len(ids) for _, _, ids in party.given()] == [2]
    assert len(party.channels[LOCAL].seen) == 3
    party.dispatcher.link_changed(LOCAL, is_up=False)  # a short loss lends nothing
    party.own(party.message())
    party.events.flush()
    assert len(party.given()) == 1
    assert party.lanes.lane(HELD).size() == 1


def test_when_nobody_has_the_lent_channel_any_more_its_messages_are_held_again() -> None:
    party = Party(route=(LOCAL,))
    party.dispatcher.remote_changed(*party.remote.update({LOCAL: [FAR]}, ()))
    down_for_long(party)
    party.own(*party.some(1))
    party.own(*party.some(3))
    party.dispatcher.remote_changed(*party.remote.update({}, ()))
    party.events.flush()
    assert (len(party.given()), party.lanes.lane(HELD).size()) == (1, 3)
    assert not party.dispatcher.is_reachable(LOCAL)


def test_what_is_spilled_is_read_back_for_a_lent_channel() -> None:
    party = Party(route=(LOCAL,))
    party.remote.update({LOCAL: [FAR]}, ())
    party.dispatcher.link_changed(LOCAL, is_up=False)
    assert party.dispatcher.first_fit((LOCAL,), TRANSACTIONAL) is None
    down_for_long(party)
    assert party.dispatcher.first_fit((LOCAL,), TRANSACTIONAL) == LOCAL


def test_until_our_own_session_is_bound_another_process_sends() -> None:
    party = Party(route=(LOCAL,))
    runtime = party.dispatcher.channels[LOCAL]
    runtime.is_up = runtime.was_up = False  # just started
    party.remote.update({LOCAL: [FAR]}, ())
    party.own(party.message())
    party.events.flush()
    assert [receiver for receiver, _, _ in party.given()] == [FAR]
    party.dispatcher.link_changed(LOCAL, is_up=True)
    party.own(party.message())
    party.events.flush()
    assert len(party.channels[LOCAL].seen) == 1


def test_a_parked_message_leaves_its_row_with_the_handover() -> None:
    party = Party()
    message = party.message()
    message.is_parked = True
    party.up(NEAR)
    party.own(message)
    party.flush_once()
    [sql] = party.events.sql
    assert f"DELETE FROM parked WHERE message_id IN ({message.id})" in sql
    assert not message.is_parked


def test_what_has_expired_ends_instead_of_going_over() -> None:
    party = Party()
    message = party.message(valid_s=1.0)
    party.own(message)
    party.clock.now += 2.0
    party.up(NEAR)
    party.events.flush()
    assert party.given() == []
    assert party.ledger.live == {}


def test_a_message_that_came_from_another_process_keeps_its_claim_until_it_is_handed_on() -> None:
    party = Party()
    message = party.message()
    party.claims.blocks[5] = 1
    message.claim, message.is_adopted = 5, True
    party.ledger.take_back(message)
    party.up(NEAR)
    party.dispatcher.put([message])
    assert (party.claims.blocks[5], party.ledger.adopted) == (1, 1)
    party.flush_once()
    assert (party.claims.blocks[5], party.ledger.adopted) == (0, 0)
    assert party.lanes.used(TRANSACTIONAL) == 0


def test_blocks_of_lost_receivers_come_back_and_of_living_ones_do_not() -> None:
    party = Party()
    party.up(NEAR)
    handover = Handover(1, 1, NEAR, REMOTE, TRANSACTIONAL, [1])
    assert not party.remote.must_come_back(handover)
    party.up(FAR)
    assert party.remote.must_come_back(handover)
    anywhere = Handover(1, 1, NEAR, 0, TRANSACTIONAL, [1])
    assert not party.remote.must_come_back(anywhere)  # who takes its receiver over takes it too


def test_a_channel_of_which_we_got_a_session_ourselves_is_not_handed_over_any_more() -> None:
    party = Party(route=(LOCAL,))
    runtime = party.dispatcher.channels[LOCAL]
    runtime.is_up = runtime.was_up = False
    party.remote.update({LOCAL: [FAR]}, ())
    party.own(*party.some(10))
    party.own(*party.some(10))
    party.dispatcher.link_changed(LOCAL, is_up=True)
    party.events.flush()
    assert len(party.given()) == 1
    assert len(party.channels[LOCAL].seen) == 10


def test_what_is_handed_over_from_a_lane_it_still_stands_in_is_left_alone() -> None:
    party = Party()
    messages = party.some(3)
    party.own(*messages)
    party.remote.give(messages, NEAR, REMOTE)
    party.events.flush()
    party.up(NEAR)
    party.clock.now += 1000.0
    party.dispatcher.tick()
    party.events.flush()
    assert len(party.given()) == 1
    assert party.events.rows == []


def test_blocks_given_in_an_earlier_life_count() -> None:
    party = Party()
    old = [Handover(n, 1, NEAR, REMOTE, TRANSACTIONAL, [n]) for n in range(1, OPEN_BLOCKS + 1)]
    party.remote.seen(set(), old)
    party.up(NEAR)
    party.own(party.message())
    party.events.flush()
    assert party.given() == []
    party.taken(1)
    party.events.flush()
    assert len(party.given()) == 1


def test_the_carrier_gets_nothing_from_here_while_another_process_has_the_channel() -> None:
    party = Party(route=(REMOTE, LOCAL))
    party.up(NEAR)
    party.own(*party.some(10))
    party.events.flush()
    party.dispatcher.tick()
    assert party.channels[LOCAL].seen == []


@given(
    st.lists(
        st.sampled_from(["otp", "own", "flush", "take", "up", "down", "more", "answer"]),
        max_size=40,
    )
)
def test_every_message_is_in_exactly_one_place(steps: list[str]) -> None:
    """Here, or in a committed handover: never both, never neither, whatever the others do."""
    party = Party(route=(REMOTE, LOCAL), window=1)
    ours: dict[int, Message] = {}
    for step in steps:
        match step:
            case "own" | "otp":
                messages = party.some(30, OTP if step == "otp" else TRANSACTIONAL)
                ours |= {message.id: message for message in messages}
                party.own(*messages)
            case "flush":
                party.flush_once()
            case "take":
                party.taken(*list(party.remote.committed())[:2])
            case "up":
                party.up(NEAR)
            case "more":
                party.up(NEAR, FAR)
            case "down":
                party.up()
            case _:  # an answer
                if party.channels[LOCAL].open:
                    party.answer(LOCAL, Submitted(str(party.ids.next())))
    given_away = [number for _, _, ids in party.given() for number in ids]
    assert len(given_away) == len(set(given_away))
    sent = {submit.message.id for submit in party.channels[LOCAL].seen}
    assert sent.isdisjoint(given_away)
    gone = {row.message_id for row in party.events.rows}
    assert ours.keys() == set(given_away) | party.ledger.live.keys() | gone
    assert party.ledger.live.keys().isdisjoint(given_away)
    assert sum(party.lanes.used(cls) for cls in MessageClass) == len(party.ledger.live)


# -- a process for which a channel hangs ----------------------------------------------------


def hangs(party: Party) -> None:
    """The local channel answers nothing until its breaker opens."""
    party.dispatcher.link_changed(LOCAL, is_up=True)
    party.own(*party.some(10))
    party.events.flush()
    watch = party.dispatcher.channels[LOCAL].watch
    while not watch.is_left:
        party.clock.now += 0.1
        party.dispatcher.tick()
        party.events.flush()


def test_what_waits_for_a_channel_that_hangs_here_goes_to_a_process_where_it_does_not() -> None:
    party = Party(route=(LOCAL,))
    party.remote.update({LOCAL: [FAR]}, ())
    hangs(party)
    waiting = party.some(5)
    party.own(*waiting)
    party.events.flush()
    assert (party.given(), party.lanes.lane(LOCAL).size()) == ([], 4)  # one tries it
    party.clock.now += LEND_AFTER_S
    party.dispatcher.tick()
    party.events.flush()
    assert [(to, ids) for to, _, ids in party.given()] == [(FAR, [m.id for m in waiting[1:]])]
    party.own(*party.some(3))
    party.events.flush()
    assert len(party.given()) == 2
    while party.dispatcher.channels[LOCAL].watch.is_left:
        party.clock.now += 0.1
        party.dispatcher.tick()
    party.channels[LOCAL].open.clear()
    party.own(*party.some(3))  # it is tried again: they are ours
    party.events.flush()
    assert len(party.given()) == 2
    assert len(party.channels[LOCAL].open) == 3


def test_where_every_process_has_left_it_nothing_goes_to_and_fro() -> None:
    party = Party(route=(LOCAL,))
    party.remote.update({}, (), left=[LOCAL])
    hangs(party)
    party.own(*party.some(5))
    party.clock.now += LEND_AFTER_S
    party.dispatcher.tick()
    party.events.flush()
    assert (party.given(), party.lanes.lane(LOCAL).size()) == ([], 4)  # one tries it
    assert party.dispatcher.is_reachable(LOCAL)  # it has its session


def test_nothing_is_given_for_a_channel_that_its_processes_have_left() -> None:
    """It waits here, with what they did not take yet, and goes to who can send it."""
    party = Party()
    party.up(NEAR)
    party.own(party.message())
    party.events.flush()
    assert [to for to, _, _ in party.given()] == [NEAR]
    party.dispatcher.remote_changed(*party.remote.update({}, (), left=[REMOTE]))
    assert party.dispatcher.is_reachable(REMOTE)  # readiness asks for sessions, not for health
    late = party.message()
    party.own(late)
    party.events.flush()
    assert len(party.given()) == 1
    assert party.lanes.lane(HELD).size() == 1
    [block] = party.remote.blocks.values()
    handover = Handover(block.id, 1, NEAR, REMOTE, TRANSACTIONAL, [1], party.clock.unix() + 9)
    assert party.remote.must_come_back(handover)
    party.dispatcher.remote_changed(*party.remote.update({REMOTE: [FAR]}, (), left=[REMOTE]))
    party.events.flush()
    assert party.given()[-1] == (FAR, 1, [late.id])
