"""/v1/canaries over a real store: made, stepped by hand, ended, and what they hold still."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.canaryspec import at_share, rolled_back
from sms.config import CanaryState
from store.audit import Author
from store.canaries import Judging
from store.objects import Upsert
from tests.support.admin_world import audit, code, open_world

pytestmark = pytest.mark.integration

STAR = [("if-match", "*")]
ACCOUNT = {"protocol": "smpp", "host": "127.0.0.1", "port": 2775, "password": "s3cr3tpw"}


@pytest.fixture
async def world(dsn, monkeypatch):
    """With a route for login codes over `old`, and channels `new` and `third` beside it.

    The database's clock, which every step goes by, is a minute behind the host's.
    """
    async with open_world(dsn) as made:

        async def now(_):
            return made.one.now - 60.0

        monkeypatch.setattr(Judging, "now", now)
        for name in ("old", "new", "third"):
            await channel(made, name)
        await route(made, "old", **{"class": "otp"})
        yield made


async def channel(world, name, **fields):
    body = {**ACCOUNT, "name": name, "system_id": name, **fields}
    made = await world.admin("POST", "/v1/channels", body)
    assert made.status_code == 201, made.text
    return made.headers["location"]


async def route(world, *channels, **fields):
    made = await world.admin("POST", "/v1/routes", {"channels": list(channels), **fields})
    assert made.status_code == 201, made.text
    return made.headers["location"]


async def try_out(world, **fields):
    body = {"name": "trial", "route": "*/otp/*/*", "channel": "new", **fields}
    given = {name: value for name, value in body.items() if value is not None}
    return await world.admin("POST", "/v1/canaries", given)


async def make(world, **fields):
    made = await try_out(world, **fields)
    assert made.status_code == 201, made.text
    return made.headers["location"]


async def path_of(world, kind, name):
    listed = (await world.admin("GET", f"/v1/{kind}s")).json()["data"]
    of = {one.get("name") or "/".join(str(one[k]) for k in WHOSE): one["id"] for one in listed}
    return f"/v1/{kind}s/{of[name]}"


WHOSE = ("tenant", "class", "carrier", "country")


def pointers(answer):
    assert answer.status_code == 422, answer.text
    return [(error["pointer"], error["code"]) for error in answer.json()["errors"]]


async def test_a_canary_is_made_read_listed_and_in_force_elsewhere(world):
    one = await make(world)
    told = (await world.admin("GET", one)).json()
    otp = await path_of(world, "route", "*/otp/*/*")
    assert told.pop("created_at").endswith("Z")
    assert told == {
        "id": one.rpartition("/")[2],
        "name": "trial",
        "route": "*/otp/*/*",
        "route_id": otp.rpartition("/")[2],
        "channels": ["new", "old"],
        "channel_ids": [f"chn_{3:016x}", f"chn_{2:016x}"],
        "baseline": "old",
        "steps": [5, 30, 100],
        "share": 5,
        "state": "running",
        "since": "2027-01-15T07:59:00.000Z",
        "reason": None,
        "gates": {},
        "last_gate": None,
        "version": world.one.flow.snapshot.version,
    }
    assert (await world.admin("GET", "/v1/canaries")).json()["data"][0]["name"] == "trial"
    await world.two.poll()
    [running] = world.two.flow.snapshot.canaries
    assert (running.channels, running.share, running.state) == ((3, 2), 5, CanaryState.RUNNING)
    [made] = [row for row in await audit(world) if row["object"]["kind"] == "canary"]
    assert (made["action"], made["after"]["channels"]) == ("canary.created", ["new", "old"])


async def test_route_and_channel_go_by_id_and_a_list_is_what_it_will_be(world):
    otp = (await path_of(world, "route", "*/otp/*/*")).rpartition("/")[2]
    third, new = f"chn_{4:016x}", f"chn_{3:016x}"
    one = await make(world, route=otp, channel=None, channels=[third, new], steps=[10, 100])
    told = (await world.admin("GET", one)).json()
    assert (told["channels"], told["steps"], told["share"]) == (["third", "new"], [10, 100], 10)
    await world.admin("POST", f"{one}:promote")
    route_now = (await world.admin("GET", f"/v1/routes/{otp}")).json()
    assert route_now["channels"] == ["third", "new"]


WRONG: list[tuple[dict[str, Any], tuple[str, str]]] = [
    ({"name": None}, ("/name", "field.missing")),
    ({"route": "*/otp/CM/*"}, ("/route", "field.value")),
    ({"route": None}, ("/route", "field.missing")),
    ({"channel": "nobody"}, ("/channel", "field.value")),
    ({"channel": None}, ("/channel", "field.missing")),
    ({"channels": ["new"]}, ("/channels", "field.value")),
    ({"channel": None, "channels": ["new", "nobody"]}, ("/channels/1", "field.value")),
    ({"channel": None, "channels": []}, ("/channels", "field.value")),
    ({"channel": "old"}, ("/channel", "field.value")),
    ({"channel": None, "channels": ["old", "new"]}, ("/channels/0", "field.value")),
    ({"channel": "marketing-only"}, ("/channel", "route.misfit")),
    ({"channel": "wide"}, ("/channel", "route.misfit")),
    ({"channel": None, "channels": ["new", "wide"]}, ("/channels/1", "route.misfit")),
    ({"channel": "mainland"}, ("/channel", "route.misfit")),
    ({"channel": "paused"}, ("/channel", "channel.paused")),
    ({"steps": [30, 5, 100]}, ("/steps", "field.value")),
    ({"steps": [5, 30]}, ("/steps", "field.value")),
    ({"steps": [0, 100]}, ("/steps", "field.value")),
    ({"steps": []}, ("/steps", "field.value")),
    ({"gates": {"failure_share": 0.5}}, ("/gates/failure_share", "field.value")),
    ({"gates": {"step_s": 60}}, ("/gates/step_s", "field.value")),
    ({"gates": {"oops": 1}}, ("/gates/oops", "field.unknown")),
    ({"gates": []}, ("/gates", "field.type")),
    ({"share": 50}, ("/share", "field.unknown")),
]


async def test_what_is_wrong_is_named(world):
    await channel(world, "marketing-only", classes=["marketing"])
    await channel(world, "wide", reference_bits=16)
    await channel(world, "paused", admin_state="paused")
    cmpp = {"protocol": "cmpp3", "host": "h", "port": 7890, "shared_secret": "x"}
    mainland = {**cmpp, "name": "mainland", "source_addr": "900001", "sender": "1069"}
    made = await world.admin("POST", "/v1/channels", mainland)
    assert made.status_code == 201, made.text
    for fields, expected in WRONG:
        refused = await try_out(world, **fields)
        assert expected in pointers(refused), (fields, refused.text)
    assert world.one.flow.snapshot.canaries == ()


async def test_a_route_with_weights_has_no_one_primary(world):
    await route(world, "old", "third", carrier="CM", weights=[1, 1])
    refused = await try_out(world, route="*/*/CM/*")
    assert pointers(refused) == [("/route", "field.value")]


async def test_a_route_and_a_channel_are_in_one_live_canary(world):
    await route(world, "old", **{"class": "transactional"})
    await route(world, "mobile-a", **{"class": "marketing"})
    one = await make(world)
    assert code(await try_out(world)) == (409, "name.taken")
    for fields in (
        {"channel": "third"},  # the same route
        {"route": "*/transactional/*/*", "channel": "third"},  # the same primary
        {"route": "*/marketing/*/*"},  # the same candidate
        {"route": "*/marketing/*/*", "channel": "old"},
    ):
        assert code(await try_out(world, name="other", **fields)) == (409, "canary.live")
    await world.admin("POST", f"{one}:abort")
    await make(world, name="other", channel="third")


async def test_what_a_live_canary_needs_stays(world):
    one = await make(world)
    otp = await path_of(world, "route", "*/otp/*/*")
    new = await path_of(world, "channel", "new")
    version = {"version": (await world.admin("GET", otp)).json()["version"]}
    change = {"channels": ["old", "third"]}
    refused = await world.admin("PATCH", otp, change, headers=STAR)
    assert code(refused) == (409, "canary.live")
    assert "abort it first" in refused.json()["detail"]
    same = await world.admin("PATCH", otp, {"channels": ["old"]}, headers=STAR)
    assert same.status_code == 200
    weighed = await world.admin("PATCH", otp, {"weights": [1]}, headers=STAR)
    assert code(weighed) == (409, "canary.live")
    assert (await world.admin("POST", f"{otp}:rollback", version)).status_code == 200  # no change
    assert code(await world.admin("DELETE", otp)) == (409, "route.in_use")
    assert code(await world.admin("DELETE", new)) == (409, "channel.in_use")
    assert code(await world.admin("DELETE", one)) == (409, "canary.live")
    narrower = await world.admin("PATCH", new, {"classes": ["marketing"]}, headers=STAR)
    assert pointers(narrower) == [("/classes", "route.misfit")]
    assert "canary trial" in narrower.json()["detail"]
    await world.admin("POST", f"{one}:abort")
    for path, body in ((otp, change), (new, {"classes": ["marketing"]})):
        assert (await world.admin("PATCH", path, body, headers=STAR)).status_code == 200
    assert (await world.admin("DELETE", new)).status_code == 204
    over = (await world.admin("GET", one)).json()
    assert (over["channels"], over["channel_ids"]) == (["new", "old"], [None, f"chn_{2:016x}"])
    assert (await world.admin("DELETE", one)).status_code == 204


async def test_a_pause_keeps_the_share_and_an_abort_takes_it(world):
    one = await make(world)

    async def post(action, **more):
        answer = await world.admin("POST", f"{one}:{action}", **more)
        assert answer.status_code == 200, answer.text
        await world.two.poll()
        told = answer.json()
        return told["state"], told["share"], told["since"], len(world.two.flow.snapshot.canaries)

    begun, paused = "2027-01-15T07:59:00.000Z", "2027-01-15T08:04:00.000Z"
    world.one.now += 300
    assert await post("pause") == ("paused", 5, begun, 1)
    assert await post("resume") == ("running", 5, paused, 1)
    stale = await world.admin("POST", f"{one}:pause", headers=[("if-match", '"1"')])
    assert code(stale) == (412, "if_match.mismatch")
    world.one.now += 300
    ended = await post("abort")
    assert ended == ("aborted", 0, "2027-01-15T08:09:00.000Z", 0)
    world.one.now += 300
    assert await post("abort") == ended  # asked again, for the answer was lost
    for action in ("pause", "resume", "promote"):
        assert code(await world.admin("POST", f"{one}:{action}")) == (409, "canary.over")
    patched = await world.admin("PATCH", one, {"steps": [50, 100]}, headers=STAR)
    assert code(patched) == (409, "canary.over")
    actions = [row["action"] for row in await audit(world) if row["object"]["kind"] == "canary"]
    words = ("aborted", "resumed", "paused", "created")
    assert actions == [f"canary.{word}" for word in words]


async def test_a_promotion_gives_the_route_its_channels_in_the_same_version(world):
    one = await make(world)
    otp = await path_of(world, "route", "*/otp/*/*")
    before = (await world.admin("GET", otp)).json()
    told = (await world.admin("POST", f"{one}:promote")).json()
    after = (await world.admin("GET", otp)).json()
    assert (told["state"], told["share"]) == ("promoted", 100)
    assert after["channels"] == ["new", "old"]
    assert after["version"] == told["version"]
    await world.two.poll()
    [running] = [one for one in world.two.flow.snapshot.routes if one.message_class == "otp"]
    assert (running.channels, world.two.flow.snapshot.canaries) == ((3, 2), ())
    done = {row["action"] for row in await audit(world) if row["version"] == told["version"]}
    assert done == {"canary.promoted", "route.promoted"}
    # What undoes a promotion is the route's own rollback.
    version = {"version": before["version"]}
    assert code(await world.admin("POST", f"{one}:rollback", version)) == (409, "canary.over")
    back = await world.admin("POST", f"{otp}:rollback", version)
    assert back.json()["channels"] == ["old"]


async def test_steps_and_limits_change_under_way_and_go_back(world):
    one = await make(world, gates={"failure_share": 0.01})
    made = (await world.admin("GET", one)).json()
    change = {"steps": [5, 50, 100], "gates": {"step_s": 1200}}
    assert code(await world.admin("PATCH", one, change)) == (428, "if_match.required")
    changed = (await world.admin("PATCH", one, change, headers=STAR)).json()
    assert (changed["steps"], changed["gates"]) == ([5, 50, 100], {"step_s": 1200})
    without = await world.admin("PATCH", one, {"steps": [10, 100]}, headers=STAR)
    assert pointers(without) == [("/steps", "field.value")]
    # A gate takes it a step further: somebody else's change, as every other.
    async with world.one.store.change(Author("gateway", "canary")) as change_:
        standing = await change_.by_id("canary", 1)
        spec = at_share(standing.spec, 50, world.one.now + 60)
        await change_.put(Upsert("canary", standing.name, spec, {}, "stepped"))
    world.one.now += 600
    path, known = f"{one}:rollback", {"version": made["version"]}
    back = (await world.admin("POST", path, known)).json()
    assert (back["share"], back["steps"], back["gates"]) == (5, made["steps"], made["gates"])
    assert (back["state"], back["since"]) == ("running", "2027-01-15T08:09:00.000Z")
    unknown = {"version": made["version"] - 1}
    assert pointers(await world.admin("POST", path, unknown)) == [("/version", "version.unknown")]


async def test_the_last_gate_is_shown_and_so_is_why_it_ended(world):
    one = await make(world)
    gate = {"verdict": "bad", "why": "delivery 90 %, baseline 95 %", "findings": []}
    async with world.one.store.change(Author("gateway", "canary")) as change:
        standing = await change.by_id("canary", 1)
        spec = {**rolled_back(standing.spec, world.one.now), "reason": gate["why"]}
        await change.put(Upsert("canary", standing.name, spec, {}, "rolled_back"))
        judging = world.one.store.canaries.judging(change)
        await judging.judged(1, standing.version, 2, gate, is_told=True)
    told = (await world.admin("GET", one)).json()
    assert (told["state"], told["reason"], told["last_gate"]) == ("rolled_back", gate["why"], gate)
    [row] = [row for row in await audit(world) if row["action"] == "canary.rolled_back"]
    assert row["actor"]["kind"] == "gateway"
