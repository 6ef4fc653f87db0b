"""What a migration does to data of before, and that code of before runs beside it."""

import time
from datetime import UTC, datetime, timedelta
from importlib import resources

import pytest

from receipts.state import Path
from sms.ids import COUNTER_BITS, id_at
from sms.model import CLASS_CODES, STATE_CODES, State
from store import database, indexes, partitions, schema
from store.config import ConfigStore
from store.partitions import today
from store.processes import ProcessLease
from store.read import Reader
from store.seal import Keyring, date_of
from tests.support.postgres import MASTER, World, text

pytestmark = pytest.mark.integration

# As 0.1.0 wrote them: no process named.
PARK = "INSERT INTO parked (message_id,due,why,class,tenant) VALUES ($1,now(),3,0,1)"
PARK_WEBHOOK = (
    "INSERT INTO webhook_parked (endpoint,event_id,message_id,sequence,tries,due)"
    " VALUES (1,$1,1,2,1,now())"
)


@pytest.fixture
async def old(postgres_server):
    """A database that stands at the first migration."""
    await postgres_server.admin("CREATE DATABASE of_before")
    dsn = postgres_server.dsn("of_before")
    conn = await database.connect(dsn, statement_timeout_s=30)
    name = "0001_pre_first_light.sql"
    sql = resources.files("store.migrations").joinpath(name).read_text("utf-8")
    await conn.execute(sql)
    await conn.execute(
        "CREATE TABLE schema_migrations (name text PRIMARY KEY, at timestamptz DEFAULT now())"
    )
    await conn.execute("INSERT INTO schema_migrations VALUES ($1)", name)
    yield dsn
    await conn.close()
    await postgres_server.admin("DROP DATABASE of_before WITH (FORCE)")


async def test_rows_that_wait_keep_their_process(old):
    conn = await database.connect(old, process=5, epoch=1)
    await conn.execute(
        "INSERT INTO processes VALUES (5, 1, 'n', 0, now() + interval '1 h', 0, 0, 0),"
        " (6, 1, 'n', 1, now() + interval '1 h', 0, 0, 0)"
    )
    for process in (5, 6):
        await conn.execute(PARK, id_at(time.time()) | process << COUNTER_BITS)
        await conn.execute(PARK_WEBHOOK, id_at(time.time()) | process << COUNTER_BITS)
    assert await schema.migrate(old) == schema.migration_names()[1:]
    pool = await database.open_pool(old, process=5, epoch=1, size=1)
    reader = Reader(pool, Keyring(MASTER))
    later = time.time() + 60
    for process in (5, 6):
        assert len(await reader.due_parked(process, later, 9)) == 1
        assert len(await reader.due_webhooks(process, later, 9, endpoints=[1])) == 1
    # code of before, beside the new schema: what it parks is its own
    await conn.execute(PARK, 1)
    await conn.execute(PARK_WEBHOOK, 1)
    assert len(await reader.due_parked(5, later, 9)) == 2
    assert len(await reader.due_webhooks(5, later, 9, endpoints=[1])) == 2
    # and what stands in the way of a foreign writer stands there again
    stranger = await database.connect(old)
    for table in ("parked", "webhook_parked"):
        with pytest.raises(Exception, match="no longer owns"):
            await stranger.execute(f"DELETE FROM {table}")
    await stranger.close()
    await conn.close()
    pool.terminate()
    lease = await ProcessLease.take(old, node="n", slot=0, lease_s=15)
    assert (lease.process, lease.epoch) == (5, 2)


async def make_days(conn, keyring, **when):
    """`partitions.ensure` on a schema that has not got its function yet."""
    name = "0024_pre_keeping.sql"
    sql = resources.files("store.migrations").joinpath(name).read_text("utf-8")
    begin = sql.index("CREATE FUNCTION make_partition")
    await conn.execute(sql[begin : sql.index("END $$;", begin) + 7])
    await partitions.ensure(conn, keyring, **when)
    await conn.execute("DROP FUNCTION make_partition")


async def test_what_is_open_is_counted_anew(old):
    """Before, a correction counted as a second end, and what came back stayed submitted."""
    keyring = Keyring(MASTER)
    conn = await database.connect(old, statement_timeout_s=30)
    now = time.time()
    await make_days(conn, keyring, days_ahead=1, now=now)
    await conn.execute("INSERT INTO processes VALUES (0, 1, 'n', 0, now(), 0, 0, 0)")
    await conn.execute("INSERT INTO deltas VALUES (0, 1, 99, 99, 99), (0, 7, 1, 1, 1)")
    # The lanes of today write here, code of before did not.
    await conn.execute(
        "CREATE TABLE usage_deltas (t int, d int, c int, n int, h int, s int, m int, g int)"
    )
    ends: list[tuple[Path, ...]] = [
        (),  # open
        (Path.SUBMITTED,),
        (Path.SUBMITTED, Path.NOTE),
        (Path.SUBMITTED, Path.DELIVERED),
        (Path.SUBMITTED, Path.QUEUED),  # open again
        (Path.SUBMITTED, Path.UNKNOWN, Path.DELIVERED),  # corrected
        (Path.UNCERTAIN,),  # open
        (Path.UNCERTAIN, Path.SUBMITTED_LATE),
        (Path.UNCERTAIN, Path.EXPIRED_LATE),
        (Path.QUEUE_FAILED,),
    ]
    lease = ProcessLease(old, 0, 15)
    lease.epoch = 1
    pool = await database.open_pool(old, process=lease.process, epoch=lease.epoch, size=1)
    world = World(old, lease, keyring, pool)
    messages = [text() for _ in ends]
    await (await world.acceptor()).accept(messages)
    lane = await world.event_lane()
    rows = [
        world.event(message.id, 2 + n, path=path, status=State.QUEUED, carrier_id=None)
        for message, paths in zip(messages, ends, strict=True)
        for n, path in enumerate(paths)
    ]
    lane.add(rows, urgent=True)
    assert await lane.drain(60)
    await conn.execute("DROP TABLE usage_deltas")
    await schema.migrate(old)
    assert await world.reader.deltas() == {1: (10, 3, 4)}
    counted = await conn.fetch("SELECT status, messages FROM usage_days ORDER BY status")
    codes = [state for state in (0, 2, 4, 5, 6, 9, 11) if state in STATE_CODES.values()]
    assert [row["status"] for row in counted] == codes
    assert [row["messages"] for row in counted] == [1, 1, 1, 3, 2, 1, 1]
    await conn.close()
    await world.close()


async def test_keys_of_before_are_found_and_code_of_before_writes_on(old):
    """The configuration as 0.1.0 wrote it, and as it still writes beside us."""
    conn = await database.connect(old)
    write = (
        "INSERT INTO objects (kind, id, name, version, spec) VALUES ('tenant', $1, $2, $3, '{}')"
        " ON CONFLICT (kind, id) DO UPDATE SET version = excluded.version, spec = excluded.spec"
    )
    keep = (
        "INSERT INTO object_history (kind, id, version, at, actor, spec, is_deleted)"
        " VALUES ('tenant', $1, $2, $3, 'smsgw apply', '{}', false)"
    )
    made_at = datetime(2026, 11, 22, tzinfo=UTC)
    await conn.execute(write, 1, "shop", 1)
    await conn.execute(keep, 1, 1, made_at)
    await conn.execute(keep, 1, 2, made_at + timedelta(days=1))
    keyring = Keyring(MASTER)
    sealed = keyring.seal_secret(b'{"secret_hash": "ab"}', "api_key shop/k")
    await conn.execute(
        "INSERT INTO objects VALUES ('api_key', 1, 'shop/k', 2, $1, $2)",
        '{"tenant": "shop", "key_id": 140737488355329, "name": "k", "scopes": ["send"]}',
        sealed,
    )
    await conn.execute("UPDATE config_version SET version = 2")
    await schema.migrate(old)
    pool = await database.open_pool(old, size=1)
    store = ConfigStore(pool, keyring)
    shop = await store.find("tenant", 1)
    assert shop is not None
    assert shop.created_at == made_at
    key = await store.find("api_key", 140737488355329)
    assert key is not None
    assert key.name == "shop/k"
    await store.load()
    await conn.execute(write, 2, "bank", 3)
    await conn.execute("UPDATE config_version SET version = 3")
    assert set((await store.load()).tenants) == {1, 2}
    await conn.close()
    pool.terminate()


def test_class_codes_stand_in_the_order_blocks_are_taken_in():
    assert [cls.value for cls in sorted(CLASS_CODES, key=CLASS_CODES.__getitem__)] == [
        "otp",
        "transactional",
        "marketing",
    ]


async def test_the_index_of_the_pull_is_built_beside_the_traffic(old):
    """Partitions of before get it without a lock that a writer would wait for."""
    keyring, now = Keyring(MASTER), time.time()
    conn = await database.connect(old, statement_timeout_s=60)
    await make_days(conn, keyring, days_ahead=0, now=now)
    await schema.migrate(old)
    await partitions.ensure(conn, keyring, days_ahead=1, now=now)  # this one is born with it
    of_before = [f"events_{date_of(today(now) - back):%Y%m%d}" for back in (0, 1)]
    half = f"{of_before[1]}_events_pull"  # of a builder that was killed
    await conn.execute(f"CREATE INDEX {half} ON {of_before[1]} (tenant)")
    builder = await database.connect(old, statement_timeout_s=60)
    assert await indexes.build_missing(builder) == of_before
    assert await indexes.build_missing(builder) == []
    other = await database.connect(old, statement_timeout_s=60)
    assert await indexes.build_missing(other) == []  # one at a time
    made = await conn.fetch(
        "SELECT indisvalid, pg_get_indexdef(indexrelid) AS told FROM pg_index"
        " JOIN pg_inherits ON inhrelid = indexrelid WHERE inhparent = 'events_pull'::regclass"
    )
    assert len(made) == 3
    for row in made:
        assert row["indisvalid"]
        assert "(tenant, event_id) WHERE" in row["told"]
    assert await conn.fetchval(
        "SELECT indisvalid FROM pg_index WHERE indexrelid = 'events_pull'::regclass"
    )
    for one in (conn, builder, other):
        await one.close()
