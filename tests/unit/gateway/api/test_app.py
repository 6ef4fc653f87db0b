"""Reading, health and errors: what FastAPI answers behind the send door."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from types import SimpleNamespace

import httpx
import pytest

from gateway.api import app, health
from gateway.api.app import build
from gateway.views import rfc3339
from receipts.state import Path
from sms.config import WebhookEndpoint
from sms.errors import StoreUnavailable
from sms.model import EventRow, State
from store.told import Told
from tests.support.fake_flow import FakeFlow


@pytest.fixture
def flow():
    return FakeFlow()


async def get(flow, path, key="both", method="GET", **headers):
    if key:
        headers["authorization"] = f"Bearer {flow.keys[key]}"
    transport = httpx.ASGITransport(build(flow))
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as http:
        return await http.request(method, path, headers=headers)


async def make(flow):
    """Send one message; returns its id as text."""
    transport = httpx.ASGITransport(build(flow))
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as http:
        answer = await http.post(
            "/v1/messages",
            json={"to": "+8613800138000", "text": "secret words", "metadata": {"a": "b"}},
            headers={"authorization": f"Bearer {flow.keys['both']}"},
        )
    return answer.json()["id"]


def deliver(flow):
    stored = next(iter(flow.reader.stored.values()))
    message = stored.message
    stored.rows = [
        EventRow(
            message.id, 2, 1, 1, Path.SUBMITTED, State.SUBMITTED, message.created_at + 0.1,
            segment=0, channel=7, carrier_id="abc1", times=(12, 34),
        ),
        EventRow(
            message.id, 3, 2, 1, Path.DELIVERED, State.DELIVERED, message.created_at + 1.6,
            segment=0, channel=7, code="DELIVRD",
        ),
    ]  # fmt: skip


@pytest.mark.parametrize(("in_s", "status"), [(60, "scheduled"), (-60, "queued")])
async def test_a_scheduled_message_is_queued_from_its_moment_on(flow, in_s, status):
    message_id = await make(flow)
    stored = next(iter(flow.reader.stored.values()))
    message = stored.message
    message.send_at = time.time() + in_s
    stored.rows = [
        EventRow(
            message.id, 2, message.id, 1, Path.SCHEDULED, State.SCHEDULED, message.created_at,
            reason="policy.quiet_hours",
        )
    ]  # fmt: skip
    told = (await get(flow, f"/v1/messages/{message_id}", "read")).json()
    assert (told["status"], told["sequence"]) == (status, 2)
    assert told["reason"] == "policy.quiet_hours"
    assert told["send_at"].endswith("Z")
    steps = (await get(flow, f"/v1/messages/{message_id}/timeline", "read")).json()["data"]
    assert [step["step"] for step in steps] == ["accepted", "policy", "scheduled"]
    assert steps[2]["code"] == "policy.quiet_hours"


async def test_a_message_reads_as_the_contract_says(flow):
    message_id = await make(flow)
    deliver(flow)
    answer = await get(flow, f"/v1/messages/{message_id}", "read")
    assert answer.status_code == 200
    told = answer.json()
    for name in ("created_at", "valid_until", "submitted_at", "final_at"):
        assert told.pop(name).endswith("Z")
    assert told == {
        "id": message_id,
        "to": "+8613800138000",
        "class": "transactional",
        "status": "delivered",
        "reason": None,
        "carrier_code": "DELIVRD",
        "retryable": False,
        "channel": "mobile-a",
        "segments": 1,
        "segment_states": [{"index": 0, "status": "delivered", "carrier_code": "DELIVRD"}],
        "encoding": "ucs2",
        "client_ref": None,
        "metadata": {"a": "b"},
        "duplicate_risk": False,
        "sequence": 3,
        "send_at": None,
        "waiting": None,
    }
    assert "secret words" not in answer.text
    assert answer.headers["x-request-id"]


async def test_the_owner_s_object_is_fresher_than_the_store(flow):
    message_id = await make(flow)
    message = next(iter(flow.reader.stored.values())).message
    flow.live_messages[message.id] = type(message)(
        **{
            name: getattr(message, name)
            for name in type(message).__dataclass_fields__
            if name != "state"
        },
        state=State.SUBMITTING,
    )
    assert (await get(flow, f"/v1/messages/{message_id}")).json()["status"] == "submitting"


async def test_the_timeline_names_every_step(flow):
    message_id = await make(flow)
    deliver(flow)
    steps = (await get(flow, f"/v1/messages/{message_id}/timeline")).json()["data"]
    assert [step["step"] for step in steps] == [
        "accepted",
        "policy",
        "queued",
        "attempt",
        "receipt",
    ]
    assert [step["ms"] for step in steps] == [None, None, 12, 34, 1500]
    assert [step["channel"] for step in steps[2:]] == ["mobile-a"] * 3
    assert [step["carrier_id"] for step in steps[3:]] == ["abc1", "abc1"]
    assert steps[1]["code"] == "policy.allowed"
    assert steps[4]["code"] == "DELIVRD"
    assert sorted(step["at"] for step in steps) == [step["at"] for step in steps]


async def test_the_timeline_names_webhooks_in_the_order_of_their_events(flow):
    message_id = await make(flow)
    deliver(flow)
    asked = []

    class Tellings:
        async def of(self, endpoints, event_ids):
            asked.append((endpoints, event_ids))
            return [Told(5, event, None, None, True, 0.0, None) for event in event_ids]

    class Attempts:
        async def of_events(self, event_ids):
            assert sorted(event_ids) == [1, 2]
            return []

    hooks = {
        number: WebhookEndpoint(number, tenant, "https://hooks.example/sms")
        for number, tenant in ((5, 1), (6, 2))
    }
    flow.snapshot = replace(flow.snapshot, endpoints=hooks)
    flow.reading = SimpleNamespace(tellings=Tellings(), attempts=Attempts())
    steps = (await get(flow, f"/v1/messages/{message_id}/timeline")).json()["data"]
    assert [step["step"] for step in steps] == [
        "accepted", "policy", "queued", "attempt", "webhook", "receipt", "webhook",
    ]  # fmt: skip
    assert [step["code"] for step in steps if step["step"] == "webhook"] == [
        "webhook.delivered",
        "webhook.delivered",
    ]
    assert asked == [([5], [1, 2])]  # of the tenant's own endpoint


@pytest.mark.parametrize("tail", ["", "/timeline"])
async def test_a_foreign_id_looks_like_a_missing_one(flow, tail):
    message_id = await make(flow)
    answers = [
        await get(flow, f"/v1/messages/{message_id}{tail}", "other", **{"x-request-id": "r"}),
        await get(flow, f"/v1/messages/msg_{7:016x}{tail}", **{"x-request-id": "r"}),
        await get(flow, f"/v1/messages/nonsense{tail}", **{"x-request-id": "r"}),
    ]
    assert {answer.status_code for answer in answers} == {404}
    assert len({answer.content for answer in answers}) == 1
    assert answers[0].json()["code"] == "resource.not_found"


async def test_an_admin_key_reads_any_tenants_message_with_a_masked_number(flow):
    message_id = await make(flow)
    path = f"/v1/messages/{message_id}"
    deliver(flow)
    answer = await get(flow, path, "admin")
    assert answer.status_code == 200
    told, own = answer.json(), (await get(flow, path, "read")).json()
    assert told.pop("tenant") == f"ten_{1:016x}"
    assert told.pop("to") == "+86138****8000"
    assert own.pop("to") == "+8613800138000"
    assert told == own  # nothing is uncertain of it
    assert answer.headers["cache-control"] == "no-store"
    steps = await get(flow, path + "/timeline", "admin")
    assert steps.json() == (await get(flow, path + "/timeline", "read")).json()
    assert "13800138000" not in answer.text + steps.text
    for tail in ("", "/timeline"):
        assert (await get(flow, path + tail, "other")).status_code == 404
        assert (await get(flow, f"/v1/messages/msg_{77:016x}{tail}", "admin")).status_code == 404


async def test_an_operator_sees_until_when_an_uncertain_one_waits_for_him(flow):
    message_id = await make(flow)
    stored = next(iter(flow.reader.stored.values()))
    message = stored.message
    at = message.created_at + 10.0
    stored.rows = [
        EventRow(message.id, 2, 1, 1, Path.UNCERTAIN, State.UNCERTAIN, at, channel=7),
    ]
    path = f"/v1/messages/{message_id}"
    assert (await get(flow, path, "admin")).json()["uncertain"] == {
        "since": rfc3339(at),
        "policy": "ask",
        "until": rfc3339(at + 259_200.0),
        "resend_until": rfc3339(message.valid_until),
    }
    assert "uncertain" not in (await get(flow, path, "read")).json()


async def test_reading_needs_the_key_and_its_scope(flow):
    message_id = await make(flow)
    path = f"/v1/messages/{message_id}"
    missing = await get(flow, path, None)
    assert (missing.status_code, missing.json()["code"]) == (401, "auth.missing")
    assert missing.headers["www-authenticate"].startswith("Bearer")
    for tail in ("", "/timeline"):
        answer = await get(flow, path + tail, "send")
        assert (answer.status_code, answer.json()["code"]) == (403, "auth.scope")
    for tail in (":cancel", ":resend"):
        answer = await get(flow, path + tail, "read", "POST")
        assert (answer.status_code, answer.json()["code"]) == (403, "auth.scope")
    assert (await get(flow, path + ":cancel", "admin", "POST")).status_code == 403
    assert (await get(flow, path, "read")).status_code == 200


async def test_unknown_and_repeated_query_parameters_are_422(flow):
    message_id = await make(flow)
    for path in (f"/v1/messages/{message_id}", f"/v1/messages/{message_id}/timeline", "/healthz"):
        answer = await get(flow, f"{path}?stauts=x")
        assert (answer.status_code, answer.json()["code"]) == (422, "query.unknown")
    secret = await get(flow, "/healthz?token=abc", None)
    assert (secret.status_code, secret.json()["code"]) == (400, "auth.secret_in_query")


LISTS = ("/v1/messages", "/v1/events", "/v1/usage", "/v1/suppressions")


ADMIN_LISTS = ("/v1/tenants", "/v1/admin-keys", "/v1/audit-events", "/v1/ported-numbers")


@pytest.mark.parametrize("path", [*LISTS, *ADMIN_LISTS])
async def test_every_list_points_to_a_wrong_parameter_in_the_same_way(flow, path):
    key = "admin" if path in ADMIN_LISTS else "read"
    for query, code, pointers in (
        ("limit=0", "query.value", ["/limit"]),
        ("stauts=x&staus=y", "query.unknown", ["/stauts", "/staus"]),
        ("limit=1&limit=2", "query.repeated", ["/limit"]),
        ("1380013=1", "query.unknown", [""]),
    ):
        answer = await get(flow, f"{path}?{query}", key)
        told = answer.json()
        assert (answer.status_code, told["code"]) == (422, code), query
        assert [error["pointer"] for error in told["errors"]] == pointers
        assert {error["code"] for error in told["errors"]} == {code}
        assert "1380013" not in answer.text
    if path not in ("/v1/events",):
        told = (await get(flow, f"{path}?cursor=MTox", key)).json()
        assert (told["code"], told["errors"][0]["pointer"]) == ("query.value", "/cursor")


async def test_where_no_parameter_is_known_each_is_named(flow):
    for path, method in (("/healthz", "GET"), ("/v1/messages", "POST"), ("/v1/batches", "POST")):
        told = (await get(flow, f"{path}?b=1&a", "send", method)).json()
        assert told["code"] == "query.unknown", path
        assert [error["pointer"] for error in told["errors"]] == ["/b", "/a"]


async def test_other_methods_are_405_with_allow(flow):
    for path in (f"/v1/messages/msg_{1:016x}", "/healthz", "/openapi.json"):
        answer = await get(flow, path, method="POST")
        assert (answer.status_code, answer.json()["code"]) == (405, "method.not_allowed")
        assert "GET" in answer.headers["allow"]
        assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/batches", "/v1/usage", "/v1/nothing"])
async def test_who_has_no_key_learns_of_no_method(flow, path):
    answer = await get(flow, path, None, "PUT")
    assert (answer.status_code, answer.json()["code"]) == (401, "auth.missing")


async def test_head_is_get_without_the_body_on_every_route(flow):
    message_id = await make(flow)
    paths = ["/healthz", "/readyz", "/metrics", "/openapi.json", f"/v1/messages/{message_id}"]
    for path in [*paths, f"/v1/messages/{message_id}/timeline", "/v1/messages/msg_1"]:
        told, asked = await get(flow, path, "read"), await get(flow, path, "read", "HEAD")
        assert asked.status_code == told.status_code, path
        assert asked.headers["content-type"] == told.headers["content-type"]
        allowed = (await get(flow, path, "read", "PUT")).headers["allow"]
        assert allowed == "GET, HEAD", path
    for path in ("/v1/messages", "/v1/events", "/v1/usage"):
        assert (await get(flow, f"{path}?limit=0", "read", "HEAD")).status_code == 422
    assert (await get(flow, "/v1/batches", "both", "HEAD")).headers["allow"] == "POST"
    assert (await get(flow, "/v1/messages", "both", "PUT")).headers["allow"] == "GET, HEAD, POST"


@pytest.mark.parametrize(
    "path",
    [
        "/v1/messages/{id}%2Ftimeline",
        "/v1/messages/{id}%2ftimeline",
        "/v1/messages%2F{id}",
        "/v1%2Fmessages/{id}",
        "/v1/messages/%6Dsg{tail}",
        "/v1/mess%61ges",
        "/%68ealthz",
    ],
)
async def test_an_address_has_one_spelling(flow, path):
    message_id = await make(flow)
    path = path.format(id=message_id, tail=message_id[3:])
    for method in ("GET", "POST"):
        answer = await get(flow, path, "both", method)
        assert (answer.status_code, answer.json()["code"]) == (404, "resource.not_found"), method
    assert len(flow.accepted) == 1


async def test_a_slash_at_the_end_is_another_address(flow):
    assert (await get(flow, "/v1/messages/")).status_code == 404


async def test_a_canceled_message_is_none_to_send_again(flow):
    message_id = await make(flow)
    stored = next(iter(flow.reader.stored.values()))
    message = stored.message
    stored.rows = [
        EventRow(
            message.id, 2, 1, 1, Path.CANCELED, State.CANCELED, message.created_at,
            reason="canceled.by_tenant",
        )
    ]  # fmt: skip
    told = (await get(flow, f"/v1/messages/{message_id}")).json()
    assert (told["status"], told["retryable"]) == ("canceled", False)


async def test_a_suspended_tenant_reads_and_stops_and_does_nothing_else(flow):
    number = next(iter(flow.snapshot.tenants))
    message_id = await make(flow)
    tenant = flow.snapshot.tenants[number]
    suspended = {**flow.snapshot.tenants, number: replace(tenant, is_suspended=True)}
    flow.snapshot = replace(flow.snapshot, tenants=suspended)
    one, batch = f"/v1/messages/{message_id}", f"/v1/batches/bat_{7:016x}"
    assert (await get(flow, one)).status_code == 200
    for path in (f"{one}:cancel", f"{batch}:pause", f"{batch}:cancel", "/v1/suppressions"):
        answer = await get(flow, path, method="POST")
        assert answer.json().get("code") != "tenant.suspended", path
    for path, method in (
        (f"{batch}:resume", "POST"),
        ("/v1/messages:preview", "POST"),
        ("/v1/messages", "POST"),
        ("/v1/batches", "POST"),
        (f"/v1/suppressions/sup_{7:016x}", "DELETE"),
    ):
        answer = await get(flow, path, method=method)
        assert (answer.status_code, answer.json()["code"]) == (403, "tenant.suspended"), path


async def test_a_store_that_is_away_is_503(flow):
    message_id = await make(flow)
    flow.reader.error = StoreUnavailable("gone")
    answer = await get(flow, f"/v1/messages/{message_id}")
    assert (answer.status_code, answer.json()["code"]) == (503, "store.unavailable")
    assert int(answer.headers["retry-after"]) >= 1


async def test_an_error_nobody_foresaw_is_a_plain_500(flow, monkeypatch):
    logged = []
    monkeypatch.setattr(app.log, "exception", lambda *_, **fields: logged.append(fields))
    message_id = await make(flow)
    flow.reader.error = RuntimeError("SELECT number FROM messages")
    answer = await get(flow, f"/v1/messages/{message_id}")
    assert (answer.status_code, answer.json()["code"]) == (500, "internal.error")
    assert "SELECT" not in answer.text
    assert logged == [{"request_id": answer.json()["request_id"]}]
    counted = (await get(flow, "/metrics", None)).text
    assert 'smsgw_refused_total{code="internal.error"} 1' in counted
    route = 'route="/v1/messages/{id}"'
    assert f'smsgw_http_request_seconds_count{{code="500",method="GET",{route}}} 1' in counted
    assert answer.headers["x-request-id"] == answer.json()["request_id"]


async def test_health_needs_no_key(flow):
    assert (await get(flow, "/healthz", None)).json() == {"status": "ok"}
    assert (await get(flow, "/readyz", None)).json() == {"status": "ready", "missing": []}
    flow.missing = ["store: PostgreSQL is not writable"]
    answer = await get(flow, "/readyz", None)
    assert answer.status_code == 503
    assert answer.json()["missing"] == flow.missing


async def test_metrics_are_prometheus_text_unless_switched_off(flow):
    await make(flow)
    answer = await get(flow, "/metrics", None)
    assert answer.headers["content-type"].startswith("text/plain")
    assert 'smsgw_http_request_seconds_count{code="202"' in answer.text
    flow.public_metrics = False
    assert (await get(flow, "/metrics", None)).status_code == 404


async def test_readiness_and_metrics_are_the_supervisor_s_when_it_answers(
    flow, monkeypatch, tmp_path
):
    flow.supervisor_socket = tmp_path / "supervisor.sock"
    asked = []

    async def ask(path, target, timeout_s):
        asked.append((path, target))
        if target == "/metrics":
            return 200, b"whole_node 1\n"
        return 503, json.dumps({"status": "unready", "missing": ["postgres"]}).encode()

    monkeypatch.setattr(health, "ask", ask)
    assert (await get(flow, "/metrics", None)).text == "whole_node 1\n"
    answer = await get(flow, "/readyz", None)
    assert (answer.status_code, answer.json()["missing"]) == (503, ["postgres"])
    assert asked[0] == (flow.supervisor_socket, "/metrics")

    async def away(path, target, timeout_s):
        raise ConnectionRefusedError

    monkeypatch.setattr(health, "ask", away)
    assert (await get(flow, "/readyz", None)).status_code == 200
    assert "smsgw_" in (await get(flow, "/metrics", None)).text


async def test_an_unknown_route_says_where_all_are_named(flow):
    answer = await get(flow, "/v1/nothing-here")
    assert answer.status_code == 404
    assert "/openapi.json" in answer.json()["detail"]


async def test_a_message_whose_attempt_is_under_way_says_so(flow):
    message_id = await make(flow)
    stored = flow.reader.stored[next(iter(flow.reader.stored))].message
    flow.live_messages[stored.id] = replace(
        stored, state=State.SUBMITTING, channel=7, open_segments=1, sent_at=time.monotonic() - 2
    )
    told = (await get(flow, f"/v1/messages/{message_id}", "read")).json()
    assert told["waiting"] == "attempt on mobile-a, no answer yet"
    steps = (await get(flow, f"/v1/messages/{message_id}/timeline", "read")).json()["data"]
    assert [step["step"] for step in steps] == ["accepted", "policy", "attempt"]
    assert steps[2]["channel"] == "mobile-a"
    assert steps[2]["code"] is None
    assert 1900 <= steps[2]["ms"] <= 60_000


async def test_a_held_message_says_why_where_no_process_has_it_in_memory(flow):
    message_id = await make(flow)
    assert (await get(flow, f"/v1/messages/{message_id}", "read")).json()["waiting"] is None
    flow.is_all_down = True
    told = (await get(flow, f"/v1/messages/{message_id}", "read")).json()
    assert told["waiting"] == "held: no channel of its route has a session"
    deliver(flow)
    assert (await get(flow, f"/v1/messages/{message_id}", "read")).json()["waiting"] is None


async def test_a_held_message_says_why(flow):
    message_id = await make(flow)
    stored = flow.reader.stored[next(iter(flow.reader.stored))].message
    flow.live_messages[stored.id] = replace(stored, state=State.QUEUED)
    told = (await get(flow, f"/v1/messages/{message_id}", "read")).json()
    assert told["waiting"] == "held: no channel of its route has a session"
    steps = (await get(flow, f"/v1/messages/{message_id}/timeline", "read")).json()["data"]
    assert (steps[-1]["step"], steps[-1]["detail"]) == ("held", told["waiting"])
