"""Administration over the real store: tenants, their versions, audit rows, two processes."""

import asyncio

import pytest

from tests.support.admin_world import SEND, audit, code, open_world

pytestmark = pytest.mark.integration


@pytest.fixture
async def world(dsn):
    async with open_world(dsn) as world:
        yield world


async def test_a_tenant_is_made_read_and_listed(world):
    body = {
        "name": "shop",
        "signatures": ["某商城"],
        "countries": [86, 1],
        "allowed_ips": ["203.0.113.0/24", "2001:DB8::7"],
        "client_certificates": [":".join(["AB"] * 32)],
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
        "client_certificates": ["ab" * 32],
        "inbound_numbers": [],
        "on_uncertain": None,
        "limits": {
            "segments_per_second": 2000,
            "burst_segments": 4000,
            "segments_per_day": 100_000,
            "segments_per_month": None,
            "classes": {},
            "bursts": [],
        },
        "otp_caps": {"per_minute": 1, "per_hour": 5, "per_day": 10, "prefix_burst": 30},
        "version": 2,
    }
    await world.tenant("bank")
    listed = (await world.admin("GET", "/v1/tenants")).json()
    assert [one["name"] for one in listed["data"]] == ["bank", "shop"]
    assert listed["next_cursor"] is None


async def test_a_number_that_phones_answer_to_is_one_tenants(world):
    first = await world.tenant("first", inbound_numbers=["1069000", "10691"])
    given = {"name": "second", "inbound_numbers": ["106900011", "10691"]}
    refused = await world.admin("POST", "/v1/tenants", given)
    assert code(refused) == (422, "field.value")
    assert [e["pointer"] for e in refused.json()["errors"]] == ["/inbound_numbers/1"]
    path, star = f"/v1/tenants/{first}", [("if-match", "*")]
    again = await world.admin("PATCH", path, {"inbound_numbers": ["10691"]}, headers=star)
    assert again.json()["inbound_numbers"] == ["10691"]  # its own are no hindrance
    second = await world.tenant("second", inbound_numbers=["106900011"])
    path = f"/v1/tenants/{second}"
    refused = await world.admin("PATCH", path, {"inbound_numbers": ["10691"]}, headers=star)
    assert code(refused) == (422, "field.value")


async def test_a_number_is_one_tenants_though_two_ask_at_once_or_go_back(world):
    """What is in force in this process is not what stands: the lock of changes decides."""
    wanted = [{"name": name, "inbound_numbers": ["10692"]} for name in ("one", "two")]
    answers = await asyncio.gather(*(world.admin("POST", "/v1/tenants", one) for one in wanted))
    assert sorted(answer.status_code for answer in answers) == [201, 422]
    [owner] = [answer for answer in answers if answer.status_code == 201]
    path, star = f"/v1/tenants/{owner.json()['id']}", [("if-match", "*")]
    version = int(owner.headers["etag"].strip('"'))
    given = await world.admin("PATCH", path, {"inbound_numbers": []}, headers=star)
    assert given.status_code == 200
    await world.tenant("heir", inbound_numbers=["10692"])
    back = await world.admin("POST", f"{path}:rollback", {"version": version})
    assert code(back) == (422, "field.value")
    [error] = back.json()["errors"]
    assert error["pointer"] == "/version"
    assert "heir" in error["detail"]


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
