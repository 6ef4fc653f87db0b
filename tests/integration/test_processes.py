"""Process rows, leases, migrations, partitions: what a start depends on."""

import asyncio
import time

import asyncpg
import pytest

from sms.errors import ConfigError, LeaseLost, StoreUnavailable, Unavailable
from sms.ids import DAY_MS, EPOCH_MS, IdClock, unix_of
from store import database, partitions, schema
from store.partitions import TABLES
from store.processes import DatabaseClock, ProcessLease
from store.seal import Keyring, date_of, day_of
from tests.support.postgres import MASTER, TEMPLATE, World, text

pytestmark = pytest.mark.integration


async def take(dsn, slot=0, node="node", lease_s=15.0):
    return await ProcessLease.take(dsn, node=node, slot=slot, lease_s=lease_s)


async def test_a_slot_keeps_its_number_and_each_owner_gets_the_next_epoch(dsn):
    first = await take(dsn)
    assert (first.process, first.epoch) == (0, 1)
    start = first.id_floor
    await first.renew(id_high_water=start + 500, low_water=start + 100, event_cursor=start + 70)
    second = await take(dsn)
    assert (second.process, second.epoch) == (0, 2)
    marks = (second.id_floor, second.low_water, second.event_cursor)
    assert marks == (start + 500, start + 100, start + 70)
    assert (await take(dsn, slot=1)).process == 1
    assert (await take(dsn, node="other")).process == 2
    with pytest.raises(LeaseLost):
        await first.renew(id_high_water=start + 501, low_water=start, event_cursor=start)
    assert not first.is_valid()
    for lease in (first, second):
        await lease.close()


async def test_a_new_process_begins_now_and_owes_nothing_older(dsn):
    """Marks of 0 would make a new worker walk every partition of a full database."""
    lease = await take(dsn)
    assert lease.id_floor == lease.low_water == lease.event_cursor
    assert 55 < time.time() - unix_of(lease.low_water) < 120
    await lease.close()


async def test_two_slots_that_start_together_get_two_numbers(dsn):
    leases = await asyncio.gather(*[take(dsn, slot) for slot in range(4)])
    assert sorted(lease.process for lease in leases) == [0, 1, 2, 3]


async def test_marks_never_go_back_except_the_low_water_mark(dsn):
    lease = await take(dsn)
    start = lease.id_floor
    await lease.renew(id_high_water=start + 500, low_water=start + 100, event_cursor=start + 70)
    await lease.renew(id_high_water=start + 400, low_water=start + 90, event_cursor=start + 60)
    assert lease.id_high_water == start + 500
    await lease.release(id_high_water=start + 600, low_water=start + 95, event_cursor=start + 80)
    again = await take(dsn)
    marks = (again.id_floor, again.low_water, again.event_cursor)
    assert marks == (start + 600, start + 95, start + 80)


async def test_a_lease_is_valid_until_two_seconds_before_its_end(dsn):
    lease = await take(dsn, lease_s=15)
    assert lease.is_valid()
    assert lease.is_valid(lambda: lease.lease_end_boot - 2.1)
    assert not lease.is_valid(lambda: lease.lease_end_boot - 1.9)
    before = lease.lease_end_boot
    await asyncio.sleep(0.02)
    await lease.renew(id_high_water=1, low_water=0, event_cursor=0)
    assert lease.lease_end_boot > before
    await lease.close()


async def test_a_renewal_that_waits_too_long_is_put_off_and_comes_later(dsn):
    """A slow database must not end a worker whose lease still runs."""
    lease = await take(dsn)
    marks = {"id_high_water": 1, "low_water": 0, "event_cursor": 0}
    conn = await database.connect(dsn)
    async with conn.transaction():
        await conn.execute("SELECT FROM processes FOR UPDATE")
        with pytest.raises(StoreUnavailable):
            await lease.renew(**marks)
    assert lease.is_valid()
    await lease.renew(**marks)
    await conn.close()
    await lease.close()


async def test_a_renewal_tells_when_the_database_s_clock_went_forward(dsn):
    lease = await take(dsn)
    marks = {"id_high_water": 1, "low_water": 0, "event_cursor": 0}
    assert await lease.renew(**marks)  # the first one knows of nothing before it
    assert await lease.renew(**marks)
    lease.database_clock = DatabaseClock(lease.database_clock.ahead_s - 13.0)
    assert not await lease.renew(**marks)
    assert await lease.renew(**marks)  # told once
    lease.database_clock = DatabaseClock(lease.database_clock.ahead_s + 13.0)
    assert await lease.renew(**marks)  # back: leases only last longer
    assert lease.is_valid()
    await lease.close()


async def test_who_cannot_hold_the_journal_leaves_the_epoch_to_its_owner(dsn):
    owner = await take(dsn)
    asked = []

    async def hold(process):
        asked.append(process)
        raise Unavailable("its former owner still runs")

    with pytest.raises(Unavailable):
        await ProcessLease.take(dsn, node="node", slot=0, lease_s=15.0, hold=hold)
    assert asked == [owner.process]
    await owner.renew(id_high_water=1, low_water=0, event_cursor=0)
    await owner.close()


async def test_a_takeover_ends_no_backend_of_another_database(dsn, postgres_server):
    """A staging and a real gateway may share one server, and both have a process 0."""
    name = f"beside_{dsn.split('/')[3].split('?')[0]}"
    await postgres_server.admin(f"CREATE DATABASE {name} TEMPLATE {TEMPLATE}")
    beside = await take(postgres_server.dsn(name))
    opener = database.connector(
        postgres_server.dsn(name), process=beside.process, epoch=beside.epoch
    )
    conn = await opener()
    await take(dsn)
    assert await conn.fetchval("SELECT 1") == 1
    await conn.close()
    await postgres_server.admin(f"DROP DATABASE {name} WITH (FORCE)")


async def test_partitions_made_just_before_midnight_hold_the_ids_of_just_after(undated):
    """A worker that starts in the day's last second; its ids may be 15 s ahead of its clock."""
    midnight = (EPOCH_MS + (partitions.today(time.time()) + 1) * DAY_MS) / 1000
    before = midnight - 0.001
    day = partitions.today(before)
    assert partitions.today(midnight) == day + 1
    conn = await database.connect(undated, statement_timeout_s=30)
    keyring = Keyring(MASTER)
    made = await partitions.ensure(conn, keyring, days_ahead=1, now=before)
    days = [f"{date_of(number):%Y%m%d}" for number in range(day - 1, day + 2)]
    assert set(made) == {f"{table}_{name}" for table in TABLES for name in days}
    lease = await take(undated)
    pool = await database.open_pool(undated, process=lease.process, epoch=lease.epoch, size=1)
    world = World(undated, lease, keyring, pool)
    clock = [midnight - 60.0]
    world.ids = IdClock(lease.process, lease.id_floor, lambda: clock[0])
    acceptor, lane = await world.acceptor(), await world.event_lane()
    stored = []
    for clock[0] in (before - 0.001, before, midnight, midnight + 0.001, before + 15):
        stored += [text(), text()]
        await acceptor.accept(stored[-2:])
    last, first = stored[3].id, stored[4].id
    assert (day_of(last), day_of(first)) == (day, day + 1)
    assert last < partitions.day_range(day)[1] <= first
    ids = [message.id for message in stored]
    lane.add([world.event(id) for id in ids], urgent=True)
    assert await lane.drain(60)
    assert world.heard.quarantined == []
    found = await world.reader.messages(ids)
    assert [(stored.message.id, len(stored.rows)) for stored in found.values()] == [
        (id, 1) for id in ids
    ]
    for table in ("messages", "events"):
        counts = [await conn.fetchval(f"SELECT count(*) FROM {table}_{name}") for name in days[1:]]
        assert counts == [4, 6]
    ahead = await partitions.ensure(conn, keyring, days_ahead=1, now=midnight)
    assert set(ahead) == {f"{t}_{date_of(day + 2):%Y%m%d}" for t in TABLES}
    await world.close()
    await conn.close()


async def test_the_takeover_waits_for_a_running_transaction_of_the_old_owner(dsn):
    """It ends it: afterwards nothing of the old epoch can commit."""
    world = await World.make(dsn)
    conn = await world.opener()()
    transaction = conn.transaction()
    await transaction.start()
    await conn.execute("INSERT INTO claims VALUES (0, 1, '{}')")
    await take(dsn)
    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
        await transaction.commit()
    late = await world.opener()()
    with pytest.raises(asyncpg.PostgresError) as caught:
        await late.execute("INSERT INTO claims VALUES (0, 1, '{}')")
    assert caught.value.sqlstate == "SG001"
    await late.close()
    await world.close()


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO messages DEFAULT VALUES",
        "INSERT INTO events DEFAULT VALUES",
        "INSERT INTO claims VALUES (0, 1, '{}')",
        "DELETE FROM claims",
        "INSERT INTO parked DEFAULT VALUES",
        "UPDATE parked SET due = now()",
        "DELETE FROM parked",
        "INSERT INTO webhook_parked DEFAULT VALUES",
        "DELETE FROM webhook_parked",
    ],
)
async def test_a_connection_without_an_epoch_writes_nothing_that_is_owned(dsn, sql):
    await take(dsn)
    conn = await database.connect(dsn)
    with pytest.raises(asyncpg.PostgresError) as caught:
        await conn.execute(sql)
    assert caught.value.sqlstate == "SG001"
    await conn.close()


async def test_migrations_run_once_also_when_two_start_together(postgres_server):
    await postgres_server.admin("CREATE DATABASE two_start")
    dsn = postgres_server.dsn("two_start")
    seen: list[str] = []
    names = await asyncio.gather(schema.migrate(dsn, seen.append), schema.migrate(dsn))
    assert sorted(map(len, names)) == [0, max(map(len, names))]
    assert await schema.migrate(dsn) == []
    assert await database.server_major(dsn) >= 15
    await postgres_server.admin("DROP DATABASE two_start WITH (FORCE)")


async def test_a_database_that_could_lose_messages_is_refused(durable, postgres_server):
    assert await database.check_durability(durable) == []
    name = durable.split("/")[3].split("?")[0]
    await postgres_server.admin(f"ALTER DATABASE {name} SET synchronous_commit = off")
    with pytest.raises(ConfigError, match="synchronous_commit=on"):
        await database.check_durability(durable)


async def test_a_server_that_is_not_there_is_unavailable(tmp_path):
    with pytest.raises(StoreUnavailable):
        await database.connect(f"postgresql://smsgw@/x?host={tmp_path}")
    with pytest.raises(StoreUnavailable):
        await take(f"postgresql://smsgw@/x?host={tmp_path}")


async def test_a_database_that_is_gone_or_not_ours_is_unavailable_too(postgres_server):
    with pytest.raises(StoreUnavailable, match="refuses us: InvalidCatalogNameError"):
        await database.connect(postgres_server.dsn("nowhere"))
    with pytest.raises(StoreUnavailable, match="refuses us"):
        await database.connect(postgres_server.dsn("postgres").replace("smsgw@", "nobody@"))


async def test_partitions_are_made_once_for_each_day(undated):
    conn = await database.connect(undated, statement_timeout_s=30)
    keyring = Keyring(MASTER)
    now = time.time()
    made = await partitions.ensure(conn, keyring, days_ahead=2, now=now)
    day = partitions.today(now)
    days = [f"{date_of(number):%Y%m%d}" for number in range(day - 1, day + 3)]
    assert set(made) == {f"{table}_{name}" for table in TABLES for name in days}
    assert await partitions.ensure(conn, keyring, days_ahead=2, now=now) == []
    assert len(await partitions.ensure(conn, keyring, days_ahead=3, now=now)) == len(TABLES)
    assert await conn.fetchval("SELECT count(*) FROM data_keys") == 16 * 5
    checks = "SELECT count(*) FROM pg_constraint WHERE conname LIKE '%_range'"
    assert await conn.fetchval(checks) == 0
    await conn.close()


async def test_two_that_make_partitions_together_do_not_collide(undated):
    async def make():
        conn = await database.connect(undated, statement_timeout_s=30)
        try:
            return await partitions.ensure(conn, Keyring(MASTER), days_ahead=2, now=time.time())
        finally:
            await conn.close()

    first, second = await asyncio.gather(make(), make())
    assert len({*first, *second}) == 4 * len(TABLES)


async def test_another_master_key_is_named_at_start(world):
    conn = await database.connect(world.dsn)
    with pytest.raises(ConfigError, match="SMSGW_MASTER_KEY_FILE"):
        await Keyring(bytes(32)).load_days(conn, [partitions.today(time.time())])
    await conn.close()


async def test_numbers_and_texts_do_not_stand_readable_in_the_tables(world):
    acceptor = await world.acceptor()
    await acceptor.accept([text(client_ref="ref-8613800138000", metadata={"k": "secret"})])
    conn = await database.connect(world.dsn)
    [row] = await conn.fetch("SELECT m::text AS whole, number_index FROM messages m")
    await conn.close()
    for plain in ("8613800138000", "secret", "商城"):
        assert plain not in row["whole"]
        assert plain.encode().hex() not in row["whole"]
    assert row["number_index"] == world.keyring.number_index(1, "8613800138000")
