"""The administrative part of the OpenAPI document: examples run, schemas and door agree."""

import json

import pytest
from jsonschema import Draft202012Validator
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

from gateway.api.openapi_admin import EXAMPLES
from store import database
from tests.support.admin_world import World

pytestmark = pytest.mark.integration

STAR = [("if-match", "*")]


@pytest.fixture
async def world(dsn):
    pool = await database.open_pool(dsn, size=4)
    yield await World.make(pool)
    pool.terminate()


@pytest.fixture
async def validator(world):
    told = (await world.one.call("GET", "/openapi.json")).json()
    resource = Resource.from_contents(told, default_specification=DRAFT202012)
    registry = Registry().with_resource("urn:api", resource)

    def of(name):
        where = {"$ref": f"urn:api#/components/schemas/{name}"}
        return Draft202012Validator(where, registry=registry)

    return of


def examples(name):
    return [one["value"] for one in EXAMPLES[name].values()]


async def test_every_example_runs_and_every_answer_is_as_described(world, validator):
    ids = []
    for value in examples("TenantNew"):
        made = await world.admin("POST", "/v1/tenants", value)
        assert made.status_code == 201, made.text
        validator("Created").validate(made.json())
        ids.append(made.json()["id"])
    tenant = f"/v1/tenants/{ids[0]}"
    for value in examples("TenantChange"):
        changed = await world.admin("PATCH", tenant, value, headers=STAR)
        assert changed.status_code == 200, changed.text
        validator("Tenant").validate(changed.json())
    for value in examples("Rollback"):
        rolled = await world.admin("POST", f"{tenant}:rollback", value)
        assert rolled.status_code == 200, rolled.text
        validator("Tenant").validate(rolled.json())
    for action in ("suspend", "resume"):
        answer = await world.admin("POST", f"{tenant}:{action}")
        validator("Tenant").validate(answer.json())
    for path, name in [(f"{tenant}/api-keys", "KeyNew"), ("/v1/admin-keys", "AdminKeyNew")]:
        for value in examples(name):
            made = await world.admin("POST", path, value)
            assert made.status_code == 201, made.text
            validator("ShownKey").validate(made.json())
        key = f"{path}/{made.json()['id']}"
        for value in examples("Rotation"):
            rotated = await world.admin("POST", f"{key}:rotate", value)
            assert rotated.status_code == 201, rotated.text
            validator("ShownKey").validate(rotated.json())
        validator("Key").validate((await world.admin("GET", key)).json())
        validator("KeyList").validate((await world.admin("GET", path)).json())
        assert (await world.admin("DELETE", key)).status_code == 204
    validator("TenantList").validate((await world.admin("GET", "/v1/tenants")).json())
    validator("AuditList").validate((await world.admin("GET", "/v1/audit-events?limit=99")).json())
    for answer in (
        await world.admin("GET", "/v1/tenants?x=1"),
        await world.admin("PATCH", tenant, {}),
        await world.admin("POST", "/v1/tenants", {"oops": 1}),
    ):
        validator("Problem").validate(answer.json())


async def test_every_example_of_templates_runs_too(world, validator):
    tenant = await world.tenant()
    for value in examples("TemplateNew"):
        made = await world.admin("POST", "/v1/templates", {**value, "tenant": tenant})
        assert made.status_code == 201, made.text
        validator("Created").validate(made.json())
    template = f"/v1/templates/{made.json()['id']}"
    for value in examples("TemplateChange"):
        changed = await world.admin("PATCH", template, value, headers=STAR)
        assert changed.status_code == 200, changed.text
        validator("Template").validate(changed.json())
    version = {"version": changed.json()["version"] - 1}
    rolled = await world.admin("POST", f"{template}:rollback", version)
    assert rolled.status_code == 200, rolled.text
    validator("Template").validate((await world.admin("GET", template)).json())
    validator("TemplateList").validate((await world.admin("GET", "/v1/templates")).json())
    assert (await world.admin("DELETE", template)).status_code == 204


@pytest.mark.parametrize(
    ("path", "kind", "actions"),
    [
        ("/v1/channels", "Channel", ("pause", "drain", "resume")),
        ("/v1/routes", "Route", ()),
    ],
)
async def test_every_example_of_channels_and_routes_runs_too(world, validator, path, kind, actions):
    for value in examples(f"{kind}New"):
        made = await world.admin("POST", path, value)
        assert made.status_code == 201, made.text
        validator("Created").validate(made.json())
    one = made.headers["location"]
    for value in examples(f"{kind}Change"):
        changed = await world.admin("PATCH", one, value, headers=STAR)
        assert changed.status_code == 200, changed.text
        validator(kind).validate(changed.json())
    for action in actions:
        validator(kind).validate((await world.admin("POST", f"{one}:{action}")).json())
    version = {"version": int(made.headers["etag"].strip('"'))}
    rolled = await world.admin("POST", f"{one}:rollback", version)
    assert rolled.status_code == 200, rolled.text
    validator(kind).validate((await world.admin("GET", one)).json())
    validator(f"{kind}List").validate((await world.admin("GET", path)).json())
    assert (await world.admin("DELETE", one)).status_code == 204


async def test_every_example_of_canaries_runs_too(world, validator):
    channel = next(one for one in examples("ChannelNew") if one["name"] == "unicom-b")
    every = {**channel, "classes": ["otp", "transactional", "marketing"]}
    assert (await world.admin("POST", "/v1/channels", every)).status_code == 201
    for value in examples("CanaryNew"):
        made = await world.admin("POST", "/v1/canaries", value)
        assert made.status_code == 201, made.text
        validator("Created").validate(made.json())
        one = made.headers["location"]
        for change in examples("CanaryChange"):
            share = (await world.admin("GET", one)).json()["share"]
            if share in change.get("steps", [share]):
                changed = await world.admin("PATCH", one, change, headers=STAR)
                assert changed.status_code == 200, changed.text
                validator("Canary").validate(changed.json())
        version = {"version": int(made.headers["etag"].strip('"'))}
        rolled = await world.admin("POST", f"{one}:rollback", version)
        assert rolled.status_code == 200, rolled.text
        for action in ("pause", "resume", "abort"):
            validator("Canary").validate((await world.admin("POST", f"{one}:{action}")).json())
        over = await world.admin("POST", f"{one}:promote")
        assert over.status_code == 409
        validator("Problem").validate(over.json())
    validator("CanaryList").validate((await world.admin("GET", "/v1/canaries")).json())
    assert (await world.admin("DELETE", one)).status_code == 204


async def test_the_examples_are_what_their_schemas_say(validator):
    for name in EXAMPLES:
        for value in examples(name):
            validator(name).validate(value)


CHANGES = [
    {"signatures": ["a"]},
    {"signatures": []},
    {"signatures": "a"},
    {"signatures": [""]},
    {"signatures": ["x" * 21]},
    {"signatures": ["a", "a"]},
    {"signatures": None},
    {"countries": [1, 999]},
    {"countries": []},
    {"countries": [0]},
    {"countries": [1000]},
    {"countries": ["86"]},
    {"countries": [86, 86]},
    {"client_certificates": []},
    {"client_certificates": ["ab" * 32]},
    {"client_certificates": [":".join(["AB"] * 32)]},
    {"client_certificates": ["ab" * 31]},
    {"client_certificates": [1]},
    {"client_certificates": ["ab" * 32] * 2},
    {"allowed_ips": []},
    {"allowed_ips": ["10.0.0.0/8"]},
    {"allowed_ips": [1]},
    {"allowed_ips": ["10.0.0.0/8"] * 2},
    {"allowed_ips": [f"10.0.{n // 256}.{n % 256}" for n in range(256)]},
    {"allowed_ips": [f"10.0.{n // 256}.{n % 256}" for n in range(257)]},
    {"on_uncertain": "ask"},
    {"on_uncertain": "hold"},
    {"on_uncertain": None},
    {"on_uncertain": "wait"},
    {"on_uncertain": ["ask"]},
    {"inbound_numbers": []},
    {"inbound_numbers": ["106", "1" * 20]},
    {"inbound_numbers": ["10"]},
    {"inbound_numbers": ["1" * 21]},
    {"inbound_numbers": [1069]},
    {"inbound_numbers": ["1069", "1069"]},
    {"limits": {}},
    {"limits": []},
    {"limits": None},
    {"limits": {"segments_per_second": 0.01}},
    {"limits": {"segments_per_second": 0}},
    {"limits": {"segments_per_second": 1_000_000}},
    {"limits": {"segments_per_second": 1_000_001}},
    {"limits": {"segments_per_second": None}},
    {"limits": {"burst_segments": 1}},
    {"limits": {"burst_segments": 0}},
    {"limits": {"burst_segments": 1.5}},
    {"limits": {"burst_segments": 7.0}},
    {"limits": {"burst_segments": True}},
    {"limits": {"segments_per_day": None}},
    {"limits": {"segments_per_day": 10**12}},
    {"limits": {"segments_per_day": 10**12 + 1}},
    {"limits": {"segments_per_month": 0}},
    {"limits": {"segments_per_year": 1}},
    {"limits": {"classes": {}}},
    {"limits": {"classes": None}},
    {"limits": {"classes": []}},
    {"limits": {"classes": {"otp": {"segments_per_second": 5}}}},
    {"limits": {"classes": {"otp": {"segments_per_second": 5, "burst_segments": 7.0}}}},
    {"limits": {"classes": {"otp": {"burst_segments": 5}}}},
    {"limits": {"classes": {"otp": None}}},
    {"limits": {"classes": {"all": {"segments_per_second": 5}}}},
    {"limits": {"bursts": []}},
    {"limits": {"bursts": {}}},
    {"limits": {"bursts": [{"until": "2026-11-11T00:00:00Z", "segments_per_second": 5}]}},
    {"limits": {"bursts": [{"until": "2026-11-11T00:00:00Z"}]}},
    {"limits": {"bursts": [{"until": None, "segments_per_second": 5}]}},
    {"limits": {"bursts": [{"until": "2026-11-11T00:00:00Z", "segments_per_second": 5}] * 21}},
    {"suspended": True},
    {"name": "x"},
    {},
]
BODIES = {
    "KeyNew": [
        {"name": "a"},
        {"name": ""},
        {"name": "x" * 64},
        {"name": "x" * 65},
        {"name": 1},
        {},
        {"name": "b", "scopes": ["read"]},
        {"name": "c", "scopes": []},
        {"name": "c", "scopes": ["admin"]},
        {"name": "c", "scopes": ["read", "read"]},
        {"name": "d", "signing": True},
        {"name": "e", "signing": 1},
        {"name": "e", "secret": "mine"},
    ],
    "AdminKeyNew": [
        {"name": "a"},
        {"name": "b", "scopes": ["admin"]},
        {"name": "c", "scopes": ["send"]},
    ],
    "TenantNew": [{"name": "n1"}, {"signatures": []}, {"name": None}, {"name": "n2", "limits": {}}],
}


async def test_schema_and_door_agree(world, validator):
    tenant = await world.tenant("agreed")
    for change in CHANGES:
        answer = await world.admin("PATCH", f"/v1/tenants/{tenant}", change, headers=STAR)
        is_valid = validator("TenantChange").is_valid(change)
        assert answer.status_code == (200 if is_valid else 422), (json.dumps(change), answer.text)
    paths = {
        "KeyNew": f"/v1/tenants/{tenant}/api-keys",
        "AdminKeyNew": "/v1/admin-keys",
        "TenantNew": "/v1/tenants",
    }
    for name, bodies in BODIES.items():
        for body in bodies:
            answer = await world.admin("POST", paths[name], body)
            is_valid = validator(name).is_valid(body)
            assert answer.status_code == (201 if is_valid else 422), (body, answer.text)
