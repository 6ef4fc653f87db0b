"""Who may administer and from where, and what their keys reach."""

import json

import pytest

from store import database
from tests.support.admin_world import SEND, Process, audit, code, open_world

pytestmark = pytest.mark.integration


@pytest.fixture
async def world(dsn):
    async with open_world(dsn) as world:
        yield world


async def test_a_tenant_s_key_reaches_no_administration(world):
    tenant = await world.tenant()
    told = await world.key(tenant)
    own = f"/v1/tenants/{tenant}"
    for method, path, body in [
        ("GET", "/v1/tenants", None),
        ("POST", "/v1/tenants", {"name": "x"}),
        ("GET", own, None),
        ("PATCH", own, {}),
        ("POST", f"{own}:resume", None),
        ("POST", f"{own}:rollback", {"version": 1}),
        ("GET", f"{own}/api-keys", None),
        ("POST", f"{own}/api-keys", {"name": "x", "scopes": ["send"]}),
        ("GET", f"{own}/api-keys/{told['id']}", None),
        ("DELETE", f"{own}/api-keys/{told['id']}", None),
        ("POST", f"{own}/api-keys/{told['id']}:rotate", {"overlap_s": 0}),
        ("GET", "/v1/admin-keys", None),
        ("POST", "/v1/admin-keys", {"name": "x"}),
        ("GET", "/v1/audit-events", None),
    ]:
        answer = await world.one.call(method, path, told["key"], body)
        assert code(answer) == (403, "auth.scope"), path
        assert (await world.one.call(method, path, None, body)).status_code == 401, path
    assert world.one.flow.snapshot.version == await world.one.store.version()


async def test_a_key_is_found_under_its_own_tenant_only(world):
    shop, bank = await world.tenant("shop"), await world.tenant("bank")
    key = await world.key(bank)
    admin = (await world.admin("GET", "/v1/admin-keys")).json()["data"][0]["id"]
    for key_id, home in [(key["id"], f"/v1/tenants/{bank}/api-keys"), (admin, "/v1/admin-keys")]:
        for path in (
            f"/v1/tenants/{shop}/api-keys",
            "/v1/admin-keys",
            f"/v1/tenants/{bank}/api-keys",
        ):
            if path == home:
                continue
            for method, tail, body in [
                ("GET", "", None),
                ("DELETE", "", None),
                ("POST", ":rotate", {"overlap_s": 0}),
            ]:
                answer = await world.admin(method, f"{path}/{key_id}{tail}", body)
                assert code(answer) == (404, "resource.not_found"), (method, path)
    assert (await world.one.call("POST", "/v1/messages", key["key"], SEND)).status_code == 202


async def test_an_admin_key_sends_and_stops_nothing(world):
    assert code(await world.admin("POST", "/v1/messages", SEND)) == (403, "auth.scope")
    answer = await world.admin("POST", f"/v1/messages/msg_{1:016x}:cancel")
    assert code(answer) == (403, "auth.scope")


async def test_a_slash_or_a_colon_in_another_spelling_is_another_address(world):
    tenant = await world.tenant()
    for path in (
        f"/v1/tenants/{tenant}/",
        f"/v1//tenants/{tenant}",
        f"/v1/tenants/{tenant}%2Fapi-keys",
        f"/v1/tenants/{tenant}/../{tenant}",
        f"/V1/tenants/{tenant}",
    ):
        answer = await world.admin("GET", path)
        assert answer.status_code in (200, 404, 405), path
        assert not (answer.status_code == 200 and "%2F" not in path and ".." not in path), path


async def test_a_tenant_s_keys_work_with_its_certificates_only(world):
    """Here nothing is shown: that shows what is refused. With TLS: tests/flow/test_tls.py."""
    own = ["ab" * 32]
    for more in ({}, {"allowed_ips": ["203.0.113.0/24"]}):
        tenant = await world.tenant(name=f"bank-{len(more)}", client_certificates=own, **more)
        told = await world.key(tenant)
        for method, path, body in [
            ("POST", "/v1/messages", SEND),
            ("GET", f"/v1/messages/msg_{1:016x}", None),
        ]:
            answer = await world.one.call(method, path, told["key"], body, peer="203.0.113.9")
            assert code(answer) == (403, "auth.certificate")


async def test_a_certificate_that_nobody_can_show_is_refused(world):
    world.one.flow.access.has_client_ca = False
    wanted = {"name": "bank", "client_certificates": ["ab" * 32]}
    answer = await world.admin("POST", "/v1/tenants", wanted)
    assert code(answer) == (422, "field.value")
    [error] = answer.json()["errors"]
    assert error["pointer"] == "/client_certificates"
    assert "SMSGW_TLS_CLIENT_CA_FILE" in error["detail"]
    assert (await world.admin("POST", "/v1/tenants", {"name": "bank"})).status_code == 201


async def test_a_tenant_s_keys_work_from_its_addresses_only(world):
    tenant = await world.tenant(allowed_ips=["203.0.113.0/24", "2001:db8::/32"])
    told = await world.key(tenant, signing=True)
    read = f"/v1/messages/msg_{1:016x}"
    for peer, is_allowed in [
        ("203.0.113.9", True),
        ("::ffff:203.0.113.9", True),
        ("2001:db8::1", True),
        ("192.0.2.7", False),
        ("127.0.0.1", False),
        ("", False),
    ]:
        send = await world.one.call("POST", "/v1/messages", told["key"], SEND, peer=peer)
        get = await world.one.call("GET", read, told["key"], peer=peer)
        if is_allowed:
            assert (send.status_code, get.status_code) == (202, 404), peer
        else:
            assert code(send) == code(get) == (403, "auth.address_not_allowed"), peer
    # nobody's proxies are trusted here: what the header says counts for nothing
    lie = [("x-forwarded-for", "203.0.113.9")]
    answer = await world.one.call("POST", "/v1/messages", told["key"], SEND, headers=lie)
    assert code(answer) == (403, "auth.address_not_allowed")
    # a wrong key from a wrong address is only a wrong key
    wrong = told["key"][:-60] + "x" * 60
    assert (await world.one.call("POST", "/v1/messages", wrong, SEND)).status_code == 401


async def test_behind_a_trusted_proxy_the_client_counts(world, dsn):
    tenant = await world.tenant(allowed_ips=["203.0.113.0/24"])
    key = (await world.key(tenant))["key"]
    pool = await database.open_pool(dsn, size=2)
    process = Process(pool, trusted=["10.0.0.0/8"])
    await process.poll()
    for said, status in [
        ("203.0.113.9", 202),
        ("203.0.113.9, 10.1.1.1", 202),
        ("203.0.113.9, 192.0.2.1", 403),  # the client wrote the first one itself
        ("192.0.2.1", 403),
        ("garbage", 403),
    ]:
        headers = [("x-forwarded-for", said)]
        answer = await process.call(
            "POST", "/v1/messages", key, SEND, peer="10.0.0.1", headers=headers
        )
        assert answer.status_code == status, said
        quick = [
            (b"host", b"x"),
            (b"authorization", f"Bearer {key}".encode()),
            (b"content-type", b"application/json"),
            (b"x-forwarded-for", said.encode()),
        ]
        taken = process.quick.take(quick, json.dumps(SEND).encode(), ("10.0.0.1", 1))
        assert (taken is not None) == (status == 202), said
        assert process.quick.take(quick, json.dumps(SEND).encode(), ("192.0.2.1", 1)) is None
        assert process.quick.take(quick, json.dumps(SEND).encode(), None) is None
    audited = [("x-forwarded-for", "198.51.100.1, 203.0.113.200")]
    answer = await process.call(
        "POST", "/v1/tenants", world.ops, {"name": "x"}, peer="10.0.0.1", headers=audited
    )
    assert answer.status_code == 201
    assert (await audit(world))[0]["address"] == "203.0.113.200"
    pool.terminate()


async def test_a_changed_allow_list_is_in_force_on_the_short_way(world):
    tenant = await world.tenant()
    key = (await world.key(tenant))["key"]
    quick = [
        (b"host", b"x"),
        (b"authorization", f"Bearer {key}".encode()),
        (b"content-type", b"application/json"),
    ]
    body, peer = json.dumps(SEND).encode(), ("192.0.2.7", 1)
    path, star = f"/v1/tenants/{tenant}", [("if-match", "*")]
    assert world.one.quick.take(quick, body, peer) is not None
    for networks, is_taken in [(["192.0.2.0/24"], True), (["10.0.0.0/8"], False), ([], True)]:
        changed = await world.admin("PATCH", path, {"allowed_ips": networks}, headers=star)
        assert changed.status_code == 200
        assert (world.one.quick.take(quick, body, peer) is not None) == is_taken, networks
