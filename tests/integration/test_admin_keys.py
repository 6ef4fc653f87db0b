"""API keys over the real store: shown once, revoked, rotated, on every process."""

import json

import pytest

from store import database
from tests.support.admin_world import SEND, code, open_world

pytestmark = pytest.mark.integration


@pytest.fixture
async def world(dsn):
    async with open_world(dsn) as world:
        yield world


async def test_a_key_is_shown_once_and_stored_as_a_hash(world, dsn):
    tenant = await world.tenant()
    told = await world.key(tenant, signing=True)
    assert set(told) == {"id", "key", "signing_secret"}
    assert (await world.one.call("POST", "/v1/messages", told["key"], SEND)).status_code == 202
    secret = told["key"].split("_")[2]
    path = f"/v1/tenants/{tenant}/api-keys"
    for answer in (
        await world.admin("GET", path),
        await world.admin("GET", f"{path}/{told['id']}"),
        await world.admin("GET", "/v1/audit-events"),
    ):
        assert answer.status_code == 200
        assert secret not in answer.text
        assert told["signing_secret"] not in answer.text
    conn = await database.connect(dsn)
    for table in ("objects", "object_history", "audit_events"):
        text = await conn.fetchval(f"SELECT string_agg(t::text, '') FROM {table} t")
        for hidden in (secret, told["signing_secret"]):
            assert hidden not in text
            assert hidden.encode().hex() not in text
    await conn.close()
    [listed] = (await world.admin("GET", path)).json()["data"]
    assert listed.pop("created_at").endswith("Z")
    assert listed == {
        "id": told["id"],
        "name": "backend",
        "scopes": ["read", "send"],
        "signing": True,
        "status": "active",
        "valid_until": None,
        "version": listed["version"],
    }


async def test_a_revoked_key_is_out_on_every_process_at_its_next_look(world):
    tenant = await world.tenant()
    told = await world.key(tenant)
    await world.two.poll()
    send = ("POST", "/v1/messages", told["key"], SEND)
    for process in (world.one, world.two):
        assert (await process.call(*send)).status_code == 202
    path = f"/v1/tenants/{tenant}/api-keys/{told['id']}"
    assert (await world.admin("DELETE", path)).status_code == 204
    assert code(await world.one.call(*send)) == (401, "auth.invalid")  # at once, where it was done
    await world.two.poll()
    assert code(await world.two.call(*send)) == (401, "auth.invalid")
    quick = [
        (b"host", b"x"),
        (b"authorization", f"Bearer {told['key']}".encode()),
        (b"content-type", b"application/json"),
    ]
    assert world.two.quick.take(quick, json.dumps(SEND).encode()) is None
    assert code(await world.admin("DELETE", path)) == (404, "resource.not_found")
    assert code(await world.admin("GET", path)) == (404, "resource.not_found")
    again = await world.key(tenant)  # the name is free, the id is another one
    assert again["id"] != told["id"]


async def test_both_keys_work_until_the_overlap_ends_by_the_clock_alone(world):
    tenant = await world.tenant()
    old = await world.key(tenant, signing=True)
    path = f"/v1/tenants/{tenant}/api-keys"
    rotated = await world.admin("POST", f"{path}/{old['id']}:rotate", {"overlap_s": 60})
    assert rotated.status_code == 201, rotated.text
    new = rotated.json()
    assert set(new) == {"id", "key", "signing_secret"}
    assert new["id"] != old["id"]
    assert rotated.headers["location"].endswith(new["id"])
    await world.two.poll()
    version = world.two.flow.snapshot.version
    for process in (world.one, world.two):
        for off, allowed in [(0.0, 202), (59.9, 202), (60.0, 401), (61.0, 401)]:
            process.now = 1_800_000_000.0 + off
            process.flow.access.now = lambda process=process: process.now
            answer = await process.call("POST", "/v1/messages", old["key"], SEND)
            assert answer.status_code == allowed
            answer = await process.call("POST", "/v1/messages", new["key"], SEND)
            assert answer.status_code == 202
    assert world.two.flow.snapshot.version == version
    listed = (await world.admin("GET", path)).json()["data"]
    assert [(one["id"], one["status"]) for one in listed] == [
        (new["id"], "active"),
        (old["id"], "expired"),
    ]
    world.one.now = 1_800_000_000.0
    listed = (await world.admin("GET", path)).json()["data"]
    assert [one["status"] for one in listed] == ["active", "retiring"]
    assert listed[1]["valid_until"] == "2027-01-15T08:01:00.000Z"
    assert {one["name"] for one in listed} == {"backend"}
    twice = await world.admin("POST", f"{path}/{old['id']}:rotate", {"overlap_s": 60})
    assert code(twice) == (409, "key.rotated_out")
    # the old one can be ended early
    assert (await world.admin("DELETE", f"{path}/{old['id']}")).status_code == 204
    assert (await world.one.call("POST", "/v1/messages", old["key"], SEND)).status_code == 401
    assert (await world.one.call("POST", "/v1/messages", new["key"], SEND)).status_code == 202


async def test_the_short_way_ends_a_rotated_key_by_the_clock_too(world):
    tenant = await world.tenant()
    old = await world.key(tenant)
    path = f"/v1/tenants/{tenant}/api-keys/{old['id']}:rotate"
    await world.admin("POST", path, {"overlap_s": 1})
    flow, now = world.one.flow, 0.0
    until = flow.snapshot.api_keys[int(old["id"][4:], 16)].valid_until
    assert until == 1_800_000_001.0
    world.one.quick._door.now = lambda: now
    quick = [
        (b"host", b"x"),
        (b"authorization", f"Bearer {old['key']}".encode()),
        (b"content-type", b"application/json"),
    ]
    body = json.dumps(SEND).encode()
    for now, is_taken in [
        (until - 1, True),
        (until - 0.001, True),
        (until, False),
        (until + 9, False),
    ]:
        assert (world.one.quick.take(quick, body) is not None) == is_taken, now


async def test_an_overlap_is_whole_seconds_up_to_thirty_days(world):
    tenant = await world.tenant()
    told = await world.key(tenant)
    path = f"/v1/tenants/{tenant}/api-keys/{told['id']}:rotate"
    for overlap in (-1, 1.5, "60", None, 2_592_001, True):
        answer = await world.admin("POST", path, {"overlap_s": overlap})
        assert answer.status_code == 422
        assert answer.json()["errors"][0]["pointer"] == "/overlap_s"
    assert code(await world.admin("POST", path, {})) == (422, "field.missing")
    assert (await world.one.call("POST", "/v1/messages", told["key"], SEND)).status_code == 202


async def test_without_overlap_the_old_key_ends_at_once(world):
    tenant = await world.tenant()
    old = await world.key(tenant)
    path = f"/v1/tenants/{tenant}/api-keys/{old['id']}:rotate"
    new = (await world.admin("POST", path, {"overlap_s": 0})).json()
    assert (await world.one.call("POST", "/v1/messages", old["key"], SEND)).status_code == 401
    assert (await world.one.call("POST", "/v1/messages", new["key"], SEND)).status_code == 202


async def test_scopes_of_a_key(world):
    tenant = await world.tenant()
    path = f"/v1/tenants/{tenant}/api-keys"
    for scopes in (["admin"], ["send", "admin"], ["send", "send"], [], "send", ["SEND"]):
        answer = await world.admin("POST", path, {"name": "x", "scopes": scopes})
        assert answer.status_code == 422, scopes
        assert answer.json()["errors"][0]["pointer"].startswith("/scopes")
    reader = await world.key(tenant, "reader", scopes=["read"])
    answer = await world.one.call("POST", "/v1/messages", reader["key"], SEND)
    assert code(answer) == (403, "auth.scope")


async def test_admin_keys_have_their_own_place(world):
    made = await world.admin("POST", "/v1/admin-keys", {"name": "second", "signing": True})
    assert made.status_code == 201
    told = made.json()
    second = told["key"]
    assert (await world.one.call("GET", "/v1/tenants", second)).status_code == 200
    listed = (await world.admin("GET", "/v1/admin-keys")).json()["data"]
    assert [(one["name"], one["scopes"]) for one in listed] == [
        ("second", ["admin"]),
        ("ops", ["admin"]),
    ]
    for body in ({"name": "x", "scopes": ["send"]}, {"name": "x", "scopes": ["admin", "read"]}):
        assert (await world.admin("POST", "/v1/admin-keys", body)).status_code == 422
    own = await world.one.call("DELETE", f"/v1/admin-keys/{told['id']}", second)
    assert code(own) == (409, "key.own")
    rotated = await world.one.call(
        "POST", f"/v1/admin-keys/{told['id']}:rotate", second, {"overlap_s": 0}
    )
    assert rotated.status_code == 201
    assert (await world.one.call("GET", "/v1/tenants", second)).status_code == 401
    successor = rotated.json()
    assert (await world.one.call("GET", "/v1/tenants", successor["key"])).status_code == 200
    assert (await world.admin("DELETE", f"/v1/admin-keys/{successor['id']}")).status_code == 204
    assert (await world.one.call("GET", "/v1/tenants", successor["key"])).status_code == 401
