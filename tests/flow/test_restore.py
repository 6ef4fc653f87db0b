"""Backup and restore, rehearsed: under load, with the tools that docs/operations.md names.

    base backup while texts flow ─▶ they flow on for seconds ─▶ everything killed, the disk gone
        all of the WAL is there     ─▶ every message that got a 202 is there
        only the backup is left     ─▶ `smsgw restored`: what it calls unsent is not sent again

The WAL is streamed to another place and commits wait for it (`synchronous_standby_names`), which
is what "nothing accepted is lost" needs when a disk dies.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import pytest

from store.binaries import find_postgres
from store.embedded import run_directory
from tests.support.gateway_process import GatewayProcess, eventually

pytestmark = pytest.mark.flow

PREFIXES = ("139", "186", "189", "192")  # a quarter over each protocol
CLASSES = ("otp", "transactional", "marketing")
PER_S = 120
ABROAD = ("global-a", "vendor-a")
WAITING = 30
AFTER_S = 3.0  # texts flow on for so long after the backup's end
STREAM = "keeper"
Json = dict[str, Any]


@dataclass
class Sent:
    """One text, when it was asked for, and the id of its 202."""

    number: str
    at: float  # Unix
    id: str = ""


@dataclass
class Story:
    """What was done, and what was seen of it; mutable while it goes on."""

    gateway: GatewayProcess
    backup: Path
    wal: Path
    sent: list[Sent] = field(default_factory=list)
    began: float = 0.0  # Unix; of the backup
    ended: float = 0.0
    waiting: dict[str, str] = field(default_factory=dict)  # id: number; they leave after it
    scheduled: str = ""  # id; due long after all of this

    @property
    def accepted(self) -> list[Sent]:
        return [one for one in self.sent if one.id]


def tool(name: str) -> str:
    return str(find_postgres().bin_dir / name)


async def load(story: Story, stop: asyncio.Event) -> None:
    """Single sends at a steady rate, each to a number of its own."""
    headers = {"Authorization": f"Bearer {story.gateway.sandbox['api_key']}"}
    tasks: set[asyncio.Task[None]] = set()

    async def send(client: aiohttp.ClientSession, n: int) -> None:
        one = Sent(f"86{PREFIXES[n % 4]}{n:08d}", time.time())
        story.sent.append(one)
        body = {"to": f"+{one.number}", "text": f"第{n}号", "class": CLASSES[n % 3]}
        with contextlib.suppress(aiohttp.ClientError, TimeoutError):
            async with client.post("/v1/messages", json=body) as answer:
                if answer.status == 202:
                    one.id = (await answer.json())["id"]

    async with aiohttp.ClientSession(story.gateway.url, headers=headers) as client:
        began, n = time.monotonic(), 0
        while not stop.is_set():
            while n < (time.monotonic() - began) * PER_S:
                n += 1
                tasks.add(asyncio.create_task(send(client, n)))
            await asyncio.sleep(0.02)
        await asyncio.wait(tasks)


def hold_back(story: Story) -> None:
    """What waits at the moment of the backup and leaves after it: no channel leads abroad now."""
    gateway = story.gateway
    late = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 86_400))
    story.scheduled = gateway.accept(to="+8613977770002", text="明天", send_at=late)
    for name in ABROAD:
        gateway.carriers[name].behave(link="down")
    others = len(gateway.carriers) - len(ABROAD)
    eventually(lambda: gateway.metric("channel_state", state="up") == others, "two links are down")
    for n in range(WAITING):
        number = f"1212555{n:04d}"
        story.waiting[gateway.accept(to=f"+{number}", text="later")] = number
    gateway.carriers["unicom-a"].behave(latency_ms=1500)  # many are in its windows


def let_go(story: Story) -> None:
    """They leave; all that the restored database does not know of."""
    gateway = story.gateway
    gateway.carriers["unicom-a"].behave(latency_ms=5)
    for name in ABROAD:
        gateway.carriers[name].behave(link="up")
    for message_id in story.waiting:
        gateway.wait_for_status(message_id, "delivered")


async def commits_wait(dsn: str) -> None:
    """Streamed WAL is asked for before a commit is answered."""
    conn = await asyncpg.connect(dsn)
    await conn.execute(f"ALTER SYSTEM SET synchronous_standby_names = '{STREAM}'")
    await conn.execute("SELECT pg_reload_conf()")
    sql = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'"
    for _ in range(600):
        if await conn.fetchval(sql):
            break
        await asyncio.sleep(0.05)
    else:
        raise AssertionError("nobody takes the WAL")
    await conn.close()


async def happen(story: Story) -> None:
    """Load, a backup in the middle of it, and the end of everything."""
    gateway = story.gateway
    where = ["-h", str(run_directory(gateway.data_dir)), "-U", "smsgw"]
    story.wal.mkdir()
    slot = ("--slot", STREAM)  # nothing is removed that was not streamed
    made = await asyncio.create_subprocess_exec(
        tool("pg_receivewal"), *where, "--create-slot", *slot, "--if-not-exists"
    )
    assert await made.wait() == 0
    stream = await asyncio.create_subprocess_exec(
        *(tool("pg_receivewal"), *where, "-d", f"application_name={STREAM}"),
        *("-D", str(story.wal), "--synchronous", "--no-loop", *slot),
        stderr=subprocess.DEVNULL,
    )
    try:
        await commits_wait(gateway.dsn)
        stop = asyncio.Event()
        sending = asyncio.create_task(load(story, stop))
        await asyncio.sleep(1.5)
        await asyncio.to_thread(hold_back, story)
        story.began = time.time()
        copying = await asyncio.create_subprocess_exec(
            tool("pg_basebackup"), *where, "-D", str(story.backup), "-c", "fast", "-X", "stream"
        )
        assert await copying.wait() == 0
        story.ended = time.time()
        await asyncio.gather(asyncio.to_thread(let_go, story), asyncio.sleep(AFTER_S))
        stop.set()
        await sending
        await asyncio.sleep(1.0)
        for pid in gateway.family("supervisor"):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, 9)
        assert gateway.process is not None
        gateway.process.wait()
        gateway.process = None
    finally:
        stream.terminate()
        await stream.wait()


@pytest.fixture(scope="module")
def story() -> Iterator[Story]:
    with GatewayProcess() as gateway:
        one = Story(gateway, gateway.folder / "backup", gateway.folder / "wal")
        asyncio.run(happen(one))
        yield one


def ids_in(path: Path, gateway: GatewayProcess) -> set[str]:
    """The messages of the sandbox's tenant, as `smsgw export` finds them in a data directory."""
    done = gateway.command("export", "sandbox", "--days", "2", SMSGW_DATA_DIR=str(path))
    assert done.returncode == 0, done.stderr
    return {line.partition(",")[0] for line in done.stdout.splitlines()[1:]}


def put_back(story: Story, data_dir: Path) -> None:
    shutil.rmtree(data_dir / "postgres", ignore_errors=True)
    shutil.copytree(story.backup, data_dir / "postgres")


# In this order: the second one puts the backup where the gateway was, and goes on with it.


def test_with_the_whole_wal_every_accepted_message_is_there(story: Story) -> None:
    """Base backup and streamed WAL: all that ever got a 202, up to the kill. Its key too."""
    new = story.gateway.folder / "new"
    new.mkdir(mode=0o700)
    put_back(story, new)
    with (new / "postgres" / "postgresql.auto.conf").open("a") as file:
        copy = f"cp {story.wal}/%f %p || cp {story.wal}/%f.partial %p"
        file.write(f"restore_command = '{copy}'\nsynchronous_standby_names = ''\n")
    (new / "postgres" / "recovery.signal").touch()

    refused = story.gateway.command("export", "sandbox", SMSGW_DATA_DIR=str(new))
    assert refused.returncode == 2
    assert "master.key" in refused.stderr

    shutil.copy(story.gateway.data_dir / "master.key", new / "master.key")
    found = ids_in(new, story.gateway)
    assert len(story.accepted) > PER_S * AFTER_S / 2
    assert {one.id for one in story.accepted} - found == set()


def test_an_older_database_is_refused_and_then_sends_nothing_twice(story: Story) -> None:
    """The backup alone, seconds old: what it calls unsent left meanwhile."""
    gateway = story.gateway
    put_back(story, gateway.data_dir)
    auto = gateway.data_dir / "postgres" / "postgresql.auto.conf"
    auto.write_text("")  # no stream takes the WAL of the restored one yet
    shutil.rmtree(gateway.data_dir / "valkey")

    refused = gateway.command("up", "--sandbox")
    assert refused.returncode == 2, refused.stdout
    assert "run `smsgw restored`" in refused.stdout + refused.stderr + gateway.logs()

    looked = gateway.command("restored", "--dry-run", "--json")
    assert looked.returncode == 0, looked.stderr
    done = gateway.command("restored", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["uncertain"] == json.loads(looked.stdout.splitlines()[-1])["uncertain"]
    assert sum(told["uncertain"].values()) >= WAITING
    assert told["scheduled"] == {"transactional": 1}

    before = submits(gateway)
    gateway.start()
    assert_all_there(story)
    assert_nothing_left_twice(story, before)
    assert gateway.status(story.scheduled)["status"] == "scheduled"
    after = gateway.accept(to="+8613977770003", text="照常")
    gateway.wait_for_status(after, "delivered")


def submits(gateway: GatewayProcess) -> Counter[str]:
    """How often each number stands in the carriers' own records, which outlive them."""
    files = (gateway.data_dir / "carriers").glob("*-a.jsonl")
    rows = [json.loads(line) for path in files for line in path.read_text().splitlines()]
    return Counter(row["to"] for row in rows if row.get("carrier_id"))


def assert_all_there(story: Story) -> None:
    old = [one for one in story.accepted if one.at < story.began - 0.5]
    assert old
    listed = listing(story.gateway)
    assert {one.id for one in old} - listed.keys() == set()
    lost = [one for one in story.accepted if one.at > story.ended]
    assert lost
    assert {one.id for one in lost} & listed.keys() == set()  # that is what the WAL is for


def listing(gateway: GatewayProcess) -> dict[str, Json]:
    found: dict[str, Json] = {}
    path = "/v1/messages?limit=200"
    while path:
        page = gateway.request("GET", path).json()
        found |= {row["id"]: row for row in page["data"]}
        cursor = page.get("next_cursor")
        path = f"/v1/messages?limit=200&cursor={cursor}" if cursor else ""
    return found


def assert_nothing_left_twice(story: Story, before: Counter[str]) -> None:
    gateway = story.gateway
    restored = [row for row in listing(gateway).values() if row["reason"] == "store.restored"]
    assert {row["status"] for row in restored} == {"uncertain"}
    number = {one.id: one.number for one in story.sent} | story.waiting
    assert story.waiting.keys() <= {row["id"] for row in restored}
    assert all(before[to] == 1 for to in story.waiting.values()), "the danger was not there"
    gateway.wait_for_status(gateway.accept(to="+8618677770004", text="后来"), "delivered")
    time.sleep(5.0)  # a second copy by itself would leave 2 s after its answer was lost
    twice = {to: count for to, count in submits(gateway).items() if count > 1}
    marked = {number.get(row["id"]) for row in listing(gateway).values() if row["duplicate_risk"]}
    assert twice.keys() - marked == set()
    assert not any(row["duplicate_risk"] for row in restored)
    order_one(gateway, restored)


def order_one(gateway: GatewayProcess, restored: list[Json]) -> None:
    """An operator may: the copy is marked."""
    one = next(row for row in restored if row["class"] == "transactional")
    key = gateway.sandbox["admin_key"]
    told = gateway.request("POST", f"/v1/messages/{one['id']}:resend", key=key)
    assert told.status_code == 200, told.text

    def is_marked() -> bool:
        return bool(gateway.status(one["id"])["duplicate_risk"])

    eventually(is_marked, "the ordered copy is marked")
