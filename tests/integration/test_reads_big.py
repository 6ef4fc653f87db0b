"""What reading costs does not depend on what is stored: plans and latencies on a filled store.

In CI on 60,000 messages, with the rows every scan touched counted; by hand on ten million:

    pytest -m load -s tests/integration/test_reads_big.py       (READS_MESSAGES=… for fewer)
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import statistics
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from gateway.ledger import ENDS
from loadtest.fill import FIRST_SMALL, Day, Plan, digits_of, fill
from sms.ids import DAY_MS, EPOCH_MS, id_at
from sms.model import MessageClass, State
from store import database, partitions, schema
from store.lists import Wanted, look_sql, newest_id
from store.partitions import today
from store.pull import PULL_SQL, oldest_cursor
from store.reading import Reading, open_reading
from store.seal import Keyring, load_or_create_master_key
from store.usage import READ_SQL, date_of_number, day_number
from tests.support.postgres import Server

pytestmark = pytest.mark.integration

LARGE, SMALL, NOBODY = 1, FIRST_SMALL + 7, 999_999
DAYS = 4
COUNT = 500
MANY = int(os.environ.get("READS_MESSAGES", "10000000"))


@dataclass(frozen=True)
class Stored:
    """A database with messages of some days, nine in ten of one tenant."""

    dsn: str
    keyring: Keyring
    days: list[Day]
    now: float

    @classmethod
    async def make(cls, server: Server, name: str, folder: Path, messages: int) -> Stored:
        await server.admin(f"CREATE DATABASE reads_{name}")
        dsn, now = server.dsn(f"reads_{name}"), time.time()
        await schema.migrate(dsn)
        key_file = folder / "master.key"
        keyring = Keyring(load_or_create_master_key(key_file))
        this, share = today(now), messages // DAYS
        until = int(now * 1000) - EPOCH_MS - this * DAY_MS - 60_000
        days = [Day(this - back, share) for back in range(DAYS - 1, 0, -1)]
        days.append(Day(this, share, max(until, 1000)))
        conn = await database.connect(dsn, statement_timeout_s=3600)
        try:
            for back in range(DAYS):
                await partitions.ensure(conn, keyring, days_ahead=2, now=now - back * 86_400)
            await fill(Plan(dsn, str(key_file), LARGE, 0, days), lambda _: None)
            await conn.execute(_backfill())
            await conn.execute("VACUUM ANALYZE")
        finally:
            await database.close(conn)
        return cls(dsn, keyring, days, now)


@dataclass(frozen=True)
class Filled:
    """The same with connections to read from."""

    keyring: Keyring
    days: list[Day]
    now: float
    reading: Reading

    @classmethod
    async def open(cls, stored: Stored) -> Filled:
        reading = await open_reading(stored.dsn, stored.keyring)
        return cls(stored.keyring, stored.days, stored.now, reading)


def _backfill() -> str:
    """The migration's count of what is stored: the loader writes no deltas."""
    whole = (resources.files("store.migrations") / "0008_pre_reads.sql").read_text("utf-8")
    return whole[whole.index("INSERT INTO usage_days") :]


@pytest.fixture(scope="module")
def stored(postgres_server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stored]:
    yield asyncio.run(Stored.make(postgres_server, "big", tmp_path_factory.mktemp("big"), 60_000))
    asyncio.run(postgres_server.admin("DROP DATABASE reads_big WITH (FORCE)"))


@pytest.fixture
async def filled(stored: Stored) -> AsyncIterator[Filled]:
    filled = await Filled.open(stored)
    yield filled
    filled.reading.pool.terminate()


def looks(store: Filled) -> dict[str, Wanted]:
    """What is asked, from the common to the hopeless."""
    number = digits_of(store.days[0], 11)
    delivered = tuple(path for path, end in enumerate(ENDS) if end is State.DELIVERED)
    canceled = tuple(path for path, end in enumerate(ENDS) if end is State.CANCELED)
    asked: dict[str, Wanted] = {}
    for name, tenant in (("large", LARGE), ("small", SMALL), ("nobody", NOBODY), ("all", None)):
        asked[f"{name}: newest"] = Wanted(tenant)
        asked[f"{name}: delivered"] = Wanted(tenant, paths=delivered)
        asked[f"{name}: canceled (none)"] = Wanted(tenant, paths=canceled)
        asked[f"{name}: otp (none)"] = Wanted(tenant, message_class=MessageClass.OTP)
        asked[f"{name}: channel 2"] = Wanted(tenant, channels=(2,))
        asked[f"{name}: channel 9 (none)"] = Wanted(tenant, channels=(9,))
        asked[f"{name}: with client_ref (none)"] = Wanted(tenant, has_options=True)
        asked[f"{name}: uncertain (none)"] = Wanted(tenant, paths=(4,), is_uncertain=True)
        asked[f"{name}: two days ago"] = Wanted(
            tenant, after=store.now - 2 * 86_400, before=store.now - 86_400
        )
    index = store.keyring.number_index(LARGE, number)
    asked["large: a number"] = Wanted(LARGE, number_index=index)
    return asked


_READ_ALL = {"Seq Scan", "Bitmap Heap Scan", "Sort", "Hash Join", "Merge Join"}


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for below in plan.get("Plans", ()):
        yield from nodes(below)


def touched(plan: dict[str, Any]) -> int:
    """The rows of tables that the plan read, those that did not match included."""
    rows = 0.0
    for node in nodes(plan):
        if "Relation Name" in node:
            dropped = node.get("Rows Removed by Filter", 0)
            dropped += node.get("Rows Removed by Index Recheck", 0)
            rows += (node["Actual Rows"] + dropped) * node["Actual Loops"]
    return round(rows)


async def test_a_tenant_that_only_looks_small_costs_no_more(filled, stored):
    """What the planner knows of a tenant may be days old: it may believe anything."""
    conn = await database.connect(stored.dsn, statement_timeout_s=60)
    try:
        await conn.execute(
            "DELETE FROM pg_statistic WHERE starelid::regclass::text ~ 'messages|events'"
        )
    finally:
        await database.close(conn)
    for name, wanted in looks(filled).items():
        below = newest_id(wanted, filled.now)
        low = max(below - (8 * DAY_MS << 22), 0)
        plan = await explain(filled, *look_sql(wanted, low, below, COUNT))
        assert touched(plan) <= 5 * COUNT, (name, touched(plan))
    now = id_at(filled.now)
    arguments = [LARGE, oldest_cursor(filled.now), now, 0, now, 100]
    assert touched(await explain(filled, PULL_SQL, arguments)) <= 100 + 2 * DAYS


async def explain(store: Filled, sql: str, arguments: list[Any]) -> dict[str, Any]:
    async with store.reading.pool.acquire() as conn:
        told = await conn.fetchval(f"EXPLAIN (ANALYZE, FORMAT JSON) {sql}", *arguments)
    plan: dict[str, Any] = json.loads(told)[0]["Plan"]
    return plan


@pytest.mark.parametrize("tenant", ["large", "small", "nobody", "all"])
async def test_a_look_touches_no_more_than_it_looks_at(filled, tenant):
    for name, wanted in looks(filled).items():
        if not name.startswith(tenant):
            continue
        below = newest_id(wanted, filled.now)
        for days in (2, 8):
            low = max(below - (days * DAY_MS << 22), 0)
            plan = await explain(filled, *look_sql(wanted, low, below, COUNT))
            # A message, its newest rows on the way to the one that counts, its rows with a channel.
            assert touched(plan) <= 5 * COUNT, (name, days, touched(plan))
            relations = [
                node.get("Relation Name", "")
                for node in nodes(plan)
                if node["Node Type"] in _READ_ALL
            ]
            assert not [one for one in relations if one.startswith(("messages_", "events_"))], name


async def walk(store: Filled, wanted: Wanted, count: int = COUNT) -> int:
    """How many messages a walk through the whole list looks at."""
    below, days, examined = newest_id(wanted, store.now), 2, 0
    while below:
        look = await store.reading.lists.look(wanted, below, count, days)
        examined += look.examined
        if look.below and look.examined < count:
            days *= 2
        below = look.below
    return examined


async def test_a_walk_sees_every_message_of_its_tenant_once(filled):
    total = sum(day.count for day in filled.days)
    assert await walk(filled, Wanted(LARGE), 4000) == total * 9 // 10
    assert 0 < await walk(filled, Wanted(SMALL)) <= DAYS * 8
    assert await walk(filled, Wanted(NOBODY)) == 0
    assert await walk(filled, Wanted(None), 4000) == total


@pytest.mark.parametrize("tenant", [LARGE, SMALL, NOBODY])
async def test_the_pull_reads_what_it_serves(filled, tenant):
    now = id_at(filled.now)
    for cursor in (oldest_cursor(filled.now), id_at(filled.now - 3600), id_at(filled.now - 9)):
        arguments = [tenant, cursor, now, cursor - (45 * DAY_MS << 22), now, 100]
        plan = await explain(filled, PULL_SQL, arguments)
        assert touched(plan) <= 100 + 2 * DAYS, (cursor, plan)
        assert not {node["Node Type"] for node in nodes(plan)} & _READ_ALL


async def test_usage_reads_cells_and_no_messages(filled):
    day = day_number(filled.now)
    plan = await explain(filled, READ_SQL, [LARGE, day - 30, day, None, 1000])
    assert touched(plan) <= 200
    relations = {node["Relation Name"] for node in nodes(plan) if "Relation Name" in node}
    assert relations <= {"usage_days", "usage_deltas"}
    rows = await filled.reading.usage.read(
        LARGE,
        *(filled_day(filled, back) for back in (DAYS, 0)),
        after=None,
        limit=1000,
    )
    assert sum(row.messages for row in rows) == sum(d.count for d in filled.days) * 9 // 10
    assert {row.status for row in rows} == {"delivered"}


def filled_day(store: Filled, back: int) -> Any:
    return date_of_number(day_number(store.now) - back)


@pytest.mark.load
async def test_ten_million(postgres_server: Server, tmp_path: Path) -> None:
    """By hand: loads ten million messages (12 GB, some ten minutes) and prints latencies; every
    look and page within the two seconds that a statement may take, usage within one.
    """
    began = time.monotonic()
    store = await Filled.open(await Stored.make(postgres_server, "ten", tmp_path, MANY))
    print(f"\nloaded in {time.monotonic() - began:.0f} s")
    try:
        for (name, wanted), count in itertools.product(looks(store).items(), (COUNT, 4000)):
            below = newest_id(wanted, store.now)
            took: list[float] = []
            for _ in range(11):
                start = time.perf_counter()
                look = await store.reading.lists.look(wanted, below, count, 2)
                took.append(1000 * (time.perf_counter() - start))
            _tell(f"look at {count}, {name} ({len(look.ids)} match)", took)
        for tenant in (LARGE, SMALL, NOBODY):
            for back_s in (6 * 86_400, 60):
                took = []
                for _ in range(11):
                    start = time.perf_counter()
                    cursor = id_at(store.now - back_s)
                    arguments = (tenant, cursor, id_at(store.now), 0, id_at(store.now), 100)
                    rows = await store.reading.pool.fetch(PULL_SQL, *arguments)
                    took.append(1000 * (time.perf_counter() - start))
                _tell(f"pull, tenant {tenant}, {back_s} s back ({len(rows)} events)", took)
        took = []
        for _ in range(11):
            start = time.perf_counter()
            first, last = filled_day(store, 30), filled_day(store, 0)
            cells = await store.reading.usage.read(LARGE, first, last, after=None, limit=1000)
            took.append(1000 * (time.perf_counter() - start))
        _tell(f"usage of a month ({len(cells)} cells)", took)
    finally:
        store.reading.pool.terminate()
        await postgres_server.admin("DROP DATABASE reads_ten WITH (FORCE)")


def _tell(what: str, took: list[float]) -> None:
    assert max(took) < 1000, what
    print(f"{what:60} first {took[0]:8.1f}  median {statistics.median(took[1:]):8.1f} ms")
