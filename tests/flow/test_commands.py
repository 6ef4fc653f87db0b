"""Cancel, pause and resume over the API of a real gateway: two workers, frozen and killed ones."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
import time
from collections.abc import Iterator
from functools import partial

import httpx
import pytest

from sms.ids import from_text, process_of
from store.database import connect
from tests.support.gateway_process import GatewayProcess, Json, eventually
from tests.support.second_node import narrow

pytestmark = pytest.mark.flow

_numbers = itertools.count(40_000_000)
CARRIERS = ("mobile-a", "unicom-a", "telecom-a", "global-a")


@pytest.fixture(scope="module")
def running() -> Iterator[GatewayProcess]:
    with GatewayProcess(workers=2, conservation_s="0.5") as gateway:
        gateway.apply(narrow(gateway, sessions=2, window=8, names=CARRIERS))
        yield gateway


@pytest.fixture
def gateway(running: GatewayProcess) -> Iterator[GatewayProcess]:
    running.calm()
    eventually(running.all_links_up, "all links up")
    yield running
    down(running, "up")
    eventually(running.all_links_up, "all links up again")
    eventually(lambda: running.metric("queue_messages") == 0, "nothing waits")
    asked = running.metric("conservation_readings_total")
    eventually(lambda: running.metric("conservation_readings_total") >= asked + 2, "judged")
    assert running.metric("conservation_residual") == 0
    assert running.metric("illegal_transition_total") == 0
    assert running.metric("stray_messages") == 0
    assert running.metric("quarantined_total") == 0


def down(gateway: GatewayProcess, link: str = "down") -> None:
    for carrier in gateway.carriers.values():
        carrier.behave(link=link)
    if link == "down":
        eventually(lambda: gateway.metric("channel_state", state="up") == 0, "all are down")


def post(gateway: GatewayProcess, path: str, body: object = None) -> httpx.Response:
    """Over a connection of its own: whichever worker takes it."""
    with httpx.Client(trust_env=False, timeout=15) as client:
        return client.post(gateway.url + path, json=body, headers=gateway._headers)


def number() -> str:
    return f"+86138{next(_numbers)}"


def send(gateway: GatewayProcess, count: int, **fields: object) -> dict[str, str]:
    """Single sends that both workers get some of: id to number."""
    sent: dict[str, str] = {}
    for _ in range(count):
        body = {"to": number(), "text": "可以取消", **fields}
        answer = post(gateway, "/v1/messages", body)
        assert answer.status_code == 202, answer.text
        sent[answer.json()["id"]] = str(body["to"])
    return sent


def batch(gateway: GatewayProcess, count: int, **defaults: object) -> tuple[str, dict[str, str]]:
    numbers = [number() for _ in range(count)]
    body = {"defaults": {"text": "一批", **defaults}, "messages": [{"to": to} for to in numbers]}
    answer = post(gateway, "/v1/batches", body)
    assert answer.status_code == 202, answer.text
    told = answer.json()
    return told["id"], {one["id"]: numbers[one["index"]] for one in told["accepted"]}


def cancel(gateway: GatewayProcess, message_id: str) -> httpx.Response:
    return post(gateway, f"/v1/messages/{message_id}:cancel")


def look(gateway: GatewayProcess, batch_id: str) -> Json:
    answer = gateway.request("GET", f"/v1/batches/{batch_id}")
    assert answer.status_code == 200, answer.text
    told: Json = answer.json()
    return told


def owner_of(gateway: GatewayProcess, message_id: str) -> int:
    """The pid of the worker that accepted it."""

    async def slot() -> int:
        conn = await connect(gateway.dsn)
        try:
            number = from_text("msg", message_id)
            assert number is not None
            sql = "SELECT slot FROM processes WHERE process = $1"
            return int(await conn.fetchval(sql, process_of(number)))
        finally:
            await conn.close()

    return gateway.pids()[f"worker-{asyncio.run(slot())}"]


def of_each(gateway: GatewayProcess, sent: dict[str, str]) -> list[str]:
    """One message of each worker."""
    by_owner = {process_of(from_text("msg", message_id) or 0): message_id for message_id in sent}
    assert len(by_owner) == 2, "both workers accepted some"
    return list(by_owner.values())


def comes_back(gateway: GatewayProcess, pid: int) -> None:
    """Until another worker stands in the place of a killed one."""

    def is_back() -> bool:
        found = gateway.pids()
        return pid not in found.values() and sum("worker" in name for name in found) == 2

    eventually(is_back, "a new worker")


@contextlib.contextmanager
def frozen(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def test_whichever_worker_is_asked_a_waiting_message_is_canceled_and_told(gateway):
    down(gateway)
    sent = send(gateway, 30)
    canceled = list(sent)[:20]
    for message_id in canceled:
        answer = cancel(gateway, message_id)
        assert answer.status_code == 200, answer.text
        told = answer.json()
        assert (told["status"], told["reason"]) == ("canceled", "canceled.by_tenant")
        assert told["sequence"] == 2
        assert told["final_at"] is not None
        assert cancel(gateway, message_id).status_code == 200  # again
    down(gateway, "up")
    for message_id in list(sent)[20:]:
        gateway.wait_for_status(message_id, "delivered")
    assert not gateway.submits_of(*(sent[message_id] for message_id in canceled), taken=False)
    for message_id in canceled:
        events = eventually(partial(gateway.sink.events, message_id), "the tenant is told")
        assert {event["type"] for event in events} == {"message.canceled"}
        assert events[0]["data"]["sequence"] == 2
    assert gateway.metric("final_total", status="canceled") >= 20
    assert gateway.metric("commands_total", kind="cancel", outcome="done") > 0


def test_what_a_carrier_has_or_what_has_ended_is_a_409(gateway):
    for carrier in gateway.carriers.values():
        carrier.behave(latency_ms=1500)
    [(message_id, to)] = send(gateway, 1).items()
    eventually(lambda: gateway.submits_of(to, taken=False), "a carrier has it", step_s=0.02)
    answer = cancel(gateway, message_id)
    assert (answer.status_code, answer.json()["code"]) == (409, "message.submitting")
    gateway.wait_for_status(message_id, "delivered")
    answer = cancel(gateway, message_id)
    assert (answer.status_code, answer.json()["code"]) == (409, "message.final")
    missing = cancel(gateway, "msg_0000000000000001")
    assert missing.status_code == 404


def test_a_frozen_owner_is_a_503_within_two_seconds_and_nothing_false(gateway):
    down(gateway)
    message_ids = of_each(gateway, send(gateway, 12))
    frozen_one = message_ids[0]
    with frozen(owner_of(gateway, frozen_one)):
        took_s = []
        for _ in range(3):  # a moment in which the machine has other work is not judged
            began = time.monotonic()
            answer = cancel(gateway, frozen_one)
            took_s.append(time.monotonic() - began)
            if took_s[-1] < 3:
                break
        assert took_s[-1] < 3
        assert (answer.status_code, answer.json()["code"]) == (503, "outcome_unknown")
        assert int(answer.headers["retry-after"]) >= 1
        assert cancel(gateway, message_ids[1]).status_code == 200  # the living one's
    eventually(lambda: cancel(gateway, frozen_one).status_code == 200, "it is back")
    assert gateway.status(frozen_one)["status"] == "canceled"


def test_after_a_kill_of_the_owner_right_behind_the_answer_it_is_never_sent(gateway):
    down(gateway)
    sent = send(gateway, 30)
    canceled: list[str] = []
    for message_id in of_each(gateway, sent):
        pid = owner_of(gateway, message_id)
        mine = [m for m in sent if process_of(from_text("msg", m) or 0)
                == process_of(from_text("msg", message_id) or 0)]  # fmt: skip
        for one in mine[:-1]:
            assert cancel(gateway, one).status_code == 200
            canceled.append(one)
        os.kill(pid, signal.SIGKILL)
        comes_back(gateway, pid)
    down(gateway, "up")
    for message_id in sent.keys() - set(canceled):
        gateway.wait_for_status(message_id, "delivered")
    assert len(canceled) >= 20
    assert not gateway.submits_of(*(sent[message_id] for message_id in canceled), taken=False)
    for message_id in canceled:
        assert gateway.status(message_id)["status"] == "canceled"


def test_a_paused_batch_waits_through_a_kill_and_lets_others_pass(gateway):
    down(gateway)
    batch_id, messages = batch(gateway, 60)
    answer = post(gateway, f"/v1/batches/{batch_id}:pause")
    assert answer.status_code == 200, answer.text
    assert answer.json()["paused"] is True
    assert answer.json()["counts"] == {"accepted": 60}
    eventually(lambda: gateway.metric("queue_messages") == 0, "it stands in no lane")
    assert gateway.metric("queue_oldest_age_seconds") == 0
    first = next(iter(messages))
    assert gateway.status(first)["waiting"] == "held: its batch is paused"
    pid = owner_of(gateway, first)
    os.kill(pid, signal.SIGKILL)
    comes_back(gateway, pid)
    down(gateway, "up")
    others = send(gateway, 10)
    for message_id in others:
        gateway.wait_for_status(message_id, "delivered")
    assert not gateway.submits_of(*messages.values(), taken=False)
    assert look(gateway, batch_id)["paused"] is True

    def resume() -> bool:
        return post(gateway, f"/v1/batches/{batch_id}:resume").status_code == 200

    assert eventually(resume, "it runs again")
    eventually(lambda: look(gateway, batch_id)["counts"] == {"delivered": 60}, "all are delivered")
    assert look(gateway, batch_id)["paused"] is False
    assert len(gateway.submits_of(*messages.values())) == 60


def test_a_batch_is_canceled_while_it_leaves(gateway):
    for carrier in gateway.carriers.values():
        carrier.behave(latency_ms=200)
    batch_id, messages = batch(gateway, 400)
    eventually(lambda: gateway.submits_of(*messages.values()), "some left")
    answer = post(gateway, f"/v1/batches/{batch_id}:cancel")
    assert answer.status_code == 200, answer.text
    counts = answer.json()["counts"]
    assert sum(counts.values()) == 400
    assert counts["canceled"] > 200
    canceled = [m for m in messages if gateway.status(m)["status"] == "canceled"]
    assert len(canceled) >= counts["canceled"]

    def ended() -> bool:
        found = look(gateway, batch_id)["counts"]
        return set(found) == {"canceled", "delivered"} and sum(found.values()) == 400

    eventually(ended, "all are at an end")
    seen = {row["to"] for row in gateway.submits_of(*messages.values(), taken=False)}
    assert seen == {
        to.lstrip("+")
        for message_id, to in messages.items()
        if gateway.status(message_id)["status"] == "delivered"
    }
    assert post(gateway, f"/v1/batches/{batch_id}:resume").json()["code"] == "batch.canceled"
    assert post(gateway, f"/v1/batches/{batch_id}:cancel").status_code == 200


def test_a_paused_batch_past_its_validity_expires(gateway):
    down(gateway)
    batch_id, _ = batch(gateway, 5, valid_for_s=5)
    assert post(gateway, f"/v1/batches/{batch_id}:pause").status_code == 200
    eventually(
        lambda: look(gateway, batch_id)["counts"] == {"expired": 5}, "they expire", 12, step_s=0.2
    )


def test_what_is_not_ours_is_not_there(gateway):
    batch_id, messages = batch(gateway, 2)
    other = next(iter(messages)).replace("msg_", "bat_")
    for path in ("", ":pause", ":resume", ":cancel"):
        method = "POST" if path else "GET"
        assert gateway.request(method, f"/v1/batches/bat_0000000000000001{path}").status_code == 404
        assert gateway.request(method, f"/v1/batches/{batch_id}x{path}").status_code == 404
    second = list(messages)[1].replace("msg_", "bat_")
    assert other == batch_id
    assert gateway.request("GET", f"/v1/batches/{second}").status_code == 404
    assert gateway.request("GET", f"/v1/batches/{batch_id}:cancel").status_code == 405
