"""The configuration as kept: versions, history, secrets, references by name."""

import asyncio
import base64
import dataclasses
import math

import pytest

from sms.config import ApiKey, Burst, Channel, ClassLimit, Route, Tenant, WebhookEndpoint
from sms.errors import ConfigError
from sms.model import Carrier, MessageClass
from store import database
from store.audit import Author
from store.config import ConfigMovedError, ConfigStore, KeyReusedError
from store.objects import Removal, Upsert
from store.seal import Keyring
from tests.support.postgres import MASTER

pytestmark = pytest.mark.integration

OPERATOR = Author("key", "ops", "key_0000800000000001", address="192.0.2.7", request_id="r1")
TEST = Author("command", "test", os_user="somebody")
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


async def test_changes_that_wait_for_each_other_hold_no_connection(store):
    """A tenant may make changes as well; the pool is everybody's."""
    async with store.change(TEST) as change:
        waiting = [asyncio.create_task(store.apply([SHOP], TEST)) for _ in range(6)]
        for _ in range(6):  # and so they get as far as they can
            assert await asyncio.wait_for(store.version(), 1.0) == 0
        await change.put(SHOP)
    assert await asyncio.gather(*waiting) == [1] * 6


async def test_what_is_applied_is_what_runs(store):
    assert (await store.load()).version == 0
    assert await store.apply(ALL, TEST) == 1
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
    await store.apply(ALL, TEST)
    assert await store.apply(ALL, TEST) == 1
    changed = Upsert("channel", "mobile-a", MOBILE.spec, {"password": "new"})
    other = Upsert("tenant", "bank", {}, {})
    assert await store.apply([SHOP, changed, other], OPERATOR) == 2
    current = await store.current()
    assert current["channel", "mobile-a"].secrets == {"password": "new"}
    assert current["channel", "mobile-a"].version == 2
    assert current["tenant", "shop"].version == 1
    assert (current["tenant", "bank"].id, current["tenant", "shop"].id) == (2, 1)
    conn = await database.connect(dsn)
    rows = await conn.fetch("SELECT kind, actor FROM object_history WHERE version = 2 ORDER BY 1")
    who = "key key_0000800000000001 ops"
    assert [tuple(row) for row in rows] == [("channel", who), ("tenant", who)]
    whole = await conn.fetchval("SELECT string_agg(o::text, '') FROM objects o")
    assert b"pa'ss".hex() not in whole
    assert "pa'ss" not in whole
    await conn.close()


async def test_a_failing_apply_changes_nothing(store):
    await store.apply([SHOP], TEST)
    with pytest.raises(ValueError, match="unknown kind"):
        await store.apply([Upsert("tenant", "bank", {}, {}), Upsert("planet", "x", {}, {})], TEST)
    assert await store.version() == 1
    assert list(await store.current()) == [("tenant", "shop")]


async def test_two_that_apply_together_both_count(store):
    versions = await asyncio.gather(
        *[store.apply([Upsert("tenant", f"t{n}", {}, {})], TEST) for n in range(5)]
    )
    assert sorted(versions) == [1, 2, 3, 4, 5]
    assert sorted((await store.load()).tenants) == [1, 2, 3, 4, 5]


async def test_a_disabled_object_is_out_of_force_and_its_name_free(store):
    await store.apply([SHOP], TEST)
    assert await store.apply([Removal("tenant", "shop")], TEST) == 2
    assert await store.apply([Removal("tenant", "shop")], TEST) == 2
    assert (await store.load()).tenants == {}
    await store.apply([SHOP], TEST)
    assert list((await store.load()).tenants) == [2]


async def test_a_reference_to_nothing_is_named(store):
    await store.apply([ROUTE, MOBILE], TEST)
    with pytest.raises(ConfigError, match="shop"):
        await store.load()


async def test_secrets_of_another_master_key_are_named(store, dsn):
    await store.apply([MOBILE], TEST)
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
    await store.apply(ALL, TEST)
    before = await store.load()
    await store.apply([Upsert("tenant", "other", {"signatures": []}, {})], TEST)
    after = await store.load()
    assert set(after.tenants) == {1, 2}
    assert after.tenants[1] is before.tenants[1]
    assert after.channels[1] is before.channels[1]
    assert after.api_keys[7] is before.api_keys[7]


async def test_whatever_was_done_a_load_is_as_if_it_were_the_first(store, dsn):
    slower = Upsert("channel", "mobile-a", {**MOBILE.spec, "window": 8}, MOBILE.secrets)
    steps = (
        lambda: store.apply(ALL, TEST),
        lambda: store.apply([slower], TEST),
        lambda: store.apply([Removal("webhook_endpoint", HOOK.name)], TEST),
        lambda: store.apply([Removal("route", ROUTE.name)], TEST),
        lambda: store.apply([ROUTE, HOOK], TEST),
    )
    for step in steps:
        await step()
        pool = await database.open_pool(dsn, size=1)
        assert shown(await store.load()) == shown(await ConfigStore(pool, Keyring(MASTER)).load())
        await pool.close()


async def test_what_names_an_object_follows_when_another_takes_its_name(store):
    await store.apply(ALL, TEST)
    await store.load()
    await store.apply([Removal("tenant", "shop")], TEST)
    await store.apply([SHOP], TEST)  # the same name, another object
    snapshot = await store.load()
    assert list(snapshot.tenants) == [2]
    assert snapshot.api_keys[7].tenant == 2
    assert snapshot.routes[0].tenant == 2
    assert snapshot.endpoints[1].tenant == 2


async def test_a_load_that_failed_is_made_up_for(store):
    await store.apply(ALL, TEST)
    await store.load()
    await store.apply([Removal("tenant", "shop")], TEST)
    with pytest.raises(ConfigError, match="shop"):
        await store.load()
    await store.apply([SHOP], TEST)
    assert list((await store.load()).tenants) == [2]


async def test_a_load_reads_what_changed_since_and_keeps_the_rest(store):
    await store.apply(ALL, TEST)
    first = await store.load()
    await store.apply([Upsert("tenant", "shop", {"countries": [1]}, {})], TEST)
    second = await store.load()
    assert second.tenants[1].countries == (1,)
    assert second.channels[1] is first.channels[1]
    assert second.routes[0] is first.routes[0]
    renamed = Upsert("api_key", "shop/backend/old", {**KEY.spec, "valid_until": 5.0}, KEY.secrets)
    async with store.change(TEST) as change:
        await change.put(dataclasses.replace(renamed, was="shop/backend"))
        await change.put(Upsert("api_key", "shop/backend", {**KEY.spec, "key_id": 8}, KEY.secrets))
    third = await store.load()
    assert {key.id: key.valid_until for key in third.api_keys.values()} == {
        7: 5.0,
        8: math.inf,
        9: math.inf,
    }
    await store.apply([Removal("api_key", "shop/backend/old")], TEST)
    fourth = await store.load()
    assert sorted(fourth.api_keys) == [8, 9]
    assert shown(fourth) == shown(await ConfigStore(store._pool, store._keyring).load())


async def test_a_database_that_was_put_back_is_read_anew(store, dsn):
    await store.apply(ALL, TEST)
    await store.apply([Upsert("tenant", "bank", {}, {})], TEST)
    await store.load()
    conn = await database.connect(dsn)
    await conn.execute("DELETE FROM objects WHERE name = 'bank'")
    await conn.execute("UPDATE config_version SET version = 1")
    await conn.close()
    assert list((await store.load()).tenants) == [1]


async def test_an_object_that_names_nothing_is_read_again_once_it_is_mended(store):
    await store.apply([SHOP], TEST)
    await store.load()
    await store.apply([ROUTE], TEST)
    for _ in range(2):
        with pytest.raises(ConfigError, match="mobile-a"):
            await store.load()
    await store.apply([MOBILE], TEST)
    assert len((await store.load()).routes) == 1


async def test_what_was_read_may_be_out_of_date(store):
    await store.apply([SHOP], TEST)
    with pytest.raises(ConfigMovedError):
        await store.apply([MOBILE], TEST, based_on=0)
    assert await store.apply([MOBILE], TEST, based_on=1) == 2
    # also when it wants nothing: what was compared is not what stands
    with pytest.raises(ConfigMovedError):
        await store.apply([], TEST, based_on=1)


async def test_the_id_of_a_key_never_comes_back(store):
    await store.apply([SHOP, KEY], TEST)
    await store.apply([Removal("api_key", "shop/backend")], TEST)
    assert await store.revoked_key_ids() == {7}
    again = Upsert("api_key", "shop/other", {**KEY.spec, "name": "other"}, KEY.secrets)
    for write in (KEY, again):
        with pytest.raises(KeyReusedError):
            await store.apply([write], TEST)
    assert await store.version() == 2
    assert (await store.load()).api_keys == {}


async def test_an_error_inside_a_change_undoes_all_of_it(store):
    async def break_off():
        async with store.change(TEST) as change:
            await change.put(SHOP)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await break_off()
    assert await store.version() == 0
    assert await store.audit.page(10) == []
    assert await store.current() == {}


async def test_an_object_as_it_was(store):
    await store.apply([SHOP, MOBILE], TEST)
    await store.apply([Upsert("tenant", "shop", {"countries": [1]}, {})], TEST)
    async with store.change(TEST) as change:
        shop = await change.by_name("tenant", "shop")
        assert shop is not None
        assert shop.spec == {"countries": [1]}
        assert (await change.at(shop, 1)).spec == SHOP.spec
        assert (await change.at(shop, 2)).spec == shop.spec
        assert (await change.at(shop, 99)).spec == shop.spec
        assert await change.at(shop, 0) is None
        assert await change.at(shop, -1) is None
        assert await change.at(shop, 1 << 40) is None
        mobile = await change.by_name("channel", "mobile-a")
        assert (await change.at(mobile, 1)).secrets == MOBILE.secrets
    assert await store.version() == 2  # looking is no change


async def test_objects_are_found_and_listed(store):
    await store.apply(ALL, TEST)
    more = [Upsert("tenant", f"t{n}", {}, {}) for n in range(4)]
    await store.apply(more, TEST)
    assert [one.name for one in await store.page("tenant", 3)] == ["t3", "t2", "t1"]
    assert [one.name for one in await store.page("tenant", 9, 3)] == ["t0", "shop"]
    assert [one.name for one in await store.page("api_key", 9, owner="shop")] == ["shop/backend"]
    assert [one.name for one in await store.page("api_key", 9, owner="")] == ["/ops"]
    assert (await store.find("tenant", 1)).name == "shop"
    assert (await store.find("api_key", 7)).public_id == "key_0000000000000007"
    for kind, number in [("tenant", 99), ("tenant", 1 << 62), ("api_key", 1 << 62)]:
        assert await store.find(kind, number) is None


async def test_a_key_is_replaced_by_another_in_one_change(store):
    await store.apply([SHOP, KEY], TEST)
    other = Upsert("api_key", "shop/backend", {**KEY.spec, "key_id": 8}, KEY.secrets)
    assert await store.apply([Removal("api_key", "shop/backend"), other], TEST) == 2
    assert list((await store.load()).api_keys) == [8]
    assert await store.revoked_key_ids() == {7}
    assert (await store.find("api_key", 8)).id == 2
    with pytest.raises(KeyReusedError):
        await store.apply([Removal("api_key", "shop/backend"), KEY], TEST)
    assert list((await store.load()).api_keys) == [8]


async def test_the_limits_of_a_tenant(store):
    spec = {
        "segments_per_day": 10,
        "segments_per_month": 100,
        "classes": {"otp": {"segments_per_second": 5, "burst_segments": 6}},
        "bursts": [{"until": "1970-01-01T08:00:20+08:00", "segments_per_second": 7}],
    }
    await store.apply([Upsert("tenant", "shop", spec, {})], TEST)
    tenant = (await store.load()).tenants[1]
    assert (tenant.segments_per_day, tenant.segments_per_month) == (10, 100)
    assert tenant.class_limits == (ClassLimit(MessageClass.OTP, 5.0, 6),)
    assert tenant.bursts == (Burst(0.0, 20.0, 7.0, 14),)
