"""The runtime role: does what a gateway does, and may not touch the audit log."""

import asyncio
import contextlib
import time

import asyncpg
import pytest

from gateway import ownership
from gateway.settings import Settings
from sms.errors import ConfigError, LeaseLost, StoreUnavailable
from store import database, partitions, processes, roles, schema, vitals
from store.audit import Author
from store.config import ConfigStore
from store.objects import Upsert
from store.partitions import TABLES
from store.processes import ProcessLease
from store.seal import Keyring
from tests.support.postgres import MASTER, World, text

pytestmark = pytest.mark.integration

ROLE = "runs_only"
OPS = Author("command", "test")


@pytest.fixture
async def running(dsn, postgres_server):
    """The address of a role that only runs, on a database whose owner granted it so."""
    with contextlib.suppress(asyncpg.DuplicateObjectError):
        await postgres_server.admin(f"CREATE ROLE {ROLE} LOGIN")  # a role is the whole server's
    await roles.grant(dsn, ROLE)
    return dsn.replace("smsgw@", f"{ROLE}@")


@pytest.fixture
async def told(running):
    """A connection of that role to a log with a row in it."""
    pool = await database.open_pool(running, size=1)
    store = ConfigStore(pool, Keyring(MASTER))
    await store.apply([Upsert("tenant", "shop", {}, {})], OPS)
    conn = await database.connect(running)
    yield conn
    assert (await store.audit.verify())[:2] == (1, None)
    await conn.close()
    pool.terminate()


ATTEMPTS = [
    "UPDATE audit_events SET body = 'x'",
    "UPDATE audit_events SET at = now() WHERE false",
    "DELETE FROM audit_events",
    "TRUNCATE audit_events",
    "TRUNCATE audit_events CASCADE",
    "DROP TABLE audit_events",
    "DROP TABLE audit_events CASCADE",
    "SELECT * FROM audit_events FOR UPDATE",
    "SELECT * FROM audit_events FOR KEY SHARE",
    "BEGIN; LOCK TABLE audit_events IN ACCESS EXCLUSIVE MODE",
    "INSERT INTO audit_events SELECT * FROM audit_events ON CONFLICT (id) DO UPDATE SET body = 'x'",
    "MERGE INTO audit_events a USING (SELECT 1 AS id) b ON a.id = b.id WHEN MATCHED THEN DELETE",
    "WITH gone AS (DELETE FROM audit_events RETURNING 1) SELECT count(*) FROM gone",
    "SET smsgw.audit_trim = 'on'; DELETE FROM audit_events",
    "SELECT trim_audit(184)",
    "SELECT trim_audit(-100000)",
    "ALTER TABLE audit_events DISABLE TRIGGER append_only",
    "ALTER TABLE audit_events DISABLE TRIGGER ALL",
    "ALTER TABLE audit_events ADD COLUMN more text",
    "ALTER TABLE audit_events RENAME TO other",
    "ALTER TABLE audit_events SET SCHEMA pg_temp",
    f"ALTER TABLE audit_events OWNER TO {ROLE}",
    "ALTER TABLE audit_events ENABLE ROW LEVEL SECURITY",
    "ALTER INDEX audit_events_object RENAME TO other",
    "DROP INDEX audit_events_object",
    "DROP TRIGGER append_only ON audit_events",
    "CREATE TRIGGER more BEFORE INSERT ON audit_events FOR EACH ROW"
    " EXECUTE FUNCTION suppress_redundant_updates_trigger()",
    "CREATE RULE more AS ON INSERT TO audit_events DO INSTEAD NOTHING",
    "CREATE POLICY more ON audit_events USING (false)",
    "CREATE INDEX more ON audit_events (at)",
    "CREATE TABLE more () INHERITS (audit_events)",
    "CREATE TABLE public.more (id int)",
    "CREATE SCHEMA more",
    "CREATE OR REPLACE FUNCTION append_only() RETURNS trigger LANGUAGE plpgsql"
    " AS $$ BEGIN RETURN NULL; END $$",
    "CREATE FUNCTION public.now() RETURNS timestamptz LANGUAGE sql AS $$ SELECT NULL $$",
    "DROP FUNCTION append_only() CASCADE",
    "ALTER FUNCTION append_only() RESET search_path",
    "DROP SCHEMA public CASCADE",
    "DROP OWNED BY smsgw",
    "REASSIGN OWNED BY smsgw TO " + ROLE,
    "SET ROLE smsgw",
    "SET SESSION AUTHORIZATION smsgw",
    f"GRANT smsgw TO {ROLE}",
    f"ALTER ROLE {ROLE} SUPERUSER",
    "SET session_replication_role = replica",
    "SET allow_system_table_mods = on",
    "UPDATE pg_class SET relowner = 0 WHERE relname = 'audit_events'",
    "COPY audit_events FROM PROGRAM 'true'",
    "COPY audit_events TO '/tmp/audit'",
    "UPDATE audit_anchors SET id = 9",
    "DELETE FROM audit_anchors",
    "INSERT INTO audit_anchors VALUES (now(), 1, '', '')",
    "DROP TABLE audit_anchors",
    "DELETE FROM schema_migrations",
    "UPDATE retention SET done_at = now()",
    "UPDATE lineage SET id = gen_random_uuid()",
    "UPDATE schema_floor SET needs = 9999",
    "DELETE FROM schema_floor",
    "DELETE FROM data_keys",
    "ALTER TABLE messages DISABLE TRIGGER fence",
    "DROP TABLE messages CASCADE",
    "SELECT make_partition('audit_events', now()::date)",
    "SELECT make_partition('messages', '2025-01-01')",
    "SELECT make_partition(NULL, NULL)",
]


async def test_the_runtime_role_cannot_change_the_log_or_what_guards_it(told):
    """Refused for who it is (42501), before any trigger is asked (SG002)."""
    answers = {}
    for sql in ATTEMPTS:
        try:
            answers[sql] = await told.execute(sql)
        except asyncpg.PostgresError as error:
            answers[sql] = error.sqlstate
        if told.is_in_transaction():
            await told.execute("ROLLBACK")
    # SG003: the owner's function makes no such partition
    assert {sql: told for sql, told in answers.items() if told not in ("42501", "SG003")} == {}


@pytest.mark.parametrize(
    ("number", "body", "size"),
    [
        (2**63 - 1, '{"id":1}', 32),
        (3, '{"id":1}', 32),  # leaves a number out
        (0, '{"id":1}', 32),
        (None, '{"id":1}', 32),
        (2, "{}", 32),
        (2, '{"id":}', 32),
        (2, ' {"id":1}', 32),
        (2, "[]", 32),
        (2, "", 32),
        (2, '{"id":1}', 1),
    ],
)
async def test_no_row_can_be_appended_that_nobody_could_go_on_from(told, number, body, size):
    with pytest.raises(asyncpg.PostgresError) as refused:
        await told.execute(
            "INSERT INTO audit_events VALUES ($1, now(), 'x', $2, $3)", number, body, bytes(size)
        )
    assert refused.value.sqlstate in ("SG002", "22P02")


async def test_a_row_of_somebody_else_is_missed_and_stops_no_change(running):
    pool = await database.open_pool(running, size=1)
    store = ConfigStore(pool, Keyring(MASTER))
    await store.apply([Upsert("tenant", "shop", {}, {})], OPS)
    await pool.execute(
        "INSERT INTO audit_events VALUES (2, now(), 'x', '{\"id\":1}', $1)", bytes(32)
    )
    await store.apply([Upsert("tenant", "other", {}, {})], OPS)
    assert [row.id for row in await store.audit.page(9)] == [3, 2, 1]
    assert (await store.audit.verify())[:2] == (1, 2)  # row 2 is not ours
    pool.terminate()


async def test_statements_that_name_nothing_of_a_stranger_change_nothing(told):
    """What PostgreSQL lets pass: a grant that grants nothing, names inside of a session."""
    await told.execute(f"GRANT ALL ON audit_events TO {ROLE} WITH GRANT OPTION")  # a warning
    await told.execute(
        "CREATE TEMP TABLE audit_events (LIKE public.audit_events);"
        "CREATE TEMP TABLE messages (id bigint) PARTITION BY RANGE (id);"
        "CREATE TEMP TABLE pg_inherits (inhrelid oid, inhparent oid);"
        "CREATE FUNCTION pg_temp.to_char(date, text) RETURNS text LANGUAGE sql"
        " AS $$ SELECT 'hijacked' $$;"
        "SET search_path = pg_temp, pg_catalog, public"
    )
    ahead = await told.fetchval(
        "SELECT public.make_partition('messages', (now() + interval '20 days')::date)"
    )
    assert ahead is True
    places = await told.fetch(
        "SELECT c.relnamespace::regnamespace::text AS place, r.rolname AS owner FROM pg_class c"
        " JOIN pg_roles r ON r.oid = c.relowner"
        " WHERE c.relname = to_char((now() + interval '20 days')::date, '\"messages_\"YYYYMMDD')"
    )
    assert [tuple(row) for row in places] == [("public", "smsgw")]
    await told.execute("DELETE FROM pg_temp.audit_events")  # its own, and nobody else's
    await told.execute("SET search_path = public")


async def settled(world):
    async with asyncio.timeout(60):
        while not world.heard.events:  # noqa: ASYNC110 - the lane tells by a list
            await asyncio.sleep(0.01)


async def test_it_makes_partitions_accepts_and_settles(running):
    conn = await database.connect(running, statement_timeout_s=30)
    made = await partitions.ensure(conn, Keyring(MASTER), days_ahead=4, now=time.time())
    assert len(made) == 2 * len(TABLES)
    await conn.close()
    world = await World.make(running)
    try:
        acceptor = await world.acceptor()
        lane = await world.event_lane()
        message = text()
        await acceptor.accept([message])
        lane.add([world.event(message.id)], urgent=True)
        await settled(world)
        stored = await world.reader.message(message.id)
        assert stored is not None
        assert [row.sequence for row in stored.rows] == [2]
    finally:
        await world.close()


async def test_every_table_has_exactly_its_grants(running):
    conn = await database.connect(running)
    rows = await conn.fetch(
        "SELECT c.relname AS name, array(SELECT p FROM unnest($2::text[]) p"
        "  WHERE has_table_privilege($1, c.oid, p)) AS has FROM pg_class c"
        " WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm')"
        " AND NOT c.relispartition",
        ROLE,
        ["SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER"],
    )
    has = {row["name"]: set(row["has"]) for row in rows}
    assert has.keys() >= {*roles.LESS, "messages", "objects", "parked"}
    flow = {"SELECT", "INSERT", "UPDATE", "DELETE"}
    assert has == {name: set(roles.LESS.get(name, flow)) for name in has}
    assert (
        await conn.fetchval("SELECT count(*) FROM pg_class WHERE relowner = $1::regrole", ROLE) == 0
    )
    await conn.close()


async def test_a_node_of_either_role_takes_the_others_processes_over(running, dsn):
    """While nodes go over from the owner to the runtime role."""
    for first, second in ((dsn, running), (running, dsn)):
        lease = await ProcessLease.take(first, node=f"node-{len(first)}", slot=0, lease_s=15.0)
        left = await database.connect(first, process=lease.process, epoch=lease.epoch)
        heir = await ProcessLease.take(second, node=f"node-{len(first)}", slot=0, lease_s=15.0)
        assert (heir.process, heir.epoch) == (lease.process, lease.epoch + 1)
        with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
            await left.fetchval("SELECT 1")
        await heir.close()
        await lease.close()


@pytest.fixture
async def plain(postgres_server):
    """The addresses of an owner that is no superuser, and of its runtime role."""
    owner, place = "plain_owner", "plainly"
    with contextlib.suppress(asyncpg.DuplicateObjectError):
        await postgres_server.admin(f"CREATE ROLE {ROLE} LOGIN")
    await postgres_server.admin(f"CREATE ROLE {owner} LOGIN")
    await postgres_server.admin(f"CREATE DATABASE {place} OWNER {owner}")
    dsn = postgres_server.dsn(place).replace("smsgw@", f"{owner}@")
    await schema.migrate(dsn)
    await roles.grant(dsn, ROLE)  # may not make itself a member: it did not make the role
    yield dsn, dsn.replace(f"{owner}@", f"{ROLE}@")
    await postgres_server.admin(f"DROP DATABASE {place} WITH (FORCE)")
    await postgres_server.admin(f"DROP ROLE {owner}")


async def test_an_owner_that_may_not_end_a_backend_waits_for_what_it_writes(plain, monkeypatch):
    """It may end those of its own role alone, and must not be stopped for ever by another's."""
    monkeypatch.setattr(processes, "_TAKE_TIMEOUT_S", 1.0)
    owner, running = plain
    lease = await ProcessLease.take(running, node="node", slot=0, lease_s=15.0)
    left = await database.connect(running, process=lease.process, epoch=lease.epoch)
    writes = left.transaction()
    await writes.start()
    await left.execute("SELECT pg_advisory_xact_lock_shared(42, $1)", lease.process)
    with pytest.raises(StoreUnavailable):
        await ProcessLease.take(owner, node="node", slot=0, lease_s=15.0)
    await writes.rollback()  # PostgreSQL noticed that its other end is gone
    heir = await ProcessLease.take(owner, node="node", slot=0, lease_s=15.0)
    assert (heir.process, heir.epoch) == (lease.process, lease.epoch + 1)
    with pytest.raises(LeaseLost):
        await lease.renew(id_high_water=0, low_water=0, event_cursor=0)
    again = await ProcessLease.take(running, node="node", slot=0, lease_s=15.0)  # the other way
    assert again.epoch == heir.epoch + 1
    for one in (lease, heir, again):
        await one.close()
    await database.close(left)


async def test_an_owner_that_made_the_runtime_role_becomes_a_member(plain, postgres_server):
    owner, _ = plain
    await postgres_server.admin("ALTER ROLE plain_owner CREATEROLE")
    conn = await database.connect(owner)
    await conn.execute("CREATE ROLE made_by_it LOGIN")
    try:
        await roles.grant(owner, "made_by_it")
        assert await conn.fetchval("SELECT pg_has_role('made_by_it', 'USAGE')")
        made = owner.replace("plain_owner@", "made_by_it@")
        assert await roles.look(made) == ("made_by_it", None)
    finally:
        await conn.execute("DROP OWNED BY made_by_it")
        await conn.execute("DROP ROLE made_by_it")
        await conn.close()


async def test_one_runtime_role_takes_over_from_another(plain, postgres_server):
    """The role is changed, node by node: neither may end what is the other's."""
    owner, running = plain
    await postgres_server.admin("CREATE ROLE runs_next LOGIN")
    try:
        await roles.grant(owner, "runs_next")
        lease = await ProcessLease.take(running, node="node", slot=0, lease_s=15.0)
        left = await database.connect(running, process=lease.process, epoch=lease.epoch)
        following = running.replace(f"{ROLE}@", "runs_next@")
        heir = await ProcessLease.take(following, node="node", slot=0, lease_s=15.0)
        assert heir.epoch == lease.epoch + 1
        for one in (lease, heir):
            await one.close()
        await database.close(left)
    finally:
        conn = await database.connect(owner)
        await conn.execute(
            "REVOKE ALL ON ALL TABLES IN SCHEMA public FROM runs_next;"
            "REVOKE ALL ON ALL FUNCTIONS IN SCHEMA public FROM runs_next;"
            "REVOKE ALL ON SCHEMA public FROM runs_next"
        )
        await conn.close()
        await postgres_server.admin("REVOKE ALL ON DATABASE plainly FROM runs_next")
        await postgres_server.admin("DROP OWNED BY runs_next; DROP ROLE runs_next")


async def test_a_member_of_the_runtime_role_ends_its_backends(plain, postgres_server):
    """What docs/retention.md has granted while nodes go over."""
    owner, running = plain
    await postgres_server.admin(f"GRANT {ROLE} TO plain_owner")
    lease = await ProcessLease.take(running, node="node", slot=0, lease_s=15.0)
    left = await database.connect(running, process=lease.process, epoch=lease.epoch)
    heir = await ProcessLease.take(owner, node="node", slot=0, lease_s=15.0)
    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
        await left.fetchval("SELECT 1")
    await heir.close()
    await lease.close()
    assert await roles.look(running) == (ROLE, None)


async def test_the_runtime_role_ends_no_backend_but_a_gateways(running, dsn):
    other, conn = await database.connect(dsn), await database.connect(running)
    pid = await other.fetchval("SELECT pg_backend_pid()")
    assert await conn.fetchval("SELECT end_backend($1, 1000)", pid) is None
    assert await other.fetchval("SELECT 1") == 1
    await conn.close()
    await other.close()


async def test_grants_are_renewed_for_new_tables_and_cut_back(running, dsn):
    conn = await database.connect(dsn)
    await conn.execute(
        f"CREATE TABLE later (id int); GRANT ALL ON audit_events TO {ROLE};"
        f"GRANT UPDATE ON audit_anchors TO PUBLIC; GRANT CREATE ON SCHEMA public TO {ROLE}"
    )
    assert await roles.excess(conn, ROLE) == "makes tables in the schema"
    await roles.grant(dsn, ROLE)
    assert await roles.excess(conn, ROLE) is None
    assert await roles.look(running) == (ROLE, None)
    assert await roles.look(dsn) == ("smsgw", "is a superuser or makes roles")
    await conn.close()
    runner = await database.connect(running)
    await runner.execute("INSERT INTO later VALUES (1)")
    await runner.close()


@pytest.mark.parametrize(
    ("gift", "words"),
    [
        ("GRANT smsgw TO {0}", "owns the tables"),
        ("GRANT pg_write_all_data TO {0}", "may change rows"),
        ("ALTER ROLE {0} CREATEROLE", "makes roles"),
    ],
)
async def test_a_role_that_may_more_is_no_runtime_role(dsn, postgres_server, gift, words):
    role = "too_mighty"
    await postgres_server.admin(f"CREATE ROLE {role} LOGIN")
    try:
        await postgres_server.admin(gift.format(role))
        with pytest.raises(ConfigError, match=words):
            await roles.grant(dsn, role)
    finally:
        await postgres_server.admin(f"DROP ROLE {role}")


async def test_the_owners_address_alone_renews_every_runtime_role(dsn, running):
    conn = await database.connect(dsn)
    await conn.execute(
        f"REVOKE ALL ON process_versions, schema_migrations FROM {ROLE};"
        "CREATE ROLE reads_only; GRANT SELECT ON messages TO reads_only"
    )
    try:
        assert await roles.runtime_roles(dsn) == [ROLE]
        with pytest.raises(ConfigError, match="which grants what is lacking"):
            await schema.must_fit_code(running)
        alone = Settings.load({}, database_url=dsn)
        assert await asyncio.to_thread(ownership.prepare, alone, print) == []
        await schema.must_fit_code(running)
    finally:
        await conn.execute("DROP OWNED BY reads_only; DROP ROLE reads_only")
        await conn.close()


async def test_doctor_is_told_whose_transactions_it_cannot_see(dsn, running):
    owner = await database.connect(dsn)
    hidden = await owner.fetchval("SELECT pg_backend_pid()")
    assert hidden in (await vitals.look(running)).hidden
    assert (await vitals.look(dsn)).hidden == frozenset()
    await owner.close()


async def test_settings_name_both_roles(dsn, running, undated):
    given = Settings.load({}, database_url=running, migrate_database_url=dsn)
    assert await asyncio.to_thread(ownership.prepare, given, print) == []
    assert ownership.for_workers(given).migrate_database_url is None
    # the runtime role alone: well while nothing is to be done, else it says who must
    alone = Settings.load({}, database_url=running)
    assert await asyncio.to_thread(ownership.prepare, alone, print) == []
    conn = await database.connect(dsn)
    await conn.execute("DELETE FROM schema_migrations WHERE name LIKE '0024%'")
    await conn.close()
    with pytest.raises(ConfigError, match="SMSGW_MIGRATE_DATABASE_URL"):
        await asyncio.to_thread(ownership.prepare, alone, print)
    missing = Settings.load(
        {}, database_url=undated.replace("smsgw@", "nobody@"), migrate_database_url=undated
    )
    with pytest.raises(ConfigError, match='CREATE ROLE "nobody" LOGIN'):
        await asyncio.to_thread(ownership.prepare, missing, print)


@pytest.mark.parametrize(
    ("dsn", "role"),
    [
        ("postgresql://a:b@host/db", "a"),
        ("postgresql://a%40b@/db?host=/run", "a@b"),
        ("postgresql://host/db?user=c", "c"),
        ("postgresql:///db", None),
    ],
)
def test_the_role_of_an_address(dsn, role):
    assert roles.role_of(dsn) == role
