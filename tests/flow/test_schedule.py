"""Scheduling, hours and suppressions through the front door, over kills and other processes."""

from __future__ import annotations

import itertools
import os
import signal
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from tests.support.gateway_process import GatewayProcess, Json, eventually

pytestmark = pytest.mark.flow

_numbers = itertools.count(40_000_000)
AROUND = {"lease_s": "6", "lease_renew_s": "1", "takeover_grace_s": "1"}


def a_number() -> str:
    return f"+86138{next(_numbers)}"


def in_s(seconds: float) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()


def events_of(gateway: GatewayProcess, message_id: str) -> list[str]:
    rows = gateway.sink.events(message_id)
    return [row["type"] for row in sorted(rows, key=lambda row: row["data"]["sequence"])]


@pytest.fixture(scope="module")
def running() -> Iterator[GatewayProcess]:
    with GatewayProcess(workers=2, **AROUND) as gateway:
        yield gateway


@pytest.fixture
def gateway(running: GatewayProcess) -> GatewayProcess:
    running.calm()
    eventually(running.all_links_up, "every channel has its sessions")
    return running


def schedule(gateway: GatewayProcess, seconds: float, **fields: object) -> tuple[str, str]:
    """A scheduled text; its id and number. A connection of its own: any worker may take it."""
    number = a_number()
    body = {"to": number, "text": "预约", "send_at": in_s(seconds), **fields}
    with httpx.Client(trust_env=False, timeout=15) as client:
        answer = client.post(f"{gateway.url}/v1/messages", json=body, headers=gateway._headers)
    assert answer.status_code == 202, answer.text
    told: Json = answer.json()
    assert told["status"] == "scheduled"
    return told["id"], number


def test_it_waits_is_told_and_goes_when_due(gateway: GatewayProcess) -> None:
    message_id, number = schedule(gateway, 4)
    view = gateway.status(message_id)
    assert (view["status"], view["sequence"]) == ("scheduled", 2)
    assert view["send_at"] > view["created_at"]
    assert gateway.submits_of(number) == []
    told = gateway.wait_for_status(message_id, "delivered")
    assert len(gateway.submits_of(number)) == 1
    assert told["submitted_at"] >= told["send_at"]
    steps = [step["step"] for step in gateway.timeline(message_id)]
    assert steps[:3] == ["accepted", "policy", "scheduled"]
    eventually(lambda: len(events_of(gateway, message_id)) >= 3, "its webhooks are there")
    assert events_of(gateway, message_id) == [
        "message.scheduled", "message.submitted", "message.delivered",
    ]  # fmt: skip


def test_a_kill_between_the_202_and_the_hour_loses_nothing(gateway: GatewayProcess) -> None:
    sent = [schedule(gateway, 5, **{"class": cls}) for cls in ("otp", "transactional") * 5]
    for name in ("worker-0", "worker-1", "postgres"):
        gateway.kill(name)
    for message_id, _ in sent:
        eventually(lambda i=message_id: _reads(gateway, i), "it can be read again")  # type: ignore[misc]
    for message_id, number in sent:
        gateway.wait_for_status(message_id, "delivered")
        assert len(gateway.submits_of(number)) == 1


def _reads(gateway: GatewayProcess, message_id: str) -> bool:
    try:
        answer = gateway.request("GET", f"/v1/messages/{message_id}")
    except httpx.HTTPError:
        return False
    return answer.status_code == 200


def test_an_hour_that_passes_while_everything_is_down(gateway: GatewayProcess) -> None:
    on_time = schedule(gateway, 3)
    too_late = schedule(gateway, 1, valid_for_s=5)
    gateway.kill("supervisor")
    gateway._kill_all()
    time.sleep(8)
    gateway.start()
    gateway.wait_for_status(on_time[0], "delivered")
    assert len(gateway.submits_of(on_time[1])) == 1
    told = gateway.wait_for_status(too_late[0], "expired")
    assert told["reason"] == "validity.expired"
    assert gateway.submits_of(too_late[1]) == []


def test_another_process_sends_what_a_frozen_one_had_scheduled(gateway: GatewayProcess) -> None:
    """The watchdog is kept from replacing it: its lease ends, and the other worker takes over."""
    sent = [schedule(gateway, 9) for _ in range(10)]
    frozen = gateway.pids()["worker-0"]
    os.kill(frozen, signal.SIGSTOP)
    try:
        for message_id, number in sent:
            eventually(
                lambda n=number: gateway.submits_of(n),  # type: ignore[misc]
                f"{message_id} is sent by whoever lives",
                30,
            )
    finally:
        os.kill(frozen, signal.SIGCONT)
    for _, number in sent:
        assert len(gateway.submits_of(number)) == 1


def test_a_suppression_stops_what_was_accepted_before_it(gateway: GatewayProcess) -> None:
    scheduled, number = schedule(gateway, 8, **{"class": "marketing"})
    other, _ = schedule(gateway, 8, to=number)
    made = gateway.request("POST", "/v1/suppressions", {"to": number})
    assert made.status_code == 201, made.text
    refused = gateway.send(to=number, text="特价", **{"class": "marketing"})
    assert (refused.status_code, refused.json()["code"]) == (422, "policy.opted_out")

    def all_refuse() -> bool:
        answers = []
        for _ in range(8):  # new connections: both workers are asked
            with httpx.Client(trust_env=False, timeout=15) as client:
                answer = client.post(
                    f"{gateway.url}/v1/messages",
                    json={"to": number, "text": "特价", "class": "marketing"},
                    headers=gateway._headers,
                )
            answers.append(answer.status_code)
        return set(answers) == {422}

    eventually(all_refuse, "every process knows it", 5)
    told = gateway.wait_for_status(scheduled, "rejected")
    assert told["reason"] == "policy.opted_out"
    gateway.wait_for_status(other, "delivered")
    answer = gateway.request("DELETE", f"/v1/suppressions/{made.json()['id']}")
    assert answer.status_code == 204
    gateway.wait_for_status(
        gateway.accept(to=number, text="特价", **{"class": "marketing"}), "delivered"
    )


def test_preview_and_the_text_at_the_carrier_agree(gateway: GatewayProcess) -> None:
    fields = {"to": a_number(), "text": "今日特价", "class": "marketing"}
    told = gateway.request("POST", "/v1/messages:preview", fields).json()
    assert told["final_text"] == "【沙箱】今日特价拒收请回复R"
    message_id = gateway.accept(**fields)
    gateway.wait_for_status(message_id, "delivered")
    [submit] = gateway.submits_of(str(fields["to"]))
    assert told["final_text"].encode("utf-16-be").hex() in submit["hex"]
    assert told["segments"] == 1
