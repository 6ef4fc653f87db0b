"""/v1/templates over a real store: made, changed, in force on another worker, never torn."""

import pytest

from gateway import templatefit
from store.objects import Upsert
from tests.support.admin_world import SETUP, audit, code, open_world

pytestmark = pytest.mark.integration

TEXT = "验证码{code}，{minutes}分钟"
NEW = {"name": "code", "class": "otp", "text": TEXT}
SEND = {"to": "+8613800138000", "variables": {"code": "1", "minutes": "5"}}
STAR = [("if-match", "*")]
_VENDOR = {"protocol": "aliyun", "settings": {}, "classes": ["otp"], "demands_template": True}
ALI = Upsert("channel", "ali", _VENDOR, {})


def route(*channels):
    spec = {"tenant": "*", "class": "otp", "carrier": "*", "country": 0}
    return Upsert("route", "*/otp/*/*", {**spec, "channels": list(channels)}, {})


@pytest.fixture
async def world(dsn):
    async with open_world(dsn) as made:
        await made.one.store.apply([ALI], SETUP)
        yield made


async def make(world, **fields):
    made = await world.admin("POST", "/v1/templates", {**NEW, **fields})
    assert made.status_code == 201, made.text
    assert made.headers["location"] == f"/v1/templates/{made.json()['id']}"
    return made.json()["id"]


async def test_a_template_is_in_force_on_another_worker_and_leaves_it(world):
    tenant = await world.tenant()
    key = (await world.key(tenant))["key"]
    name = await make(world, tenant=tenant)
    await world.two.poll()
    body = {**SEND, "template_id": name}
    sent = await world.two.call("POST", "/v1/messages", key, body)
    assert sent.status_code == 202, sent.text
    [[message]] = world.two.flow.accepted
    assert message.texts == ("【某商城】验证码1，5分钟",)
    assert message.message_class == "otp"
    other = (await world.key(await world.tenant("bank")))["key"]
    await world.two.poll()
    refused = await world.two.call("POST", "/v1/messages", other, body)
    assert code(refused) == (422, "template.unknown")
    assert (await world.admin("DELETE", f"/v1/templates/{name}")).status_code == 204
    await world.two.poll()
    refused = await world.two.call("POST", "/v1/messages", key, body)
    assert code(refused) == (422, "template.unknown")
    entries = [entry["action"] for entry in await audit(world) if entry["object"]["id"] == name]
    assert entries == ["template.removed", "template.created"]


async def test_it_is_read_listed_changed_and_put_back(world):
    tenant = await world.tenant()
    name = await make(world, tenant=tenant, twins={"ali": {"code": "SMS_1"}})
    everyones = await make(world)
    path = f"/v1/templates/{name}"
    read = await world.admin("GET", path)
    told = read.json()
    assert (told["tenant"], told["variables"]) == (tenant, ["code", "minutes"])
    assert told["twins"] == {"ali": {"code": "SMS_1", "order": ["code", "minutes"]}}
    listed = (await world.admin("GET", "/v1/templates")).json()["data"]
    assert [(one["id"], one["tenant"]) for one in listed] == [(everyones, None), (name, tenant)]

    change = {"twins": {"ali": {"code": "SMS_2", "order": ["minutes", "code"]}}}
    assert code(await world.admin("PATCH", path, change)) == (428, "if_match.required")
    tag = [("if-match", read.headers["etag"])]
    changed = await world.admin("PATCH", path, change, headers=tag)
    assert changed.json()["twins"] == change["twins"]
    assert code(await world.admin("PATCH", path, change, headers=tag)) == (
        412, "if_match.mismatch",
    )  # fmt: skip
    stays = await world.admin("PATCH", path, {"text": "{other}"}, headers=STAR)
    assert stays.json()["errors"][0]["pointer"] == "/twins/ali/order"
    back = await world.admin("POST", f"{path}:rollback", {"version": told["version"]})
    assert back.json()["twins"] == told["twins"]
    again = await world.admin("POST", "/v1/templates", {**NEW, "tenant": tenant})
    assert code(again) == (409, "name.taken")


@pytest.mark.parametrize(
    ("fields", "pointer"),
    [
        ({"text": "{a}{b}"}, "/text"),
        ({"class": "urgent"}, "/class"),
        ({"tenant": "ten_0000000000000063"}, "/tenant"),
        ({"twins": {"nobody": {"code": "1"}}}, "/twins/nobody"),
        ({"twins": {"ali": {}}}, "/twins/ali"),
        ({"twins": {"ali": {"code": "1", "order": ["code"]}}}, "/twins/ali/order"),
        ({"twins": {"ali": {"code": 1}}}, "/twins/ali/code"),
        ({"twins": {"13800138000 x": {"code": "1"}}}, "/twins"),
    ],
)
async def test_a_wrong_field_is_named(world, fields, pointer):
    refused = await world.admin("POST", "/v1/templates", {**NEW, **fields})
    assert refused.status_code == 422
    assert refused.json()["errors"][0]["pointer"] == pointer


async def test_a_tenant_has_no_more_templates_than_a_text_is_compared_with(world, monkeypatch):
    monkeypatch.setattr(templatefit, "MAX_TEMPLATES", 1)
    await make(world)
    refused = await world.admin("POST", "/v1/templates", {**NEW, "name": "more"})
    assert code(refused) == (422, "template.too_many")
    await make(world, tenant=await world.tenant())  # everybody's do not count


async def test_no_change_leaves_a_route_without_a_twin_or_a_text(world):
    name = await make(world, twins={"ali": {"code": "SMS_1"}})
    path = f"/v1/templates/{name}"
    await world.one.store.apply([route("ali")], SETUP)
    lacking = await world.admin("POST", "/v1/templates", {**NEW, "name": "more"})
    assert code(lacking) == (422, "template.twin_missing")
    assert "*/otp/*/*" in lacking.json()["detail"]
    bare = await world.admin("PATCH", path, {"twins": {}}, headers=STAR)
    assert code(bare) == (422, "template.twin_missing")
    assert code(await world.admin("DELETE", path)) == (409, "template.in_use")
    await world.one.store.apply([route("mobile-a", "ali")], SETUP)
    assert (await world.admin("DELETE", path)).status_code == 204
