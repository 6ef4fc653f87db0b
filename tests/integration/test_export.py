"""`smsgw export` over a real store: order, pages, masks, the audit row; the doctor asks it too."""

import asyncio
import base64
import csv
import io
import json
import time

import pytest

from gateway import doctor, export
from gateway.export import Order
from gateway.settings import Settings
from gateway.terminal import Terminal
from receipts.state import Path
from sms.errors import ConfigError, StoreUnavailable
from sms.ids import IdClock, to_text
from sms.model import State
from store.audit import AuditLog
from store.database import acquire
from store.export import Export, Span
from tests.support.postgres import MASTER, text

pytestmark = pytest.mark.integration

NUMBER, MASKED = "8613800138000", "86138****8000"
DAY = 86_400


@pytest.fixture
async def stored(world):
    """Messages of two days of the tenant `shop`, some of another; the oldest first."""
    async with world.pool.acquire() as conn:
        await conn.executemany(
            "INSERT INTO objects (kind, id, name, version, spec, deleted_at)"
            " VALUES ($1, $2, $3, 1, '{}', $4)",
            [("tenant", 1, "shop", None), ("channel", 1, "mobile-a", None)],
        )
        await conn.execute("UPDATE objects SET deleted_at = now() WHERE kind = 'channel'")
    now, clock = time.time(), world.ids
    world.ids = IdClock(world.lease.process, 0, lambda: time.time() - DAY)
    acceptor = await world.acceptor()
    old = [text(created_at=now - DAY, client_ref=f"old {n}") for n in range(4)]
    await acceptor.accept(old)
    await acceptor.stop()
    world.ids = clock
    acceptor = await world.acceptor()
    new = [text(client_ref=f"=new {n}") for n in range(15)]
    for message in (*new, *(text(tenant=2) for _ in range(5))):
        await acceptor.accept([message])
    lane = await world.event_lane()
    lane.add([world.event(one.id) for one in new[:3]], urgent=True)
    ended = world.event(new[0].id, 3, path=Path.DELIVERED, status=State.DELIVERED, carrier_id=None)
    lane.add([ended], urgent=True)
    assert await lane.drain(10)
    return [*old, *new]


@pytest.fixture
def settings(world, tmp_path):
    key = tmp_path / "key"
    key.write_bytes(base64.b64encode(MASTER))
    key.chmod(0o600)
    return Settings.load(
        {}, data_dir=tmp_path, master_key_file=key, database_url=world.dsn, redis_url="redis://x"
    )


@pytest.fixture
def run(settings, tmp_path, monkeypatch):
    """Runs the command beside this loop: exit code, what it said, what it wrote."""
    monkeypatch.setattr(export, "PAGE", 7)
    monkeypatch.setattr("os.nice", lambda _: 0)  # it is the tests' process

    async def run(**words):
        path, said = tmp_path / "log.csv", io.StringIO()
        order = Order(**{"tenant": "shop", "output": path, "rate": 0, **words})
        terminal = Terminal(is_json=True, stream=said)
        code = await asyncio.to_thread(export.run, settings, order, terminal)
        told = json.loads(said.getvalue().splitlines()[-1])
        return code, told, path.read_bytes().decode()

    return run


async def test_a_log_is_whole_in_order_masked_unless_the_audit_log_says_why(world, stored, run):
    code, told, written = await run()
    assert (code, told["rows"], told["unreadable"], told["unmasked"]) == (0, 19, 0, False)
    rows = list(csv.DictReader(io.StringIO(written, newline="")))
    assert [row["id"] for row in rows] == [to_text("msg", one.id) for one in stored]
    assert {row["to"] for row in rows} == {MASKED}
    assert {row["tenant"] for row in rows} == {"shop"}
    assert [row["client_ref"] for row in rows[3:5]] == ["old 3", "'=new 0"]
    assert [row["status"] for row in rows[3:8]] == [
        "accepted",
        "delivered",
        "submitted",
        "submitted",
        "accepted",
    ]
    assert [row["channel"] for row in rows[3:6]] == ["", "mobile-a", "mobile-a"]
    assert [bool(row["ended_at"]) for row in rows[3:6]] == [False, True, False]
    assert "商城" not in written  # never the text

    _, told, written = await run(days=1, until="2030-01-01", is_json=True)
    assert told["rows"] == len(written.splitlines()) == 15
    assert json.loads(written.splitlines()[0])["to"] == f"+{MASKED}"
    with pytest.raises(ConfigError, match="no tenant"):
        await run(tenant="nobody", unmask="the regulator's letter 7")
    log = AuditLog(world.pool, world.keyring.audit_key)
    assert await log.page(10) == []  # so far nobody was shown anything

    _, told, written = await run(unmask="the regulator's letter 7", tenant=to_text("ten", 1))
    assert told["unmasked"]
    assert written.count(NUMBER) == len(stored)
    [row] = await log.page(10)
    entry = json.loads(row.body)
    assert entry["action"] == "tenant.exported_unmasked"
    assert entry["object"] == {"kind": "tenant", "id": to_text("ten", 1), "name": "shop"}
    assert entry["actor"]["name"] == "smsgw export"
    assert entry["after"]["export"]["reason"] == "the regulator's letter 7"
    assert (await log.verify()).broken_at is None


async def test_it_reads_pages_cannot_write_and_counts_what_no_key_opens(
    world, stored, run, settings
):
    source = await Export.open(world.dsn, world.keyring)
    try:
        now = time.time()
        pages = [page async for page in source.pages(Span(1, now - 2 * DAY, now + 1), 7)]
        assert max(len(page.messages) for page in pages) == 7
        assert sum(len(page.messages) for page in pages) == len(stored)
        assert [page.through for page in pages] == sorted({page.through for page in pages})
        with pytest.raises(StoreUnavailable):
            async with acquire(source._pool) as conn:
                await conn.execute("DELETE FROM messages")
    finally:
        await source.close()

    async with world.pool.acquire() as conn:
        await conn.execute("DELETE FROM data_keys WHERE day < (now() AT TIME ZONE 'UTC')::date")
    _, told, written = await run()
    assert (told["rows"], told["unreadable"]) == (15, 4)
    assert "old" not in written

    # The doctor asks the same server.
    found = {one.name: one for one in await asyncio.to_thread(_servers, settings)}
    assert found["clock"].verdict is doctor.Verdict.OK
    assert "fsync=off" in found["postgresql"].text  # as tests have it
    assert found["postgresql"].verdict is doctor.Verdict.FAIL
    assert found["migrations"].verdict is found["partitions"].verdict is doctor.Verdict.OK
    assert found["transactions"].verdict is found["connections"].verdict is doctor.Verdict.OK


def _servers(settings):
    return list(doctor._servers(settings))
