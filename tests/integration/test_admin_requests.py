"""What an administrative request may not be: parameters, bodies, methods, addresses."""

import asyncio

import pytest

from tests.support.admin_world import NOBODY, audit, code, open_world

pytestmark = pytest.mark.integration


@pytest.fixture
async def world(dsn):
    async with open_world(dsn) as world:
        yield world


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
    assert "`name` is not a field that can be changed here; there are:" in renamed.json()["detail"]
    made = await asyncio.gather(
        *[world.admin("POST", "/v1/tenants", {"name": "same"}) for _ in range(4)]
    )
    assert sorted(answer.status_code for answer in made) == [201, 409, 409, 409]


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
    ("PUT", "/v1/tenants", "GET, HEAD, POST"),
    ("DELETE", f"/v1/tenants/{NOBODY}", "GET, HEAD, PATCH"),
    ("GET", f"/v1/tenants/{NOBODY}:suspend", "POST"),
    ("PATCH", f"/v1/tenants/{NOBODY}/api-keys/key_{1:016x}", "DELETE, GET, HEAD"),
    ("POST", "/v1/audit-events", "GET, HEAD"),
    ("DELETE", "/v1/audit-events", "GET, HEAD"),
]


async def test_a_405_names_every_method(world):
    for method, path, allowed in METHODS:
        answer = await world.admin(method, path, {})
        assert code(answer) == (405, "method.not_allowed")
        assert ", ".join(sorted(answer.headers["allow"].split(", "))) == allowed
