"""Old messages that a measurement loads are as the gateway would have left them."""

import json
import os
import time

import pytest

from gateway.reports import fold_stored
from loadtest.fill import Day, Plan, carrier_id_of, channel_of, digits_of, fill, id_of, tenant_of
from loadtest.many import Crowd, channels, tenants
from sms.model import State
from store import database, partitions
from store.audit import Author
from store.config import ConfigStore
from store.read import Reader
from store.seal import Keyring, load_or_create_master_key

pytestmark = pytest.mark.integration


async def test_loaded_messages_read_back_as_delivered(dsn, tmp_path):
    key_file = tmp_path / "master.key"
    keyring = Keyring(load_or_create_master_key(key_file))
    now = time.time()
    day = Day(partitions.today(now) - 3, 500)
    conn = await database.connect(dsn, statement_timeout_s=30)
    await conn.execute("DELETE FROM data_keys")  # the template's belong to another master key
    await partitions.ensure(conn, keyring, days_ahead=3, now=now - 3 * 86_400)
    told: list[dict[str, object]] = []
    await fill(Plan(dsn, str(key_file), 7, 0, [day]), told.append)
    assert told == [{"event": "progress", "messages": 500}]
    pool = await database.open_pool(dsn, size=1)
    reader = Reader(pool, Keyring(load_or_create_master_key(key_file)))
    for number in (0, 1, 499):
        stored = await reader.message(id_of(day, number, 0), tenant_of(number, 7))
        assert stored is not None
        message = fold_stored(stored)
        assert message.state is State.DELIVERED
        assert message.number == digits_of(day, number)
        assert f"订单{number:08d}" in message.texts[0]
        pair = channel_of(number), carrier_id_of(day, number)
        found = await reader.by_carrier_ids([pair], now=now)
        assert found == {pair: (message.id, (0,), 0)}
    assert await conn.fetchval("SELECT count(*) FROM events") == 1000
    await pool.close()
    await database.close(conn)


async def test_the_crowd_loads_as_a_configuration(dsn):
    keyring = Keyring(os.urandom(32))
    pool = await database.open_pool(dsn, size=1)
    store = ConfigStore(pool, keyring)
    crowd = Crowd(20, 8, 2775, "http://127.0.0.1:9900/hooks", b"k" * 32)
    made = list(tenants(crowd, keyring.pepper))
    await store.apply(
        [*channels(crowd), *(o for _, objects in made for o in objects)], Author("command", "test")
    )
    snapshot = await store.load()
    assert len(snapshot.tenants) == len(snapshot.api_keys) == len(snapshot.endpoints) == 20
    assert len(snapshot.channels) == 8
    assert len(snapshot.routes) == 20
    assert len(snapshot.ways) == 2
    assert len({key for key, _ in made}) == 20
    assert json.dumps([key for key, _ in made])
    await pool.close()
