"""POST /v1/messages:preview: what a send would come to, without anything being taken."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime

import httpx
import pytest
from jsonschema import Draft202012Validator
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

from compliance.hours import Hours
from compliance.policy import SendingPolicy
from compliance.suppressions import unkeyed_index
from failover.share import Share
from gateway.api.app import build
from gateway.api.openapi import SEND_EXAMPLES
from sms.config import Canary, CanaryState, Route
from sms.model import MessageClass
from tests.support.fake_flow import FakeFlow

MARKETING = MessageClass.MARKETING
ONE = {"to": "+8613800138000", "text": "您好"}
FIELDS = {
    "encoding", "segments", "segment_texts", "final_text", "forcing_characters", "channel",
    "send_at", "refusals", "notes",
}  # fmt: skip


@pytest.fixture
def flow():
    flow = FakeFlow()
    everything = Route(9, 0, None, None, 0, (7,))
    flow.snapshot = replace(flow.snapshot, routes=(*flow.snapshot.routes, everything))
    flow.policy = SendingPolicy(Hours(0, 24))
    return flow


async def call(flow, body, key="both", path="/v1/messages:preview", **headers):
    headers = {"content-type": "application/json", **headers}
    if key:
        headers["authorization"] = f"Bearer {flow.keys[key]}"
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    transport = httpx.ASGITransport(build(flow))
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as http:
        return await http.post(path, content=content, headers=headers)


async def preview(flow, **fields):
    answer = await call(flow, {**ONE, **fields})
    assert answer.status_code == 200, answer.text
    told = answer.json()
    assert set(told) == FIELDS
    return told


def codes(errors):
    return [(error["pointer"], error["code"]) for error in errors]


async def test_it_says_what_a_send_would_come_to_and_takes_nothing(flow):
    left = flow.limiter.left
    told = await preview(flow, text="字" * 80)
    assert told["final_text"] == "【某商城】" + "字" * 80
    assert "".join(told["segment_texts"]) == told["final_text"]
    assert (told["encoding"], told["segments"], told["channel"]) == ("ucs2", 2, "mobile-a")
    assert told["forcing_characters"] == ["【", "某", "商", "城", "】", "字"]
    assert (told["send_at"], told["refusals"], told["notes"]) == (None, [], [])
    assert flow.limiter.left == left
    assert flow.accepted == []


async def test_a_gsm7_text_forces_nothing(flow):
    told = await preview(flow, to="+14155552671", text="“plain”", smart_encoding=True)
    assert (told["encoding"], told["final_text"]) == ("gsm7", '"plain"')
    assert told["forcing_characters"] == []


async def test_a_refused_text_is_shown_all_the_same(flow):
    told = await preview(flow, text="字" * 200, max_segments=1)
    assert codes(told["refusals"]) == [("/text", "content.too_long")]
    assert told["segments"] == 4
    assert told["final_text"].startswith("【某商城】字")


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"to": "123"}, ("/to", "recipient.invalid")),
        ({"signature": "nobody's"}, ("/signature", "signature.unknown")),
        ({"txet": "x"}, ("/txet", "field.unknown")),
        ({"valid_for_s": 1}, ("/valid_for_s", "field.value")),
        ({"valid_for_s": "1"}, ("/valid_for_s", "field.type")),
        ({"send_at": "tomorrow"}, ("/send_at", "field.value")),
        ({"to": "+447911123456"}, ("/to", "recipient.country_not_allowed")),
        ({"text": "字" * 700, "max_segments": 255}, ("/text", "quota.message_too_large")),
    ],
)
async def test_every_refusal_of_a_send_is_told_with_200(flow, change, found):
    flow.limiter.depth = 10
    told = await preview(flow, **change)
    assert found in codes(told["refusals"])
    if found[1] != "quota.message_too_large":
        sent = await call(flow, {**ONE, **change}, path="/v1/messages")
        assert sent.status_code == 422
        assert codes(sent.json()["errors"]) == codes(told["refusals"])


async def test_empty_and_absurd_texts_have_no_segments(flow):
    for text in ("", " ", "x" * 100_000):
        told = await preview(flow, text=text)
        assert (told["segments"], told["encoding"], told["segment_texts"]) == (0, None, [])
        assert told["refusals"]


async def test_marketing_shows_its_line_and_its_hours(flow):
    told = await preview(flow, **{"class": "marketing"})
    assert told["final_text"] == "【某商城】您好拒收请回复R"
    assert codes(told["notes"]) == [("/text", "content.opt_out_line")]
    assert told["send_at"] is None
    now = datetime.now(UTC).timestamp()
    hour = (now + 8 * 3600) % 86_400 / 3600
    opens = hour + 1 if hour < 22 else 0.5  # in an hour, or in the night to come
    flow.policy = SendingPolicy(Hours(opens, min(24, opens + 0.5)))
    told = await preview(flow, **{"class": "marketing"})
    begins = datetime.fromisoformat(told["send_at"]).timestamp()
    assert 0 < begins - now < 86_400
    assert told["refusals"] == []
    assert codes(told["notes"])[0] == ("/class", "policy.quiet_hours")
    assert told["send_at"] in told["notes"][0]["detail"]
    told = await preview(flow, valid_for_s=60, **{"class": "marketing"})
    assert ("/valid_for_s", "validity.expired") in codes(told["notes"])
    assert (await preview(flow))["send_at"] is None


async def test_a_suppressed_number_is_told(flow):
    flow.policy.suppress(1, unkeyed_index(1, "8613800138000"), {MARKETING})
    told = await preview(flow, **{"class": "marketing"})
    assert codes(told["refusals"]) == [("/to", "policy.opted_out")]
    assert told["segments"] == 1
    assert (await preview(flow))["refusals"] == []


@pytest.mark.parametrize("body", [b"", b"{", b"[1", b'{"to": 1, "to": 2}', b"\xff"])
async def test_what_is_no_json_is_refused(flow, body):
    answer = await call(flow, body)
    assert answer.status_code == 400
    assert answer.headers["content-type"] == "application/problem+json"


async def test_who_may_ask(flow):
    assert (await call(flow, ONE, key=None)).status_code == 401
    assert (await call(flow, ONE, key="read")).status_code == 403
    assert (await call(flow, ONE, key="admin")).status_code == 403
    assert (await call(flow, ONE, key="suspended")).status_code == 403
    assert (await call(flow, ONE, **{"content-type": "text/plain"})).status_code == 415
    assert (await call(flow, ONE, path="/v1/messages:preview?x=1")).status_code == 422
    assert (await call(flow, ONE, key="send", **{"idempotency-key": "a"})).status_code == 200


async def test_the_answer_is_as_described(flow):
    transport = httpx.ASGITransport(build(flow))
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as http:
        document = (await http.get("/openapi.json")).json()
    resource = Resource.from_contents(document, default_specification=DRAFT202012)
    registry = Registry().with_resource("urn:api", resource)
    schema = {"$ref": "urn:api#/components/schemas/Preview"}
    validator = Draft202012Validator(schema, registry=registry)
    for body in (*(one["value"] for one in SEND_EXAMPLES.values()), {}, {"text": ""}):
        answer = await call(flow, body)
        assert answer.status_code == 200
        validator.validate(answer.json())


async def test_the_channel_is_the_one_that_the_route_s_weights_give_the_number(flow):
    everything = Route(9, 0, None, None, 0, (7, 8), (70, 30))
    known = flow.snapshot.channels
    flow.snapshot = replace(
        flow.snapshot,
        routes=(everything,),
        channels={**known, 8: replace(known[7], id=8, name="unicom-b")},
    )
    numbers = [f"1380013{number:04d}" for number in range(8000, 8060)]
    told = [(await preview(flow, to=number))["channel"] for number in numbers]
    again = [(await preview(flow, to=number))["channel"] for number in numbers]
    assert told == again
    assert 8 <= told.count("unicom-b") <= 28


async def test_the_channel_is_the_candidate_for_numbers_that_are_on_a_canary(flow):
    everything, known = Route(9, 0, None, None, 0, (7,)), flow.snapshot.channels
    trial = Canary(1, "trial", 9, (8, 7), 30, CanaryState.RUNNING, 0.0)
    flow.snapshot = replace(
        flow.snapshot,
        routes=(everything,),
        channels={**known, 8: replace(known[7], id=8, name="unicom-b")},
        canaries=(trial,),
    )
    numbers = [f"1380013{number:04d}" for number in range(8000, 8060)]
    told = [(await preview(flow, to=number))["channel"] for number in numbers]
    on_it = [Share(1, 30).has(f"86{number}") for number in numbers]
    assert told == ["unicom-b" if is_on else known[7].name for is_on in on_it]
    assert 8 <= told.count("unicom-b") <= 28
