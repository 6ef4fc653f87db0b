"""What a node remembers of its database, against older states, copies and other databases."""

import pytest

from sms.errors import ConfigError
from store import database, restored
from store.audit import Author
from store.processes import ProcessLease
from store.restored import Seen, must_not_be_older
from store.seal import Keyring
from tests.support.postgres import MASTER

pytestmark = pytest.mark.integration

LATER = 10**18  # an id mark of long after now
OPS = Author("command", "test")


async def put_back(dsn):
    await restored.mark_restored(dsn, Keyring(MASTER), OPS, receipt_deadline_s=60)


async def lived(dsn, slot=0):
    lease = await ProcessLease.take(dsn, node="node", slot=slot, lease_s=0.2)
    await lease.close()
    return lease


async def newest(dsn):
    conn = await database.connect(dsn)
    mark = await conn.fetchval("SELECT max(id_high_water) FROM processes")
    await conn.close()
    return mark


async def test_an_older_state_is_refused_until_it_was_marked(dsn, tmp_path):
    lease = await lived(dsn)
    seen = Seen(tmp_path / "seen", lease.process, await must_not_be_older(dsn, tmp_path / "seen"))
    lost = (await newest(dsn)) + 1
    seen.note(lost)
    with pytest.raises(ConfigError, match="smsgw restored"):
        await must_not_be_older(dsn, tmp_path / "seen")
    await put_back(dsn)
    await must_not_be_older(dsn, tmp_path / "seen")
    assert await newest(dsn) > lost


async def test_where_every_number_is_vacant_the_marks_are_raised_too(dsn, tmp_path):
    lease, heir = await lived(dsn), await ProcessLease.take(dsn, node="b", slot=0, lease_s=0.5)
    conn = await database.connect(dsn)
    await conn.execute("UPDATE processes SET node = NULL, slot = NULL")
    await conn.close()
    await heir.close()
    origin = await must_not_be_older(dsn, tmp_path / "seen")
    Seen(tmp_path / "seen", lease.process, origin).note((await newest(dsn)) + 1)
    with pytest.raises(ConfigError):
        await must_not_be_older(dsn, tmp_path / "seen")
    await put_back(dsn)
    await must_not_be_older(dsn, tmp_path / "seen")


async def test_a_new_database_on_the_same_server_is_not_taken_for_an_old_one(
    dsn, undated, tmp_path
):
    """Another stage, or one that was dropped and begins anew: nothing of it left before."""
    lease = await lived(dsn)
    origin = await must_not_be_older(dsn, tmp_path / "seen")
    Seen(tmp_path / "seen", lease.process, origin).note(LATER)
    conn = await database.connect(undated)  # the tests' databases are copies of one
    await conn.execute("UPDATE lineage SET id = gen_random_uuid()")
    await conn.close()
    await lived(undated)
    other = await must_not_be_older(undated, tmp_path / "seen")
    assert other.system == origin.system
    assert not other.is_of(origin)


async def test_a_copy_of_an_older_state_is_refused_wherever_it_is(dsn, postgres_server, tmp_path):
    lease = await lived(dsn)
    origin = await must_not_be_older(dsn, tmp_path / "seen")
    Seen(tmp_path / "seen", lease.process, origin).note(LATER)
    source = dsn.split("/")[3].split("?")[0]
    await postgres_server.admin(f"CREATE DATABASE copied TEMPLATE {source}")
    try:
        with pytest.raises(ConfigError):
            await must_not_be_older(postgres_server.dsn("copied"), tmp_path / "seen")
    finally:
        await postgres_server.admin("DROP DATABASE copied WITH (FORCE)")


async def test_before_the_first_process_there_is_nothing_to_leave_again(dsn, tmp_path):
    origin = await must_not_be_older(dsn, tmp_path / "seen")
    Seen(tmp_path / "seen", 0, origin).note(LATER)
    assert await must_not_be_older(dsn, tmp_path / "seen") == origin
