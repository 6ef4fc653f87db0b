"""The audit log: one row per change, in its transaction, chained, never changed."""

import asyncio
import base64
import hashlib
import hmac
import json

import asyncpg
import pytest

from gateway.check import _audit
from gateway.settings import Settings
from sms.errors import ConfigError
from store import audit, database
from store.audit import AuditLog, Author
from store.config import ConfigStore
from store.objects import Removal, Upsert
from store.seal import Keyring
from tests.support.postgres import MASTER

pytestmark = pytest.mark.integration

OPS = Author("key", "ops", "key_0000800000000001", None, "192.0.2.7", "req-1")
SHOP = Upsert("tenant", "shop", {"countries": [86]}, {})
MOBILE = Upsert("channel", "mobile", {"protocol": "smpp"}, {"password": "topsecret"})


@pytest.fixture
async def store(dsn):
    pool = await database.open_pool(dsn, size=3)
    yield ConfigStore(pool, Keyring(MASTER))
    pool.terminate()


@pytest.fixture
async def conn(dsn):
    made = await database.connect(dsn)
    yield made
    await made.close()


def bodies(rows):
    return [json.loads(row.body) for row in rows]


async def test_a_row_says_who_when_from_where_what_before_and_after(store):
    await store.apply([SHOP], OPS)
    changed = Upsert("tenant", "shop", {"countries": [86, 1]}, {}, verb="rolled_back")
    await store.apply([changed], OPS)
    await store.apply([Removal("tenant", "shop")], OPS)
    removed, updated, created = bodies(await store.audit.page(10))
    assert created.pop("at").endswith("Z")
    assert created == {
        "id": "aud_0000000000000001",
        "action": "tenant.created",
        "actor": {"kind": "key", "id": "key_0000800000000001", "name": "ops", "os_user": None},
        "address": "192.0.2.7",
        "request_id": "req-1",
        "object": {"kind": "tenant", "id": "ten_0000000000000001", "name": "shop"},
        "version": 1,
        "before": None,
        "after": {"countries": [86]},
        "secrets_changed": [],
    }
    assert updated["action"] == "tenant.rolled_back"
    assert (updated["before"], updated["after"]) == ({"countries": [86]}, {"countries": [86, 1]})
    assert (removed["action"], removed["before"], removed["after"]) == (
        "tenant.removed",
        {"countries": [86, 1]},
        None,
    )


async def test_no_secret_stands_in_the_log(store, conn):
    hook = Upsert(
        "webhook_endpoint",
        "shop https://x.example/h?token=hush",
        {"tenant": "shop", "url": "https://x.example/h?token=hush"},
        {"secrets": ["aHVzaA=="]},
    )
    key = Upsert(
        "api_key",
        "shop/k",
        {"tenant": "shop", "key_id": 5, "name": "k"},
        {"secret_hash": "ab" * 32, "signing_secret": "smsgw_signing_hush"},
    )
    await store.apply([SHOP, MOBILE, hook, key], OPS)
    await store.apply([Upsert("channel", "mobile", MOBILE.spec, {"password": "topsecret2"})], OPS)
    text = await conn.fetchval("SELECT string_agg(a::text, '') FROM audit_events a")
    for secret in ("topsecret", "hush", "aHVzaA", "abababab"):
        assert secret not in text
    rotated, *others = bodies(await store.audit.page(10))
    assert rotated["secrets_changed"] == ["password"]
    assert others[0]["secrets_changed"] == ["secret_hash", "signing_secret"]
    assert others[0]["object"]["id"] == "key_0000000000000005"
    assert others[1]["object"]["name"] == "shop https://x.example/h?…"


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE audit_events SET body = 'x'",
        "DELETE FROM audit_events",
        "DELETE FROM audit_events WHERE false",
        "TRUNCATE audit_events",
        "INSERT INTO audit_events SELECT * FROM audit_events"
        " ON CONFLICT (id) DO UPDATE SET body = 'x'",
        "WITH d AS (DELETE FROM audit_events RETURNING 1) SELECT count(*) FROM d",
        "MERGE INTO audit_events a USING (SELECT 1 AS id) b ON a.id = b.id"
        " WHEN MATCHED THEN DELETE",
    ],
)
async def test_a_row_is_never_changed_or_removed(store, conn, sql):
    await store.apply([SHOP], OPS)
    with pytest.raises(asyncpg.PostgresError) as refused:
        await conn.execute(sql)
    assert refused.value.sqlstate == "SG002"
    assert len(await store.audit.page(10)) == 1


async def test_the_chain_is_what_the_documents_say(store):
    await store.apply([SHOP, MOBILE], OPS)
    key = Keyring(MASTER).audit_key
    head = bytes(32)
    for row in reversed(await store.audit.page(10)):
        head = hmac.new(key, head + row.body.encode(), hashlib.sha256).digest()
        assert row.hash == head
    assert await store.audit.verify() == (2, None, head)


@pytest.mark.parametrize(
    ("sql", "broken_at"),
    [
        ("UPDATE audit_events SET body = replace(body, 'ops', 'eve') WHERE id = 2", 2),
        ("UPDATE audit_events SET hash = sha256(hash) WHERE id = 3", 3),
        ("UPDATE audit_events SET object = 'ten_0000000000000009' WHERE id = 1", 1),
        ("DELETE FROM audit_events WHERE id = 2", 2),
        ("DELETE FROM audit_events WHERE id = 1", 1),
        ("UPDATE audit_events SET id = id + 10 WHERE id > 1", 2),
        ("UPDATE audit_events SET id = -id; UPDATE audit_events SET id = 4 + id", 1),  # reversed
    ],
)
async def test_what_was_tampered_with_is_found(store, conn, sql, broken_at):
    for name in ("a", "b", "c"):
        await store.apply([Upsert("tenant", name, {}, {})], OPS)
    await conn.execute(f"ALTER TABLE audit_events DISABLE TRIGGER USER; {sql}")
    assert (await store.audit.verify()).broken_at == broken_at


async def test_another_key_does_not_make_the_chain(store):
    await store.apply([SHOP], OPS)
    other = AuditLog(store._pool, Keyring(bytes(32)).audit_key)
    assert (await other.verify()).broken_at == 1


async def test_changes_at_the_same_time_make_one_chain(store, monkeypatch):
    monkeypatch.setattr(audit, "_VERIFY_PAGE", 7)
    await asyncio.gather(
        *[store.apply([Upsert("tenant", f"t{n}", {}, {})], OPS) for n in range(20)]
    )
    verdict = await store.audit.verify()
    assert (verdict.rows, verdict.broken_at) == (20, None)
    assert [body["version"] for body in bodies(await store.audit.page(99))] == [*range(20, 0, -1)]


async def test_the_log_is_read_in_pages_and_by_object(store):
    for name in ("a", "b", "c"):
        await store.apply([Upsert("tenant", name, {}, {})], OPS)
    assert [row.id for row in await store.audit.page(2)] == [3, 2]
    assert [row.id for row in await store.audit.page(2, 2)] == [1]
    assert [row.id for row in await store.audit.page(9, of="ten_0000000000000002")] == [2]
    assert await store.audit.page(9, of="x' OR true --") == []
    assert await AuditLog(store._pool, b"").page(0) == []


async def test_smsgw_check_names_the_row_that_was_tampered_with(store, conn, dsn, tmp_path):
    (tmp_path / "master.key").write_bytes(base64.b64encode(MASTER))
    (tmp_path / "master.key").chmod(0o600)
    settings = Settings.load({}, data_dir=tmp_path, database_url=dsn)
    for name in ("a", "b"):
        await store.apply([Upsert("tenant", name, {}, {})], OPS)
    assert "2 rows, the chain holds" in await asyncio.to_thread(_audit, settings)
    await conn.execute(
        "ALTER TABLE audit_events DISABLE TRIGGER USER;"
        " UPDATE audit_events SET body = replace(body, 'ops', 'eve') WHERE id = 2"
    )
    with pytest.raises(ConfigError, match="row 2 of the audit log"):
        await asyncio.to_thread(_audit, settings)
