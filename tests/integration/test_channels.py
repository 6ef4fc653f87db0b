"""/v1/channels and /v1/routes over a real store: made, changed, paused, in force elsewhere."""

import asyncio
import json
from pathlib import Path

import pytest

from gateway import check
from gateway.settings import Settings
from sms.config import AdminState
from sms.model import Carrier
from store.channel_news import ChannelNewsStore, Left
from store.database import open_pool
from store.processes import ProcessLease
from tests.support.admin_world import NOBODY, audit, code, open_world
from tests.support.postgres import MASTER

pytestmark = pytest.mark.integration

SECRET = "s3cr3tpw"
NEW = {
    "name": "unicom-b",
    "protocol": "smpp",
    "host": "127.0.0.1",
    "port": 2775,
    "system_id": "shop",
    "password": SECRET,
    "window": 64,
    "classes": ["otp", "transactional"],
    "price_per_segment": "0.035",
}
STAR = [("if-match", "*")]


@pytest.fixture
async def world(dsn):
    async with open_world(dsn) as made:
        yield made


async def make(world, **fields):
    made = await world.admin("POST", "/v1/channels", {**NEW, **fields})
    assert made.status_code == 201, made.text
    assert made.headers["location"] == f"/v1/channels/{made.json()['id']}"
    return made.json()["id"]


async def route(world, *channels, **fields):
    body = {"class": "otp", "channels": list(channels), **fields}
    return await world.admin("POST", "/v1/routes", body)


def pointers(answer):
    assert answer.status_code == 422, answer.text
    return [(error["pointer"], error["code"]) for error in answer.json()["errors"]]


async def test_a_channel_is_in_force_elsewhere_and_its_secret_is_nowhere(world):
    name = await make(world)
    await world.two.poll()
    [running] = [one for one in world.two.flow.snapshot.channels.values() if one.name == "unicom-b"]
    assert (running.window, running.settings["host"]) == (64, "127.0.0.1")
    assert running.settings["password"] == SECRET

    read = await world.admin("GET", f"/v1/channels/{name}")
    told = read.json()
    assert (told["secrets"], told["admin_state"], told["sessions"]) == (["password"], "active", 1)
    assert told["settings"] == {"host": "127.0.0.1", "port": 2775, "system_id": "shop"}
    listed = (await world.admin("GET", "/v1/channels")).json()["data"]
    assert [one["name"] for one in listed] == ["unicom-b", "mobile-a"]
    assert SECRET not in json.dumps([told, listed, await audit(world)])


async def test_a_patch_keeps_what_it_does_not_name_and_a_rollback_brings_it_back(world):
    path = f"/v1/channels/{await make(world)}"
    read = await world.admin("GET", path)
    first = read.json()
    change = {"port": 2776, "price_per_segment": None, "password": "another1"}
    assert code(await world.admin("PATCH", path, change)) == (428, "if_match.required")
    tag = [("if-match", read.headers["etag"])]
    changed = (await world.admin("PATCH", path, change, headers=tag)).json()
    assert changed["settings"] == {**first["settings"], "port": 2776}
    assert (changed["window"], "price_per_segment" in changed) == (64, False)
    stale = await world.admin("PATCH", path, {"window": 8}, headers=tag)
    assert code(stale) == (412, "if_match.mismatch")
    kept = (await world.admin("PATCH", path, {"window": 8}, headers=STAR)).json()
    await world.two.poll()
    [running] = [one for one in world.two.flow.snapshot.channels.values() if one.window == 8]
    assert running.settings["password"] == "another1"

    await world.admin("POST", f"{path}:pause")
    back = await world.admin("POST", f"{path}:rollback", {"version": first["version"]})
    assert back.json() == {**first, "admin_state": "paused", "version": kept["version"] + 2}
    await world.two.poll()
    [running] = [one for one in world.two.flow.snapshot.channels.values() if one.window == 64]
    assert running.settings["password"] == SECRET
    actions = [one["action"] for one in await audit(world) if one["object"]["id"] in path]
    assert actions == [f"channel.{word}" for word in ("rolled_back", "paused")] + [
        "channel.updated", "channel.updated", "channel.created",
    ]  # fmt: skip


async def test_what_processes_have_left_is_shown_beside_the_version(world, dsn):
    path = f"/v1/channels/{await make(world)}"
    before = await world.admin("GET", path)
    assert before.json()["health"] == {"state": "ok", "left": []}
    number = int(path.rpartition("_")[2], 16)
    since = 1_800_000_000.0
    for slot in (0, 1):
        lease = await ProcessLease.take(dsn, node="n", slot=slot, lease_s=15.0)
        pool = await open_pool(dsn, process=lease.process, epoch=lease.epoch, size=1)
        async with ChannelNewsStore(pool).transaction() as tx:
            ways = [(number, Carrier.CM), *([(number, None)] if slot else [])]
            await tx.put([Left(way, lease.process, "no_answer", since, 0) for way in ways])
        pool.terminate()
        await lease.close()
    told = await world.admin("GET", path)
    found = {"cause": "no_answer", "since": "2027-01-15T08:00:00.000Z"}
    assert told.json()["health"] == {
        "state": "degraded",
        "left": [
            {"carrier": None, **found, "processes": 1},
            {"carrier": "CM", **found, "processes": 2},
        ],
    }
    assert told.headers["etag"] == before.headers["etag"]
    listed = (await world.admin("GET", "/v1/channels")).json()["data"]
    states = {one["name"]: one["health"]["state"] for one in listed}
    assert states == {"unicom-b": "degraded", "mobile-a": "ok"}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"window": 0}, [("/window", "field.value")]),
        ({"window": True}, [("/window", "field.type")]),
        ({"classes": ["otp", "urgent"]}, [("/classes/1", "field.value")]),
        ({"name": "a b", "port": "x"}, [("/name", "field.value"), ("/port", "field.value")]),
        ({"protocol": "smtp"}, [("/protocol", "field.value")]),
        ({"host": None}, [("/host", "field.value")]),
        ({"wimdow": 5}, [("/wimdow", "field.unknown")]),
        ({"13800138000 x": 5}, [("", "field.unknown")]),
        ({"password_file": "x"}, [("/password_file", "field.unknown")]),
        ({"admin_state": "off"}, [("/admin_state", "field.value")]),
        ({"encodings": None}, [("/encodings", "field.null")]),
    ],
)
async def test_a_wrong_field_is_named(world, fields, expected):
    refused = await world.admin("POST", "/v1/channels", {**NEW, **fields})
    assert set(expected) <= set(pointers(refused)), refused.text
    assert SECRET not in refused.text


async def test_what_is_missing_and_what_is_another_s_is_named(world):
    bare = await world.admin("POST", "/v1/channels", {"protocol": "smpp", "host": "h"})
    assert {"/name", "/port", "/system_id"} <= {pointer for pointer, _ in pointers(bare)}
    none = await world.admin("POST", "/v1/channels", {"host": "h"})
    assert ("/host", "field.unknown") in pointers(none)
    await make(world)
    assert code(await world.admin("POST", "/v1/channels", NEW)) == (409, "name.taken")
    twin = await world.admin("POST", "/v1/channels", {**NEW, "name": "other"})
    assert pointers(twin) == [("/system_id", "field.value")]


async def test_a_change_that_breaks_a_route_is_refused_and_names_it(world):
    name = await make(world)
    path = f"/v1/channels/{name}"
    assert (await route(world, "unicom-b")).status_code == 201
    broken = await world.admin("PATCH", path, {"classes": ["marketing"]}, headers=STAR)
    assert pointers(broken) == [("/classes", "route.misfit")]
    assert "*/otp/*/*" in broken.json()["detail"]
    in_use = await world.admin("DELETE", path)
    assert code(in_use) == (409, "channel.in_use")
    assert "*/otp/*/*" in in_use.json()["detail"]


async def test_a_route_is_made_read_changed_put_back_and_removed(world):
    channel, tenant = await make(world), await world.tenant()
    made = await route(world, "unicom-b", tenant=tenant, carrier="CU", country=86)
    assert made.status_code == 201, made.text
    path = made.headers["location"]
    first = (await world.admin("GET", path)).json()
    assert (first["tenant"], first["tenant_id"]) == ("shop", tenant)
    assert (first["channels"], first["channel_ids"]) == (["unicom-b"], [channel])
    assert (first["class"], first["carrier"], first["country"]) == ("otp", "CU", 86)
    again = await route(world, "mobile-a", tenant="shop", carrier="CU", country=86)
    assert code(again) == (409, "name.taken")

    change = {"channels": [channel, "mobile-a"]}
    assert code(await world.admin("PATCH", path, change)) == (428, "if_match.required")
    changed = (await world.admin("PATCH", path, change, headers=STAR)).json()
    assert changed["channels"] == ["unicom-b", "mobile-a"]
    await world.two.poll()
    [running] = [one for one in world.two.flow.snapshot.routes if one.country == 86]
    assert len(running.channels) == 2
    back = await world.admin("POST", f"{path}:rollback", {"version": first["version"]})
    assert back.json()["channels"] == ["unicom-b"]
    assert (await world.admin("DELETE", path)).status_code == 204
    assert code(await world.admin("GET", path)) == (404, "resource.not_found")
    assert (await world.admin("DELETE", f"/v1/channels/{channel}")).status_code == 204
    await world.two.poll()
    assert [one.name for one in world.two.flow.snapshot.channels.values()] == ["mobile-a"]


async def test_weights_of_a_route_are_made_changed_put_back_and_taken_away(world):
    await make(world)
    made = await route(world, "unicom-b", "mobile-a", weights=[70, 30])
    path = made.headers["location"]
    first = (await world.admin("GET", path)).json()
    assert first["weights"] == [70, 30]

    async def changed(**change):
        answer = await world.admin("PATCH", path, change, headers=STAR)
        assert answer.status_code == 200, answer.text
        await world.two.poll()
        [running] = [one for one in world.two.flow.snapshot.routes if one.message_class == "otp"]
        return answer.json()["weights"], running.weights

    assert await changed(weights=[5, 0]) == ([5, 0], (5,))
    assert await changed(channels=["mobile-a"]) == ([5], (5,))
    assert await changed(channels=["mobile-a", "unicom-b"], weights=[0, 1]) == ([0, 1], (0, 1))
    shorter = await world.admin("PATCH", path, {"channels": ["mobile-a"]}, headers=STAR)
    assert pointers(shorter) == [("/weights", "field.value")]
    assert await changed(weights=None) == (None, ())
    back = await world.admin("POST", f"{path}:rollback", {"version": first["version"]})
    assert back.json()["weights"] == [70, 30]
    plain = await route(world, "mobile-a", weights=None, carrier="CM")
    assert (await world.admin("GET", plain.headers["location"])).json()["weights"] is None


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"channels": []}, ("/channels", "field.value")),
        ({"channels": ["nobody"]}, ("/channels/0", "field.value")),
        ({"channels": ["mobile-a", "mobile-a"]}, ("/channels/1", "field.value")),
        ({"channels": ["a", "b", "c", "d", "e"]}, ("/channels", "field.value")),
        ({"channels": ["unicom-b"], "class": "marketing"}, ("/channels/0", "route.misfit")),
        ({"tenant": NOBODY}, ("/tenant", "field.value")),
        ({"country": "86"}, ("/country", "field.value")),
        ({"country": True}, ("/country", "field.type")),
        ({"weight": 5}, ("/weight", "field.unknown")),
        ({"weights": 5}, ("/weights", "field.type")),
        ({"weights": [0]}, ("/weights", "field.value")),
        ({"weights": [-1]}, ("/weights", "field.value")),
        ({"weights": [True]}, ("/weights", "field.value")),
        ({"weights": [1, 1]}, ("/weights", "field.value")),
    ],
)
async def test_a_wrong_field_of_a_route_is_named(world, fields, expected):
    await make(world)
    refused = await route(world, **{"channels": ["mobile-a"], **fields})
    assert expected in pointers(refused)


async def test_pausing_stands_until_it_is_undone(world, dsn, monkeypatch):
    path = f"/v1/channels/{await make(world)}"
    for action, state in (
        ("pause", AdminState.PAUSED),
        ("drain", AdminState.DRAINING),
        ("resume", AdminState.ACTIVE),
    ):
        told = (await world.admin("POST", f"{path}:{action}")).json()
        assert told["admin_state"] == state
        await world.two.poll()
        [running] = [one for one in world.two.flow.snapshot.channels.values() if one.id == 2]
        assert running.admin_state is state
        assert world.two.flow.snapshot.paused == (set() if state is AdminState.ACTIVE else {2})
    await world.admin("POST", f"{path}:pause")
    monkeypatch.setattr(check, "read_master_key", lambda path: MASTER)
    settings = Settings.load({}, data_dir=Path("none"), database_url=dsn)
    told = {name: text for name, _, text in await asyncio.to_thread(list, check.results(settings))}
    assert told["channels"] == "2 configured; unicom-b is paused, by an operator"
    tag = [("if-match", '"1"')]
    stale = await world.admin("POST", f"{path}:pause", headers=tag)
    assert code(stale) == (412, "if_match.mismatch")
    tenant = await world.tenant()
    key = (await world.key(tenant))["key"]
    assert code(await world.one.call("POST", f"{path}:pause", key)) == (403, "auth.scope")
