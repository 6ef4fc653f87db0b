"""Migrations under running code: what one may hold, who may work on what, kills in the middle."""

from __future__ import annotations

import asyncio
import contextlib
import random
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from sms.errors import ConfigError
from store import database, schema
from store.processes import ProcessLease
from store.schema import Migration
from store.seal import load_or_create_master_key
from tests.support.catalog import catalog
from tests.support.postgres import Server

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
KILLS = 6
MIGRATE = (
    "import asyncio, sys; from store.schema import migrate; asyncio.run(migrate(*sys.argv[1:], {}))"
)


@pytest.fixture
async def empty(postgres_server: Server) -> AsyncIterator[str]:
    """A database without a table."""
    await postgres_server.admin("CREATE DATABASE empty_one")
    yield postgres_server.dsn("empty_one")
    await postgres_server.admin("DROP DATABASE empty_one WITH (FORCE)")


def expanding(sql: str) -> list[Migration]:
    """The ones there are, and one more."""
    return [*schema.files(), Migration.of("9001_pre_more.sql", sql)]


def contracting(needs: int, sql: str = "DROP TABLE walks;") -> Sequence[Migration]:
    return [*schema.files(), Migration.of("9002_post_less.sql", f"-- needs: {needs:04}\n{sql}")]


async def take(dsn: str, node: str = "n") -> ProcessLease:
    return await ProcessLease.take(dsn, node=node, slot=0, lease_s=15)


# ---- tables in use ----


async def test_a_table_in_use_is_left_to_its_users_until_it_is_free(dsn: str) -> None:
    """A lock that waits would stop everybody behind it: a report that runs for an hour, all of us.

    The long reader ends only after the writer has written on beside the migration.
    """
    reader, writer = await database.connect(dsn), await database.connect(dsn)
    await reader.execute("BEGIN; SELECT FROM schema_floor")
    told: asyncio.Queue[str] = asyncio.Queue()
    more = expanding("ALTER TABLE schema_floor ADD COLUMN why text")
    running = asyncio.create_task(schema.migrate(dsn, told.put_nowait, of=more))
    assert await told.get() == "9001_pre_more.sql"
    waits = "9001_pre_more.sql: waiting until no long transaction uses its tables"
    assert await told.get() == waits
    for _ in range(50):
        await writer.execute("UPDATE schema_floor SET needs = 0")  # 2 s, and it would be broken off
        await asyncio.sleep(0.01)
    assert not running.done()
    await reader.execute("COMMIT")
    assert await running == ["9001_pre_more.sql"]
    assert told.empty()  # once, however often it is tried
    assert await writer.fetchval("SELECT why FROM schema_floor") is None
    for conn in (reader, writer):
        await conn.close()


async def test_a_failed_file_leaves_nothing_of_itself(dsn: str) -> None:
    more = expanding("CREATE TABLE half_done (id int); SELECT 1 / 0")
    with pytest.raises(Exception, match="division by zero"):
        await schema.migrate(dsn, of=more)
    conn = await database.connect(dsn)
    assert await conn.fetchval("SELECT to_regclass('half_done')") is None
    await conn.close()
    assert await schema.migrate(dsn) == []


# ---- killed ----


async def test_killed_at_any_moment_it_goes_on_where_it_was(
    empty: str, postgres_server: Server
) -> None:
    """SIGKILL at random; afterwards the schema is that of a run nobody disturbed."""
    rng = random.Random(1)
    for number in range(KILLS):
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", MIGRATE.format("lambda n: print(n, flush=True)"), empty),
            cwd=ROOT,
            stdout=asyncio.subprocess.PIPE,
        )
        assert process.stdout is not None
        for _ in range(1 + number * 2):  # ever further, and then some
            await process.stdout.readline()
        await asyncio.sleep(rng.uniform(0, 0.02))
        with contextlib.suppress(ProcessLookupError):  # it was quicker
            process.kill()
        await process.communicate()
    await schema.migrate(empty)
    await postgres_server.admin("CREATE DATABASE undisturbed")
    other = postgres_server.dsn("undisturbed")
    try:
        await schema.migrate(other)
        seen = [await database.connect(dsn) for dsn in (empty, other)]
        assert await catalog(seen[0]) == await catalog(seen[1])
        for conn in seen:
            await conn.close()
    finally:
        await postgres_server.admin("DROP DATABASE undisturbed WITH (FORCE)")


# ---- which code may work on it ----


async def test_a_schema_that_is_too_old_is_refused_with_the_remedy(empty: str) -> None:
    with pytest.raises(ConfigError, match="run `smsgw migrate` of this version first"):
        await schema.must_fit_code(empty)
    await schema.must_fit_code(empty, is_expanded=False)  # who will migrate may begin
    await schema.migrate(empty)
    await schema.must_fit_code(empty)


async def test_code_of_before_goes_on_beside_what_was_added(dsn: str) -> None:
    await schema.migrate(dsn, of=expanding("CREATE TABLE of_newer_code (id int)"))
    await schema.must_fit_code(dsn)
    assert (await take(dsn)).epoch == 1


async def test_code_of_before_is_refused_once_something_was_taken_away(dsn: str) -> None:
    newest = schema.knows()
    assert await schema.contract(dsn, of=contracting(newest)) == ["9002_post_less.sql"]
    await schema.must_fit_code(dsn)  # ours knows what it needs
    conn = await database.connect(dsn)
    await conn.execute("UPDATE schema_floor SET needs = $1", newest + 1)
    found = await schema.standing(conn)
    assert found.newer == ("9002_post_less.sql",)
    await conn.close()
    for is_expanded in (True, False):
        with pytest.raises(ConfigError, match="install the version that the other nodes have"):
            await schema.must_fit_code(dsn, is_expanded=is_expanded)


async def test_a_worker_refuses_a_schema_that_is_too_old(empty: str, tmp_path: Path) -> None:
    """Not by an error of SQL minutes later: the code on disk may be newer than its supervisor."""
    key = tmp_path / "master.key"
    load_or_create_master_key(key)
    env = {
        "PYTHONPATH": str(ROOT),
        "SMSGW_DATA_DIR": str(tmp_path),
        "SMSGW_MASTER_KEY_FILE": str(key),
        "SMSGW_DATABASE_URL": empty,
        "SMSGW_REDIS_URL": "redis://127.0.0.1:1",
    }
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-P", "-m", "gateway", "worker"],
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert "run `smsgw migrate` of this version first" in done.stderr


# ---- contracting ----


async def test_nothing_is_taken_away_while_code_runs_that_needs_it(dsn: str) -> None:
    lease = await take(dsn, "first")
    newest = schema.knows()
    less = contracting(newest)
    conn = await database.connect(dsn)
    # the same number, taken by code of before: it raises the epoch and says nothing of itself
    await conn.execute("UPDATE processes SET epoch = epoch + 1")
    with pytest.raises(ConfigError, match="worker-0 of node first"):
        await schema.contract(dsn, of=less)
    assert await conn.fetchval("SELECT to_regclass('walks')") is not None
    assert await conn.fetchval("SELECT needs FROM schema_floor") == 0
    again = await take(dsn, "first")  # upgraded
    assert again.process == lease.process
    assert await schema.contract(dsn, of=less) == ["9002_post_less.sql"]
    assert await conn.fetchval("SELECT to_regclass('walks')") is None
    assert await conn.fetchval("SELECT needs FROM schema_floor") == newest
    assert await schema.contract(dsn, of=less) == []
    await conn.close()


async def test_who_drained_and_who_was_taken_over_needs_nothing(dsn: str) -> None:
    lease = await take(dsn)
    conn = await database.connect(dsn)
    await conn.execute("DELETE FROM process_versions")
    with pytest.raises(ConfigError, match="code runs"):
        await schema.contract(dsn, of=contracting(1))
    await lease.release(id_high_water=1, low_water=1, event_cursor=1)
    assert await schema.contract(dsn, of=contracting(1)) != []
    await conn.close()


async def test_it_expands_before_it_contracts(empty: str) -> None:
    with pytest.raises(ConfigError, match="run `smsgw migrate` first"):
        await schema.contract(empty, of=contracting(1))
    assert await schema.migrate(empty, of=contracting(1)) == schema.migration_names()
