"""The configuration as kept: versions, history, secrets, references by name."""

import asyncio
import base64

import pytest

from sms.config import ApiKey, Burst, Channel, ClassLimit, Route, Tenant, WebhookEndpoint
from sms.errors import ConfigError
from sms.model import Carrier, MessageClass
from store import database
from store.config import ConfigStore, Upsert
from store.seal import Keyring
from tests.support.postgres import MASTER

pytestmark = pytest.mark.integration

SHOP = Upsert("tenant", "shop", {"signatures": ["某商城"], "countries": [86, 1]}, {})
KEY = Upsert(
    "api_key",
    "shop/backend",
    {"tenant": "shop", "key_id": 7, "name": "backend", "scopes": ["send", "read"]},
    {"secret_hash": "ab" * 32},
)
OPS = Upsert(
    "api_key",
    "/ops",
    {"tenant": None, "key_id": 9, "name": "ops", "scopes": ["admin"]},
    {"secret_hash": "cd"},
)
MOBILE = Upsert(
    "channel",
    "mobile-a",
    {
        "protocol": "smpp",
        "settings": {"host": "127.0.0.1", "port": 2775},
        "window": 64,
        "classes": ["otp"],
    },
    {"password": "pa'ss"},
)
ROUTE = Upsert(
    "route",
    "shop/otp/CM/86",
    {"tenant": "shop", "class": "otp", "carrier": "CM", "country": 86, "channels": ["mobile-a"]},
    {},
)
HOOK = Upsert(
    "webhook_endpoint",
    "shop https://x.example/h",
    {"tenant": "shop", "url": "https://x.example/h", "batch": True},
    {"secrets": [base64.b64encode(b"k" * 32).decode()]},
)
ALL = [SHOP, KEY, OPS, MOBILE, ROUTE, HOOK]


@pytest.fixture
async def store(dsn):
    pool = await database.open_pool(dsn, size=3)
    yield ConfigStore(pool, Keyring(MASTER))
    pool.terminate()


async def test_what_is_applied_is_what_runs(store):
    assert (await store.load()).version == 0
    assert await store.apply(ALL, "test") == 1
    snapshot = await store.load()
    assert snapshot.version == await store.version() == 1
    assert snapshot.tenants == {1: Tenant(1, "shop", ("某商城",), (86, 1))}
    assert snapshot.api_keys == {
        7: ApiKey(7, "backend", 1, frozenset({"send", "read"}), bytes.fromhex("ab" * 32)),
        9: ApiKey(9, "ops", 0, frozenset({"admin"}), b"\xcd"),
    }
    settings = {"host": "127.0.0.1", "port": 2775, "password": "pa'ss"}
    assert snapshot.channels == {
        1: Channel(
            1, "mobile-a", "smpp", settings, window=64, classes=frozenset({MessageClass.OTP})
        )
    }
    assert snapshot.routes == (Route(1, 1, MessageClass.OTP, Carrier.CM, 86, (1,)),)
    assert snapshot.endpoints == {
        1: WebhookEndpoint(1, 1, "https://x.example/h", batch=True, secrets=(b"k" * 32,))
    }


async def test_only_what_differs_is_written(store, dsn):
    await store.apply(ALL, "first")
    assert await store.apply(ALL, "again") == 1
    changed = Upsert("channel", "mobile-a", MOBILE.spec, {"password": "new"})
    other = Upsert("tenant", "bank", {}, {})
    assert await store.apply([SHOP, changed, other], "ops") == 2
    current = await store.current()
    assert current["channel", "mobile-a"].secrets == {"password": "new"}
    assert current["channel", "mobile-a"].version == 2
    assert current["tenant", "shop"].version == 1
    assert (current["tenant", "bank"].id, current["tenant", "shop"].id) == (2, 1)
    conn = await database.connect(dsn)
    rows = await conn.fetch("SELECT kind, actor FROM object_history WHERE version = 2 ORDER BY 1")
    assert [tuple(row) for row in rows] == [("channel", "ops"), ("tenant", "ops")]
    whole = await conn.fetchval("SELECT string_agg(o::text, '') FROM objects o")
    assert b"pa'ss".hex() not in whole
    assert "pa'ss" not in whole
    await conn.close()


async def test_a_failing_apply_changes_nothing(store):
    await store.apply([SHOP], "test")
    with pytest.raises(ValueError, match="unknown kind"):
        await store.apply([Upsert("tenant", "bank", {}, {}), Upsert("planet", "x", {}, {})], "test")
    assert await store.version() == 1
    assert list(await store.current()) == [("tenant", "shop")]


async def test_two_that_apply_together_both_count(store):
    versions = await asyncio.gather(
        *[store.apply([Upsert("tenant", f"t{n}", {}, {})], "test") for n in range(5)]
    )
    assert sorted(versions) == [1, 2, 3, 4, 5]
    assert sorted((await store.load()).tenants) == [1, 2, 3, 4, 5]


async def test_a_disabled_object_is_out_of_force_and_its_name_free(store):
    await store.apply([SHOP], "test")
    assert await store.disable("tenant", "shop", "test") == 2
    assert await store.disable("tenant", "shop", "test") == 2
    assert (await store.load()).tenants == {}
    await store.apply([SHOP], "test")
    assert list((await store.load()).tenants) == [2]


async def test_a_reference_to_nothing_is_named(store):
    await store.apply([ROUTE, MOBILE], "test")
    with pytest.raises(ConfigError, match="shop"):
        await store.load()


async def test_secrets_of_another_master_key_are_named(store, dsn):
    await store.apply([MOBILE], "test")
    pool = await database.open_pool(dsn, size=1)
    with pytest.raises(ConfigError, match="SMSGW_MASTER_KEY_FILE"):
        await ConfigStore(pool, Keyring(bytes(32))).load()
    pool.terminate()


def shown(snapshot):
    """What a snapshot says, whatever the order of its objects."""
    return (
        snapshot.version,
        dict(snapshot.tenants),
        dict(snapshot.api_keys),
        dict(snapshot.channels),
        sorted(snapshot.routes, key=lambda route: route.id),
        dict(snapshot.endpoints),
    )


async def test_a_second_load_reads_what_changed_and_keeps_the_rest(store):
    await store.apply(ALL, "test")
    before = await store.load()
    await store.apply([Upsert("tenant", "other", {"signatures": []}, {})], "test")
    after = await store.load()
    assert set(after.tenants) == {1, 2}
    assert after.tenants[1] is before.tenants[1]
    assert after.channels[1] is before.channels[1]
    assert after.api_keys[7] is before.api_keys[7]


async def test_whatever_was_done_a_load_is_as_if_it_were_the_first(store, dsn):
    slower = Upsert("channel", "mobile-a", {**MOBILE.spec, "window": 8}, MOBILE.secrets)
    steps = (
        lambda: store.apply(ALL, "test"),
        lambda: store.apply([slower], "test"),
        lambda: store.disable("webhook_endpoint", HOOK.name, "test"),
        lambda: store.disable("route", ROUTE.name, "test"),
        lambda: store.apply([ROUTE, HOOK], "test"),
    )
    for step in steps:
        await step()
        pool = await database.open_pool(dsn, size=1)
        assert shown(await store.load()) == shown(await ConfigStore(pool, Keyring(MASTER)).load())
        await pool.close()


async def test_what_names_an_object_follows_when_another_takes_its_name(store):
    await store.apply(ALL, "test")
    await store.load()
    await store.disable("tenant", "shop", "test")
    await store.apply([SHOP], "test")  # the same name, another object
    snapshot = await store.load()
    assert list(snapshot.tenants) == [2]
    assert snapshot.api_keys[7].tenant == 2
    assert snapshot.routes[0].tenant == 2
    assert snapshot.endpoints[1].tenant == 2


async def test_a_load_that_failed_is_made_up_for(store):
    await store.apply(ALL, "test")
    await store.load()
    await store.disable("tenant", "shop", "test")
    with pytest.raises(ConfigError, match="shop"):
        await store.load()
    await store.apply([SHOP], "test")
    assert list((await store.load()).tenants) == [2]


async def test_the_limits_of_a_tenant(store):
    spec = {
        "segments_per_day": 10,
        "segments_per_month": 100,
        "classes": {"otp": {"segments_per_second": 5, "burst_segments": 6}},
        "bursts": [{"until": "1970-01-01T08:00:20+08:00", "segments_per_second": 7}],
    }
    await store.apply([Upsert("tenant", "shop", spec, {})], "test")
    tenant = (await store.load()).tenants[1]
    assert (tenant.segments_per_day, tenant.segments_per_month) == (10, 100)
    assert tenant.class_limits == (ClassLimit(MessageClass.OTP, 5.0, 6),)
    assert tenant.bursts == (Burst(0.0, 20.0, 7.0, 14),)
