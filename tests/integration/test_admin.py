"""Administration over the real store: tenants, keys, versions, audit rows, two processes."""

import asyncio
import json

import pytest

from store import database
from tests.support.admin_world import World

pytestmark = pytest.mark.integration

SEND = {"to": "+8613800138000", "text": "您的验证码是 482913", "class": "otp"}
NOBODY = f"ten_{99:016x}"


@pytest.fixture
async def world(dsn):
    pool = await database.open_pool(dsn, size=4)
    yield await World.make(pool)
    pool.terminate()


def code(answer):
    return answer.status_code, answer.json()["code"]


async def audit(world, **query):
    answer = await world.admin("GET", "/v1/audit-events", **query)
    assert answer.status_code == 200, answer.text
    return answer.json()["data"]


# ---- tenants ----


async def test_a_tenant_is_made_read_and_listed(world):
    body = {
        "name": "shop",
        "signatures": ["某商城"],
        "countries": [86, 1],
        "allowed_ips": ["203.0.113.0/24", "2001:DB8::7"],
        "limits": {"segments_per_second": 2000, "segments_per_day": 100_000},
    }
    made = await world.admin("POST", "/v1/tenants", body)
    assert made.status_code == 201
    tenant = made.json()["id"]
    assert made.json() == {"id": f"ten_{1:016x}"}
    assert made.headers["location"] == f"/v1/tenants/{tenant}"
    # from any process, at once
    read = await world.two.call("GET", f"/v1/tenants/{tenant}", world.ops)
    assert read.headers["etag"] == made.headers["etag"] == '"2"'
    assert read.headers["cache-control"] == "no-store"
    told = read.json()
    assert told.pop("created_at").endswith("Z")
    assert told == {
        "id": tenant,
        "name": "shop",
        "suspended": False,
        "signatures": ["某商城"],
        "countries": [86, 1],
        "allowed_ips": ["203.0.113.0/24", "2001:db8::7/128"],
        "limits": {
            "segments_per_second": 2000,
            "burst_segments": 4000,
            "segments_per_day": 100_000,
            "segments_per_month": None,
            "classes": {},
            "bursts": [],
        },
        "version": 2,
    }
    await world.tenant("bank")
    listed = (await world.admin("GET", "/v1/tenants")).json()
    assert [one["name"] for one in listed["data"]] == ["bank", "shop"]
    assert listed["next_cursor"] is None


async def test_a_list_comes_in_pages(world):
    for number in range(5):
        await world.tenant(f"t{number}")
    names: list[str] = []
    cursor: str | None = ""
    for _ in range(3):
        path = f"/v1/tenants?limit=2{cursor and '&cursor=' + cursor}"
        page = (await world.admin("GET", path)).json()
        names += [one["name"] for one in page["data"]]
        cursor = page["next_cursor"]
    assert names == ["t4", "t3", "t2", "t1", "t0"]
    assert cursor is None
    whole = (await world.admin("GET", "/v1/tenants?limit=5")).json()
    assert (len(whole["data"]), whole["next_cursor"]) == (5, None)


async def test_a_cursor_is_good_for_its_list_alone(world):
    for name in ("a", "b"):
        tenant = await world.tenant(name)
        for number in range(2):
            await world.key(tenant, f"k{number}")
    mine = f"/v1/tenants/{tenant}/api-keys"
    cursor = (await world.admin("GET", f"{mine}?limit=1")).json()["next_cursor"]
    there = await world.two.call("GET", f"{mine}?limit=1&cursor={cursor}", world.ops)
    assert [one["name"] for one in there.json()["data"]] == ["k0"]
    changed = cursor[:-1] + ("A" if cursor[-1] != "A" else "B")
    for path in (
        f"{mine}?cursor={changed}",
        f"/v1/tenants/ten_{1:016x}/api-keys?cursor={cursor}",
        f"/v1/tenants?cursor={cursor}",
        f"/v1/audit-events?cursor={cursor}",
    ):
        assert code(await world.admin("GET", path)) == (422, "query.value"), path


MISTYPED = [
    ("limit=0", "query.value"),
    ("limit=1001", "query.value"),
    ("limit=-1", "query.value"),
    ("limit=ten", "query.value"),
    ("limit=%D9%A1", "query.value"),
    ("limit=", "query.value"),
    ("cursor=x", "query.value"),
    ("cursor=MTow", "query.value"),  # 1:0
    ("cursor=MjoxMA", "query.value"),
    ("cursor=%00", "query.value"),
    ("limit=1&limit=2", "query.repeated"),
    ("limits=1", "query.unknown"),
    ("name=shop", "query.unknown"),
]


async def test_a_mistyped_filter_does_not_list_everything(world):
    for path in ("/v1/tenants", "/v1/audit-events", "/v1/admin-keys"):
        for query, what in MISTYPED:
            answer = await world.admin("GET", f"{path}?{query}")
            assert code(answer) == (422, what), query
            [error] = answer.json()["errors"]
            assert error["pointer"] == "/" + query.partition("=")[0]


async def test_parameters_where_none_is_known(world):
    tenant = await world.tenant()
    for method, path in [
        ("GET", f"/v1/tenants/{tenant}"),
        ("PATCH", f"/v1/tenants/{tenant}"),
        ("POST", "/v1/tenants"),
        ("POST", f"/v1/tenants/{tenant}:suspend"),
        ("POST", f"/v1/tenants/{tenant}/api-keys"),
        ("DELETE", f"/v1/tenants/{tenant}/api-keys/key_{1:016x}"),
    ]:
        answer = await world.admin(method, f"{path}?force=1", {})
        assert code(answer) == (422, "query.unknown"), path


async def test_a_change_needs_the_version_it_was_made_for(world):
    tenant = await world.tenant(countries=[86])
    path = f"/v1/tenants/{tenant}"
    first = (await world.admin("GET", path)).headers["etag"]
    assert code(await world.admin("PATCH", path, {"countries": [1]})) == (428, "if_match.required")
    changed = await world.admin("PATCH", path, {"countries": [1]}, headers=[("if-match", first)])
    assert changed.status_code == 200
    assert changed.json()["countries"] == [1]
    assert changed.headers["etag"] != first
    late = await world.admin("PATCH", path, {"countries": [7]}, headers=[("if-match", first)])
    assert code(late) == (412, "if_match.mismatch")
    assert (await world.admin("GET", path)).json()["countries"] == [1]
    etag = changed.headers["etag"]
    for given, status in [
        (f'"0", {etag}', 200),
        ("*", 200),
        (f"W/{etag}", 412),
        (etag.strip('"'), 400),
        ('"', 400),
        ("", 400),
        (f"{etag},", 400),
    ]:
        answer = await world.admin("PATCH", path, {}, headers=[("if-match", given)])
        assert answer.status_code == status, given
    twice = [("if-match", etag), ("if-match", "*")]
    answer = await world.admin("PATCH", path, {}, headers=twice)
    assert code(answer) == (400, "request.header_repeated")


async def test_of_two_who_change_at_once_one_learns_of_the_other(world):
    tenant = await world.tenant()
    path = f"/v1/tenants/{tenant}"
    etag = (await world.admin("GET", path)).headers["etag"]
    answers = await asyncio.gather(
        *[
            process.call("PATCH", path, world.ops, {"countries": [n]}, headers=[("if-match", etag)])
            for n, process in enumerate((world.one, world.two) * 3, start=1)
        ]
    )
    assert sorted(answer.status_code for answer in answers) == [200, *[412] * 5]


async def test_a_patch_changes_what_it_names_and_nothing_else(world):
    limits = {"segments_per_second": 5, "segments_per_day": 10, "segments_per_month": 100}
    tenant = await world.tenant(limits=limits, allowed_ips=["192.0.2.0/24"])
    path, star = f"/v1/tenants/{tenant}", [("if-match", "*")]
    before = (await world.admin("GET", path)).json()
    changed = {"limits": {"burst_segments": 7, "segments_per_day": None}}
    after = (await world.admin("PATCH", path, changed, headers=star)).json()
    assert after["limits"] == before["limits"] | {"burst_segments": 7, "segments_per_day": None}
    for name in ("signatures", "countries", "allowed_ips", "name", "created_at"):
        assert after[name] == before[name]
    opened = (await world.admin("PATCH", path, {"allowed_ips": []}, headers=star)).json()
    assert opened["allowed_ips"] == []
    same = await world.admin("PATCH", path, {"allowed_ips": []}, headers=star)
    assert same.json()["version"] == opened["version"]  # nothing changed: no version, no row
    assert len(await audit(world)) == 6


async def test_limits_of_classes_and_bursts(world):
    limits = {
        "classes": {"marketing": {"segments_per_second": 5}},
        "bursts": [{"until": "2026-11-12T00:00:00+08:00", "segments_per_second": 500}],
    }
    tenant = await world.tenant(limits=limits)
    path, star = f"/v1/tenants/{tenant}", [("if-match", "*")]
    before = (await world.admin("GET", path)).json()["limits"]
    marketing = {"segments_per_second": 5, "burst_segments": 10}
    assert before["classes"] == {"marketing": marketing}
    assert before["bursts"] == [
        {
            "until": "2026-11-11T16:00:00.000Z",
            "segments_per_second": 500,
            "burst_segments": 1000,
        }
    ]
    same = await world.admin("PATCH", path, {"limits": before}, headers=star)
    assert same.json()["version"] == 2  # what is shown can be sent back
    otp = {"segments_per_second": 1.5, "burst_segments": 7}
    changed = {"limits": {"classes": {"otp": otp}}}  # a member of limits is replaced as a whole
    after = (await world.admin("PATCH", path, changed, headers=star)).json()
    assert after["limits"] == before | {"classes": {"otp": otp}}
    gone: dict[str, dict[str, object]] = {"limits": {"classes": {}, "bursts": []}}
    after = (await world.admin("PATCH", path, gone, headers=star)).json()
    assert after["limits"] == before | {"classes": {}, "bursts": []}
    back = (await world.admin("POST", path + ":rollback", {"version": 2})).json()
    assert back["limits"] == before
    changes = [row["after"] for row in await audit(world) if row["object"]["id"] == tenant]
    assert [spec.get("classes") for spec in changes] == [
        {"marketing": marketing},
        None,
        {"otp": otp},
        {"marketing": marketing},
    ]


async def test_every_wrong_limit_is_named_at_once(world):
    wrong = {
        "classes": {
            "otp": {"burst_segments": 0},
            "otps": {"segments_per_second": 5},
            "marketing": 5,
            "transactional": {"segments_per_second": None, "rate": 5},
        },
        "bursts": [
            {"segments_per_second": 5},
            {
                "from": "2026-11-12T00:00:00Z",
                "until": "2026-11-11T00:00:00Z",
                "segments_per_second": 1,
            },
            {"from": "2026-11-12", "until": 5, "segments_per_second": 1},
            {"until": "0001-01-01T00:00:00+08:00", "segments_per_second": 1},
            "tomorrow",
        ],
    }
    answer = await world.admin("POST", "/v1/tenants", {"name": "a", "limits": wrong})
    assert answer.status_code == 422
    assert {(error["pointer"], error["code"]) for error in answer.json()["errors"]} == {
        ("/limits/classes/otp/burst_segments", "field.value"),
        ("/limits/classes/otp/segments_per_second", "field.missing"),
        ("/limits/classes/otps", "field.unknown"),
        ("/limits/classes/marketing", "field.type"),
        ("/limits/classes/transactional/segments_per_second", "field.null"),
        ("/limits/classes/transactional/rate", "field.unknown"),
        ("/limits/bursts/0/until", "field.missing"),
        ("/limits/bursts/1/until", "field.value"),
        ("/limits/bursts/2/from", "field.value"),
        ("/limits/bursts/2/until", "field.type"),
        ("/limits/bursts/3/until", "field.value"),
        ("/limits/bursts/4", "field.type"),
    }


async def test_every_wrong_field_is_named_at_once(world):
    body = {
        "name": "a b",
        "signatures": ["good", "【x】", 5],
        "countries": [],
        "allowed_ips": ["10.0.0.1/8", "10.0.0.0/8", "nonsense", "::ffff:10.0.0.0/104", "fe80::%1"],
        "limits": {"segments_per_second": "5", "burst_segments": 0, "oops": 1},
        "suspended": True,
        "13800138000": 1,
    }
    answer = await world.admin("POST", "/v1/tenants", body)
    assert answer.status_code == 422
    told = answer.json()
    found = {(error["pointer"], error["code"]) for error in told["errors"]}
    assert found == {
        ("/name", "field.value"),
        ("/signatures/1", "field.value"),
        ("/signatures/2", "field.value"),
        ("/countries", "field.value"),
        ("/allowed_ips/0", "field.value"),
        ("/allowed_ips/2", "field.value"),
        ("/allowed_ips/3", "field.value"),
        ("/allowed_ips/4", "field.value"),
        ("/limits/segments_per_second", "field.type"),
        ("/limits/burst_segments", "field.value"),
        ("/limits/oops", "field.unknown"),
        ("/suspended", "field.unknown"),
        ("", "field.unknown"),
    }
    assert told["code"] == told["errors"][0]["code"]
    assert "13800138000" not in answer.text
    assert "nonsense" not in answer.text
    assert await audit(world) == await audit(world)
    assert len((await world.admin("GET", "/v1/tenants")).json()["data"]) == 0


BODIES = [
    (b"", 400, "json.syntax"),
    (b"{", 400, "json.syntax"),
    (b"[]", 422, "field.type"),
    (b"null", 422, "field.type"),
    (b'{"name": null}', 422, "field.null"),
    (b"{}", 422, "field.missing"),
    (b'{"name": "a", "name": "b"}', 400, "json.duplicate_key"),
    (b'{"name": "\\u0000"}', 400, "json.nul"),
    (b'{"name": "\xff"}', 400, "json.not_utf8"),
    (b'{"name": NaN}', 400, "json.syntax"),
    (b'{"name": true}', 422, "field.type"),
    (b'{"name": ' + b"[" * 30 + b"]" * 30 + b"}", 400, "json.too_deep"),
    (b'{"name": "' + b"x" * 70_000 + b'"}', 413, "body.too_large"),
]


async def test_bodies_that_are_none(world):
    header = [("content-type", "application/json")]
    for body, status, what in BODIES:
        answer = await world.admin("POST", "/v1/tenants", body, headers=header)
        assert code(answer) == (status, what), body[:40]


async def test_the_media_type_is_asked_for(world):
    header = [("content-type", "application/x-www-form-urlencoded")]
    answer = await world.admin("POST", "/v1/tenants", b"name=x", headers=header)
    assert code(answer) == (415, "body.media_type")
    header = [("content-type", "application/json"), ("content-encoding", "gzip")]
    answer = await world.admin("POST", "/v1/tenants", b"x", headers=header)
    assert code(answer) == (415, "body.encoding")


async def test_a_name_is_given_once_and_kept(world):
    tenant = await world.tenant("shop")
    answer = await world.admin("POST", "/v1/tenants", {"name": "shop"})
    assert code(answer) == (409, "name.taken")
    assert answer.json()["errors"][0]["pointer"] == "/name"
    renamed = await world.admin(
        "PATCH", f"/v1/tenants/{tenant}", {"name": "x"}, headers=[("if-match", "*")]
    )
    assert code(renamed) == (422, "field.unknown")
    made = await asyncio.gather(
        *[world.admin("POST", "/v1/tenants", {"name": "same"}) for _ in range(4)]
    )
    assert sorted(answer.status_code for answer in made) == [201, 409, 409, 409]


async def test_a_suspended_tenant_does_not_send_and_is_resumed(world):
    tenant = await world.tenant()
    key = (await world.key(tenant))["key"]
    send = ("POST", "/v1/messages", key, SEND)
    assert (await world.one.call(*send)).status_code == 202
    suspended = await world.admin("POST", f"/v1/tenants/{tenant}:suspend")
    assert suspended.json()["suspended"] is True
    again = await world.admin("POST", f"/v1/tenants/{tenant}:suspend", {})
    assert again.json()["version"] == suspended.json()["version"]
    assert code(await world.one.call(*send)) == (403, "tenant.suspended")
    await world.two.poll()
    assert code(await world.two.call(*send)) == (403, "tenant.suspended")
    stale = [("if-match", '"1"')]
    answer = await world.admin("POST", f"/v1/tenants/{tenant}:resume", headers=stale)
    assert code(answer) == (412, "if_match.mismatch")
    resumed = await world.admin("POST", f"/v1/tenants/{tenant}:resume")
    assert resumed.json()["suspended"] is False
    assert (await world.one.call(*send)).status_code == 202
    fields = await world.admin("POST", f"/v1/tenants/{tenant}:suspend", {"until": "tomorrow"})
    assert code(fields) == (422, "field.unknown")
    actions = [row["action"] for row in await audit(world)]
    assert actions[:2] == ["tenant.resumed", "tenant.suspended"]


async def test_a_rollback_is_one_call_and_a_new_version(world):
    tenant = await world.tenant(countries=[86], allowed_ips=["192.0.2.0/24"])
    path, star = f"/v1/tenants/{tenant}", [("if-match", "*")]
    first = (await world.admin("GET", path)).json()
    second = await world.admin("PATCH", path, {"countries": [1], "allowed_ips": []}, headers=star)
    await world.admin("POST", f"{path}:suspend")
    rolled = await world.admin("POST", f"{path}:rollback", {"version": first["version"]})
    assert rolled.status_code == 200, rolled.text
    told = rolled.json()
    assert (told["countries"], told["allowed_ips"]) == ([86], ["192.0.2.0/24"])
    assert told["suspended"] is True  # an operator's act, undone by :resume alone
    assert told["version"] > second.json()["version"]
    row = (await audit(world))[0]
    assert (row["action"], row["after"]["countries"]) == ("tenant.rolled_back", [86])
    for version in (told["version"] + 1, 1, 2**31):
        answer = await world.admin("POST", f"{path}:rollback", {"version": version})
        assert answer.status_code == 422, version
        assert answer.json()["errors"][0]["pointer"] == "/version"
    assert code(await world.admin("POST", f"{path}:rollback", {})) == (422, "field.missing")


async def test_what_is_not_there_is_404_whatever_the_method(world):
    for path in (
        NOBODY,
        "ten_1",
        "nonsense",
        f"key_{1:016x}",
        f"ten_{2**40:016x}",
        "ten_" + "f" * 16,
    ):
        for method, tail, body in [
            ("GET", "", None),
            ("PATCH", "", {}),
            ("POST", ":suspend", None),
            ("POST", ":resume", None),
            ("POST", ":rollback", {"version": 1}),
            ("GET", "/api-keys", None),
            ("POST", "/api-keys", {"name": "x"}),
            ("GET", f"/api-keys/key_{1:016x}", None),
            ("DELETE", f"/api-keys/key_{1:016x}", None),
            ("POST", f"/api-keys/key_{1:016x}:rotate", {"overlap_s": 0}),
        ]:
            answer = await world.admin(method, f"/v1/tenants/{path}{tail}", body)
            assert code(answer) == (404, "resource.not_found"), (method, path, tail)


METHODS = [
    ("PUT", "/v1/tenants", "GET, POST"),
    ("DELETE", f"/v1/tenants/{NOBODY}", "GET, PATCH"),
    ("GET", f"/v1/tenants/{NOBODY}:suspend", "POST"),
    ("PATCH", f"/v1/tenants/{NOBODY}/api-keys/key_{1:016x}", "DELETE, GET"),
    ("POST", "/v1/audit-events", "GET"),
    ("DELETE", "/v1/audit-events", "GET"),
]


async def test_a_405_names_every_method(world):
    for method, path, allowed in METHODS:
        answer = await world.admin(method, path, {})
        assert code(answer) == (405, "method.not_allowed")
        assert ", ".join(sorted(answer.headers["allow"].split(", "))) == allowed


# ---- keys ----


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


# ---- who may not ----


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


async def test_an_admin_key_sends_and_reads_nothing(world):
    assert code(await world.admin("POST", "/v1/messages", SEND)) == (403, "auth.scope")
    answer = await world.admin("GET", f"/v1/messages/msg_{1:016x}")
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


# ---- the audit log ----


async def test_every_change_has_its_row_with_who_and_from_where(world):
    tenant = await world.tenant(countries=[86])
    path = f"/v1/tenants/{tenant}"
    named = [("if-match", "*"), ("x-request-id", "r-7")]
    await world.admin("PATCH", path, {"countries": [1]}, headers=named)
    told = await world.key(tenant)
    await world.admin("POST", f"{path}/api-keys/{told['id']}:rotate", {"overlap_s": 5})
    await world.admin("DELETE", f"{path}/api-keys/{told['id']}")
    rows = await audit(world)
    assert [row["action"] for row in rows] == [
        "api_key.revoked",
        "api_key.created",
        "api_key.rotated_out",
        "api_key.created",
        "tenant.updated",
        "tenant.created",
        "api_key.created",
        "route.created",
        "channel.created",
    ]
    updated = rows[4]
    assert updated["actor"] == {
        "kind": "key",
        "id": "key_0000800000000001",
        "name": "ops",
        "os_user": None,
    }
    assert (updated["address"], updated["request_id"]) == ("192.0.2.7", "r-7")
    assert updated["object"] == {"kind": "tenant", "id": tenant, "name": "shop"}
    assert (updated["before"]["countries"], updated["after"]["countries"]) == ([86], [1])
    assert rows[2]["version"] == rows[1]["version"]  # one change, two objects
    assert rows[-1]["actor"]["os_user"] == "tester"
    of_tenant = (await world.admin("GET", f"/v1/audit-events?object={tenant}")).json()["data"]
    assert [row["action"] for row in of_tenant] == ["tenant.updated", "tenant.created"]
    assert (await world.one.store.audit.verify()).broken_at is None
    page = (await world.admin("GET", "/v1/audit-events?limit=3")).json()
    rest = await world.admin("GET", f"/v1/audit-events?limit=100&cursor={page['next_cursor']}")
    assert page["data"] + rest.json()["data"] == rows


async def test_what_was_refused_leaves_no_row_and_no_version(world):
    tenant = await world.tenant()
    version, rows = await world.one.store.version(), await audit(world)
    path = f"/v1/tenants/{tenant}"
    await world.admin("PATCH", path, {"countries": [1]}, headers=[("if-match", '"999"')])
    await world.admin("POST", "/v1/tenants", {"name": "shop"})
    await world.admin("POST", "/v1/tenants", {"name": "x", "oops": 1})
    await world.admin("DELETE", f"{path}/api-keys/key_{5:016x}")
    assert await world.one.store.version() == version
    assert await audit(world) == rows


async def test_the_store_going_away_in_the_commit_is_told_as_such(world, monkeypatch):
    import asyncpg

    async def lost(self):
        await self.rollback()
        raise ConnectionResetError

    monkeypatch.setattr(asyncpg.transaction.Transaction, "commit", lost)
    answer = await world.admin("POST", "/v1/tenants", {"name": "x"})
    assert code(answer) == (503, "outcome_unknown")
    assert "may have been made" in answer.json()["detail"]


# ---- where they may come from ----


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
    from tests.support.admin_world import Process

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
