"""One setting of a comparison: a database of its own in a shared server, a gateway on it.

server (PostgreSQL) ─┬─ database a ◀─ gateway a      both run all the time; what is measured
                     └─ database b ◀─ gateway b      goes back and forth between them
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Final

import aiohttp

from loadtest.bench import Bench
from loadtest.fill import Day, Plan, as_line, carrier_id_of, channel_of, id_of
from loadtest.many import Crowd, channels, tenants
from loadtest.measure import Group, usage
from loadtest.progress import Bar
from loadtest.stock_gateway import NotStock, StockGateway, environment, running
from sms.ids import to_text
from store import database, partitions
from store.audit import Author
from store.config import ConfigStore
from store.database import Pool
from store.objects import Upsert
from store.read import Reader
from store.seal import Keyring, read_master_key
from webhooks.sign import parse_secret

LOADERS: Final = 2  # processes that fill a database
PROCESS: Final = 0  # the number of a gateway's first worker; what is old was its own
LONG_S: Final = 1800.0  # a VACUUM of a full day

Ask = Callable[[int], Awaitable[object]]


class Place:
    """A running setting; made by `open_place`."""

    def __init__(self, name: str, dsn: str, gateway: StockGateway, bench: Bench) -> None:
        self.name = name
        self.dsn = dsn
        self.gateway = gateway
        self.bench = bench
        self.key_file = gateway.data_dir / "master.key"
        self.keyring = Keyring(read_master_key(self.key_file))
        self.old_day = Day(0, 1)  # the day of the receipts that come late
        self.tenant = 0
        self.pool: Pool
        self.reader: Reader
        self.http: aiohttp.ClientSession

    async def connect(self) -> None:
        """Open what the reads need."""
        self.pool = await database.open_pool(self.dsn, size=1, statement_timeout_s=60.0)
        self.reader = Reader(self.pool, self.keyring)
        headers = {"Authorization": f"Bearer {self.gateway.api_key}"}
        host, port = self.gateway.address
        self.http = aiohttp.ClientSession(f"http://{host}:{port}", headers=headers, trust_env=False)
        self.tenant = await self.pool.fetchval(
            "SELECT id FROM objects WHERE kind = 'tenant' AND name = 'sandbox'"
        )

    async def close(self) -> None:
        """Close it again."""
        await self.http.close()
        await self.pool.close()

    # -- filling ---------------------------------------------------------------------------

    async def make_days(self, days: Sequence[Day], now: float) -> None:
        """Partitions and keys of past days, as the gateway would have made them then."""
        oldest = min(day.day for day in days)
        conn = await database.connect(self.dsn, statement_timeout_s=60.0)
        try:
            then = now - 86_400.0 * (partitions.today(now) - oldest)
            ahead = partitions.today(now) - oldest
            await partitions.ensure(conn, self.keyring, days_ahead=ahead, now=then)
        finally:
            await database.close(conn)

    async def fill(self, days: Sequence[Day], bar: Bar) -> None:
        """Load the days, in parallel; raises NotStock when a loader fails."""
        total = sum(day.count for day in days)
        shares: list[list[Day]] = [[] for _ in range(LOADERS)]
        for day in sorted(days, key=lambda day: -day.count):
            min(shares, key=lambda share: sum(d.count for d in share)).append(day)
        bar.step(f"loading {total:,} old messages", total)
        done = 0

        def tell(count: int) -> None:
            nonlocal done
            done += count
            bar.tell(done, f"{done:,}")

        async with asyncio.TaskGroup() as group:
            for share in shares:
                if share:
                    plan = Plan(
                        self.dsn,
                        str(self.key_file),
                        self.tenant,
                        PROCESS,
                        sorted(share, key=lambda day: day.day),
                    )
                    group.create_task(self._run_loader(plan, tell))

    async def _run_loader(self, plan: Plan, tell: Callable[[int], None]) -> None:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "loadtest.fill"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=environment(self.gateway.data_dir),
        )
        assert process.stdin is not None  # noqa: S101 - asked for above
        assert process.stdout is not None  # noqa: S101 - asked for above
        try:
            process.stdin.write(as_line(plan))
            async for line in process.stdout:
                told = json.loads(line)
                if told["event"] == "progress":
                    tell(told["messages"])
            if await process.wait():
                raise NotStock("a loader failed; what it said stands above")
        finally:
            if process.returncode is None:
                process.kill()

    async def tidy(self) -> int:
        """What autovacuum would have done by now; returns the database's size in bytes."""
        conn = await database.connect(self.dsn, statement_timeout_s=LONG_S)
        try:
            await conn.execute("VACUUM (FREEZE, ANALYZE) messages")
            await conn.execute("VACUUM (FREEZE, ANALYZE) events")
            await conn.execute("CHECKPOINT")
            return int(await conn.fetchval("SELECT pg_database_size(current_database())"))
        finally:
            await database.close(conn)

    # -- many tenants and channels ---------------------------------------------------------

    async def crowd(self, count: int, channel_count: int, port: int) -> list[str]:
        """Configure so many more tenants and channels; returns the tenants' keys."""
        secret = (self.gateway.data_dir / "sandbox" / "webhook.secret").read_text("utf-8")
        wanted = Crowd(
            count, channel_count, port, self.gateway.sink_url, parse_secret(secret.strip())
        )
        upserts: list[Upsert] = list(channels(wanted))
        keys = []
        for key, objects in tenants(wanted, self.keyring.pepper):
            keys.append(key)
            upserts += objects
        await self.in_force(await self.apply(upserts))
        await self.gateway.wait_ready()
        return keys

    async def in_force(self, version: int) -> None:
        """Wait until the workers go by that version; raises NotStock when they do not."""
        for _ in range(600):
            if (await self.gateway.metrics()).get("config_version", 0) >= version:
                return
            await asyncio.sleep(0.1)
        raise NotStock(f"{self.name}: version {version} was not taken up within 60 s")

    async def apply(self, upserts: Sequence[Upsert]) -> int:
        """Write objects of the configuration; returns its version."""
        pool = await database.open_pool(self.dsn, size=1, statement_timeout_s=60.0)
        try:
            return await ConfigStore(pool, self.keyring).apply(upserts, Author("command", "growth"))
        finally:
            await pool.close()

    async def touch(self) -> int:
        """A change of configuration that changes nothing of the traffic."""
        spec = {
            "signatures": [f"变更{time.time_ns() % 1000}"],
            "countries": [86],
            "segments_per_second": 10,
            "burst_segments": 20,
        }
        return await self.apply([Upsert("tenant", "touched", spec, {})])

    # -- idle ------------------------------------------------------------------------------

    async def idle_ms_per_s(self, seconds: float) -> float:
        """CPU of worker and supervisor with nothing to do, milliseconds a second."""
        before, began = usage(self.gateway.pid), time.monotonic()
        await asyncio.sleep(seconds)
        after, took = usage(self.gateway.pid), time.monotonic() - began
        ours: tuple[Group, ...] = ("worker", "supervisor")
        used = sum(after.cpu_s[group] - before.cpu_s[group] for group in ours)
        return 1000 * used / took

    async def scrape(self) -> None:
        """One look at the metrics."""
        await self.gateway.scrape()

    # -- reads: each takes the number of the try -------------------------------------------

    async def new_ids(self, limit: int) -> list[int]:
        """Ids of the newest messages of the sandbox's tenant."""
        rows = await self.pool.fetch(
            "SELECT id FROM messages WHERE tenant = $1 AND id > $2 ORDER BY id DESC LIMIT $3",
            self.tenant,
            partitions.day_range(partitions.today(time.time()))[0],
            limit,
        )
        return [row["id"] for row in rows]

    def old_number(self, dice: random.Random) -> int:
        """A message of the old day that belongs to the sandbox's tenant."""
        number = dice.randrange(self.old_day.count)
        return number if number % 10 else number + 1

    async def reads(self) -> dict[str, Ask]:
        """What is asked of the store, by name."""
        dice = random.Random(7)
        fresh = await self.new_ids(2000)
        day, reader, now = self.old_day, self.reader, time.time()

        def old_id() -> int:
            return id_of(day, self.old_number(dice), PROCESS)

        def pairs(count: int) -> list[tuple[int, str]]:
            numbers = [self.old_number(dice) for _ in range(count)]
            return [(channel_of(number), carrier_id_of(day, number)) for number in numbers]

        async def get(message_id: int) -> None:
            async with self.http.get(f"/v1/messages/{to_text('msg', message_id)}") as answer:
                if answer.status != 200:
                    raise NotStock(f"{self.name}: GET answered {answer.status}")
                await answer.read()

        async def receipts(count: int) -> None:
            wanted = pairs(count)
            found = await reader.by_carrier_ids(wanted, now=now)
            if len(found) != len(set(wanted)):
                raise NotStock(f"{self.name}: {len(found)} of {count} old receipts found")

        async def nobody(turn: int) -> None:
            await reader.by_carrier_ids([(1, f"nobody{turn:06d}")], now=now)

        return {
            "GET message, new": lambda turn: get(fresh[turn % len(fresh)]),
            "GET message, 3 days old": lambda _: get(old_id()),
            "store: message, 3 days old": lambda _: reader.message(old_id()),
            "store: 100 messages, 3 days old": lambda _: reader.messages(
                [old_id() for _ in range(100)]
            ),
            "store: receipt, 3 days old": lambda _: receipts(1),
            "store: 100 receipts, 3 days old": lambda _: receipts(100),
            "store: receipt of nobody": nobody,
        }


async def interleave(places: Sequence[Place], tries: int, bar: Bar) -> dict[str, list[list[float]]]:
    """Milliseconds of every read at every place, taken in turns so that noise hits all alike."""
    asks = [await place.reads() for place in places]
    found: dict[str, list[list[float]]] = {}
    for name in asks[0]:
        found[name] = [[] for _ in places]
        bar.step(name, tries)
        for turn in range(-5, tries):  # the first ones warm connections and caches
            for times, ask in zip(found[name], asks, strict=True):
                began = time.perf_counter()
                await ask[name](turn)
                if turn >= 0:
                    times.append(1000 * (time.perf_counter() - began))
            bar.tell(turn, "")
    return found


@contextlib.asynccontextmanager
async def open_place(  # noqa: PLR0913 - what it is put together from
    name: str,
    directory: Path,
    dsn: str,
    server_pid: int,
    bar: Bar,
    *,
    options: Sequence[str] = (),
    settings: Mapping[str, str] = MappingProxyType({}),
) -> AsyncIterator[Place]:
    """A gateway on a database and in a folder that exist and are empty; raises NotStock.

    `options` of `smsgw up` and `settings` (variables) beyond the stock ones.
    """
    bar.step(f"starting the gateway: {name}")
    own = {**settings, "SMSGW_DATABASE_URL": dsn}
    async with running(directory, options=options, settings=own) as gateway:
        place = Place(name, dsn, gateway, Bench(gateway, bar, more_roots=(server_pid,)))
        await place.connect()
        try:
            yield place
        finally:
            await place.close()
