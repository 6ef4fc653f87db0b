"""The pumping guard at the door: 429 with Retry-After, given back, replays, batches, preview."""

from __future__ import annotations

import json
from dataclasses import replace

import httpx
import pytest

from gateway.api.app import build
from gateway.pumping import Pumping
from ratelimit.otp_guard import OtpGuard
from sms.config import OtpCaps
from sms.errors import OutcomeUnknown, StoreUnavailable
from telemetry.metrics import Metrics
from tests.support.fake_flow import SHOP, FakeFlow
from tests.support.http_client import GOOD, Client, request

OTP = {"to": "+8613800138000", "text": "验证码 482913", "class": "otp"}
CAP = "policy.frequency_cap"


@pytest.fixture
def flow():
    flow = FakeFlow()
    guard = OtpGuard(None, metrics=Metrics(), monotonic=lambda: 1000.0)
    flow.pumping = Pumping(guard, flow.keyring.number_index)
    return flow


async def post(flow, body, path="/v1/messages", **headers):
    told = {"content-type": "application/json", "authorization": f"Bearer {flow.keys['both']}"}
    transport = httpx.ASGITransport(build(flow))
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as http:
        return await http.post(path, content=json.dumps(body).encode(), headers=told | headers)


def code_of(answer):
    return answer.status_code, answer.json().get("code")


async def test_the_second_code_to_a_number_within_a_minute_is_429(flow):
    assert (await post(flow, OTP)).status_code == 202
    left = flow.limiter.left
    refused = await post(flow, {**OTP, "to": "13800138000"})  # the same number
    told = refused.json()
    assert (refused.status_code, told["code"]) == (429, CAP)
    assert refused.headers["retry-after"] == "60"
    assert told["errors"][0]["pointer"] == "/to"
    assert "13800138000" not in refused.text
    assert flow.limiter.left == left
    assert (await post(flow, {**OTP, "to": "+8613800138001"})).status_code == 202
    assert len(flow.accepted) == 2


async def test_only_otp_is_counted(flow):
    for _ in range(3):
        assert (await post(flow, {**OTP, "class": "transactional"})).status_code == 202


class Untouched:
    """A guard that must not even be looked at."""

    def __getattribute__(self, name):
        raise AssertionError(f"pumping.{name}")


@pytest.mark.parametrize("extra", [{}, {"client_ref": "order-1"}])
async def test_other_classes_do_not_touch_the_guard(flow, extra):
    flow.pumping = Untouched()
    body = {**OTP, **extra, "class": "transactional"}
    assert (await post(flow, body)).status_code == 202
    if not extra:
        client = Client(flow)
        ((status, _, _),) = await client.send(request(flow, {**GOOD, "class": "transactional"}))
        assert status == 202
        client.end()


async def test_caps_of_a_tenant(flow):
    shop = replace(flow.snapshot.tenants[SHOP], otp_caps=OtpCaps(per_minute=2, prefix_burst=3))
    flow.snapshot = replace(flow.snapshot, tenants={**flow.snapshot.tenants, SHOP: shop})
    answers = [(await post(flow, OTP)).status_code for _ in range(3)]
    assert answers == [202, 202, 429]
    block = [(await post(flow, {**OTP, "to": f"+861380013800{n}"})).status_code for n in (1, 2)]
    assert block == [202, 429]
    shop = replace(shop, otp_caps=OtpCaps(0, 0, 0, 0))
    flow.snapshot = replace(flow.snapshot, tenants={**flow.snapshot.tenants, SHOP: shop})
    assert [(await post(flow, OTP)).status_code for _ in range(3)] == [202] * 3


@pytest.mark.parametrize("way", ["quota", "room", "store", "shed"])
async def test_what_was_not_accepted_gives_its_count_back(flow, way):
    if way == "quota":
        flow.limiter.left = 0
    elif way == "room":
        flow.free = dict.fromkeys(flow.free, 0)
    elif way == "store":
        flow.error = StoreUnavailable("gone")
    else:
        flow.closed = ("shed.store", "busy", 1)
    assert (await post(flow, OTP)).status_code in {429, 503}
    flow.limiter.left, flow.error, flow.closed = 100, None, None
    flow.free = dict.fromkeys(flow.free, 10)
    assert (await post(flow, OTP)).status_code == 202
    assert code_of(await post(flow, OTP)) == (429, CAP)


async def test_what_may_have_been_accepted_stays_counted(flow):
    flow.error = OutcomeUnknown("gone")
    assert code_of(await post(flow, OTP)) == (503, "outcome_unknown")
    flow.error = None
    assert code_of(await post(flow, OTP)) == (429, CAP)


async def test_a_replay_counts_nothing_and_is_not_refused(flow):
    key = {"idempotency-key": "k-1"}
    first = await post(flow, OTP, **key)
    for _ in range(3):
        again = await post(flow, OTP, **key)
        assert (again.status_code, again.json()["id"]) == (202, first.json()["id"])
        assert again.headers["idempotent-replayed"] == "true"
    assert len(flow.accepted) == 1
    other_body = await post(flow, {**OTP, "text": "验证码 111111"}, **key)
    assert code_of(other_body) == (422, "idempotency.mismatch")
    assert code_of(await post(flow, OTP, **{"idempotency-key": "k-2"})) == (429, CAP)


async def test_in_a_batch_it_is_the_verdict_of_an_entry(flow):
    numbers = ["+8613800138000", "+8613800138001", "+8613800138000"]
    body = {
        "defaults": {"text": "验证码", "class": "otp"},
        "messages": [{"to": n} for n in numbers],
    }
    told = (await post(flow, body, "/v1/batches")).json()
    assert [one["index"] for one in told["accepted"]] == [0, 1]
    assert [(one["index"], one["code"]) for one in told["rejected"]] == [(2, CAP)]
    none_left = await post(flow, body, "/v1/batches")
    assert code_of(none_left) == (422, CAP)
    assert none_left.json()["errors"][0]["pointer"] == "/messages/0/to"


async def test_a_batch_that_is_refused_gives_all_counts_back(flow):
    body = {"defaults": {"text": "验证码", "class": "otp"}, "messages": [{"to": OTP["to"]}]}
    flow.limiter.left = 0
    assert (await post(flow, body, "/v1/batches")).status_code == 429
    flow.limiter.left = 10
    assert (await post(flow, body, "/v1/batches")).status_code == 202


async def test_a_batch_gives_back_what_a_client_ref_took_out(flow):
    ref = {"client_ref": "order-1"}
    assert (await post(flow, {**OTP, **ref, "class": "transactional"})).status_code == 202
    entries = [{**OTP, "to": "+8613900139001", **ref}, {**OTP, "to": "+8613900139002"}]
    told = (await post(flow, {"messages": entries}, "/v1/batches")).json()
    assert [one["code"] for one in told["rejected"]] == ["client_ref.duplicate"]
    assert (await post(flow, {**OTP, "to": "+8613900139001"})).status_code == 202
    assert code_of(await post(flow, {**OTP, "to": "+8613900139002"})) == (429, CAP)


async def test_preview_shows_it_and_counts_nothing(flow):
    for _ in range(2):
        told = (await post(flow, OTP, "/v1/messages:preview")).json()
        assert told["refusals"] == []
    await post(flow, OTP)
    told = (await post(flow, OTP, "/v1/messages:preview")).json()
    assert [(one["pointer"], one["code"]) for one in told["refusals"]] == [("/to", CAP)]
    calm = {**OTP, "class": "transactional"}
    assert (await post(flow, calm, "/v1/messages:preview")).json()["refusals"] == []


async def test_the_short_way_counts_too(flow):
    client = Client(flow)
    ((status, _, _),) = await client.send(request(flow, GOOD))
    assert status == 202
    left, room = flow.limiter.left, dict(flow.free)
    client.wire.sent = b""
    ((status, headers, told),) = await client.send(request(flow, GOOD))
    assert (status, told["code"], headers["retry-after"]) == (429, CAP, "60")
    assert (flow.limiter.left, flow.free) == (left, room)
    client.end()


async def test_the_short_way_gives_back_and_replays(flow):
    client = Client(flow)
    flow.error = StoreUnavailable("gone")
    ((status, _, _),) = await client.send(request(flow, GOOD))
    assert status == 503
    flow.error = None
    key = {"Idempotency-Key": "k-1"}
    found = []
    for _ in range(3):
        client.wire.sent = b""
        found += await client.send(request(flow, GOOD, extra=key))
    assert [status for status, _, _ in found] == [202] * 3
    assert len({told["id"] for _, _, told in found}) == 1
    assert len(flow.accepted) == 1
    client.end()
