"""What a process takes of what others hand over, and what it takes back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from gateway.dispatch import LEND_AFTER_S
from gateway.handover import ADOPTED_OTP, LATE_S, LOOK, TURN, HandoverDesk, _by_class
from gateway.lanes import HELD
from gateway.remote import RemoteChannels
from sms.errors import StoreUnavailable
from sms.model import Message, MessageClass, State
from sms.outcomes import Submitted
from store.handovers import Besides, Handover
from store.read import Stored
from tests.support.flow_kit import Kit

OTP, TRANSACTIONAL, MARKETING = MessageClass
ME, GIVER, OTHER = 1, 4, 5


class FakeStore:
    """`handovers` and `messages`, and who takes what."""

    def __init__(self) -> None:
        self.rows: dict[int, Handover] = {}
        self.messages_by_id: dict[int, Message] = {}
        self.is_away = False
        self.looks = 0
        self.lost_race: set[int] = set()

    async def to_me(
        self, limit: int, *, is_chosen: bool | None = None, but: Besides | None = None
    ) -> list[Handover]:
        but = but or Besides()
        self.looks += 1

        def is_shown(row: Handover) -> bool:
            if row.receiver != ME or row.id in but.ids:
                return False
            out = but.shut if row.message_class is OTP else but.full
            return row.channel not in out or row.until <= but.unix

        mine = sorted(filter(is_shown, self.rows.values()), key=_by_class)
        return [row for row in mine if is_chosen in (None, bool(row.channel))][:limit]

    async def mine(self) -> list[Handover]:
        return [row for row in self.rows.values() if row.giver == ME]

    async def take(self, blocks: Mapping[int, int]) -> dict[int, list[int]]:
        won = [number for number in blocks if number in self.rows and number not in self.lost_race]
        return {number: self.rows.pop(number).ids for number in won}

    async def messages(self, ids: Sequence[int]) -> dict[int, Stored]:
        if self.is_away:
            raise StoreUnavailable("away")
        known = self.messages_by_id
        return {number: Stored(replace(known[number])) for number in ids if number in known}


class FakeBook:
    """The claim book: how many of each block still need it."""

    def __init__(self) -> None:
        self.left: dict[int, int] = {}
        self._next = 100

    def reserve(self) -> int:
        self._next += 1
        return self._next

    def adopt(self, number: int, ids: list[int]) -> None:
        self.left[number] = len(ids)

    def settled(self, number: int, count: int = 1) -> None:
        self.left[number] -= count

    def strip_sql(self, ids: Iterable[int]) -> str:
        return ""

    def strip_all_sql(self, message_id: int, sequence: int, event_id: int) -> str:
        return ""

    def open_in(self, number: int) -> int:
        return self.left[number]

    def block(self, ids: list[int], on_claimed: Callable[[], None] | None) -> int:
        number = self.reserve()
        self.adopt(number, ids)
        if on_claimed is not None:
            on_claimed()
        return number


class Party(Kit):
    """The kit with a desk; channel 1 is ours."""

    def __init__(self, window: int = 16, channels: int = 1) -> None:
        super().__init__(channels=channels, window=window)
        self.store = FakeStore()
        self.book = FakeBook()
        self.ledger._claims = self.dispatcher._claims = self.book
        self.woken: list[tuple[int, str]] = []
        self.remote = RemoteChannels(
            ids=self.ids,
            lanes=self.lanes,
            ledger=self.ledger,
            metrics=self.metrics,
            unix=self.clock.unix,
        )
        self.remote.wake = lambda process, what: self.woken.append((process, what))
        self.dispatcher.remote = self.remote
        store: Any = self.store
        book: Any = self.book
        self.desk = HandoverDesk(
            handovers=store,
            claims=book,
            reader=store,
            ledger=self.ledger,
            dispatcher=self.dispatcher,
            remote=self.remote,
            metrics=self.metrics,
            unix=self.clock.unix,
        )
        self.dispatcher.hungry = self.desk.hungry

    def block(
        self,
        size: int = 1,
        cls: MessageClass = TRANSACTIONAL,
        *,
        channel: int = 1,
        receiver: int = ME,
        valid_s: float = 300.0,
    ) -> Handover:
        """A block of messages of another process, in the store."""
        messages = [self.message(cls, valid_s=valid_s) for _ in range(size)]
        self.store.messages_by_id |= {message.id: message for message in messages}
        giver = ME if receiver != ME else GIVER
        until = self.clock.unix() + valid_s
        ids = [message.id for message in messages]
        row = Handover(self.ids.next(), giver, receiver, channel, cls, ids, until)
        self.store.rows[row.id] = row
        return row

    async def round(self) -> None:
        await self.desk.round()
        self.events.flush()

    def seen(self) -> list[int]:
        return [submit.message.id for submit in self.channels[1].seen]

    def given(self) -> list[str]:
        """The texts that hand over, as far as they have committed."""
        return [sql for sql in self.events.sql if "INSERT INTO handovers" in sql]


async def test_a_taken_message_is_sent_under_the_claim_that_took_it() -> None:
    party = Party()
    row = party.block(3)
    await party.round()
    assert party.seen() == row.ids
    assert party.book.left == {101: 3}
    assert all(m.is_adopted and m.claim == 101 for m in party.ledger.live.values())
    assert party.ledger.adopted == 3
    assert party.woken == [(GIVER, "taken")]
    party.answer(1, Submitted("abc"))
    assert party.book.left == {101: 2}  # only after its row is committed
    assert party.ledger.adopted == 2
    assert party.lanes.used(TRANSACTIONAL) == 2


async def test_only_what_the_window_and_one_more_can_hold_is_taken() -> None:
    party = Party(window=16)
    rows = [party.block(16) for _ in range(4)]
    await party.round()
    assert [row.id for row in party.store.rows.values()] == [row.id for row in rows[2:]]
    await party.round()
    assert len(party.store.rows) == 2
    while party.channels[1].open:
        party.answer(1, Submitted(str(party.ids.next())))
    await party.round()
    assert party.store.rows == {}


async def test_a_worker_with_a_long_lane_of_its_own_still_takes_from_others_by_turns() -> None:
    party = Party(window=8)
    party.accept(*[party.message() for _ in range(200)])
    rows = [party.block(8) for _ in range(20)]
    while party.store.rows:
        await party.round()
        for _ in range(4):
            party.answer(1, Submitted(str(party.ids.next())))
    theirs = {number for row in rows for number in row.ids}
    sent = party.seen()
    share = sum(number in theirs for number in sent) / len(sent)
    assert 0.4 < share < 0.6


@pytest.mark.parametrize(("channel", "left"), [(1, 30), (0, 10)])
async def test_what_was_tried_elsewhere_has_its_budget_from_there(channel: int, left: int) -> None:
    """What is for any channel was not let go by a budget: its giver leaves."""
    party = Party(window=100)
    for number in party.block(30, channel=channel).ids:
        message = party.store.messages_by_id[number]
        message.state, message.attempt, message.tried = State.QUEUED, 1, (9,)
    await party.round()
    assert len(party.seen()) == left
    assert party.dispatcher.retries.size == 30 - left


async def test_a_channel_that_runs_low_makes_the_desk_look_at_once() -> None:
    party = Party(window=16)
    for _ in range(4):
        party.block(16)
    await party.round()
    party.desk._wake.clear()
    party.dispatcher.pump(1)
    assert not party.desk._wake.is_set()
    party.answer(1, Submitted("abc"))
    assert party.desk._wake.is_set()


async def test_blocks_of_a_full_channel_do_not_hide_those_of_a_free_one() -> None:
    """Two routes, one channel each; channel 1 is stuck and more than a look's blocks wait."""
    party = Party(window=4, channels=2)
    for _ in range(2 * LOOK):
        party.block(4)
    await party.round()
    assert len(party.store.rows) == 2 * LOOK - 2
    behind = party.block(4, channel=2)
    code = party.block(1, OTP, channel=2)
    late = party.block(1, MARKETING, valid_s=-1.0)
    before = party.store.looks
    await party.round()
    assert not {behind.id, code.id, late.id} & party.store.rows.keys()
    assert len(party.store.rows) == 2 * LOOK - 2
    assert party.store.looks - before <= 5
    assert party.desk._waiting == {1}


async def test_otps_that_come_while_blocks_are_read_back_wait_for_a_few_of_them_only() -> None:
    party = Party(window=1000)
    rows = [party.block(2) for _ in range(3 * TURN)]
    await party.round()
    assert len(party.store.rows) == 2 * TURN
    assert party.desk._wake.is_set()  # on with the others at once
    code = party.block(1, OTP)
    await party.round()
    assert party.seen() == [
        number for row in [*rows[:TURN], code, *rows[TURN : 2 * TURN]] for number in row.ids
    ]


async def test_an_otp_is_read_back_before_what_was_taken_earlier_and_not_read() -> None:
    party = Party()
    older = party.block(2)
    party.store.is_away = True
    with pytest.raises(StoreUnavailable):
        await party.round()
    code = party.block(1, OTP)
    party.store.is_away = False
    stored = party.store.messages
    order: list[list[int]] = []

    async def messages(ids: Sequence[int]) -> dict[int, Stored]:
        order.append(list(ids))
        if len(order) == 1:
            raise StoreUnavailable("away")  # once more
        return await stored(ids)

    party.store.messages = messages  # type: ignore[method-assign]
    with pytest.raises(StoreUnavailable):
        await party.desk._receive()
    assert order == [code.ids]
    await party.round()
    assert order[1:] == [code.ids, older.ids]


async def test_of_a_block_taken_because_it_expires_the_others_go_back() -> None:
    party = Party()
    party.dispatcher.link_changed(1, is_up=False)
    row = party.block(5, valid_s=5.0)
    lasting = row.ids[2:]
    for number in lasting:
        party.store.messages_by_id[number].valid_until += LATE_S + 100.0
    soon = lasting.pop(0)
    party.store.messages_by_id[soon].valid_until -= 100.0  # no use in giving it back
    party.clock.now += 6.0
    await party.round()
    party.dispatcher.tick()
    party.events.flush()
    assert {r.message_id for r in party.events.rows} == set(row.ids[:2])
    assert list(party.ledger.live) == [soon]
    assert party.book.left == {101: 1}
    [sql] = party.given()
    assert f",{ME},0,1,'{{{','.join(map(str, lasting))}}}'::bigint[]" in sql
    assert party.remote.blocks


async def test_what_fits_is_kept_whole_though_some_of_it_has_expired() -> None:
    party = Party()
    row = party.block(3, valid_s=5.0)
    for number in row.ids[1:]:
        party.store.messages_by_id[number].valid_until += 1000.0
    party.clock.now += 6.0
    await party.round()
    assert party.seen() == row.ids[1:]


async def test_blocks_whose_claims_ended_are_forgotten_whatever_their_channel() -> None:
    party = Party()
    party.block(1, channel=7, receiver=OTHER)  # nobody asks for the room of channel 7 again
    party.desk.look_again()
    await party.round()
    assert set(party.desk._held) == {7}
    party.answer(1, Submitted("abc"))
    party.block(1)
    await party.round()
    assert set(party.desk._held) == {1}


async def test_of_two_that_lend_one_another_a_channel_neither_takes_for_it() -> None:
    """Each hears late of the other's loss: what is on its way stays there until one of them is up,
    or comes back once and is held.
    """
    party = Party()
    party.remote.go_on = party.dispatcher.pump
    party.dispatcher.remote_changed(*party.remote.update({1: [OTHER]}, ()))
    party.dispatcher.link_changed(1, is_up=False)
    party.clock.now += LEND_AFTER_S
    party.dispatcher.tick()
    theirs = {party.block(3).id, party.block(1, OTP).id}
    ours = party.message()
    party.accept(ours)
    [given] = party.given()
    assert f",{OTHER},1,1,'{{{ours.id}}}'::bigint[]" in given
    [block] = party.remote.blocks
    party.store.rows[block] = Handover(block, ME, OTHER, 1, TRANSACTIONAL, [ours.id])
    party.store.messages_by_id[ours.id] = replace(ours, is_handed=False)
    await party.round()
    assert party.store.rows.keys() == theirs | {block}
    party.dispatcher.remote_changed(*party.remote.update({}, ()))
    for _ in range(3):
        await party.round()
        party.dispatcher.tick()
        party.events.flush()
    assert party.lanes.lane(HELD).size() == 1
    assert party.given() == [given]
    assert party.store.rows.keys() == theirs


async def test_what_is_for_any_channel_goes_on_to_who_has_the_lent_one_and_to_nobody_else() -> None:
    party = Party()
    party.dispatcher.link_changed(1, is_up=False)
    party.clock.now += LEND_AFTER_S
    party.dispatcher.tick()
    row = party.block(2, channel=0)
    code = party.block(1, OTP, channel=0)
    await party.round()
    assert len(party.store.rows) == 2  # nobody could send them
    party.dispatcher.remote_changed(*party.remote.update({1: [OTHER]}, ()))
    await party.round()
    assert len(party.given()) == 2
    for some in (row, code):
        ids = ",".join(map(str, some.ids))
        assert any(f",{OTHER},1," in sql and f"'{{{ids}}}'" in sql for sql in party.given())


async def test_otp_is_taken_though_the_window_is_full() -> None:
    party = Party(window=4)
    party.block(20)
    await party.round()
    party.block(20)
    code = party.block(1, OTP)
    await party.round()
    assert code.id not in party.store.rows
    assert len(party.store.rows) == 1


async def test_of_what_is_taken_at_once_otp_goes_first() -> None:
    party = Party()
    older = party.block(2)
    otp = party.block(1, OTP)
    younger = party.block(1)
    await party.round()
    assert party.seen() == [*otp.ids, *older.ids, *younger.ids]


async def test_nothing_is_taken_for_a_channel_that_is_down_here() -> None:
    party = Party()
    party.dispatcher.link_changed(1, is_up=False)
    party.block(1)
    party.block(1, OTP)
    await party.round()
    assert len(party.store.rows) == 2
    assert party.ledger.live == {}


async def test_what_has_expired_is_taken_anyhow_to_be_told_in_time() -> None:
    party = Party()
    party.dispatcher.link_changed(1, is_up=False)
    row = party.block(2, valid_s=5.0)
    await party.round()
    assert len(party.store.rows) == 1
    party.clock.now += 6.0
    await party.round()
    party.dispatcher.tick()
    party.events.flush()
    assert [r.status for r in party.events.rows if r.message_id in row.ids] == [State.EXPIRED] * 2
    assert party.book.left == {101: 0}
    assert party.ledger.live == {}


async def test_what_may_take_any_channel_waits_until_there_is_one() -> None:
    party = Party()
    party.dispatcher.link_changed(1, is_up=False)
    party.block(5, channel=0)
    party.block(5, OTP, channel=0)
    await party.round()
    assert len(party.store.rows) == 2
    party.dispatcher.link_changed(1, is_up=True)
    await party.round()
    assert party.store.rows == {}
    assert len(party.seen()) == 10


async def test_even_otp_is_not_taken_without_end() -> None:
    party = Party()
    party.ledger.adopted = ADOPTED_OTP
    party.block(1, OTP)
    await party.round()
    assert len(party.store.rows) == 1


async def test_a_message_that_has_ended_meanwhile_gives_its_claim_back_and_is_not_sent() -> None:
    party = Party()
    row = party.block(2)
    party.store.messages_by_id[row.ids[0]].state = State.DELIVERED
    await party.round()
    assert party.seen() == row.ids[1:]
    assert party.book.left == {101: 1}


async def test_a_message_that_is_here_already_is_not_sent_twice() -> None:
    party = Party()
    row = party.block(1)
    await party.round()
    again = replace(row, id=party.ids.next())
    party.store.rows[again.id] = again
    await party.round()
    assert party.seen() == row.ids
    assert party.book.left == {101: 1, 102: 0}


async def test_what_another_process_was_faster_with_is_not_ours() -> None:
    party = Party()
    row = party.block(1)
    party.store.lost_race = {row.id}
    await party.round()
    assert party.seen() == []
    assert party.book.left == {}


async def test_a_store_that_goes_away_after_the_take_loses_nothing() -> None:
    party = Party()
    row = party.block(2)
    party.store.is_away = True
    with pytest.raises(StoreUnavailable):
        await party.round()
    assert party.book.left == {101: 2}
    party.store.is_away = False
    await party.round()
    assert party.seen() == row.ids


async def test_a_block_whose_receiver_lost_the_channel_comes_back() -> None:
    party = Party()
    row = party.block(3, receiver=OTHER)
    party.remote.update({1: [OTHER]}, ())
    await party.round()
    assert row.id in party.store.rows
    party.remote.update({}, ())
    await party.round()
    assert party.store.rows == {}
    assert party.seen() == row.ids
    assert party.remote.blocks == {}
    assert party.metrics.handovers_total.values[("taken_back",)] == 3


async def test_who_drains_takes_nothing_any_more() -> None:
    party = Party()
    party.desk.is_stopped = True
    party.block(1)
    party.block(1, receiver=OTHER)
    await party.round()
    assert len(party.store.rows) == 2


async def test_a_block_is_not_taken_back_before_its_commit_was_heard() -> None:
    party = Party()
    party.remote.update({7: [OTHER]}, [OTHER])
    messages = [party.message(TRANSACTIONAL) for _ in range(3)]
    for message in messages:
        party.ledger.live[message.id] = message
        party.lanes.force(message.message_class)
        party.store.messages_by_id[message.id] = message
    party.remote.give(messages, OTHER, 7)
    (block_id,) = party.remote.blocks
    ids = [message.id for message in messages]
    until = party.clock.unix() + 300.0
    # committed, but the answer was lost and the lane still reconnects; OTHER is gone meanwhile
    party.store.rows[block_id] = Handover(block_id, ME, OTHER, 7, TRANSACTIONAL, ids, until)
    party.remote.update({}, ())
    await party.desk.round()
    assert block_id in party.store.rows
    party.events.flush()  # now it is heard
    assert party.ledger.live == {}
    for message in messages:
        message.is_handed = False  # what is read back is another object
    await party.round()
    assert party.store.rows == {}
    assert sorted(party.ledger.live) == ids


async def test_a_block_that_is_given_back_waits_for_its_own_commit() -> None:
    party = Party()
    row = party.block(2)
    leaving = replace(party.store.messages_by_id[row.ids[0]], is_handed=True)
    party.ledger.live[leaving.id] = leaving
    await party.round()
    assert party.seen() == []
    assert party.book.left == {101: 2}
    del party.ledger.live[leaving.id]
    await party.round()
    assert party.seen() == row.ids


async def test_blocks_that_a_dead_process_gave_are_looked_after() -> None:
    party = Party()
    await party.round()
    row = party.block(2, channel=7, receiver=OTHER)  # its giver is this process since a takeover
    await party.round()
    assert row.id in party.store.rows
    party.desk.look_again()
    await party.round()
    assert row.id not in party.store.rows
