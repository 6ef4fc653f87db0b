"""The webhooks in a timeline: told only where it is certain."""

from __future__ import annotations

import math

import httpx
import pytest

from gateway.api.app import build
from gateway.api.tellings import IN_FORCE_S, events_told, webhook_steps
from receipts.state import Path
from sms.config import WebhookEndpoint
from sms.model import EventRow, State
from store.attempts import Attempt
from store.told import Told
from tests.support.fake_flow import FakeFlow

AT = 1_800_000_000.0
HOOK = WebhookEndpoint(5, 1, "https://hooks.example/sms")
ROWS = [
    EventRow(70, 2, 1, 1, Path.SUBMITTED, State.SUBMITTED, AT, channel=7),
    EventRow(70, 3, 2, 1, Path.DELIVERED, State.DELIVERED, AT + 1, segment=0, channel=7),
]


def steps(told: Told, hook: WebhookEndpoint = HOOK) -> list[dict[str, object]]:
    return webhook_steps(events_told(ROWS), {5: hook}, [told])


def told(**known: object) -> Told:
    usual = Told(5, 2, None, None, is_settled=True, since=AT - 60, sure_below=None)
    return usual._replace(**known)  # type: ignore[arg-type]  # by name


def test_a_delivered_webhook_stands_at_the_moment_of_its_event() -> None:
    [step] = steps(told())
    assert step == {
        "at": "2027-01-15T08:00:01.000Z",
        "step": "webhook",
        "status": "delivered",
        "channel": None,
        "segment": None,
        "carrier_id": None,
        "code": "webhook.delivered",
        "reason": None,
        "ms": None,
        "attempt": None,
        "follows": None,
        "detail": "message.delivered to whe_0000000000000005: delivered",
    }


@pytest.mark.parametrize(
    ("known", "code", "words"),
    [
        ({"tries": 2, "due": AT + 300}, "webhook.waiting", "2 tries, the next one at 2027-01-15"),
        ({"tries": 1, "due": AT + 300, "since": AT + 9}, "webhook.waiting", "by one try"),
        ({"tries": 10, "due": math.inf}, "webhook.given_up", "given up after 10 tries"),
        ({"is_settled": False}, "webhook.waiting", "on its way"),
        ({"sure_below": 3}, "webhook.delivered", "delivered"),
    ],
)
def test_what_waits_or_was_given_up_says_so(
    known: dict[str, object], code: str, words: str
) -> None:
    [step] = steps(told(**known))
    assert step["code"] == code
    assert words in str(step["detail"])


@pytest.mark.parametrize(
    "known",
    [
        {"since": AT + 1},
        {"since": AT + 1 - IN_FORCE_S + 0.1},
        {"since": AT + 5, "is_settled": False},
        {"sure_below": 2},  # a dead letter before it: perhaps it was left alone after a 410
    ],
)
def test_what_is_not_certain_is_not_told(known: dict[str, object]) -> None:
    assert steps(told(**known)) == []


def test_an_endpoint_hears_only_what_its_filter_lets_through() -> None:
    hook = WebhookEndpoint(5, 1, "https://hooks.example/sms", events=("message.failed",))
    assert steps(told(), hook) == []


def test_rows_that_are_no_event_have_no_webhook() -> None:
    note = EventRow(70, 4, 3, 1, Path.NOTE, State.SUBMITTING, AT)
    assert set(events_told([*ROWS, note])) == {1, 2}


def attempt(**known: object) -> Attempt:
    usual = {"id": 9, "endpoint": 5, "event_ids": (2,), "is_batch": False, "at": AT + 2.0, "ms": 31}
    usual |= {"tries": 1, "status": 200, "code": "webhook.delivered", "next_at": None, **known}
    return Attempt(**usual)  # type: ignore[arg-type]  # by name


def with_attempts(*attempts: Attempt, **known: object) -> list[tuple[object, object]]:
    found = webhook_steps(events_told(ROWS), {5: HOOK}, [told(**known)], attempts)
    return [(step["code"], step["ms"]) for step in found]


def test_each_request_is_a_step_with_its_milliseconds() -> None:
    refused = attempt(status=500, code="webhook.status", next_at=AT + 7)
    arrived = attempt(tries=2, event_ids=(77, 2), is_batch=True)
    assert with_attempts(refused, arrived) == [("webhook.status", 31), ("webhook.delivered", 31)]
    waiting = with_attempts(refused, tries=1, due=AT + 7)
    assert waiting == [("webhook.status", 31), ("webhook.waiting", None)]
    [step] = webhook_steps(events_told(ROWS), {5: HOOK}, [], [arrived])
    assert step["at"] == "2027-01-15T08:00:02.000Z"
    assert step["detail"] == "message.delivered to whe_0000000000000005: 200, try 2"


async def test_each_step_has_what_the_document_of_the_interface_requires() -> None:
    transport = httpx.ASGITransport(build(FakeFlow()))
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as http:
        document = (await http.get("/openapi.json")).json()
    schema = document["components"]["schemas"]["Step"]
    found = webhook_steps(events_told(ROWS), {5: HOOK}, [told(tries=1, due=AT + 7)], [attempt()])
    assert len(found) == 2
    for step in found:
        assert set(schema["required"]) <= set(step) <= set(schema["properties"])


def test_what_the_list_of_attempts_lost_is_told_by_the_cursor() -> None:
    refused = attempt(status=None, code="webhook.timeout", next_at=AT + 7)
    assert with_attempts(refused) == [("webhook.timeout", 31), ("webhook.delivered", None)]


def test_an_event_that_is_sent_again_waits_though_it_arrived_before() -> None:
    assert with_attempts(attempt(), tries=0, due=AT + 9) == [
        ("webhook.delivered", 31), ("webhook.waiting", None),
    ]  # fmt: skip


def test_requests_to_others_and_of_other_events_are_nobody_s_business() -> None:
    assert with_attempts(attempt(endpoint=6), attempt(event_ids=(3,)), sure_below=1) == []
