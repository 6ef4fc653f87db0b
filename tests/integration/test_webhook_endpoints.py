"""/v1/webhook-endpoints over a real store: made, changed, rotated, whose they are."""

from __future__ import annotations

import asyncio
import base64
import json
from pathlib import Path

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from gateway.apply import apply_document
from gateway.changelimit import ChangeLimit
from sms.config import WebhookEndpoint
from store import database
from store.objects import Upsert
from tests.support import forbidden_addresses
from tests.support.admin_world import SETUP
from tests.support.webhook_world import PATH, STAR, URL, open_rig
from webhooks import sign

pytestmark = pytest.mark.integration

SECRET = "whsec_" + base64.b64encode(b"s" * 32).decode()


@pytest.fixture
async def rig(world):
    async with open_rig(world) as made:
        yield made


def code(answer):
    return answer.status_code, answer.json()["code"]


async def running(rig) -> WebhookEndpoint:
    one: WebhookEndpoint
    [one] = (await rig.config.load()).endpoints.values()
    return one


async def test_an_endpoint_is_made_read_changed_and_removed(rig):
    made = await rig.call("POST", PATH, {"url": URL, "secret": SECRET, "full_number": True})
    told = made.json()
    assert (made.status_code, told["secret"]) == (201, SECRET)
    assert made.headers["location"] == f"{PATH}/{told['id']}"
    assert told["id"].startswith("whe_")
    one = f"{PATH}/{told['id']}"
    read = await rig.call("GET", one)
    assert read.json() == {name: told[name] for name in told if name != "secret"}
    assert read.headers["etag"] == made.headers["etag"]
    assert (read.json()["url"], read.json()["events"]) == (URL, ["message.*"])
    assert (read.json()["enabled"], read.json()["full_number"]) == (True, True)
    listed = (await rig.call("GET", PATH)).json()
    assert listed == {"data": [read.json()], "next_cursor": None}
    assert (await running(rig)).secrets == (b"s" * 32,)

    assert code(await rig.call("PATCH", one, {"batch": True})) == (428, "if_match.required")
    tag = {"if-match": read.headers["etag"]}
    changed = await rig.call(
        "PATCH", one, {"batch": True, "events": ["inbound.received"]}, headers=tag
    )
    assert changed.status_code == 200, changed.text
    assert (changed.json()["batch"], changed.json()["full_number"]) == (True, True)
    assert code(await rig.call("PATCH", one, {}, headers=tag)) == (412, "if_match.mismatch")
    config = await running(rig)
    assert (config.batch, config.events, config.secrets) == (
        True, ("inbound.received",), (b"s" * 32,),
    )  # fmt: skip
    assert (await rig.call("DELETE", one)).status_code == 204
    assert code(await rig.call("GET", one)) == (404, "resource.not_found")
    assert (await rig.config.load()).endpoints == {}
    log = (await rig.call("GET", "/v1/audit-events", key="ops")).text
    for action in ("created", "updated", "removed"):
        assert f"webhook_endpoint.{action}" in log
    assert SECRET not in log


async def test_a_secret_is_made_and_shown_once(rig):
    told = await rig.make()
    key = sign.parse_secret(told["secret"])
    assert (await running(rig)).secrets == (key,)
    everything = json.dumps([await rig.read(told["id"]), (await rig.call("GET", PATH)).json()])
    assert told["secret"] not in everything


async def test_whose_endpoint_it_is(rig):
    told = await rig.make(url=f"{URL}?token=t0ps3cr3t")
    one = f"{PATH}/{told['id']}"
    for method, path, body in [
        ("GET", one, None),
        ("GET", f"{one}/attempts", None),
        ("PATCH", one, {"batch": True}),
        ("DELETE", one, None),
        ("POST", f"{one}:test", None),
        ("POST", f"{one}:rotate-secret", None),
        ("POST", f"{one}:replay", {"failed": True}),
        ("POST", f"{one}:rollback", {"version": 1}),
    ]:
        foreign = await rig.call(method, path, body, key="other", headers=STAR)
        assert code(foreign) == (404, "resource.not_found"), path
        by_half = await rig.call(method, path, body, key="send", headers=STAR)
        assert code(by_half) == (403, "auth.scope"), path
        if method != "GET":
            by_half = await rig.call(method, path, body, key="read", headers=STAR)
            assert code(by_half) == (403, "auth.scope"), path
    assert (await rig.call("GET", PATH, key="other")).json()["data"] == []
    assert (await rig.call("GET", one, key="read")).json()["url"].endswith("t0ps3cr3t")
    shown = (await rig.call("GET", one, key="ops")).json()
    assert shown["url"] == f"{URL}?…"
    assert code(await rig.call("POST", PATH, {"url": URL, "tenant": "shop"})) == (
        422, "field.unknown",
    )  # fmt: skip


async def test_an_admin_key_makes_them_for_a_tenant(rig):
    missing = await rig.call("POST", PATH, {"url": URL}, key="ops")
    assert [e["pointer"] for e in missing.json()["errors"]] == ["/tenant"]
    wrong = await rig.call("POST", PATH, {"url": URL, "tenant": "nobody"}, key="ops")
    assert [e["pointer"] for e in wrong.json()["errors"]] == ["/tenant"]
    made = await rig.call("POST", PATH, {"url": URL, "tenant": "shop"}, key="ops")
    assert made.status_code == 201, made.text
    tenant = made.json()["tenant"]
    again = await rig.call("POST", PATH, {"url": f"{URL}2", "tenant": tenant}, key="ops")
    assert again.status_code == 201, again.text
    assert len((await rig.call("GET", PATH)).json()["data"]) == 2
    for whose, count in (("shop", 2), (tenant, 2), ("other", 0)):
        listed = await rig.call("GET", f"{PATH}?tenant={whose}", key="ops")
        assert len(listed.json()["data"]) == count, whose
    nobody = await rig.call("GET", f"{PATH}?tenant=nobody", key="ops")
    assert code(nobody) == (422, "query.value")


FORBIDDEN = [
    "http://backend.example/h",
    "https://backend.example:8444/h",
    "https://user:pw@backend.example/h",
    "https://backend.example/h#part",
    "https://127.0.0.1/h",
    "https://2130706433/h",
    "https://0177.0.0.1/h",
    "https://0x7f.0.0.1/h",
    "https://0x7f000001/h",
    "https://127.1/h",
    "https://127.0.0.1./h",
    "https://10.0.0.5/h",
    "https://169.254.169.254/latest/meta-data",
    "https://100.64.0.1/h",
    "https://192.88.99.1/h",
    "https://[::1]/h",
    "https://[::127.0.0.1]/h",
    "https://[::ffff:10.0.0.5]/h",
    "https://[::ffff:a00:5]/h",
    "https://[2002:7f00:1::]/h",
    "https://[2001::1]/h",
    "https://[64:ff9b::7f00:1]/h",
    "https://[64:ff9b:1::7f00:1]/h",
    "https://[fec0::1]/h",
    "https://[fe80::1%25eth0]/h",
    "https://[5f00::1]/h",
    "https://[3fff::1]/h",
    "https://[ff02::1]/h",
    "https://１２７.0.0.1/h",
    "https://127。0。0。1/h",
    "https:///h",
    "ftp://backend.example/h",
    "backend.example/h",
]


async def test_a_forbidden_url_is_refused_in_every_spelling(rig):
    for url in (*FORBIDDEN, *forbidden_addresses.urls()):
        refused = await rig.call("POST", PATH, {"url": url})
        assert refused.status_code == 422, url
        errors = [(error["pointer"], error["code"]) for error in refused.json()["errors"]]
        assert errors == [("/url", "field.value")], url
        assert url not in refused.text
    assert (await rig.config.load()).endpoints == {}


async def test_what_is_wrong_is_named(rig):
    for body, pointer in [
        ({"url": URL, "secret": "mine"}, "/secret"),
        ({"url": URL, "secret": "whsec_c2hvcnQ="}, "/secret"),
        ({"url": URL, "events": []}, "/events"),
        ({"url": URL, "events": ["message.read"]}, "/events/0"),
        ({"url": URL, "batch": "yes"}, "/batch"),
        ({"url": None}, "/url"),
        ({}, "/url"),
        ({"url": URL, "secret_file": "x"}, "/secret_file"),
    ]:
        refused = await rig.call("POST", PATH, body)
        assert [e["pointer"] for e in refused.json()["errors"]] == [pointer], refused.text
    await rig.make()
    again = await rig.call("POST", PATH, {"url": URL})
    assert code(again) == (409, "name.taken")
    assert "another name" not in json.dumps(again.json())  # it has none
    other = await rig.make(url=f"{URL}/2")
    one = f"{PATH}/{other['id']}"
    by_hand = await rig.call("PATCH", one, {"secret": SECRET}, headers=STAR)
    [wrong] = by_hand.json()["errors"]
    assert (wrong["pointer"], wrong["code"]) == ("/secret", "field.unknown")
    assert ":rotate-secret" in wrong["detail"]
    taken = await rig.call("PATCH", one, {"url": URL}, headers=STAR)
    assert code(taken) == (409, "name.taken")


async def test_another_url_keeps_the_secret_and_can_be_rolled_back(rig):
    told = await rig.make()
    one = f"{PATH}/{told['id']}"
    moved = await rig.call("PATCH", one, {"url": f"{URL}/new", "batch": True}, headers=STAR)
    assert (moved.json()["url"], moved.json()["id"]) == (f"{URL}/new", told["id"])
    assert (await running(rig)).secrets == (sign.parse_secret(told["secret"]),)
    rotated = (await rig.call("POST", f"{one}:rotate-secret")).json()["secret"]
    back = await rig.call("POST", f"{one}:rollback", {"version": told["version"]})
    assert back.status_code == 200, back.text
    assert (back.json()["url"], back.json()["batch"]) == (URL, False)
    assert (await running(rig)).secrets[0] == sign.parse_secret(rotated)
    wrong = await rig.call("POST", f"{one}:rollback", {"version": 999})
    assert code(wrong) == (422, "version.unknown")


async def test_while_a_secret_is_rotated_both_verify_and_then_only_the_new_one(rig):
    told = await rig.make()
    one = f"{PATH}/{told['id']}"
    rotated = await rig.call("POST", f"{one}:rotate-secret")
    assert rotated.status_code == 200, rotated.text
    new = rotated.json()["secret"]
    assert new != told["secret"]
    assert (await rig.read(told["id"]))["previous_secret_until"] is not None

    async def verified() -> list[bool]:
        await rig.call("POST", f"{one}:test")
        await rig.settle()
        request = rig.requests[-1]
        stamp = int(rig.now() - rig.ahead_s)  # the library knows no other clock than its own
        headers = dict(sign.headers(request.keys, request.webhook_id, stamp, request.body))
        found = []
        for secret in (told["secret"], new):
            try:
                Webhook(secret).verify(request.body.decode(), headers)
                found.append(True)
            except WebhookVerificationError:
                found.append(False)
        return found

    assert await verified() == [True, True]
    rig.ahead_s = 86_400 - 60
    assert await verified() == [True, True]
    rig.ahead_s = 86_400 + 1
    assert await verified() == [False, True]
    assert (await rig.read(told["id"]))["previous_secret_until"] is None
    leaked = await rig.call("POST", f"{one}:rotate-secret", {"overlap_s": 0})
    assert (await running(rig)).secrets == (sign.parse_secret(leaked.json()["secret"]),)


async def test_a_file_and_the_api_speak_of_the_same_endpoint(rig):
    await rig.call("POST", PATH, {"url": URL, "secret": SECRET})
    [standing] = (await rig.call("GET", PATH)).json()["data"]
    line = f'webhook_endpoints:\n  - {{tenant: shop, url: "{URL}", batch: true%s}}\n'

    async def apply(more: str = "") -> None:
        keyring = rig.world.keyring
        applied = await apply_document(line % more, Path(), rig.config, keyring, rig.desk.allow)
        assert not isinstance(applied, list), applied

    await apply()
    changed = await rig.read(standing["id"])
    assert (changed["batch"], (await running(rig)).secrets) == (True, (b"s" * 32,))
    one = f"{PATH}/{standing['id']}"
    await rig.call("PATCH", one, {"enabled": False}, headers=STAR)
    await rig.call("POST", f"{one}:rotate-secret")
    keys = (await running(rig)).secrets
    version = (await rig.read(standing["id"]))["version"]
    await apply()  # says nothing of either
    assert (await rig.read(standing["id"]))["version"] == version
    assert (await running(rig)).secrets == keys
    newest = base64.b64encode(keys[0]).decode()
    await apply(f", secret: whsec_{newest}")  # the one that stands: the rotation goes on
    assert (await running(rig)).secrets == keys
    await apply(", enabled: true")
    assert (await rig.read(standing["id"]))["enabled"] is True


async def test_a_tenant_has_a_hundred_at_most(rig, monkeypatch):
    monkeypatch.setattr("gateway.api.webhooks.MAX_ENDPOINTS", 2)
    await rig.make()
    await rig.make(url=f"{URL}/2")
    full = await rig.call("POST", PATH, {"url": f"{URL}/3"})
    assert code(full) == (422, "webhook_endpoint.too_many")


async def test_many_are_made_at_once_with_few_connections(rig, monkeypatch):
    """Making one needs one connection: none holds the lock and waits for another's."""
    pool = await database.open_pool(rig.world.dsn, size=2)
    monkeypatch.setattr(rig.config, "_pool", pool)
    try:
        wanted = [rig.call("POST", PATH, {"url": f"{URL}/{number}"}) for number in range(8)]
        made = await asyncio.gather(*wanted)
    finally:
        pool.terminate()
    assert [answer.status_code for answer in made] == [201] * 8


async def test_a_tenant_s_changes_are_limited_and_the_operator_s_are_not(rig):
    rig.desk.changes = ChangeLimit(3)
    told = await rig.make()
    one = f"{PATH}/{told['id']}"
    for _ in range(2):
        assert (await rig.call("POST", f"{one}:rotate-secret")).status_code == 200
    version = (await rig.read(told["id"]))["version"]
    for method, path, body in [
        ("POST", f"{one}:rotate-secret", None),
        ("PATCH", one, {"batch": True}),
        ("POST", f"{one}:rollback", {"version": told["version"]}),
        ("DELETE", one, None),
        ("POST", PATH, {"url": f"{URL}/2"}),
    ]:
        refused = await rig.call(method, path, body, headers=STAR)
        assert code(refused) == (429, "webhook_endpoint.too_fast"), path
        assert 1 <= int(refused.headers["retry-after"]) <= 20
    assert (await rig.read(told["id"]))["version"] == version
    assert (await rig.call("POST", PATH, {"url": URL}, key="other")).status_code == 201
    assert (await rig.call("DELETE", one, key="ops")).status_code == 204


async def test_a_suspended_tenant_may_only_stop_what_is_sent(rig):
    told = await rig.make()
    one = f"{PATH}/{told['id']}"
    suspended = Upsert("tenant", "shop", {"signatures": ["某商城"], "is_suspended": True}, {})
    await rig.config.apply([suspended], SETUP)
    await rig.poll()
    for method, path, body in [
        ("POST", PATH, {"url": f"{URL}/2"}),
        ("PATCH", one, {"batch": True}),
        ("PATCH", one, {"enabled": True}),
        ("PATCH", one, {"enabled": False, "batch": True}),
        ("POST", f"{one}:rotate-secret", None),
        ("POST", f"{one}:rollback", {"version": 1}),
        ("POST", f"{one}:test", None),
        ("POST", f"{one}:replay", {"failed": True}),
    ]:
        refused = await rig.call(method, path, body, headers=STAR)
        assert code(refused) == (403, "tenant.suspended"), path
    off = await rig.call("PATCH", one, {"enabled": False}, headers=STAR)
    assert (off.status_code, off.json()["enabled"]) == (200, False)
    assert (await rig.call("GET", f"{one}/attempts")).status_code == 200
    assert (await rig.call("DELETE", one)).status_code == 204
