"""Texts from phones on a real PostgreSQL: kept once, joined by two processes, told, obeyed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
from collections.abc import Sequence
from typing import Any

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.inbound import InboundDesk
from gateway.inbound_commit import InboundCommit, InboundPolicy
from gateway.notices import Notice
from gateway.owners import Owners
from sms.config import Channel, Route, Snapshot, Tenant
from sms.errors import StoreUnavailable
from sms.model import Inbound, MessageClass, SegmentMark
from store.audit import AuditLog
from store.inbound import InboundStore
from store.inbound_read import InboundReader
from store.pull import Pull, oldest_cursor
from store.suppressions import SuppressionStore
from telemetry.metrics import Metrics
from tests.support.postgres import World

pytestmark = pytest.mark.integration

SHOP, BANK = 3, 4
MOBILE, SHARED = 7, 8
PHONE = "8613800138000"
TO = "1069000111"


def snapshot() -> Snapshot:
    return Snapshot(
        tenants={
            SHOP: Tenant(SHOP, "shop"),
            BANK: Tenant(BANK, "bank", inbound_numbers=("10691",)),
        },
        channels={
            MOBILE: Channel(
                MOBILE, "mobile-a", "smpp", {"number_format": "national_cn"}, sender="1069000"
            ),
            SHARED: Channel(SHARED, "shared-b", "smpp", {}, sender="1068"),
        },
        routes=(
            Route(1, SHOP, MessageClass.OTP, None, 0, (MOBILE,)),
            Route(2, 0, None, None, 0, (SHARED,)),
        ),
    )


class Desk:
    """One process's desk, what it answered and what it told."""

    def __init__(self, world: World, policy: InboundPolicy | None = None, **more: Any) -> None:
        self.world = world
        self.answers: list[tuple[object, bool]] = []
        self.notices: list[Notice] = []
        self.refreshed = 0
        self.metrics = Metrics()
        self.store = InboundStore(world.pool, world.keyring)
        self.reader = InboundReader(world.pool, world.keyring)
        self.desk = InboundDesk(
            store=self.store,
            reader=self.reader,
            owners=Owners(self.store, world.reader, world.keyring),
            ids=world.event_ids,
            metrics=self.metrics,
            answer=self.answer,
            told=self,
            suppressed=self.refresh,
            policy=policy,
            **more,
        )
        self.desk.reconfigure(snapshot())

    def answer(self, channel: int, tokens: Sequence[object], *, accepted: bool) -> None:
        self.answers += [(token, accepted) for token in tokens]

    def committed(self, notices: Sequence[Notice], *, up_to: int = 0) -> None:
        assert all(notice.event_id <= up_to for notice in notices)
        self.notices += notices

    async def refresh(self) -> None:
        self.refreshed += 1

    async def take(self, *texts: Inbound) -> None:
        for text in texts:
            self.desk.receive(text.channel, [text])
        await self.desk.round()

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(notice.masked) for notice in self.notices]

    def ends(self, end: str) -> float:
        return sum(n for labels, n in self.metrics.inbound_total.values.items() if labels[1] == end)


def text_of(text: str, token: object = 1, **fields: Any) -> Inbound:
    given: dict[str, Any] = {"channel": MOBILE, "number": PHONE, "to": TO} | fields
    return Inbound(text=text, token=token, **given)


def segment(text: str, place: int, total: int, token: object = 1, **fields: Any) -> Inbound:
    return text_of(text, token, mark=SegmentMark(77, total, place, 8), **fields)


@pytest.fixture
async def desk(world: World) -> Desk:
    return Desk(world)


@pytest.fixture
async def other(world: World) -> Desk:
    return Desk(await World.make(world.dsn, slot=1))


async def kept(world: World) -> list[tuple[int, int, int]]:
    async with world.pool.acquire() as conn:
        rows = await conn.fetch("SELECT tenant, segments, missing FROM inbound ORDER BY id")
    return [tuple(row) for row in rows]


async def test_a_text_is_answered_when_it_is_stored_and_told_once(desk: Desk):
    desk.desk.receive(MOBILE, [text_of("你好", "t1", number="13800138000")])
    assert desk.answers == []  # nothing is durable yet
    assert desk.desk.pending_floor() is not None
    await desk.desk.round()
    assert desk.answers == [("t1", True)]
    assert desk.desk.pending_floor() is None
    [event] = desk.events
    assert event["type"] == "inbound.received"
    data = event["data"]
    assert (data["from"], data["to"], data["text"]) == ("+86138****8000", TO, "你好")
    assert (data["channel"], data["segments"], data["incomplete"]) == ("mobile-a", 1, False)
    assert json.loads(desk.notices[0].body(full_number=True))["data"]["from"] == "+" + PHONE
    [stored] = (await desk.reader.messages([desk.notices[0].message_id])).values()
    assert (stored.message.text, stored.message.number, stored.message.tenant) == (
        "你好",
        PHONE,
        SHOP,
    )
    found, _ = await Pull(desk.world.pool).after(SHOP, oldest_cursor(time.time()), 10)
    assert found == []  # nothing younger than 3 s, and no floor said yet


async def test_a_phone_abroad_opts_out_as_itself(desk: Desk):
    abroad = {"number": "13475550123"}  # New York; 134 7555 0123 would be China Mobile's
    await desk.take(
        text_of("TD", "t1", number="+13475550123"), text_of("TD", "t2", channel=SHARED, **abroad)
    )
    store = SuppressionStore(desk.world.pool, desk.world.keyring)
    for tenant in (SHOP, BANK, 0):
        assert {entry.number for entry in await store.page(tenant, 10)} <= {"13475550123"}
    assert {event["data"].get("from") for event in desk.events} <= {None, "+134****0123"}


async def test_nothing_of_it_stands_readable_in_the_database(desk: Desk):
    await desk.take(text_of("my secret words"), segment("another secret", 1, 2))
    async with desk.world.pool.acquire() as conn:
        rows = await conn.fetch("SELECT * FROM inbound") + await conn.fetch(
            "SELECT * FROM inbound_joins"
        )
        rows += await conn.fetch("SELECT * FROM inbound_keys")
    shown = repr([tuple(row) for row in rows])
    assert len(rows) == 4
    for word in ("secret", PHONE, PHONE[2:]):
        assert word not in shown


async def test_what_a_carrier_sends_again_is_answered_and_kept_once(desk: Desk, other: Desk):
    await desk.take(text_of("hello", "t1"), text_of("hello", "t2"))  # in one batch
    await desk.take(text_of("hello", "t3"))
    await other.take(text_of("hello", "t4"))  # in another process
    assert desk.answers == [("t1", True), ("t2", True), ("t3", True)]
    assert other.answers == [("t4", True)]
    assert len(desk.events) + len(other.events) == 1
    assert await kept(desk.world) == [(SHOP, 1, 0)]
    assert other.ends("repeated") == 1


async def test_the_same_text_later_or_with_another_id_is_another_one(world: World):
    desk = Desk(world, InboundPolicy(repeat_s=0.0))
    await desk.take(text_of("1", "t1"))
    await desk.take(text_of("1", "t2"))
    assert len(desk.events) == 2
    desk = Desk(world)
    await desk.take(text_of("2", carrier_id="a"))
    await desk.take(text_of("2", carrier_id="b"))
    assert len(desk.events) == 2
    desk = Desk(world, InboundPolicy(repeat_s=0.0))
    await desk.take(text_of("3", carrier_id="a"))
    await desk.take(text_of("3", carrier_id="a"))  # known for 72 h
    await desk.take(text_of("4", carrier_id="000"))
    await desk.take(text_of("4", carrier_id="000"))  # zeros are no id
    assert [event["data"]["text"] for event in desk.events] == ["3", "4", "4"]


@pytest.mark.parametrize("is_linked", [True, False])
async def test_the_same_words_again_are_another_text_once_the_first_answer_has_arrived(
    world: World, other: Desk, is_linked: bool
):
    """`1` to a survey, twice: a repeat only while the first answer may not have arrived."""
    clock = 100.0
    desk = Desk(world, monotonic=lambda: clock, is_linked=lambda _token: is_linked)
    await desk.take(text_of("1", "t1"), segment("1", 1, 2, "s1"), text_of("1", carrier_id="a"))
    clock += 29.0
    await desk.take(text_of("1", "t2"), segment("1", 1, 2, "s2"))
    assert desk.ends("repeated") == 2
    clock += 2.0
    await desk.desk.round()
    await other.take(text_of("1", "t3"), segment("1", 1, 2, "s3"), text_of("1", carrier_id="a"))
    assert other.ends("received") == (1 if is_linked else 0)
    assert other.ends("repeated") == (1 if is_linked else 3)
    clock += 31.0  # what was asked for late may be on its way again
    desk.desk.receive(MOBILE, [text_of("late", "l1")])
    clock += 6.0
    await desk.desk.round()
    clock += 31.0
    await desk.desk.round()
    await other.take(text_of("late", "l2"))
    assert other.ends("repeated") == (2 if is_linked else 4)


async def test_a_segment_is_known_longer_than_its_text_waits(world: World):
    desk = Desk(world, InboundPolicy(join_s=600.0, repeat_s=1.0))
    await desk.take(segment("b", 2, 2))
    async with world.pool.acquire() as conn:
        left = await conn.fetchval(
            "SELECT extract(epoch FROM expires_at - clock_timestamp())::float8 FROM inbound_keys"
        )
    assert 600 < left <= 660


async def test_segments_are_joined_whatever_their_order_and_process(desk: Desk, other: Desk):
    await desk.take(segment("c", 3, 3, "t3"), segment("c", 3, 3, "again"))
    await other.take(segment("a", 1, 3, "t1"))
    assert desk.events == other.events == []
    assert [token for token, good in desk.answers + other.answers if good] == ["t3", "again", "t1"]
    await desk.take(segment("b", 2, 3, "t2"))
    assert other.events == []
    [event] = desk.events
    assert (event["data"]["text"], event["data"]["segments"]) == ("abc", 3)
    await other.take(segment("b", 2, 3, "t2 again"))  # its answer was lost
    assert await other.store.waiting() == 0
    assert await kept(desk.world) == [(SHOP, 3, 0)]


async def test_two_processes_that_take_the_last_segments_at_once_make_one_text(
    desk: Desk, other: Desk
):
    for round_ in range(20):
        texts = [
            text_of(f"{round_}.{n}", n, mark=SegmentMark(round_, 4, n, 16)) for n in range(1, 5)
        ]
        random.shuffle(texts)
        await asyncio.gather(desk.take(*texts[:3]), other.take(*texts[1:]))
    events = desk.events + other.events
    assert sorted(event["data"]["text"] for event in events) == sorted(
        "".join(f"{round_}.{n}" for n in range(1, 5)) for round_ in range(20)
    )
    assert await desk.store.waiting() == 0


async def test_what_waited_long_enough_is_told_as_it_is(world: World):
    desk = Desk(world, InboundPolicy(join_s=0.0))
    desk.desk.receive(MOBILE, [segment("one", 1, 4), segment("four", 4, 4)])
    await desk.desk.round()
    [event] = desk.events
    data = event["data"]
    assert (data["text"], data["segments"]) == ("one[…]four", 4)
    assert (data["incomplete"], data["missing_segments"]) == (True, 2)
    assert await kept(world) == [(SHOP, 4, 2)]
    assert desk.desk.pending_floor() is None


async def test_two_processes_release_a_long_text_once(world: World):
    first = Desk(world, InboundPolicy(join_s=0.3))
    second = Desk(await World.make(world.dsn, slot=1), InboundPolicy(join_s=0.3))
    mark = SegmentMark(77, 2, 1, 8)
    await first.take(*(text_of("x", mark=mark, number=f"86138001380{n:02}") for n in range(20)))
    first.desk._polled_at = second.desk._polled_at = -10.0
    await asyncio.sleep(0.4)
    await asyncio.gather(first.desk.round(), second.desk.round())
    assert len(first.events) + len(second.events) == 20
    assert await kept(world) == [(SHOP, 2, 1)] * 20


async def test_a_reference_that_is_used_again_costs_no_segment(desk: Desk, other: Desk):
    """Its other half was lost; the second text is whole, the first one told as it is."""
    await desk.take(segment("old one", 1, 2, "t1"))
    await other.take(segment("T", 1, 2, "t2"))
    [first] = other.events
    assert (first["data"]["text"], first["data"]["incomplete"]) == ("old one[…]", True)
    await desk.take(segment("D", 2, 2, "t3"))
    assert [event["data"]["text"] for event in desk.events] == ["TD", "TD"]
    assert desk.events[1]["type"] == "recipient.opted_out"
    assert await desk.store.waiting() == 0
    # all of it at once, and a third one that waits
    texts = ["a", "b", "c", "d"]
    await desk.take(
        *(segment(text, n % 2 + 1, 2, f"u{n}") for n, text in enumerate(texts)),
        segment("e", 1, 2, "u4"),
    )
    assert [event["data"]["text"] for event in desk.events[2:]] == ["ab", "cd"]
    assert await desk.store.waiting() == 1
    assert all(good for _, good in desk.answers + other.answers)


async def test_a_new_text_under_an_old_reference_waits_its_own_time(world: World):
    desk = Desk(world, InboundPolicy(join_s=600.0))
    await desk.take(segment("old", 1, 2))
    async with world.pool.acquire() as conn:
        await conn.execute("UPDATE inbound_joins SET due = clock_timestamp()")
    await desk.take(segment("new", 1, 2))
    assert [event["data"]["text"] for event in desk.events] == ["old[…]"]
    assert await desk.store.due(10) == []


def loses_commits(desk: Desk, fails: int) -> None:
    """The store says "away" after it had committed, so many times."""
    settle = desk.store.transaction

    class Lost:
        def __init__(self) -> None:
            self.inner = settle()

        async def __aenter__(self):
            return await self.inner.__aenter__()

        async def __aexit__(self, *what):
            nonlocal fails
            await self.inner.__aexit__(*what)
            if fails and what[0] is None:
                fails -= 1
                raise StoreUnavailable("the answer to COMMIT was lost")

    desk.store.transaction = Lost  # type: ignore[method-assign, assignment]  # loses answers


@pytest.mark.parametrize("repeat_s", [120.0, 0.0])  # 0: the store was away for longer than that
async def test_a_commit_whose_answer_was_lost_is_found_by_its_keys(world: World, repeat_s: float):
    """The next try tells what stands there, without a second copy."""
    desk = Desk(world, InboundPolicy(repeat_s=repeat_s))
    loses_commits(desk, 1)
    desk.desk.receive(MOBILE, [text_of("hello", "t1"), text_of("TD", "t2")])
    with pytest.raises(StoreUnavailable):
        await desk.desk.round()
    assert desk.answers == []
    assert desk.desk.pending_floor() is not None  # the cursor must not pass what may be there
    await desk.desk.round()
    assert desk.answers == [("t1", True), ("t2", True)]
    kinds = [event["type"] for event in desk.events]
    assert sorted(kinds) == ["inbound.received", "inbound.received", "recipient.opted_out"]
    assert len(await kept(desk.world)) == 2


async def test_a_text_that_another_put_an_end_to_is_told_after_a_lost_commit(desk: Desk):
    await desk.take(segment("old", 1, 2))
    loses_commits(desk, 1)
    desk.desk.receive(MOBILE, [segment("new", 1, 2)])
    with pytest.raises(StoreUnavailable):
        await desk.desk.round()
    await desk.desk.round()
    assert [event["data"]["text"] for event in desk.events] == ["old[…]"]
    assert await kept(desk.world) == [(SHOP, 2, 1)]


async def test_an_opt_out_is_a_suppression_in_the_same_commit(desk: Desk):
    told: list[tuple[int, int]] = []
    desk.desk.opted_out = lambda channel, number: told.append((channel, number))
    await desk.take(text_of(" ｔｄ。", "t1"))
    assert told == [(MOBILE, 1)]
    received, opted_out = desk.events
    assert received["data"]["opted_out"] is True
    assert (opted_out["type"], opted_out["data"]["to"]) == ("recipient.opted_out", "+86138****8000")
    assert opted_out["data"]["classes"] == ["marketing"]
    assert (opted_out["data"]["id"], opted_out["data"]["sequence"]) == (received["data"]["id"], 2)
    assert desk.refreshed == 1
    store = SuppressionStore(desk.world.pool, desk.world.keyring)
    [entry] = await store.page(SHOP, 10)
    assert (entry.number, entry.classes) == (PHONE, frozenset({MessageClass.MARKETING}))
    await desk.take(text_of("退订"))  # it changes nothing any more
    assert [event["type"] for event in desk.events[2:]] == ["inbound.received"]
    assert desk.refreshed == 1


async def test_opt_outs_of_a_batch_cost_as_much_as_one(world: World, monkeypatch):
    """They hold the locks of the list and of the audit log, which all processes wait for."""
    desk = Desk(world, monotonic=lambda: 100.0)  # it looks for what is due only once
    statements = 0

    def count(name: str) -> None:
        real = getattr(asyncpg.Connection, name)

        def counted(self, *args, **kwargs):
            nonlocal statements
            statements += 1
            return real(self, *args, **kwargs)

        monkeypatch.setattr(asyncpg.Connection, name, counted)

    for name in ("fetch", "fetchrow", "fetchval", "execute", "executemany"):
        count(name)
    await desk.take(text_of("hello", "t"))
    statements = 0
    await desk.take(text_of("TD", "t", number="8613800138999"))
    alone, statements = statements, 0
    await desk.take(*(text_of("TD", n, number=f"86138001380{n:02}") for n in range(50)))
    assert statements == alone
    entries = await SuppressionStore(desk.world.pool, desk.world.keyring).page(SHOP, 100)
    assert len(entries) == 51
    log = AuditLog(desk.world.pool, desk.world.keyring.audit_key)
    assert (await log.verify()).broken_at is None
    [*rows] = await log.page(100)
    assert len({json.loads(row.body)["actor"]["id"] for row in rows}) == 51


async def test_one_number_opts_out_twice_in_a_batch(desk: Desk):
    await desk.take(text_of("TD", 1), text_of("退订", 2))
    kinds = [event["type"] for event in desk.events]
    assert sorted(kinds) == ["inbound.received", "inbound.received", "recipient.opted_out"]
    assert len(await SuppressionStore(desk.world.pool, desk.world.keyring).page(SHOP, 10)) == 1


async def test_an_opt_out_that_is_nobodys_is_one_from_those_it_may_be_meant_for(
    desk: Desk, monkeypatch
):
    await desk.take(text_of("TD", channel=SHARED))
    store = SuppressionStore(desk.world.pool, desk.world.keyring)
    assert [len(await store.page(tenant, 10)) for tenant in (0, SHOP, BANK)] == [0, 1, 1]
    assert await kept(desk.world) == [(0, 1, 0)]
    assert desk.ends("opted_out") == 1
    monkeypatch.setattr("gateway.inbound_commit.MOST_AMONG", 1)  # too many: nobody writes to it
    await desk.take(text_of("TD", channel=SHARED, number="8613800138001"))
    await desk.take(text_of("TD", channel=55, number="8613800138002"))  # no tenant has it
    assert [len(await store.page(tenant, 10)) for tenant in (0, SHOP, BANK)] == [2, 1, 1]


async def test_the_owner_is_the_longest_number_then_the_only_route_then_the_last_sender(desk: Desk):
    await desk.take(text_of("a", to="106912345"))  # the bank's number, whatever channel
    await desk.take(text_of("b", to="1069"))  # the shop's route alone leads to the channel
    await desk.take(text_of("c", channel=SHARED))  # everybody's: nobody sent there
    assert [row[0] for row in await kept(desk.world)] == [BANK, SHOP, 0]
    assert [notice.tenant for notice in desk.notices] == [BANK, SHOP]
    assert desk.ends("unowned") == 1


async def test_beyond_the_bound_the_carrier_is_told_to_come_later(desk: Desk, monkeypatch):
    monkeypatch.setattr("gateway.inbound.MAX_PENDING", 3)
    desk.desk.receive(MOBILE, [text_of(str(n), n) for n in range(5)])
    assert desk.answers == [(3, False), (4, False)]
    await desk.desk.round()
    assert desk.answers[2:] == [(0, True), (1, True), (2, True)]


async def test_what_waits_is_bounded_in_octets_too(desk: Desk, monkeypatch):
    monkeypatch.setattr("gateway.inbound.MAX_CHARACTERS", 10)
    for _ in range(2):  # what was answered counts no more
        desk.answers.clear()
        desk.desk.receive(MOBILE, [text_of("x" * 6, 1), text_of("y" * 6, 2), text_of("z", 3)])
        assert desk.answers == [(2, False)]
        await desk.desk.round()
        assert desk.answers[1:] == [(1, True), (3, True)]


async def test_a_segment_that_no_air_could_carry_is_a_text_of_its_own(desk: Desk):
    await desk.take(segment("x" * 1601, 1, 255))
    assert [event["data"]["segments"] for event in desk.events] == [1]
    assert await desk.store.waiting() == 0


async def test_a_batch_that_takes_too_long_is_halved(desk: Desk, monkeypatch):
    find, sizes = desk.desk._commit._owners.find, []

    async def slow(texts, now):
        sizes.append(len(texts))
        if len(texts) > 2:
            raise StoreUnavailable("the statement took too long")
        return await find(texts, now)

    monkeypatch.setattr(desk.desk._commit._owners, "find", slow)
    desk.desk.receive(MOBILE, [text_of(str(n), n) for n in range(7)])
    for _ in range(10):
        with contextlib.suppress(StoreUnavailable):
            await desk.desk.round()
    assert {token for token, good in desk.answers if good} == set(range(7))
    assert len(desk.answers) == 7
    assert sizes[:3] == [7, 3, 1]
    assert desk.desk.pending_floor() is None


async def test_long_texts_that_take_too_long_are_released_by_fewer(world: World, monkeypatch):
    monkeypatch.setattr("gateway.inbound.DUE_AT_ONCE", 4)
    clock = 100.0
    desk = Desk(world, InboundPolicy(join_s=0.0), monotonic=lambda: clock)
    desk.desk._polled_at = clock  # not yet
    await desk.take(*(segment("x", 1, 2, number=f"861380013800{n}") for n in range(5)))
    find = desk.desk._commit._owners.find

    async def slow(texts, now):
        if len(texts) > 2:
            raise StoreUnavailable("the statement took too long")
        return await find(texts, now)

    monkeypatch.setattr(desk.desk._commit._owners, "find", slow)
    for _ in range(10):
        clock += 1.0
        with contextlib.suppress(StoreUnavailable):
            await desk.desk.round()
    assert len(desk.events) == 5
    assert desk.desk.pending_floor() is None


async def test_at_the_end_what_is_committed_is_waited_for_and_nothing_begins(desk: Desk):
    running = asyncio.create_task(desk.desk.run())
    desk.desk.receive(MOBILE, [text_of("a", "t1")])
    for _ in range(500):
        if desk.desk._flying:
            break
        await asyncio.sleep(0.002)
    await desk.desk.stop(5)
    assert desk.answers == [("t1", True)]
    desk.desk.receive(MOBILE, [text_of("b", "t2")])
    await asyncio.sleep(0.1)
    assert len(await kept(desk.world)) == 1
    running.cancel()


@pytest.fixture
def bad(monkeypatch) -> None:
    """Texts that begin with "bad" crash whoever makes messages of them."""
    make = InboundCommit._make

    def crash(outcome, one, owned, text, **more):
        if text.startswith("bad"):
            raise ValueError("crash")
        make(outcome, one, owned, text, **more)

    monkeypatch.setattr(InboundCommit, "_make", staticmethod(crash))


async def quarantined(world: World) -> list[tuple[str, str, bytes]]:
    async with world.pool.acquire() as conn:
        rows = await conn.fetch("SELECT step, error, row FROM quarantine")
    return [tuple(row) for row in rows]


@pytest.mark.usefixtures("bad")
async def test_one_bad_text_holds_nobody_up_and_is_set_aside_before_it_is_answered(world: World):
    clock = 100.0
    desk = Desk(world, monotonic=lambda: clock)
    await desk.take(text_of("bad", "b"), text_of("good", "g"))
    assert desk.answers == [("g", True)]  # not "later": the carrier may not come again
    for again_s in (1, 2, 4, 8):
        assert await quarantined(world) == []
        clock += again_s - 0.1
        await desk.take(text_of("bad", f"b{again_s}"))  # sent again meanwhile
        clock += 0.1
        await desk.desk.round()
    assert desk.answers[1:] == [(token, True) for token in ("b", "b1", "b2", "b4", "b8")]
    [(step, error, row)] = await quarantined(world)
    assert (step, error) == ("inbound", "ValueError")
    assert b"bad" not in row
    assert desk.desk.pending_floor() is None
    assert desk.ends("failed") == 5


@pytest.mark.usefixtures("bad")
async def test_a_text_that_cannot_be_set_aside_either_is_left_to_the_carrier(
    world: World, monkeypatch
):
    clock = 100.0
    desk = Desk(world, monotonic=lambda: clock)

    async def fails(*_):
        raise ValueError("no room for it")

    monkeypatch.setattr(desk.store, "quarantine", fails)
    desk.desk.receive(MOBILE, [text_of("bad", "b")])
    for _ in range(5):
        assert desk.answers == []
        await desk.desk.round()
        clock += 10.0
    assert desk.answers == [("b", False)]
    assert desk.desk.pending_floor() is None


@pytest.mark.usefixtures("bad")
async def test_a_bad_long_text_leaves_the_others_and_the_loop_alive(world: World):
    clock = 100.0
    desk = Desk(world, InboundPolicy(join_s=0.0), monotonic=lambda: clock)
    lonely = [
        segment(text, 1, 2, number=f"861380013800{n}") for n, text in enumerate(("a", "bad", "c"))
    ]
    await desk.take(*lonely)
    async with world.pool.acquire() as conn:
        await conn.execute(
            "INSERT INTO inbound_joins VALUES ('\\x01', 7, '\\x02', clock_timestamp())"
        )
    for _ in range(4):
        clock += 1.0
        await desk.desk.round()
    assert sorted(event["data"]["text"] for event in desk.events) == ["a[…]", "c[…]"]
    clock += 1.0
    await desk.desk.round()
    errors = sorted(error for _, error, _ in await quarantined(world))
    assert errors[0] == "ValueError"  # the other is the row that does not open
    assert len(errors) == 2
    assert await desk.store.waiting() == 0
    assert desk.desk.pending_floor() is None


async def test_the_loop_outlives_a_defect(desk: Desk, monkeypatch):
    due, fails = desk.store.due, 2

    async def broken(most):
        nonlocal fails
        if fails:
            fails -= 1
            raise ValueError("a defect")
        return await due(most)

    monkeypatch.setattr(desk.store, "due", broken)
    monkeypatch.setattr("gateway.inbound.AWAY_S", 0.01)
    monkeypatch.setattr("gateway.inbound.POLL_S", 0.01)
    running = asyncio.create_task(desk.desk.run())
    desk.desk.receive(MOBILE, [text_of("a", "t1")])
    for _ in range(1000):
        if desk.answers and not fails:
            break
        await asyncio.sleep(0.01)
    assert desk.answers == [("t1", True)]
    assert not running.done()
    running.cancel()


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_keys_tell_deliveries_apart(data):
    """Two deliveries share a key exactly when nothing of them differs."""
    from store.inbound import Keys

    keys = Keys(b"k" * 32)
    texts = st.builds(
        Inbound,
        channel=st.integers(1, 3),
        number=st.sampled_from(["1", "11"]),
        to=st.sampled_from(["1", "11"]),
        text=st.text(max_size=3),
        carrier_id=st.sampled_from(["", "1"]),
        mark=st.sampled_from([None, SegmentMark(1, 2, 1, 8), SegmentMark(1, 2, 1, 16)]),
    )
    one, two = data.draw(texts), data.draw(texts)
    assert (keys.of_delivery(one) == keys.of_delivery(two)) == (one == two)
