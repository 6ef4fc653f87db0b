"""A worker with another master key is refused before it owns anything."""

import asyncio
import os
import sys

import pytest

from gateway.settings import Settings, child_environment
from gateway.worker import EXIT_CONFIG
from sms.errors import ConfigError
from store import database
from store.seal import Keyring, load_or_create_master_key, must_fit
from tests.support.postgres import World

pytestmark = pytest.mark.integration


@pytest.fixture
async def sealed(durable):
    """A database with keys under some master key."""
    world = await World.make(durable)
    await world.close()
    return durable


async def test_a_refused_worker_takes_no_number(sealed, tmp_path):
    """A number that it took would look like a death 17 s later."""
    settings = Settings.load({}, data_dir=tmp_path, database_url=sealed, run_dir=tmp_path, node="n")
    load_or_create_master_key(settings.master_key_file)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-P", "-m", "gateway", "worker"),
        env=child_environment(settings),
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        _, words = await asyncio.wait_for(process.communicate(), 30)
    finally:
        if process.returncode is None:
            process.kill()
    assert process.returncode == EXIT_CONFIG
    lines = words.decode().strip().splitlines()
    assert len(lines) == 1, lines
    assert "made with another master key" in lines[0]
    conn = await database.connect(sealed)
    assert await conn.fetch("SELECT FROM processes WHERE node = 'n'") == []
    await conn.close()


async def test_a_database_without_keys_fits_every_key(sealed):
    keyring = Keyring(os.urandom(32))
    with pytest.raises(ConfigError):
        await must_fit(sealed, keyring)
    conn = await database.connect(sealed)
    await conn.execute("DELETE FROM data_keys")
    assert not await must_fit(sealed, keyring)
    await conn.execute("DROP TABLE data_keys")
    assert not await must_fit(sealed, keyring)
    await conn.close()
