"""The promise: a future of accept() resolves after COMMIT, and fails truthfully."""

import asyncio
import dataclasses
import time

import pytest

from sms.errors import StoreUnavailable
from sms.ids import DAY_MS, TIME_SHIFT, id_at
from sms.model import Carrier, Encoding, Message, MessageClass, OnUncertain
from store import database
from store.processes import ProcessLease
from tests.support.postgres import text

pytestmark = pytest.mark.integration


async def test_a_message_comes_back_as_it_was_accepted(world):
    acceptor = await world.acceptor()
    messages = [
        text(),
        text(
            message_class=MessageClass.OTP,
            carrier=Carrier.OTHER,
            country=1,
            number="12025550123",
            encoding=Encoding.GSM7,
            texts=("a" * 153, "b\0é" * 3, "ω"),
            sender_ext="01",
            client_ref="order-7 'x",
            metadata={"a": "汉"},
            on_uncertain=OnUncertain.HOLD,
        ),
    ]
    await acceptor.accept(messages)
    for message in messages:
        stored = await world.reader.message(message.id)
        restored = stored.message
        for moment in ("created_at", "valid_until"):
            assert getattr(restored, moment) == pytest.approx(getattr(message, moment), abs=1e-5)
            setattr(restored, moment, getattr(message, moment))
        assert restored == message
        assert stored.rows == []
    assert await world.reader.message(messages[0].id, tenant=2) is None
    assert await world.reader.message(messages[0].id + 1000) is None


async def test_the_ids_of_one_call_are_contiguous_and_a_batch_has_its_row(world):
    acceptor = await world.acceptor()
    messages = [text() for _ in range(100)]
    await acceptor.accept(messages, batch_verdicts=lambda: b"\x00\xff'")
    first = messages[0].id
    assert [message.id for message in messages] == list(range(first, first + 100))
    batch = await world.reader.batch(first, 1)
    assert (batch.last_id, batch.state, batch.verdicts) == (first + 99, 0, b"\x00\xff'")
    assert await world.reader.batch(first, 2) is None


async def test_on_committed_comes_before_the_future_and_live_holds_the_message(world):
    acceptor = await world.acceptor()
    message = text()
    future = acceptor.accept([message])
    assert acceptor.pending_floor() == message.id
    assert world.heard.committed == []
    future.add_done_callback(lambda _: world.heard.flushes.append(("future", 0)))
    await future
    assert world.heard.committed == [message]
    assert acceptor.live == {message.id: message}
    assert acceptor.pending_floor() is None
    assert acceptor.oldest_write_age_s() == 0.0


async def test_what_waits_goes_in_one_flush_of_at_most_max_rows(world):
    acceptor = await world.acceptor(max_rows=50)
    await asyncio.gather(*[acceptor.accept([text()]) for _ in range(120)])
    sizes = [rows for lane, rows in world.heard.flushes if lane == "accept"]
    assert sum(sizes) == 120
    assert max(sizes) == 50
    assert await world.reader.recount() == {1: 120}
    assert await world.reader.deltas() == {1: (120, 0, 0)}
    await world.reader.fold_deltas(0)
    assert await world.reader.deltas() == {1: (120, 0, 0)}


async def test_chosen_messages_are_claimed_in_the_same_commit(world):
    world.chooser = lambda messages: messages[:2]
    acceptor = await world.acceptor(lanes=1)
    messages = [text() for _ in range(5)]
    await acceptor.accept(messages)
    assert [bool(message.claim) for message in messages] == [True, True, False, False, False]
    block = messages[0].claim
    assert await world.reader.claims(0) == {block: [messages[0].id, messages[1].id]}
    assert world.claims.floor() == messages[0].id


async def test_an_accept_never_waits_for_the_row_of_a_claim(world):
    """Another process takes a message out of two of our blocks while these end: it may lock them
    in the other order, and what a deadlock breaks would be refused.
    """
    world.chooser = lambda messages: messages
    acceptor = await world.acceptor(lanes=1)
    messages = [text(), text()]
    for message in messages:
        await acceptor.accept([message])
    other = await database.connect(world.dsn)
    async with other.transaction():
        await other.execute("SELECT FROM claims WHERE process = 0 FOR UPDATE")
        for message in messages:
            world.claims.settled(message.claim)
        await asyncio.wait_for(acceptor.accept([text()]), 1.0)
    await other.close()
    lane = await world.event_lane()
    assert await lane.drain(60)
    assert not set(await world.reader.claims(0)) & {message.claim for message in messages}


async def test_a_bad_row_refuses_its_own_accept_and_no_other(world):
    conn = await database.connect(world.dsn)
    await conn.execute("ALTER TABLE messages ADD CHECK (segments < 3)")
    world.chooser = lambda messages: messages
    acceptor = await world.acceptor(lanes=1)
    bad = text(texts=("a", "b", "c"))
    calls = [[text()], [text(), text()], [bad], [text()]]
    results = await asyncio.gather(*map(acceptor.accept, calls), return_exceptions=True)
    assert [type(result) for result in results] == [type(None)] * 2 + [
        StoreUnavailable,
        type(None),
    ]
    assert world.heard.refused == [bad]
    assert await world.reader.recount() == {1: 4}
    assert await conn.fetchval("SELECT message_id FROM quarantine") == bad.id
    claimed = {id for ids in (await world.reader.claims(0)).values() for id in ids}
    assert claimed == {message.id for call in calls for message in call} - {bad.id}
    await conn.close()


async def test_what_no_row_can_hold_is_refused_at_once(world):
    acceptor = await world.acceptor()
    for bad in (text(valid_until=float("inf")), text(tenant=1 << 40), text(country=1 << 30)):
        with pytest.raises(StoreUnavailable, match="bad row"):
            await acceptor.accept([bad])
    with pytest.raises(StoreUnavailable, match="bad row"):
        await acceptor.accept([text(1), text(2)])
    assert len(world.heard.refused) == 5
    await acceptor.accept([text()])


async def test_an_id_beyond_the_reserved_ones_is_refused(world):
    acceptor = await world.acceptor()
    acceptor.id_limit = 1
    with pytest.raises(StoreUnavailable, match="reserved"):
        await acceptor.accept([text()])


async def test_a_day_without_a_key_or_a_partition_is_refused(world):
    acceptor = await world.acceptor()
    world.ids._ms = (id_at(time.time()) >> TIME_SHIFT) + 10 * DAY_MS
    with pytest.raises(StoreUnavailable, match="no data key"):
        await acceptor.accept([text()])
    conn = await database.connect(world.dsn)
    await world.keyring.ensure_days(conn, range(1000))
    await conn.close()
    with pytest.raises(StoreUnavailable, match="23514"):
        await acceptor.accept([text()])


async def test_a_taken_lease_refuses_everything_and_is_told_once(world):
    acceptor = await world.acceptor()
    await acceptor.accept([text()])
    # The new owner leaves our backends alone here: the fence must do it without that.
    conn = await database.connect(world.dsn)
    await conn.execute("UPDATE processes SET epoch = epoch + 1")
    await conn.close()
    with pytest.raises(StoreUnavailable):
        await acceptor.accept([text()])
    with pytest.raises(StoreUnavailable):
        await acceptor.accept([text()])
    assert world.heard.leases_lost == 1
    assert await world.reader.recount() == {1: 1}
    assert not acceptor.is_up()


async def test_a_takeover_ends_the_old_backends_and_fences_late_ones(world):
    acceptor = await world.acceptor()
    await acceptor.accept([text()])
    second = await ProcessLease.take(world.dsn, node="node", slot=0, lease_s=15)
    assert (second.process, second.epoch) == (0, 2)
    with pytest.raises(StoreUnavailable):
        await acceptor.accept([text()])
    for _ in range(100):
        if world.heard.leases_lost:
            break
        await asyncio.sleep(0.05)
        future = acceptor.accept([text()])
        await asyncio.gather(future, return_exceptions=True)
    assert world.heard.leases_lost == 1


async def test_stop_flushes_what_waits_and_refuses_later_ones(world):
    acceptor = await world.acceptor()
    futures = [acceptor.accept([text()]) for _ in range(30)]
    await acceptor.stop()
    await asyncio.gather(*futures)
    with pytest.raises(StoreUnavailable):
        await acceptor.accept([text()])


async def test_a_row_costs_few_microseconds_before_the_disk(world):
    acceptor = await world.acceptor()
    costs = []
    futures = []
    for _ in range(20):
        batch = [text() for _ in range(200)]
        began = time.perf_counter()
        futures.append(acceptor.accept(batch))
        costs.append((time.perf_counter() - began) / 200 * 1e6)
    await asyncio.gather(*futures)
    assert min(costs) < 60  # 4 on an idle machine; this is a guard, not a bench


def test_every_field_of_the_stored_block_is_restored():
    """Whoever adds a field above the live ones in Message meets this: it must be stored too."""
    names = [field.name for field in dataclasses.fields(Message)]
    assert names[: names.index("state")] == [
        "id", "tenant", "message_class", "number", "carrier", "country", "encoding", "texts",
        "valid_until", "created_at", "sender_ext", "client_ref", "metadata", "on_uncertain",
        "send_at",
    ]  # fmt: skip
