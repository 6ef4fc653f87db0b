"""What a file would change: shown first, nothing made by looking, keys ended by name only."""

from __future__ import annotations

import io
import json
import os
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest

from gateway import apply, diff
from gateway.api.auth import hash_secret, new_key, parse_key
from gateway.api.signing import is_signing_secret, new_signing_secret
from gateway.apply import apply_document, operator
from gateway.document import Surroundings, check_document
from gateway.plan import Applied, Plan, make_plan
from gateway.protocols import PROTOCOLS
from gateway.terminal import Terminal
from store.audit import Author
from store.config import ConfigMovedError
from store.objects import StoredObject
from store.seal import Keyring
from tests.support.config_store import Store
from webhooks.address import AllowList

KEYRING = Keyring(b"k" * 32)
AUTHOR = Author("command", "test")
WHOLE = """
tenants:
  - name: shop
    signatures: [某商城]
    allowed_ips: [203.0.113.0/24, "2001:DB8::/32"]
    api_keys:
      - {name: backend, secret_file: shop.key, signing: true, signing_secret_file: shop.sign}
      - {name: reader, scopes: [read]}
channels:
  - {name: mobile-a, protocol: smpp, host: h, port: 2775, system_id: shop, password: hush-8}
routes:
  - {tenant: "*", channels: [mobile-a]}
webhook_endpoints:
  - {tenant: shop, url: "https://backend.example/h?token=hush-8"}
"""

EXAMPLES = Path(__file__).parents[3] / "docs" / "examples" / "vendors"


@pytest.fixture
def store():
    return Store()


@pytest.fixture
def folder(tmp_path):
    return tmp_path


async def put(text, folder, store, **more):
    text = textwrap.dedent(text)
    return await apply_document(text, folder, store, KEYRING, AllowList(), author=AUTHOR, **more)


async def plan(text, folder, store):
    around = Surroundings(folder, {}, PROTOCOLS, AllowList())
    return await make_plan(textwrap.dedent(text), around, store, KEYRING)


def shown(found, *, is_json=False):
    out = io.StringIO()
    apply._show(found, Terminal(is_json=is_json, stream=out))
    return out.getvalue()


async def test_looking_makes_nothing(folder, store):
    found = await plan(WHOLE, folder, store)
    assert isinstance(found, Plan)
    assert len(found.changes) == len(found.objects) == 6
    assert list(folder.iterdir()) == []
    assert (store.objects, store.number, store.authors) == ({}, 0, [])


async def test_a_plan_is_readable_and_holds_no_secret(folder, store):
    found = await plan(WHOLE, folder, store)
    told = shown(found)
    assert "+ tenant shop\n" in told
    assert "allowed_ips            203.0.113.0/24, 2001:db8::/32\n" in told
    assert "+ API key shop/backend\n" in told
    assert f"key: to be made and written to {folder}/shop.key\n" in told
    assert f"signing_secret: to be made and written to {folder}/shop.sign\n" in told
    assert "key: to be made and shown once\n" in told
    assert "settings.host          h\n" in told
    assert "password: given\n" in told
    assert "+ webhook endpoint shop https://backend.example/h?…\n" in told
    assert "hush-8" not in told
    documents = [json.loads(line) for line in shown(found, is_json=True).splitlines()]
    assert {one["event"] for one in documents} == {"change"}
    assert {one["action"] for one in documents} == {"create"}
    assert "hush-8" not in json.dumps(documents)


async def test_the_second_run_says_unchanged(folder, store):
    await put(WHOLE, folder, store)
    found = await plan(WHOLE, folder, store)
    assert found.changes == []
    assert shown(found).strip() == "unchanged"
    assert shown(found, is_json=True) == ""
    again = await put(WHOLE, folder, store)
    assert (again.version, len(again.unchanged), again.shown, again.files) == (1, 6, [], [])


async def test_a_route_is_shown_in_the_words_of_the_file(folder, store):
    found = await plan(WHOLE, folder, store)
    assert "country                *\n" in shown(found)
    [route] = [
        json.loads(line) for line in shown(found, is_json=True).splitlines() if "*/*/*" in line
    ]
    assert {one["pointer"]: one["after"] for one in route["fields"]}["/country"] == "*"
    text = WHOLE.replace('{tenant: "*", ch', '{tenant: "*", country: 86, ch')
    assert "country                86\n" in shown(await plan(text, folder, store))


async def test_weights_of_a_route_are_shown_and_backups_need_none(folder, store):
    second = "host: h, port: 2775, system_id: two, password: hush-8"
    text = WHOLE.replace("routes:", f"  - {{name: b, protocol: smpp, {second}}}\nroutes:")
    await put(text, folder, store)
    text = text.replace("[mobile-a]}", "[mobile-a, b], weights: [70, 30]}")
    assert "weights                70, 30\n" in shown(await plan(text, folder, store))
    await put(text, folder, store)
    text = text.replace("[70, 30]", "[1, 0]")
    assert "weights                70, 30 → 1\n" in shown(await plan(text, folder, store))
    await put(text, folder, store)
    assert (await plan(text.replace("[1, 0]", "[1]"), folder, store)).changes == []


async def test_a_change_shows_before_and_after(folder, store):
    await put(WHOLE, folder, store)
    text = WHOLE.replace("host: h", "host: other").replace("[某商城]", "[某商城, 别家]")
    text = text.replace("password: hush-8", "password: hush-2")
    found = await plan(text, folder, store)
    told = shown(found)
    assert "~ tenant shop\n" in told
    assert "signatures             某商城 → 某商城, 别家\n" in told
    assert "settings.host          h → other\n" in told
    assert "password: changed\n" in told
    assert "4 more stay as they are" in told
    [tenant, channel] = [json.loads(line) for line in shown(found, is_json=True).splitlines()]
    assert tenant["fields"] == [
        {"pointer": "/signatures", "before": ["某商城"], "after": ["某商城", "别家"]}
    ]
    assert channel["secrets"] == ["password: changed"]
    assert "hush" not in told + json.dumps(channel)


LIMITED = """
tenants:
  - name: shop
    limits:
      classes: {marketing: {segments_per_second: 50}}
      bursts:
        - {until: "2026-11-12T00:00:00+08:00", segments_per_second: 500}
        - {from: "2026-12-12T00:00:00Z", until: "2026-12-13T00:00:00Z", segments_per_second: 5}
"""


async def test_limits_are_shown_one_by_one(folder, store):
    await put(LIMITED, folder, store)
    text = LIMITED.replace("second: 50}}", "second: 60}, otp: {segments_per_second: 9}}")
    text = text[: text.index("        - {from")]
    found = await plan(text, folder, store)
    assert shown(found).splitlines()[1:] == [
        "    bursts.1.burst_segments 10 → none",
        "    bursts.1.from          2026-12-12T00:00:00.000Z → none",
        "    bursts.1.segments_per_second 5 → none",
        "    bursts.1.until         2026-12-13T00:00:00.000Z → none",
        "    classes.marketing.burst_segments 100 → 120",
        "    classes.marketing.segments_per_second 50 → 60",
        "    classes.otp.burst_segments 18",
        "    classes.otp.segments_per_second 9",
    ]


async def test_the_plan_is_shown_before_anything_is_made(folder, store):
    out = io.StringIO()
    store.meddlers.append(lambda: out.write("WRITE\n"))
    await put(WHOLE, folder, store, terminal=Terminal(stream=out))
    assert out.getvalue().index("+ tenant shop") < out.getvalue().index("WRITE")


async def test_only_what_a_file_says_is_revoked(folder, store):
    await put(WHOLE, folder, store)
    key_id = store.objects["api_key", "shop/backend"].spec["key_id"]
    less = (
        "tenants: [{name: shop, signatures: [某商城], api_keys: [{name: reader, scopes: [read]}]}]"
    )
    assert (await put(less, folder, store)).revoked == []
    assert ("api_key", "shop/backend") in store.objects
    revoking = WHOLE.replace("{name: backend, ", "{name: backend, revoked: true, ")
    found = await plan(revoking, folder, store)
    assert "- API key shop/backend  revoked, for good\n" in shown(found)
    applied = await put(revoking, folder, store)
    assert applied.revoked == [("api_key", "shop/backend")]
    assert ("api_key", "shop/backend") not in store.objects
    assert store.revoked == {key_id}
    assert ("api_key", "shop/backend") in (await put(revoking, folder, store)).unchanged


async def test_a_revoked_key_does_not_come_back_with_its_file(folder, store):
    await put(WHOLE, folder, store)
    await put(WHOLE.replace("{name: backend, ", "{name: backend, revoked: true, "), folder, store)
    for name in ("backend", "another"):
        [complaint] = await put(WHOLE.replace("backend, sec", f"{name}, sec"), folder, store)
        assert complaint.pointer == "/tenants/0/api_keys/0/secret_file"
        assert "was revoked" in complaint.detail
    (folder / "shop.key").unlink()
    (folder / "shop.sign").unlink()
    applied = await put(WHOLE, folder, store)
    assert isinstance(applied, Applied), applied
    assert applied.made == [("api_key", "shop/backend")]


async def test_an_admin_key_is_revoked_likewise(folder, store):
    await put("admin_keys: [{name: ops}, {name: old}]", folder, store)
    applied = await put("admin_keys: [{name: old, revoked: true}]", folder, store)
    assert applied.revoked == [("api_key", "/old")]
    assert ("api_key", "/ops") in store.objects


async def test_another_secret_is_another_key(folder, store):
    await put(WHOLE, folder, store)
    before = store.objects["api_key", "shop/backend"]
    text, digest = new_key(KEYRING.pepper, 4711)
    (folder / "shop.key").write_text(text)
    found = await plan(WHOLE, folder, store)
    told = shown(found)
    assert "± API key shop/backend  another key takes its place\n" in told
    assert "NOTE: API key shop/backend becomes another key; the one before stops working" in told
    await put(WHOLE, folder, store)
    after = store.objects["api_key", "shop/backend"]
    assert (after.spec["key_id"], after.secrets["secret_hash"]) == (4711, digest.hex())
    assert after.id != before.id
    assert store.revoked == {before.spec["key_id"]}
    assert after.secrets["signing_secret"] == before.secrets["signing_secret"]  # from its file


async def test_a_key_that_the_api_rotated_out_is_not_put_back(folder, store):
    await put(WHOLE, folder, store)
    old = store.objects.pop(("api_key", "shop/backend"))
    name = f"shop/backend/{old.public_id}"
    store.objects["api_key", name] = old
    spec = {**old.spec, "key_id": 12345}
    store.objects["api_key", "shop/backend"] = StoredObject(77, 2, spec, old.secrets)
    [complaint] = await put(WHOLE, folder, store)
    assert "was rotated out" in complaint.detail


async def test_signing_is_what_the_file_says_and_stays_when_it_does_not(folder, store):
    text = "tenants: [{name: a, api_keys: [{name: k%s}]}]"
    applied = await put(text % ", signing: true", folder, store)
    shown_secrets = dict(applied.shown)
    assert is_signing_secret(shown_secrets["signing secret of API key a/k"])
    secrets = store.objects["api_key", "a/k"].secrets
    assert parse_key(shown_secrets["API key a/k"].encode())
    for more in ("", ", signing: true"):
        again = await put(text % more, folder, store)
        assert ("api_key", "a/k") in again.unchanged
    given = new_signing_secret()
    changed = await plan(text % f", signing_secret: {given}", folder, store)
    assert changed.changes[0].secrets == ["signing_secret: changed"]
    await put(text % f", signing_secret: {given}", folder, store)
    assert store.objects["api_key", "a/k"].secrets == {**secrets, "signing_secret": given}
    off = await plan(text % ", signing: false", folder, store)
    assert off.changes[0].secrets == ["signing_secret: removed"]
    await put(text % ", signing: false", folder, store)
    assert set(store.objects["api_key", "a/k"].secrets) == {"secret_hash"}
    await put(text % ", signing_secret_file: s", folder, store)
    assert store.objects["api_key", "a/k"].secrets["signing_secret"] == (
        (folder / "s").read_text().strip()
    )
    assert (folder / "s").stat().st_mode & 0o777 == 0o600


async def test_the_given_key_is_told_in_no_words(folder, store):
    text, digest = new_key(KEYRING.pepper, 99)
    found = await plan(f"admin_keys: [{{name: ops, secret: {text}}}]", folder, store)
    told = shown(found) + shown(found, is_json=True) + repr(found)
    parsed = parse_key(text.encode())
    assert parsed is not None
    assert parsed.secret.decode() not in told
    assert digest.hex() not in told
    assert hash_secret(KEYRING.pepper, parsed.secret) == digest


async def test_what_protects_a_tenant_is_not_undone_by_silence(folder, store):
    await put(WHOLE, folder, store)
    store.objects["tenant", "shop"].spec["is_suspended"] = True
    silent = "tenants: [{name: shop, signatures: [某商城]}]"
    assert (await plan(silent, folder, store)).changes == []
    aloud = "tenants: [{name: shop, signatures: [某商城], allowed_ips: [], suspended: false}]"
    found = await plan(aloud, folder, store)
    told = shown(found)
    assert "allowed_ips            203.0.113.0/24, 2001:db8::/32 → none\n" in told
    assert "is_suspended           true → none\n" in told
    assert "NOTE: keys of tenant shop now work from everywhere\n" in told
    await put(aloud, folder, store)
    assert "allowed_ips" not in store.objects["tenant", "shop"].spec
    suspended = "tenants: [{name: shop, signatures: [某商城], suspended: true}]"
    await put(suspended, folder, store)
    assert store.objects["tenant", "shop"].spec["is_suspended"] is True


async def test_a_change_under_way_elsewhere_is_not_overwritten(folder, store):
    """Between our look and our write the API suspends the tenant: that must stand."""
    await put(WHOLE, folder, store)

    def suspend():
        store.number += 1
        store.objects["tenant", "shop"].spec["is_suspended"] = True

    store.meddlers.append(suspend)
    out = io.StringIO()
    text = WHOLE.replace("[某商城]", "[别家]")
    applied = await put(text, folder, store, terminal=Terminal(stream=out))
    assert isinstance(applied, Applied)
    spec = store.objects["tenant", "shop"].spec
    assert (spec["signatures"], spec["is_suspended"]) == (["别家"], True)
    assert out.getvalue().count("~ tenant shop") == 2  # compared and shown anew
    for _ in range(3):
        store.meddlers.append(suspend)
    with pytest.raises(ConfigMovedError):
        await put(WHOLE, folder, store)


async def test_the_keys_made_before_a_lost_race_are_the_ones_stored(folder, store):
    def meddle():
        store.number += 1

    store.meddlers.append(meddle)
    applied = await put(WHOLE, folder, store)
    assert isinstance(applied, Applied)
    key = parse_key((folder / "shop.key").read_text().strip().encode())
    assert key is not None
    assert store.objects["api_key", "shop/backend"].spec["key_id"] == key.id
    signing = (folder / "shop.sign").read_text().strip()
    assert store.objects["api_key", "shop/backend"].secrets["signing_secret"] == signing


def test_who_applies_is_the_account_the_system_knows(monkeypatch):
    monkeypatch.setenv("LOGNAME", "somebody-else")
    monkeypatch.setenv("USER", "somebody-else")
    author = operator()
    assert author.kind == "command"
    assert author.os_user is not None
    assert author.os_user != "somebody-else"
    monkeypatch.setattr(os, "getuid", lambda: 4_000_000)
    assert operator().os_user == "uid 4000000"


def test_a_line_has_its_sign():
    assert [line.sign for line in diff.lines(Plan(0, [], []))] == [""]


@pytest.mark.parametrize("is_json", [False, True])
async def test_a_dry_run_shows_what_a_described_vendor_would_be_sent(folder, store, is_json):
    (folder / "plivo.secret").write_text("hush-token-1\n")
    (folder / "plivo-callback.secret").write_text("hush-callback-22\n")
    text = (EXAMPLES / "plivo.yaml").read_text("utf-8")
    out = io.StringIO()
    apply._rehearse(await plan(text, folder, store), Terminal(is_json=is_json, stream=out))
    assert "POST https://api.plivo.com/v1/Account/" in out.getvalue()
    assert "hush" not in out.getvalue()


def test_certificates_that_nobody_can_show_are_refused(folder):
    text = "tenants: [{name: shop, signatures: [某商城], client_certificates: [%s]}]"
    around = Surroundings(folder, {}, PROTOCOLS, AllowList(), has_client_ca=False)
    _, wrong = check_document(text % ("ab" * 32), around)
    assert [one.pointer for one in wrong] == ["/tenants/0/client_certificates"]
    assert "SMSGW_TLS_CLIENT_CA_FILE" in wrong[0].detail
    [tenant], wrong = check_document(
        text % ":".join(["AB"] * 32), replace(around, has_client_ca=True)
    )
    assert not wrong
    assert tenant.spec["client_certificates"] == ["ab" * 32]
