"""Where webhooks are measured: a stock gateway, tenants with endpoints, and a sink of many ports.

    sender ─▶ gateway ─▶ PostgreSQL (keeps commit times) ─▶ committed, by event id ┐
                 └─webhook─▶ loadtest.hooksink ─▶ arrived, by event id ────────────┴─▶ milliseconds

The times are those of one machine's clock. A commit's time is taken before its fsync, so that is
in the figures. Everything is stock but `track_commit_timestamp`.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import psutil

from gateway.api.auth import hash_secret, new_key, new_key_id, parse_key
from loadtest.hooksink import How, read_dump
from loadtest.measure import cpu_between, machine_s, usage
from loadtest.place import Place, open_place
from loadtest.progress import Bar
from loadtest.sender import Plan, Result
from loadtest.stock_gateway import NotStock, environment
from receipts.state import Path as StatePath
from sms.ids import id_at
from store import database
from store.embedded import EmbeddedServers
from store.objects import Upsert
from webhooks.sign import new_secret

NO_LIMIT: Final = 1_000_000
CONNECTIONS: Final = 64
LOOK_S: Final = 0.1
STALL_S: Final = 10.0  # nothing more comes: what is missing is lost
SETTLE_S: Final = 1.0  # for what follows the last event: the list of attempts, the cursor
DATABASE: Final = "hooks"
_COMMITTED: Final = """
SELECT event_id, tenant, extract(epoch FROM pg_xact_commit_timestamp(xmin))::float8 AS at
FROM events WHERE event_id >= $1 AND event_id < $2 AND tenant = ANY ($3::int[]) AND path = $4
"""


@dataclass(frozen=True, slots=True)
class Customer:
    """A tenant with at most one endpoint."""

    name: str
    key: str
    port: int  # of its endpoint, 0 = it has none
    is_batched: bool = False


class HookSink:
    """The sink's process, from outside."""

    def __init__(self, process: asyncio.subprocess.Process, ports: Sequence[int]) -> None:
        self._process = process
        self.ports = ports

    @property
    def cpu_s(self) -> float:
        """What it has used since its start."""
        times = psutil.Process(self._process.pid).cpu_times()
        return float(times.user + times.system)

    async def _ask(self, **told: object) -> dict[str, int]:
        assert self._process.stdin is not None  # noqa: S101 - asked for at the start
        assert self._process.stdout is not None  # noqa: S101 - asked for at the start
        self._process.stdin.write(json.dumps(told).encode() + b"\n")
        line = await self._process.stdout.readline()
        if not line:
            raise NotStock("the sink ended")
        found: dict[str, int] = json.loads(line)
        return found

    async def behave(self, ports: Sequence[int], how: How) -> None:
        """How these endpoints answer from now on."""
        await self._ask(do="behave", ports=list(ports), how=how)

    async def count(self) -> int:
        """Events since the last dump."""
        return (await self._ask(do="count"))["events"]

    async def take(self, file: Path) -> list[tuple[int, float, int]]:
        """(event id, Unix time, port) since the last call."""
        await self._ask(do="dump", file=str(file))
        return read_dump(file)


@contextlib.asynccontextmanager
async def hook_sink(
    folder: Path, endpoints: int, certificate: Path | None = None
) -> AsyncIterator[tuple[HookSink, bytes]]:
    """A running sink and the key that its endpoints' secrets hold."""
    text, key = new_secret()
    secret_file = folder / "hooks.secret"
    secret_file.write_text(text, "ascii")
    args = ["--endpoints", str(endpoints), "--secret-file", str(secret_file)]
    if certificate is not None:
        args += ["--certificate", str(certificate)]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "loadtest.hooksink", *args),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env=environment(folder),
        limit=1 << 20,
    )
    try:
        assert process.stdout is not None  # noqa: S101 - asked for above
        line = await process.stdout.readline()
        if not line:
            raise NotStock("the sink did not start")
        yield HookSink(process, json.loads(line)["ports"]), key
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@dataclass(frozen=True, slots=True)
class Arrival:
    """One event that was committed: by whom, when, and when it was at the sink."""

    tenant: str
    committed: float  # Unix seconds
    arrived: float | None

    @property
    def ms(self) -> float | None:
        """From commit to sink."""
        return None if self.arrived is None else 1000 * (self.arrived - self.committed)


@dataclass(slots=True)
class Seen:
    """One load and what became of it."""

    result: Result
    arrivals: list[Arrival] = field(default_factory=list)
    repeats: int = 0  # events that came again
    cpu_s: dict[str, float] = field(default_factory=dict)
    others_share: float = 0.0


class HookPlace:
    """The whole setting; made by `open_hooks`."""

    def __init__(self, place: Place, sink: HookSink, key: bytes, pid: int, scheme: str) -> None:
        self.place = place
        self.sink = sink
        self._roots = (place.gateway.pid, pid)
        self._scheme = scheme
        self._key = key
        self._next = 0  # index of the next message
        self._ids: dict[str, int] = {}  # of tenants

    def customer(self, name: str, port: int, *, is_batched: bool = False) -> Customer:
        """One that is not configured yet."""
        text, _ = new_key(self.place.keyring.pepper, new_key_id())
        return Customer(name, text, port, is_batched)

    async def configure(self, customers: Sequence[Customer]) -> None:
        """Put these in force."""
        await self._apply([upsert for one in customers for upsert in self._objects(one)])
        rows = await self.place.pool.fetch("SELECT id, name FROM objects WHERE kind = 'tenant'")
        self._ids = {row["name"]: row["id"] for row in rows}

    async def silence(self, customers: Sequence[Customer]) -> None:
        """Disable their endpoints, and let go what waits for them."""
        await self.sink.behave([one.port for one in customers], "well")
        await self._apply([self._endpoint(one, "request") for one in customers])

    async def _apply(self, upserts: Sequence[Upsert]) -> None:
        await self.place.in_force(await self.place.apply(upserts))

    def _objects(self, one: Customer) -> Iterator[Upsert]:
        pepper = self.place.keyring.pepper
        key = parse_key(one.key.encode())
        if key is None:
            raise RuntimeError("a new key does not parse")
        tenant = {
            "signatures": [one.name],
            "countries": [86, 1],
            "segments_per_second": NO_LIMIT,
            "burst_segments": NO_LIMIT,
            "otp_caps": {"prefix_burst": 0},  # numbers follow one another
        }
        api_key = {"tenant": one.name, "name": "own", "scopes": ["send", "read"], "key_id": key.id}
        yield Upsert("tenant", one.name, tenant, {})
        hashed = {"secret_hash": hash_secret(pepper, key.secret).hex()}
        yield Upsert("api_key", f"{one.name}/own", api_key, hashed)
        if one.port:
            yield self._endpoint(one)

    def _endpoint(self, one: Customer, disabled: str | None = None) -> Upsert:
        url = f"{self._scheme}://127.0.0.1:{one.port}/hooks"
        spec: dict[str, Any] = {
            "tenant": one.name,
            "url": url,
            "events": ["message.delivered"],
            "batch": one.is_batched,
            "full_number": False,
        }
        if disabled is not None:
            spec["disabled"] = disabled
        secrets = {"secrets": [base64.b64encode(self._key).decode()]}
        return Upsert("webhook_endpoint", f"{one.name} {url}", spec, secrets)

    # -- one load --------------------------------------------------------------------------

    async def load(
        self,
        turns: Sequence[Customer],
        rate: float,
        seconds: float,
        awaited: Sequence[Customer] | None = None,
    ) -> Seen:
        """Single messages at that rate, the tenants by turns, until `awaited` have got theirs.

        `awaited` are all that have an endpoint when it is None. Raises NotStock when a message was
        refused.
        """
        if awaited is None:
            awaited = [one for one in dict.fromkeys(turns) if one.port]
        await self.sink.take(self._dump)
        began = time.time()
        before, sink_before, machine_before = usage(*self._roots), self.sink.cpu_s, machine_s()
        first = self._next
        result = await self._send(turns, rate, seconds)
        told = [one in set(awaited) for one in turns]
        indexes = range(first, self._next)
        await self._drained(sum(told[index % len(turns)] for index in indexes))
        await asyncio.sleep(SETTLE_S)
        after = usage(*self._roots)
        cpu_s = {str(group): used for group, used in cpu_between(before, after).items()}
        cpu_s["sink"] = self.sink.cpu_s - sink_before
        cpu_s["client"] = result.cpu_s
        busy, every = (now - then for then, now in zip(machine_before, machine_s(), strict=True))
        seen = Seen(result, cpu_s=cpu_s)
        seen.others_share = max(0.0, busy - sum(cpu_s.values())) / every
        await self._join(seen, awaited, began)
        return seen

    @property
    def _dump(self) -> Path:
        return self.place.gateway.data_dir / "hooks.notes"

    async def _send(self, turns: Sequence[Customer], rate: float, seconds: float) -> Result:
        folder = self.place.gateway.data_dir
        keys = folder / "hooks.keys"
        keys.write_text("\n".join(one.key for one in turns), "ascii")
        host, port = self.place.gateway.address
        plan = Plan(
            host=host,
            port=port,
            api_key="",
            connections=CONNECTIONS,
            batch=1,
            seconds=seconds,
            messages=0,
            first=self._next,
            sent_file=str(folder / "hooks.sent"),
            keys_file=str(keys),
            rate=rate,
        )
        result = await self.place.bench.run_plan(plan)
        self._next += result.used
        if result.refused or result.unknown:
            raise NotStock(f"messages were refused: {result.first_refusal or 'no answer'}")
        return result

    async def _drained(self, wanted: int) -> None:
        """Until so many have arrived, or nothing more comes; what is missing is told later."""
        changed, last = time.monotonic(), -1
        while (count := await self.sink.count()) < wanted:
            if count != last:
                changed, last = time.monotonic(), count
            elif time.monotonic() - changed > STALL_S:
                return
            await asyncio.sleep(LOOK_S)

    async def _join(self, seen: Seen, awaited: Sequence[Customer], began: float) -> None:
        """Every commit of these tenants' finals beside its arrival."""
        names = {self._ids[one.name]: one.name for one in awaited}
        rows = await self.place.pool.fetch(
            *(_COMMITTED, id_at(began - 1), id_at(time.time() + 60)),
            *(list(names), int(StatePath.DELIVERED)),
        )
        arrived: dict[int, float] = {}
        ports = {one.port for one in awaited}
        for event_id, at, port in await self.sink.take(self._dump):
            if port in ports:
                seen.repeats += event_id in arrived
                arrived.setdefault(event_id, at)
        seen.arrivals = [
            Arrival(names[row["tenant"]], row["at"], arrived.get(row["event_id"]))
            for row in rows
            if row["at"] >= began
        ]


@contextlib.contextmanager
def commit_times(directory: Path) -> Iterator[tuple[EmbeddedServers, str]]:
    """PostgreSQL that keeps the time of every commit, and its URL, with an empty database."""
    servers = EmbeddedServers(directory / "server", wanted=("postgres",))
    url = servers.start().database_url
    try:
        asyncio.run(_prepare(url))
        servers.stop(is_fast=True)
        servers = EmbeddedServers(directory / "server", wanted=("postgres",))
        url = servers.start().database_url
        yield servers, url.replace("/postgres?", f"/{DATABASE}?", 1)
    finally:
        servers.stop(is_fast=True)


async def _prepare(url: str) -> None:
    conn = await database.connect(url, statement_timeout_s=60.0)
    try:
        await conn.execute("ALTER SYSTEM SET track_commit_timestamp = on")
        await conn.execute(f"CREATE DATABASE {DATABASE}")
    finally:
        await database.close(conn)


@contextlib.asynccontextmanager
async def open_hooks(
    directory: Path,
    servers: EmbeddedServers,
    dsn: str,
    endpoints: int,
    bar: Bar,
    certificate: Path | None = None,
) -> AsyncIterator[HookPlace]:
    """A gateway and a sink with so many endpoints; raises NotStock.

    With a certificate for 127.0.0.1 the endpoints speak TLS, and the gateway trusts it.
    """
    folder = directory / "gateway"
    folder.mkdir(mode=0o700)
    async with hook_sink(directory, endpoints, certificate) as (sink, key):
        scheme, settings = "http", {}
        if certificate is not None:
            scheme = "https"
            origins = ",".join(f"https://127.0.0.1:{port}" for port in sink.ports)
            settings = {"SSL_CERT_FILE": str(certificate), "SMSGW_WEBHOOK_ALLOW": origins}
        pid = servers.pids()["postgres"]
        async with open_place("hooks", folder, dsn, pid, bar, settings=settings) as place:
            yield HookPlace(place, sink, key, pid, scheme)
