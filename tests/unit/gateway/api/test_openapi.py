"""The OpenAPI document: valid, agreeing with the decoder, and its examples run."""

from __future__ import annotations

import json
import re

import httpx
import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

from gateway.api.app import _behind, build
from gateway.api.models import FIELD_NAMES
from gateway.api.openapi import BATCH_EXAMPLES, SEND_EXAMPLES
from gateway.api.routing import PlainRoute
from sms.model import FINAL_STATES, MessageClass, OnUncertain, State
from sms.reasons import REASONS
from tests.support.fake_flow import FakeFlow


@pytest.fixture
def flow():
    made = FakeFlow()
    route = made.snapshot.routes[0]
    made.snapshot = type(made.snapshot)(
        2,
        made.snapshot.tenants,
        made.snapshot.api_keys,
        made.snapshot.channels,
        (type(route)(9, 0, None, None, 0, (7,)),),
    )
    return made


async def call(flow, method, path, content=None):
    transport = httpx.ASGITransport(build(flow))
    headers = {
        "authorization": f"Bearer {flow.keys['both']}",
        "content-type": "application/json",
    }
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as http:
        return await http.request(method, path, content=content, headers=headers)


async def document(flow):
    return (await call(flow, "GET", "/openapi.json")).json()


def validator(told, name):
    resource = Resource.from_contents(told, default_specification=DRAFT202012)
    registry = Registry().with_resource("urn:api", resource)
    return Draft202012Validator({"$ref": f"urn:api#/components/schemas/{name}"}, registry=registry)


async def test_the_document_is_valid_and_has_all_routes(flow):
    told = await document(flow)
    validate(told)
    assert told["openapi"].startswith("3.1")
    assert {"/v1/messages", "/v1/batches"} <= set(told["paths"])
    behind = {
        (route.path_format, method.lower())
        for route in _behind(flow).routes
        if isinstance(route, PlainRoute) and route.path != "/openapi.json"
        for method in route.methods or ()
        if method != "HEAD"
    }
    described = {(path, method) for path, found in told["paths"].items() for method in found}
    assert described - behind == {("/v1/messages", "post"), ("/v1/batches", "post")}
    assert behind <= described
    names = [one["operationId"] for found in told["paths"].values() for one in found.values()]
    assert len(names) == len(set(names))


async def test_whatever_needs_a_key_says_both_ways(flow):
    told = await document(flow)
    schemes = set(told["components"]["securitySchemes"])
    for path, operations in told["paths"].items():
        for operation in operations.values():
            ways = operation.get("security", [])
            assert [set(way) for way in ways] == (
                [{"key"}, schemes - {"key"}] if path.startswith("/v1") else []
            ), path


async def test_the_schema_names_exactly_the_fields_that_are_decoded(flow):
    schema = (await document(flow))["components"]["schemas"]["SendRequest"]
    assert set(schema["properties"]) == set(FIELD_NAMES)
    assert schema["additionalProperties"] is False
    assert schema["required"] == ["to"]
    assert schema["oneOf"] == [{"required": ["text"]}, {"required": ["template_id"]}]


@pytest.mark.parametrize("name", SEND_EXAMPLES)
async def test_the_examples_of_send_are_accepted(flow, name):
    value = SEND_EXAMPLES[name]["value"]
    answer = await call(flow, "POST", "/v1/messages", json.dumps(value))
    assert answer.status_code == 202, answer.text
    told = await document(flow)
    validator(told, "SendRequest").validate(value)
    validator(told, "Accepted").validate(answer.json())
    message_id = answer.json()["id"]
    for path, schema in [("", "Message"), ("/timeline", "Timeline")]:
        read = await call(flow, "GET", f"/v1/messages/{message_id}{path}")
        validator(told, schema).validate(read.json())
    missing = await call(flow, "GET", "/v1/messages/msg_0000000000000001")
    validator(told, "Problem").validate(missing.json())


@pytest.mark.parametrize("name", BATCH_EXAMPLES)
async def test_the_examples_of_batches_are_accepted(flow, name):
    value = BATCH_EXAMPLES[name]["value"]
    answer = await call(flow, "POST", "/v1/batches", json.dumps(value))
    assert answer.status_code == 202, answer.text
    assert len(answer.json()["accepted"]) == len(value["messages"])
    told = await document(flow)
    validator(told, "BatchRequest").validate(value)
    validator(told, "BatchAccepted").validate(answer.json())


GOOD = {"to": "+8613800138000", "text": "x"}


@pytest.mark.parametrize(
    "change",
    [
        {"class": "otp"},
        {"class": "urgent"},
        {"to": 1},
        {"text": ""},
        {"text": None},
        {"sender_ext": "123456789012"},
        {"sender_ext": "1234567890123"},
        {"sender_ext": "12a"},
        {"metadata": {"a": "b"}},
        {"metadata": {"a": 1}},
        {"metadata": []},
        {"valid_for_s": 5},
        {"valid_for_s": 4},
        {"valid_for_s": 259200},
        {"valid_for_s": 259201},
        {"valid_for_s": "60"},
        {"encoding": "ucs2"},
        {"encoding": "latin1"},
        {"smart_encoding": True},
        {"smart_encoding": "yes"},
        {"max_segments": 1},
        {"max_segments": 0},
        {"max_segments": 255},
        {"max_segments": 256},
        {"on_uncertain": "resend"},
        {"on_uncertain": "ask"},
        {"signature": 3},
        {"client_ref": "x"},
        {"template_id": "tpl_0000000000000001"},
        {"variables": {}},
        {"oops": 1},
    ],
)
async def test_schema_and_door_agree(flow, change):
    body = {**GOOD, **change}
    answer = await call(flow, "POST", "/v1/messages", json.dumps(body))
    is_valid = validator(await document(flow), "SendRequest").is_valid(body)
    assert answer.status_code == (202 if is_valid else 422), answer.text


@pytest.mark.parametrize(
    ("status", "body"),
    [
        ("200", {"status": "ready", "missing": []}),
        ("200", {"status": "ready", "missing": [], "degraded": ["worker 2: no lease"]}),
        ("503", {"status": "unready", "missing": ["store"]}),
    ],
)
async def test_readiness_is_described_to_the_last_member(flow, status, body):
    told = await document(flow)
    answers = told["paths"]["/readyz"]["get"]["responses"]
    schema = answers[status]["content"]["application/json"]["schema"]
    Draft202012Validator(schema).validate(body)
    assert set(body) <= set(schema["properties"])
    assert not Draft202012Validator(schema).is_valid({**body, "status": "other"})


async def test_no_description_is_missing(flow):
    told = await document(flow)
    for operations in told["paths"].values():
        for operation in operations.values():
            assert operation["summary"]
            assert re.fullmatch(r"[a-z][A-Za-z]+", operation["operationId"])


async def test_the_document_stands_alone_and_explains_its_words(flow):
    told = await document(flow)
    text = json.dumps(told, ensure_ascii=False)
    assert "RELIABILITY" not in text
    assert "DESIGN" not in text
    for operation in (told["paths"]["/v1/messages"]["post"], told["paths"]["/v1/batches"]["post"]):
        assert "Understood and refused" in operation["responses"]["422"]["description"]
        assert "500" in operation["responses"]
    message = told["components"]["schemas"]["Message"]["properties"]
    for state in State:
        is_final = f"`{state}` (final): " in message["status"]["description"]
        assert is_final == (state in FINAL_STATES)
        assert f"`{state}`" in message["status"]["description"]
    for reason in REASONS:
        assert f"`{reason.code}`" in message["reason"]["description"]
    policy = told["components"]["schemas"]["OnUncertain"]["description"]
    for message_class in MessageClass:
        assert str(message_class) in policy
    for policy_word in OnUncertain:
        assert f"`{policy_word}`" in policy
