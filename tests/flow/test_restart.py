"""The gateway ends in order or not at all, and goes on with what it had on the same directory.

The sandbox's carriers end with the supervisor, and the reports they still owed are gone with
them: after its end a text may stand at `submitted`, which is all a gateway can know then.
"""

import asyncio
import functools
import itertools
import os
import signal
import time
from collections.abc import Iterator

import httpx
import pytest

from store.database import connect
from tests.support.gateway_process import DRAIN_S, GatewayProcess, eventually

pytestmark = pytest.mark.flow

_numbers = itertools.count(20_000_000)


@pytest.fixture(scope="module")
def running() -> Iterator[GatewayProcess]:
    with GatewayProcess() as gateway:
        yield gateway


def send_some(gateway: GatewayProcess, count: int = 40) -> dict[str, str]:
    """Accepted messages: id to number."""
    numbers = [f"+86138{next(_numbers)}" for _ in range(count)]
    answer = gateway.batch([{"to": number, "text": "重启前后"} for number in numbers])
    assert answer.status_code == 202, answer.text
    accepted = answer.json()["accepted"]
    assert len(accepted) == count
    return {entry["id"]: numbers[entry["index"]] for entry in accepted}


def all_end_well(gateway: GatewayProcess, sent: dict[str, str], *states: str) -> None:
    """Every message is delivered; the carriers have each once, or twice where it is marked.

    `states`: where a message may stand instead.
    """
    marked = {}
    for message_id, number in sent.items():
        message = gateway.wait_for_status(message_id, "delivered", *states)
        marked[number.lstrip("+")] = message["duplicate_risk"]
    copies = dict.fromkeys(marked, 0)
    for row in gateway.submits_of(*sent.values()):
        copies[row["to"]] += 1
    assert set(copies.values()) <= {1, 2}
    assert [number for number, n in copies.items() if n == 2 and not marked[number]] == []


def one_more(gateway: GatewayProcess, earlier: dict[str, str]) -> None:
    """It takes and delivers a new text, whose id is above the earlier ones."""

    def try_it() -> str | None:
        try:
            answer = gateway.send(to=f"+86138{next(_numbers)}", text="又来了")
        except httpx.HTTPError:
            return None
        return str(answer.json()["id"]) if answer.status_code == 202 else None

    message_id = eventually(try_it, "a text is accepted again")
    assert message_id is not None
    assert message_id > max(earlier)  # fixed-width hexadecimal, in order of time
    gateway.wait_for_status(message_id, "delivered")


def has_event(gateway: GatewayProcess, message_id: str, wanted: str) -> bool:
    return wanted in {event["type"] for event in gateway.sink.events(message_id)}


def every_event_arrives(gateway: GatewayProcess, sent: dict[str, str]) -> None:
    """The sink has, of each message, the event of the state it stands at."""
    for message_id in sent:
        wanted = f"message.{gateway.status(message_id)['status']}"
        eventually(
            functools.partial(has_event, gateway, message_id, wanted),
            f"{wanted} of {message_id}",
            20,
        )


def test_sigterm_waits_for_what_is_open_and_the_next_start_goes_on(gateway):
    secrets = {name: gateway.sandbox[name] for name in ("api_key", "admin_key")}
    for carrier in gateway.carriers.values():
        carrier.behave(latency_ms=700, receipt_delay_ms=3000)
    sent = send_some(gateway)
    eventually(
        lambda: len(gateway.submits_of(*sent.values(), taken=False)) == len(sent),
        "all are with the carriers, none is answered",
    )
    code, seconds = gateway.stop()
    assert code == 0
    assert seconds < DRAIN_S
    gateway.start()
    assert {name: gateway.sandbox[name] for name in secrets} == secrets
    all_end_well(gateway, sent, "submitted")
    assert len(gateway.submits_of(*sent.values(), taken=False)) == len(sent)  # none twice
    every_event_arrives(gateway, sent)
    one_more(gateway, sent)


def test_sigterm_keeps_what_no_carrier_could_take(gateway):
    for carrier in gateway.carriers.values():
        carrier.behave(link="down")
    eventually(lambda: gateway.metric("channel_state", state="up") == 0, "all links are down")
    sent = send_some(gateway)
    code, seconds = gateway.stop()
    assert code == 0
    assert seconds < DRAIN_S
    gateway.start()
    all_end_well(gateway, sent)
    assert len(gateway.submits_of(*sent.values(), taken=False)) == len(sent)


@pytest.mark.parametrize("name", ["supervisor", "worker-0", "postgres", "valkey"])
def test_kill_9_and_it_works_again(gateway, name):
    for carrier in gateway.carriers.values():
        carrier.behave(latency_ms=300, receipt_delay_ms=1500)
    sent = send_some(gateway)
    time.sleep(0.1)
    before = gateway.pids()
    gateway.kill(name)
    if name == "supervisor":
        below = [pid for n, pid in before.items() if n != "supervisor"]
        eventually(lambda: not any(is_alive(pid) for pid in below), "its children end with it")
        gateway.start()
    else:
        eventually(lambda: gateway.pids().get(name) not in (None, before[name]), "a new one")
        gateway.wait_ready()
    for carrier in gateway.carriers.values():
        carrier.behave(latency_ms=5, receipt_delay_ms=100)
    all_end_well(gateway, sent, *(["submitted"] if name == "supervisor" else []))
    every_event_arrives(gateway, sent)
    one_more(gateway, sent)
    after = gateway.pids()
    assert sorted(after) == sorted(before)
    if name != "supervisor":
        changed = {n for n in after if after[n] != before[n]}
        assert changed == {name}  # nothing else was dragged along


def is_another_worker(gateway: GatewayProcess, before: int) -> bool:
    return gateway.pids().get("worker-0") not in (None, before)


def test_a_worker_that_dies_young_twice_gives_no_id_twice(gateway):
    """Ids and webhooks of a worker that never came to renew its lease."""
    sent: dict[str, str] = {}
    for _ in range(3):
        sent |= send_some(gateway, 20)
        before = gateway.kill("worker-0")
        eventually(functools.partial(is_another_worker, gateway, before), "a new one")
        gateway.wait_ready()
    assert len(sent) == 60
    all_end_well(gateway, sent)
    every_event_arrives(gateway, sent)
    one_more(gateway, sent)
    assert asyncio.run(quarantined(gateway)) == 0


async def quarantined(gateway: GatewayProcess) -> int:
    conn = await connect(gateway.dsn)
    try:
        return int(await conn.fetchval("SELECT count(*) FROM quarantine"))
    finally:
        await conn.close()


def is_alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_a_worker_that_cannot_be_talked_to_is_replaced_too(gateway):
    """SIGTERM to the worker alone is an end in order; the supervisor starts the next one."""
    sent = send_some(gateway, 5)
    pid = gateway.pids()["worker-0"]
    os.kill(pid, signal.SIGTERM)
    eventually(lambda: gateway.pids().get("worker-0") not in (None, pid), "a new one")
    gateway.wait_ready()
    all_end_well(gateway, sent)
    one_more(gateway, sent)


def test_nothing_illegal_happened_in_all_of_this(gateway):
    assert gateway.metric("illegal_transition_total") == 0
    assert gateway.metric("quarantined_total") == 0
